"""Attribute: one forward and one backward pass a batch; activation x gradient of every neuron, reduced where it is.

Only activation gradients are computed: the weights are frozen and the graph begins at the token embeddings. Only the
positions that predict the answer get logits. Logits, probabilities and products are float32, whatever the weights
are. The published code differs (bf16 throughout, padding scored 0, train mode); see `Attributions` for what is kept.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nnsight
import torch
from torch import Tensor

from gatescope.core.attributions import Attributions
from gatescope.core.errors import GatescopeError, one_of
from gatescope.core.neurons import NeuronSet
from gatescope.core.progress import bar
from gatescope.data.example import Example, fingerprint, listed
from gatescope.kernels import compiled as fused
from gatescope.models.load import identity, versions
from gatescope.models.sites import Site, by_token, embedding_path, forward_options, layout_of, read, site_of
from gatescope.steps.plan import backing_off, plan, prepared
from gatescope.steps.run import Run
from gatescope.steps.shards import Shards, first
from gatescope.traces.encoding import Batch, collate
from gatescope.traces.forced import answer_logs, force
from gatescope.traces.labels import answer_tokens

LINEAR = ("gate_pre", "up", "q", "k", "v")  # sites that are a projection's raw output
GATE_PROJECTIONS = ("gate_proj", "gate_up_proj", "c_fc", "dense_h_to_4h", "fc1")


def attribute(
    model,
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
        batch_size, shard_size, workers, remote: as for `record`.
        progress: show a bar if it takes longer than a few seconds.

    Returns:
        Sums over examples of P(y|x) times the reduced score, by group.

    Raises:
        GatescopeError: without examples, for an unknown site, a label that is not one token, "norm" for a site that is
            not a projection's output, if `run` was begun with something else, or if the model gives NaN.
    """
    if not listed(examples):
        raise GatescopeError("Attribution needs examples; there are none.")
    one_of("reduce", reduce, ("max", "mean", "norm"))
    chosen = [site_of(model, site) for site in sites]
    if reduce == "norm" and (wrong := [site for site in sites if site not in LINEAR]):
        raise GatescopeError(f"reduce='norm' is defined for the outputs of projections, {', '.join(LINEAR)}; not for {wrong}.")
    answers = [answer_tokens(model, example) for example in examples]
    origin = {"sites": ",".join(sites), "reduce": reduce, "pad_zero": str(pad_zero), "fingerprint": fingerprint(examples)}
    origin |= {"attention": str(model._module.config._attn_implementation), "versions": versions()}
    groups = tuple(dict.fromkeys(example.group for example in examples))
    items = len({example.item or example.id for example in examples})
    layout, card = layout_of(chosen), identity(model)

    def planned() -> list[list[list[int]]]:
        return plan(model, examples, batch_size, shard_size)

    def nothing() -> Attributions:
        return Attributions.zeros(groups, layout, items, card, origin)

    directory = shards = None
    step = f"attribute of {name}" if name else "attribute"
    if run is not None:
        facts = origin | {"groups": list(groups), "items": items, "layout": layout.plain(), "kernel": fused.mode()}
        directory = Run.at(run, card)
        shards, batches = Shards.start(directory, step, facts, [e.id for e in examples], planned)
        todo = shards.open() if remote is None else iter(shards.missing)
    else:
        batches = planned()
        todo = iter(range(len(batches)))
    total: Attributions | None = None
    pending: dict[int, Attributions] = {}  # those that came before their turn
    left = len(batches)
    with bar(len(examples), "attributing", "examples", show=progress and first()) as shown:
        if remote is None:
            found = _local(model, examples, answers, batches, todo, chosen, nothing, reduce, pad_zero, workers, shown.update)
        else:
            from gatescope.steps.remote.attribute import attribute_shards

            jobs = {index: [[examples[i] for i in batch] for batch in batches[index]] for index in todo}
            how = {"reduce": reduce, "pad_zero": pad_zero, "origin": origin, "remote": remote}
            if directory is not None and shards is not None:
                how |= {"ledger": directory.path / f"jobs.{step.replace(' ', '-')}.json", "dtype": shards.dtype}
            found = attribute_shards(model, jobs, chosen, groups, items, **how)
        for index, scores in found:
            if remote is not None:
                shown.update(int(scores.seen.sum()))
            if shards is None:
                pending[index] = scores
                while (turn := len(batches) - left) in pending:
                    ready = pending.pop(turn)
                    total = ready if total is None else total + ready
                    left -= 1
            else:
                tensors = {part: getattr(scores, part) for part in ("sums", "clamped", "seen")}
                shards.save(index, tensors, {"model": dict(scores.model)})
                del scores, tensors
    if directory is not None:
        return directory.attributions_of(step)
    assert total is not None  # a plan has a shard at least
    return total


