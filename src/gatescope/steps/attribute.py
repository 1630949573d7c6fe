"""Attribute: one forward and one backward pass a batch; activation x gradient of every neuron, reduced where it is.

Only activation gradients are computed: the weights are frozen and the graph begins at the token embeddings. Only the
positions that predict the answer get logits. Logits, probabilities and products are float32, whatever the weights
are. The published code differs (bf16 throughout, padding scored 0, train mode); see `Attributions` for what is kept.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from nnsight import TransformersModel
from torch import Tensor

from gatescope.core.attributions import Attributions
from gatescope.core.errors import GatescopeError, one_of
from gatescope.data.example import Example, fingerprint, listed
from gatescope.kernels import compiled
from gatescope.models.identity import identity, module_of, versions
from gatescope.models.quantised import refuse_gradients
from gatescope.models.sites import layout_of, site_of
from gatescope.steps.batches import Batches
from gatescope.steps.finite import not_finite
from gatescope.steps.remote.attribute import attribute_shards
from gatescope.steps.run import Run
from gatescope.steps.runner import run_step
from gatescope.steps.step import Executor, Options, Step
from gatescope.traces.encoding import Batch
from gatescope.traces.forced import forced_batch
from gatescope.traces.jobs import scoring
from gatescope.traces.labels import answer_tokens
from gatescope.traces.scoring import add_scores, score_batch

LINEAR = ("gate_pre", "up", "q", "k", "v")  # sites that are a projection's raw output


def attribute(
    model: TransformersModel,
    examples: Sequence[Example],
    *,
    sites: Sequence[str] = ("gate_pre", "q", "k", "v"),
    reduce: str = "max",
    pad_zero: bool = False,
    run: str | Path | Run | None = None,
    name: str = "",
    batch_size: int | str = 8,
    shard_size: int = 256,
    workers: int = 0,
    remote: Any = None,
    executor: Executor | None = None,
    progress: bool = True,
) -> Attributions:
    """Score how much every neuron raises the probability of the right answer.

    Args:
        model: from `load_model`; without weights if the work is done remotely.
        examples: with labels of one token each, or answers whose tokens are forced one after the other.
        sites: which neurons.
        reduce: over tokens: "max" (equation 7), "mean", or "norm", the inner product of a neuron's weight row and
            its gradient (CULNIG, appendix I).
        pad_zero: let padding count as 0 in the max, as the published code does; the result then depends on batches.
        run: directory for shards and manifest. What is done there already is not done again.
        name: of these attributions in the run, where it has several, such as "control".
        batch_size, shard_size, workers, remote, executor: as for `record`.
        progress: show a bar if it takes longer than a few seconds.

    Returns:
        Sums over examples of P(y|x) times the reduced score, by group.

    Raises:
        GatescopeError: without examples or sites, for an unknown site, a label that is not one token, "norm" for a site that is
            not a projection's output, a model whose quantisation lets no gradient through, if `run` was started with something
            else, or if the model gives NaN.
    """
    step = Attributing(model, examples, sites, reduce, pad_zero, name)
    outcome = run_step(step, Options(run, batch_size, shard_size, workers, remote, progress=progress, executor=executor))
    if outcome.directory is not None:
        return outcome.directory.attributions_of(step.name)
    assert outcome.total is not None  # a plan has a shard at least
    return outcome.total


class Attributing(Step[Attributions]):
    """Attribution as a step; arguments and errors as for `attribute`."""

    doing = "attributing"

    def __init__(
        self,
        model: TransformersModel,
        examples: Sequence[Example],
        sites: Sequence[str],
        reduce: str,
        pad_zero: bool,
        name: str = "",
    ) -> None:
        if not listed(examples):
            raise GatescopeError("Attribution needs examples; there are none.")
        if not sites:
            raise GatescopeError("Attribution needs sites; there are none. Those of a model: gs.sites_of(model).")
        refuse_gradients(module_of(model), "Attribution")
        super().__init__(model, examples)
        self.sites = [site_of(model, site) for site in sites]
        _check_reduce(reduce, sites)
        self.name = f"attribute of {name}" if name else "attribute"
        # Before the first batch: a label that is not one token must not stop a run in the middle.
        self.answers = [answer_tokens(model, example) for example in examples]
        self.reduce, self.pad_zero = reduce, pad_zero
        self.scoring = scoring(model, self.sites, reduce, pad_zero)
        self.groups = tuple(dict.fromkeys(example.group for example in examples))
        self.items = len({example.item or example.id for example in examples})
        self.layout, self.card = layout_of(self.sites), identity(model)
        self.provenance = {
            "sites": ",".join(sites),
            "reduce": reduce,
            "pad_zero": str(pad_zero),
            "fingerprint": fingerprint(examples),
            "attention": str(model._module.config._attn_implementation),
            "versions": versions(),
        }
        shape = {"groups": list(self.groups), "items": self.items, "layout": self.layout.plain()}
        self.metadata = self.provenance | shape | {"kernel": compiled.mode()}

    def running(self) -> contextlib.AbstractContextManager[None]:
        """Eval mode."""
        return _evaluating(self.model._module)

    def begin(self) -> Attributions:
        """Sums of nothing."""
        return Attributions.zeros(self.groups, self.layout, self.items, self.card, self.provenance)

    def work(self, shard: Attributions, positions: Sequence[int], batch: Batch) -> None:
        """Score a batch and add it to its groups."""
        answers = [self.answers[position] for position in positions]
        forced = forced_batch(self.model, batch, answers)
        scores, probability, _ = score_batch(self.model, self.scoring, forced, compiled.attribution)
        # On the CPU, where sums can be float64 whatever the device.
        _add(shard, (scores * probability[:, None]).cpu(), batch.examples)

    def on_server(
        self, batches: Batches, positions: Mapping[int, list[int]], remote: Any, ledger: Path | None, dtype: str | None
    ) -> Iterator[tuple[int, Attributions]]:
        """As `work`, on a server."""
        yield from attribute_shards(
            self.model,
            batches,
            self.sites,
            self.groups,
            self.items,
            reduce=self.reduce,
            pad_zero=self.pad_zero,
            provenance=self.provenance,
            remote=remote,
            ledger=ledger,
            dtype=dtype,
        )

    def add(self, total: Attributions, shard: Attributions) -> Attributions:
        """Attributions are sums."""
        return total + shard

    def pack(self, shard: Attributions) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The sums, and the model as it was."""
        return {field: getattr(shard, field) for field in ("sums", "clamped", "seen")}, {"model": dict(shard.model)}


