"""Recording on a server: one shard, one job. Only sums over each group and the answers come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gatescope.core.counters import Counters
from gatescope.core.errors import GatescopeError
from gatescope.data.example import Example
from gatescope.models.identity import identity
from gatescope.models.sites import Site, embedding_path
from gatescope.statistics.table import Row
from gatescope.steps.remote import plan
from gatescope.steps.remote.jobs import Build, Server, run_jobs
from gatescope.steps.remote.ledger import Ledger
from gatescope.traces.ask import readout_named
from gatescope.traces.encoding import CLASSES, collate, token_classes, uncounted_ids
from gatescope.traces.readouts.generated import generation

Shards = Mapping[int, Sequence[Sequence[Example]]]  # number -> its batches


def record_shards(
    model,
    shards: Shards,
    site: Site,
    groups: Sequence[str],
    *,
    tokens: Sequence[str] = ("all",),
    only_correct: bool = True,
    readout: str = "generate",
    max_new_tokens: int = 20,
    origin: Mapping[str, str] | None = None,
    remote: bool | str | Server = True,
    ledger: Path | None = None,
    dtype: str | None = None,
) -> Iterator[tuple[int, dict[str, Counters], list[Row]]]:
    """Record shards on a server, and yield each when it is there, in whatever order they finish.

    Args:
        model: from `load_client` (no weights) or `load_model`.
        shards: planned batches by shard number; those already stored are left out.
        site: which neurons.
        groups: names, in the order of the counters' axis g.
        tokens, only_correct, readout, max_new_tokens: as for `gatescope.record`.
        origin: provenance the counters carry; the class of tokens and the server are added.
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
    book = Ledger.at(ledger, plan.work("record", model, server, settings), plan.keys(shards))
    card = identity(model)
    facts = dict(origin or {}) | {"server": server.address}
    numbers = [(number, len(batches)) for number, batches in shards.items()]
    ordered = [name for name in CLASSES[:3] if name in tokens] + ["generated"] * ("generated" in tokens)
    for number, pieces in run_jobs(model, server, numbers, build, book):
        dtype = plan.same_dtype(server, dtype, pieces)
        counters = {
            name: Counters(
                tuple(groups),
                site.layout,
                **{part: plan.total(pieces, part)[c] for part in ("K", "S", "T")},
                **{part: plan.total(pieces, part) for part in ("seen", "counted")},
                model=card | {"dtype": dtype},
                origin=facts | {"tokens": name},
            )
            for c, name in enumerate(ordered)
        }
        answers = [answer for piece in pieces for answer in piece["answers"]]
        rows = plan.read(model, shards[number], answers, readout)
        if only_correct:
            _agree(number, rows, counters[ordered[0]])
        _finite(number, counters[ordered[0]], server)
        yield number, {name: counters[name] for name in tokens}, rows


def builder(
    model,
    shards: Shards,
    site: Site,
    groups: Sequence[str],
    tokens: Sequence[str] = ("all",),
    only_correct: bool = True,
    readout: str = "generate",
    max_new_tokens: int = 20,
) -> Callable[[int], Build]:
    """For a shard's number, what makes the job of a range of its batches; the second one, where the first could only ask,
    from its answers."""
    generated = "generated" in tokens
    names = [name for name in CLASSES[:3] if name in tokens]
    common: dict[str, Any] = {
        "task": "record",
        "shape": (len(names) + generated, len(groups), len(site.paths), site.width),
        "places": plan.places(site),
        "decides": _decides(only_correct, readout),
        "generated": generated,
        "markers": torch.tensor(sorted(uncounted_ids(model))),
        "embedding": (embedding_path(model), "input", None),
        "generation": generation(model, max_new_tokens),
    }

    def batch_of(examples: Sequence[Example]) -> dict[str, Any]:
        encoded = collate(model, examples)
        classes = token_classes(model, encoded)
        masks = torch.stack([classes[name] for name in names]) if names else encoded.valid.new_zeros(0, *encoded.valid.shape)
        group = torch.tensor([groups.index(example.group) for example in examples])
        return plan.batch(model, encoded, readout) | {"masks": masks, "group": group}

    def build(number: int) -> Build:
        def job(start: int, stop: int, asked: list | None) -> dict[str, Any]:
            made = common | {"batches": [batch_of(examples) for examples in shards[number][start:stop]]}
            return made if asked is None else _second(model, made, shards[number][start:stop], asked, readout)

        return job

    return build


def _decides(only_correct: bool, readout: str) -> str:
    """Who says which answers are right: the server, where its functions can; the client, in between two jobs, elsewhere."""
    return readout_named(readout).decides if only_correct else "all"


def _second(model, job: dict[str, Any], batches: Sequence[Sequence[Example]], asked: list, readout: str) -> dict[str, Any]:
    """The job that counts the rows whose answers, given before, are read as right here."""
    for made, examples, answer in zip(job["batches"], batches, asked, strict=True):
        made["use"] = torch.tensor([row.reading.correct for row in plan.read(model, [examples], [answer], readout)])
    one = job["generation"] if job["generated"] else job["generation"] | {"max_new_tokens": 1}  # the prefill is enough
    return job | {"decides": "given", "generation": one}


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


def _finite(number: int, counters: Counters, server: Server) -> None:
    where = counters.S.isnan().nonzero()
    if len(where):
        raise GatescopeError(
            f"The model on {server.address} gave NaN at layer {int(where[0, 1])} in shard {number}. Its dtype there, "
            f"{counters.model['dtype']}, is too narrow for these examples; record them elsewhere or leave them out."
        )
