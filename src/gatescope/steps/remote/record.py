"""Recording on a server: one shard, one job. Only sums over each group and the answers come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, cast

import torch
from nnsight import TransformersModel
from torch import Tensor

from gatescope.core.counters import Counters
from gatescope.core.errors import GatescopeError
from gatescope.data.example import Example
from gatescope.models.identity import identity
from gatescope.models.sites import Site
from gatescope.statistics.table import Row
from gatescope.steps.batches import Batches
from gatescope.steps.remote import plan
from gatescope.steps.remote.jobs import Part, builder_of, run_jobs
from gatescope.steps.remote.line import Build
from gatescope.steps.remote.server import Server
from gatescope.traces.batch import readout_named
from gatescope.traces.encoding import CLASSES, class_masks, collate, uncounted_ids
from gatescope.traces.jobs import Asked, RecordJob
from gatescope.traces.readouts.generated import generation


def record_shards(
    model: TransformersModel,
    shards: Batches,
    site: Site,
    groups: Sequence[str],
    *,
    tokens: Sequence[str] = ("all",),
    only_correct: bool = True,
    readout: str = "generate",
    max_new_tokens: int = 20,
    provenance: Mapping[str, str] | None = None,
    remote: bool | str | Server = True,
    ledger: Path | None = None,
    dtype: str | None = None,
) -> Iterator[tuple[int, dict[str, Counters], list[Row]]]:
    """Record shards on a server, and yield each as soon as it is finished, in any order.

    Args:
        model: from `load_client` (no weights) or `load_model`.
        shards: planned batches by shard number; those already stored are left out.
        site: which neurons.
        groups: names, in the order of the counters' axis g.
        tokens, only_correct, readout, max_new_tokens: as for `gatescope.record`.
        provenance: provenance the counters carry; the class of tokens and the server are added.
        remote: True for NDIF, an address, or a `Server`.
        ledger: file to remember jobs in (`RUN/jobs.json`); without one a killed client begins again.
        dtype: what shards stored earlier were computed in; another is refused.

    Yields:
        Shard number, counters of each class of tokens, and the answers in the order of the examples.

    Raises:
        GatescopeError: see `gatescope.steps.remote.jobs`; or if the server computes in another dtype than before.
    """
    server = Server.of(remote)
    build = builder(model, shards, site, groups, tokens, only_correct, readout, max_new_tokens)
    settings = [site.name, list(groups), list(tokens), only_correct, readout, max_new_tokens]
    card, shape = identity(model), site.layout.only().shape
    metadata = {**(provenance or {}), "server": server.address}
    for number, parts in run_jobs("record", model, server, shards, build, settings, ledger):
        results = [part.result for part in parts]
        # Passed on, so that every shard is compared with the one before.
        dtype = plan.same_dtype(server, dtype, results)
        sums = {letter: plan.total(results, letter) for letter in ("K", "S", "T", "seen", "counted")}
        counters: dict[str, Counters] = {}
        # Tensors come by class number, which is the order of CLASSES, not of the argument.
        for kind, name in enumerate(name for name in CLASSES if name in tokens):
            counters[name] = Counters(
                tuple(groups),
                site.layout,
                K=sums["K"][kind].unflatten(1, shape),
                S=sums["S"][kind].unflatten(1, shape),
                T=sums["T"][kind],
                seen=sums["seen"],
                counted=sums["counted"],
                model=card | {"dtype": dtype},
                provenance=metadata | {"tokens": name},
            )
        rows = _rows(model, parts, readout)
        _finite(number, rows, sums["S"], site, server, dtype)
        if only_correct:
            # Both read the answers: a tokenizer of another revision shows here, before anything is stored.
            _agree(number, rows, next(iter(counters.values())))
        _all_tokens(number, parts, rows, only_correct, server)
        yield number, {name: counters[name] for name in tokens}, rows


def builder(
    model: TransformersModel,
    shards: Batches,
    site: Site,
    groups: Sequence[str],
    tokens: Sequence[str] = ("all",),
    only_correct: bool = True,
    readout: str = "generate",
    max_new_tokens: int = 20,
) -> Callable[[int], Build]:
    """For a shard's number, what makes the job of a range of its batches; the second one, where the first could only ask,
    from its answers."""
    common = {
        "task": "record",
        "classes": len(set(tokens)),
        "groups": len(groups),
        "widths": site.widths,
        "places": site.places,
        # Who says which answers are right: the server, where its functions can; the client, in between two jobs, elsewhere.
        "decides": readout_named(readout).decides if only_correct else "all",
        "generated": "generated" in tokens,
        "markers": torch.tensor(sorted(uncounted_ids(model))),
        "generation": generation(model, max_new_tokens),
    }

    def batch_of(examples: Sequence[Example]) -> Asked:
        encoded = collate(model, examples)
        group = torch.tensor([groups.index(example.group) for example in examples])
        return {**plan.batch(model, encoded, readout), "masks": class_masks(model, encoded, tokens), "group": group}

    first = builder_of(shards, common, batch_of)

    def build(number: int) -> Build:
        def job(start: int, stop: int, answers: list[Any] | None, times: int = 0) -> Any:
            counting = first(number)(start, stop, None, times)
            if answers is None:
                return counting
            return _second(model, counting, plan.cut(shards[number][start:stop], times), answers, readout)

        return job

    return build


def _second(
    model: TransformersModel, job: Any, batches: Sequence[Sequence[Example]], outcomes: list[Any], readout: str
) -> RecordJob:
    """The job that counts the rows whose answers, given before, are read as right here."""
    for batch, examples, answer in zip(job["batches"], batches, outcomes, strict=True):
        batch["use"] = torch.tensor([row.reading.correct for row in plan.read(model, [examples], [answer], readout)])
    one = job["generation"] if job["generated"] else job["generation"] | {"max_new_tokens": 1}  # the prefill is enough
    return cast("RecordJob", {**job, "decides": "given", "generation": one})


def _agree(number: int, rows: Sequence[Row], counters: Counters) -> None:
    """What the server counted must be what is read as correct here: the same text by the same rule."""
    ours = torch.zeros_like(counters.counted)
    for row in rows:
        ours[counters.groups.index(row.group)] += row.reading.correct
    if not torch.equal(ours, counters.counted):
        raise GatescopeError(
            f"Shard {number}: the server counted {counters.counted.tolist()} correct answers a group, here they read as "
            f"{ours.tolist()}. Its tokenizer is not this model's; check that both are of the same revision."
        )


def _rows(model: TransformersModel, parts: Sequence[Part], readout: str) -> list[Row]:
    """The answers, read here."""
    return [row for part in parts for row in plan.read(model, part.batches, part.result["answers"], readout)]


def _all_tokens(number: int, parts: Sequence[Part], rows: Sequence[Row], only_correct: bool, server: Server) -> None:
    """Of every row that counts, all tokens that count must have been counted, and no other."""
    use = torch.tensor([row.reading.correct or not only_correct for row in rows])
    by_part = zip(parts, use.split([part.expected.rows for part in parts]), strict=True)
    sent = reduce(add, (part.expected.tokens(used) for part, used in by_part))
    counted = plan.total([part.result for part in parts], "T")
    if not torch.equal(counted[: len(sent)], sent):
        raise GatescopeError(
            f"Shard {number}: {server.address} counted {counted.tolist()} tokens by class and group, and {sent.tolist()} were "
            f"sent. Its result is not kept; check that the server runs the nnsight of this machine."
        )


def _finite(number: int, rows: Sequence[Row], sums: Tensor, site: Site, server: Server, dtype: str) -> None:
    broken = next((row for row in rows if row.reading.hole), None)
    if broken is not None:
        raise plan.not_finite(server, f"in example {broken.id!r}", dtype)
    # Of an example that was answered none can be named: only sums come back.
    where = (~sums.isfinite()).nonzero()
    if len(where):
        layer, _ = site.layout.only().locate(int(where[0, 2]))
        raise plan.not_finite(server, f"at layer {layer} in shard {number}", dtype)
