"""Record: run examples, count what a site's neurons do in the prompts the model answers correctly.

One pass does both. The counts are taken in the prefill of the generation that decides whether the answer is right;
when it is known, the rows of wrong answers are dropped (VLM paper, section 3.1). Reductions run where the activation
is, so memory holds examples x layers x neurons of one batch and never a token.

Examples are cut into shards and batches once (see `gatescope.steps.plan`). Sums are float32 within an example, float64
across examples, and shards are added in order, so scheduling cannot change a bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnsight import TransformersModel
from torch import Tensor

from gatescope.core.counters import Counters
from gatescope.core.errors import GatescopeError, one_of
from gatescope.data.example import Example, fingerprint, listed, readout_of
from gatescope.kernels import compiled
from gatescope.models.identity import identity, versions
from gatescope.models.sites import site_of
from gatescope.statistics.table import Row
from gatescope.steps.batches import Batches
from gatescope.steps.counted import count_batch
from gatescope.steps.remote.record import record_shards
from gatescope.steps.run import Run
from gatescope.steps.runner import run_step
from gatescope.steps.step import Executor, Options, Step
from gatescope.traces.batch import GENERATED, readout_named
from gatescope.traces.encoding import CLASSES, TOKEN_RULE, Batch
from gatescope.traces.readouts.generated import check_new_tokens

PARTS = ("K", "S", "T", "seen", "counted")


def record(
    model: TransformersModel,
    examples: Sequence[Example],
    *,
    site: str = "gate",
    tokens: str = "all",
    run: str | Path | Run | None = None,
    only_correct: bool = True,
    batch_size: int | str = 16,
    shard_size: int = 256,
    readout: str | None = None,
    max_new_tokens: int = 20,
    workers: int = 0,
    remote: Any = None,
    executor: Executor | None = None,
    progress: bool = True,
) -> Counters:
    """Count firing, positive activation and tokens of every neuron on every group.

    Args:
        model: from `load_model`; without weights if the work is done remotely.
        examples: identification examples.
        site: which neurons (see `sites_of`).
        tokens: which tokens: "all" that count in the prompt, its "text" or its "image" tokens, or the "generated" ones.
        run: directory for shards, answers and manifest. What is done there already is not done again.
        only_correct: count only the examples the model answers correctly, as the paper does.
        batch_size: examples a batch; "auto" sorts a shard by length and fills batches with tokens (see
            `gatescope.steps.plan`).
        shard_size: examples a shard.
        readout: how an answer is read (see `gatescope.traces.readouts`): "generate", "label", "loglik", "short", ...; "none"
            for passages, with `only_correct=False`. None takes what fits the examples: "label" where all have labels,
            "short" where all have accepted answers, "none" where all are passages, else "generate".
        max_new_tokens: at most this many tokens an answer (the paper: 20).
        workers: processes that prepare text and pictures ahead of the model.
        remote: True for NDIF, or a server's address; a shard is a job there (see `gatescope.remote`).
        executor: a Ray cluster that computes the shards, `gs.Ray(...)`; None for this process.
        progress: show a bar if it takes longer than a few seconds.

    Returns:
        Counters over all groups, including those in which nothing was counted (`counters.empty`).

    Raises:
        GatescopeError: without examples, for an unknown site or class of tokens, for an example that the read-out cannot
            read, if `run` was started with something else or holds a damaged shard, or if the model gives NaN.
    """
    counters = record_classes(
        model,
        examples,
        site=site,
        tokens=(tokens,),
        run=run,
        only_correct=only_correct,
        batch_size=batch_size,
        shard_size=shard_size,
        readout=readout,
        max_new_tokens=max_new_tokens,
        workers=workers,
        remote=remote,
        executor=executor,
        progress=progress,
    )
    return counters[tokens]


def record_classes(
    model: TransformersModel,
    examples: Sequence[Example],
    *,
    site: str = "gate",
    tokens: Sequence[str] = ("text", "image"),
    run: str | Path | Run | None = None,
    only_correct: bool = True,
    batch_size: int | str = 16,
    shard_size: int = 256,
    readout: str | None = None,
    max_new_tokens: int = 20,
    workers: int = 0,
    remote: Any = None,
    executor: Executor | None = None,
    part: tuple[int, int] | None = None,
    progress: bool = True,
) -> dict[str, Counters]:
    """Count several classes of tokens apart, in one pass; arguments and errors as for `record`.

    Args:
        part: (k, n): do the k-th of n parts of the shards and no other, and return what is there once all is done;
            nothing ({}) before.
    """
    readout = readout or readout_of(listed(examples))
    step = Recording(model, examples, site, tokens, only_correct, readout, max_new_tokens)
    outcome = run_step(step, Options(run, batch_size, shard_size, workers, remote, part, progress, executor))
    if outcome.total is not None:
        return {name: outcome.total.counters[name] for name in tokens}
    if outcome.directory is None or not outcome.complete:
        return {}
    counters, rows = outcome.directory.recorded(tokens)
    outcome.directory.write_rows("identification.jsonl", rows)
    return counters


@dataclass
class Counted:
    """A shard: its counters by class of tokens, and its answers by position in the examples."""

    counters: dict[str, Counters]
    rows: dict[int, Row]


class Recording(Step[Counted]):
    """Recording as a step; arguments as for `record_classes`."""

    name, doing = "record", "recording"

    def __init__(
        self,
        model: TransformersModel,
        examples: Sequence[Example],
        site: str,
        tokens: Sequence[str],
        only_correct: bool,
        readout: str,
        max_new_tokens: int,
    ) -> None:
        _check(examples, tokens, only_correct, readout)
        check_new_tokens(max_new_tokens)
        # Before a run is started: a directory with a misspelt read-out in it could not be continued with the right one.
        readout_named(readout).readable(model, examples)
        super().__init__(model, examples)
        self.site, self.card, self.tokens = site_of(model, site), identity(model), tokens
        self.settings = {"only_correct": only_correct, "readout": readout, "max_new_tokens": max_new_tokens}
        self.metadata = {
            "site": site,
            "token_rule": TOKEN_RULE,
            "fingerprint": fingerprint(examples),
            "only_correct": str(only_correct),
            "readout": readout,
            "versions": versions(),
            "kernel": compiled.mode(),
            # In order of first appearance, the axis g of every tensor to come.
            "groups": list(dict.fromkeys(example.group for example in examples)),
            "tokens": list(tokens),
            "max_new_tokens": max_new_tokens,
            "layout": self.site.layout.plain(),
        }

    @property
    def provenance(self) -> dict[str, str]:
        """Where the counters come from."""
        return {name: value for name, value in self.metadata.items() if isinstance(value, str)}

    def begin(self) -> Counted:
        """Counters of nothing."""
        groups, layout = tuple(self.metadata["groups"]), self.site.layout
        counters = {}
        for name in self.tokens:
            # Each class has its own counters, so that a selector can be given one of them.
            counters[name] = Counters.zeros(groups, layout, self.card, self.provenance | {"tokens": name})
        return Counted(counters, {})

    def work(self, shard: Counted, positions: Sequence[int], batch: Batch) -> None:
        """Count a batch and keep its answers."""
        rows = count_batch(self.model, self.site, batch, shard.counters, **self.settings)
        shard.rows.update(zip(positions, rows, strict=True))

    def on_server(
        self, batches: Batches, positions: Mapping[int, list[int]], remote: Any, ledger: Path | None, dtype: str | None
    ) -> Iterator[tuple[int, Counted]]:
        """As `work`, on a server."""
        shards = record_shards(
            self.model,
            batches,
            self.site,
            self.metadata["groups"],
            tokens=self.tokens,
            provenance=self.provenance,
            remote=remote,
            ledger=ledger,
            dtype=dtype,
            **self.settings,
        )
        for number, counters, rows in shards:
            yield number, Counted(counters, dict(zip(positions[number], rows, strict=True)))

    def add(self, total: Counted, shard: Counted) -> Counted:
        """Counters are sums."""
        # No rows: they are read from the stored shards at the end, and without a run directory nobody asks for them.
        return Counted({name: total.counters[name] + shard.counters[name] for name in self.tokens}, {})

    def pack(self, shard: Counted) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Every sum under its class and letter, and the answers in the order of the examples."""
        sums = {f"{name}/{letter}": getattr(c, letter) for name, c in shard.counters.items() for letter in PARTS}
        # By position: batches are sorted by length, and files should not depend on that.
        rows = [shard.rows[position].plain() for position in sorted(shard.rows)]
        return sums, {"rows": rows, "model": dict(next(iter(shard.counters.values())).model)}


def _check(examples: Sequence[Example], tokens: Sequence[str], only_correct: bool, readout: str) -> None:
    """Refuse what does not go together."""
    if not examples:
        raise GatescopeError("Recording needs examples; there are none.")
    if not tokens:
        raise GatescopeError(f"tokens names no class of tokens; there are {', '.join(map(repr, CLASSES))}.")
    for name in tokens:
        one_of("tokens", name, CLASSES)
    # Label read-outs stop at the prefill: no token is generated that could be counted.
    if "generated" in tokens and readout not in GENERATED:
        raise GatescopeError(f"tokens='generated' needs answers that are generated; readout is {readout!r}.")
    if readout == "none" and only_correct:
        raise GatescopeError("readout='none' reads no answer, so none can be correct; say only_correct=False.")