def _check_reduce(reduce: str, sites: Sequence[str]) -> None:
    one_of("reduce", reduce, ("max", "mean", "norm"))
    wrong = [site for site in sites if site not in LINEAR]
    if reduce == "norm" and wrong:
        linear = ", ".join(LINEAR)
        raise GatescopeError(f"reduce='norm' is defined for the outputs of projections, {linear}; not for {wrong}.")


def _add(total: Attributions, weighted: Tensor, examples: Sequence[Example]) -> None:
    """Add weighted scores, float32 [b, n], to their groups; `weighted` is not to be used afterwards.

    Raises:
        GatescopeError: if the model gave NaN or infinity, naming site, layer and example.
    """
    if not weighted.sum().isfinite() and not weighted.isfinite().all():  # finite scores may have a sum too large for float32
        row, flat = (~weighted.isfinite()).nonzero()[0].tolist()
        site, layer, _ = total.layout.locate(flat)
        raise not_finite(examples[row].id, layer, site, nan=bool(weighted[row, flat].isnan()))
    group = [total.groups.index(example.group) for example in examples]
    add_scores(weighted, group, total.sums, total.clamped, total.seen)


@contextlib.contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Eval mode while open; dropout would give false effects."""
    training = [submodule for submodule in module.modules() if submodule.training]
    if training:
        warnings.warn("The model was in train mode; it is scored in eval mode and put back afterwards.", stacklevel=3)
    module.eval()
    try:
        yield
    finally:
        # Not module.train(): submodules that were in eval mode, such as a frozen tower, stay in it.
        for submodule in training:
            submodule.training = True
