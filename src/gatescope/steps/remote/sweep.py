"""A sweep on a server: one shard's questions under every mask, one job. Only the answers come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gatescope.core.answers import Reading
from gatescope.data.example import Example
from gatescope.interventions.value import Change, plain
from gatescope.steps.remote import plan
from gatescope.steps.remote.jobs import Build, Server, run_jobs
from gatescope.steps.remote.ledger import Ledger
from gatescope.steps.remote.record import Shards
from gatescope.traces.encoding import collate
from gatescope.traces.readouts.generated import generation


def sweep_shards(
    model,
    shards: Shards,
    masks: Sequence[Change | None],
    *,
    readout: str = "generate",
    max_new_tokens: int = 20,
    remote: bool | str | Server = True,
    ledger: Path | None = None,
) -> Iterator[tuple[int, list[list[tuple[str, Reading]]]]]:
    """Ask shards' questions on a server under every mask, and yield each shard when it is there.

    Args:
        model: from `load_client` (no weights) or `load_model`.
        shards: planned batches by shard number; those already stored are left out.
        masks: interventions; None is the full model.
        readout, max_new_tokens: as for `gatescope.sweep`.
        remote, ledger: as for `record_shards`.

    Yields:
        Shard number, and for each mask the text and reading of each example.

    Raises:
        GatescopeError: see `gatescope.steps.remote.jobs`; or if neurons belong to another model.
    """
    server = Server.of(remote)
    build = builder(model, shards, masks, readout, max_new_tokens)
    settings = [readout, max_new_tokens, *(plan.digest_of(plain(model, mask)) for mask in masks)]
    book = Ledger.at(ledger, plan.work("sweep", model, server, settings), plan.keys(shards))
    numbers = [(number, len(batches)) for number, batches in shards.items()]
    for number, pieces in run_jobs(model, server, numbers, build, book):
        answers = [[answer for piece in pieces for answer in piece["answers"][which]] for which in range(len(masks))]
        found = [plan.read(model, shards[number], answer, readout) for answer in answers]
        yield number, [[(row.text, row.reading) for row in rows] for rows in found]


def builder(
    model, shards: Shards, masks: Sequence[Change | None], readout: str = "generate", max_new_tokens: int = 20
) -> Callable[[int], Build]:
    """For a shard's number, what makes the job of a range of its batches."""
    tables = [plain(model, mask) for mask in masks]
    common: dict[str, Any] = {"task": "sweep", "masks": tables, "generation": generation(model, max_new_tokens)}

    def batch_of(examples: Sequence[Example]) -> dict[str, Any]:
        return plan.batch(model, collate(model, examples), readout)

    def build(number: int) -> Build:
        return lambda start, stop, _: common | {"batches": [batch_of(b) for b in shards[number][start:stop]]}

    return build