def _local(
    model,
    examples: Sequence[Example],
    answers: Sequence[list[int]],
    batches: Sequence[Sequence[Sequence[int]]],
    todo: Iterator[int],
    sites: list[Site],
    nothing: Callable[[], Attributions],
    reduce: str,
    pad_zero: bool,
    workers: int,
    done: Callable[[int], Any],
) -> Iterator[tuple[int, Attributions]]:
    def shard(index: int) -> tuple[int, Attributions]:
        total = nothing()
        planned = [[examples[i] for i in batch] for batch in batches[index]]
        for places, batch in zip(batches[index], prepared(model, planned, workers), strict=True):
            ready = [batch]

            def work(some: Sequence[int], ready=ready) -> None:
                asked = [examples[i] for i in some]
                encoded = ready.pop() if ready else collate(model, asked).to(model._module.device)
                scores, probability = _batch(model, encoded, [answers[i] for i in some], sites, reduce, pad_zero)
                _add(total, (scores * probability[:, None]).cpu(), asked)

            backing_off(work, places, lambda i: examples[i].id)
            done(len(places))
        return index, total

    with _evaluating(model._module):
        yield from map(shard, todo)


def _add(total: Attributions, weighted: Tensor, examples: Sequence[Example]) -> None:
    """Add weighted scores, float32 [b, n], to their groups; `weighted` is not to be used afterwards.

    Raises:
        GatescopeError: if the model gave NaN, naming site, layer and example.
    """
    if weighted.sum().isnan() and weighted.isnan().any():  # infinities of both signs sum to NaN too
        row, flat = weighted.isnan().nonzero()[0].tolist()
        site, layer, _ = next(iter(NeuronSet(total.layout, torch.tensor([flat]), {})))
        raise GatescopeError(
            f"The model gave NaN at layer {layer} ({site}) in example {examples[row].id!r}. Load it in a wider dtype, such as "
            f"dtype='float32', or leave the example out."
        )
    for example, row in zip(examples, weighted, strict=True):  # row by row: each stays in cache, and the order is fixed
        g = total.groups.index(example.group)
        total.sums[g] += row
        total.clamped[g] += row.clamp_(min=0)
        total.seen[g] += 1


def _batch(
    model, batch: Batch, answers: Sequence[list[int]], sites: list[Site], reduce: str, pad_zero: bool
) -> tuple[Tensor, Tensor]:
    """Reduced scores [b, n] over the sites' layout, and P(y|x) [b]."""
    inputs = force(model, batch, answers)
    real = inputs["attention_mask"].bool()
    keep = max(map(len, answers))
    where = sorted({(layer, site.rank, path, site.io) for site in sites for layer, path in enumerate(site.paths)})
    places = [(site, path) for site in sites for path in site.paths]
    biases = [_bias(model, site, path) if reduce == "norm" else None for site, path in places]
    embedding = embedding_path(model)
    with model.trace(**inputs, **forward_options(model, inputs, keep)):
        read(model, embedding, "output").requires_grad_(True)
        whole = {(path, io): read(model, path, io) for _, _, path, io in where}
        probability = answer_logs(model.output.logits[:, -keep:], answers).exp()
        gradients = dict(zip(whole, torch.autograd.grad(probability.sum(), list(whole.values())), strict=True))
        scores, there = [], {}
        for bias, (site, path) in zip(biases, places, strict=True):
            activation = site.part(by_token(whole[path, site.io].detach(), real))
            gradient = site.part(by_token(gradients[path, site.io], real))
            activation = activation if bias is None else activation - bias
            mask = there.setdefault(activation.device, real.to(activation.device))
            how = "sum" if reduce == "norm" else reduce
            scores.append(fused.attribution(activation, gradient, mask, how, pad_zero).to(probability.device))
        scores = nnsight.save(torch.cat(scores, 1))
        probability = nnsight.save(probability.detach())
    return scores, probability


def projection_path(model, site: Site, path: str) -> str:
    """The projection whose raw output a site is: the site's own module, or, of gate_pre, what its activation is given.

    Raises:
        GatescopeError: if there is none of a known name beside the activation.
    """
    if site.name != "gate_pre":
        return path
    holder = path.rpartition(".")[0]
    named = dict(model._module.get_submodule(holder).named_children())
    found = next((name for name in GATE_PROJECTIONS if name in named), None)
    if found is None:
        raise GatescopeError(f"reduce='norm' knows no projection in {holder}; looked for {', '.join(GATE_PROJECTIONS)}.")
    return f"{holder}.{found}"


def _bias(model, site: Site, path: str) -> Tensor | None:
    """The bias of the projection whose raw output the site is."""
    bias = model._module.get_submodule(projection_path(model, site, path)).bias
    if bias is None:
        return None
    return bias[: site.width] if site.name == "gate_pre" else site.part(bias)


@contextlib.contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Eval mode while open; dropout would give false effects."""
    training = [part for part in module.modules() if part.training]
    if training:
        warnings.warn("The model was in train mode; it is scored in eval mode and put back afterwards.", stacklevel=3)
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
