"""A sweep on a server: one shard's questions under every mask, one job. Only the answers come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from nnsight import TransformersModel

from gatescope.core.answers import Reading
from gatescope.interventions.value import Change, plain
from gatescope.steps.batches import Batches
from gatescope.steps.finite import refuse_holes
from gatescope.steps.remote import plan
from gatescope.steps.remote.jobs import builder_of, run_jobs
from gatescope.steps.remote.line import Build
from gatescope.steps.remote.server import Server
from gatescope.traces.encoding import collate
from gatescope.traces.readouts.generated import generation


def sweep_shards(
    model: TransformersModel,
    shards: Batches,
    masks: Sequence[Change | None],
    *,
    readout: str = "generate",
    max_new_tokens: int = 20,
    remote: bool | str | Server = True,
    ledger: Path | None = None,
    dtype: str | None = None,
    told: Callable[[str], object] = str,
) -> Iterator[tuple[int, list[list[tuple[str, Reading]]]]]:
    """Run shards on a server under every mask, and yield each as soon as it is finished.

    Args:
        model: from `load_client` (no weights) or `load_model`.
        shards: planned batches by shard number; those already stored are left out.
        masks: interventions; None is the full model.
        readout, max_new_tokens: as for `gatescope.sweep`.
        remote, ledger, dtype: as for `record_shards`.
        told: is given the dtype that each shard was computed in, before the shard.

    Yields:
        Shard number, and for each mask the text and reading of each example.

    Raises:
        GatescopeError: see `gatescope.steps.remote.jobs`; or if neurons belong to another model, or the server computes in
            another dtype than before.
    """
    server = Server.of(remote)
    build = builder(model, shards, masks, readout, max_new_tokens)
    # Digests, not the masks: they can be thousands of numbers, and the ledger only compares.
    settings = [readout, max_new_tokens, *(plan.digest_of(plain(model, mask)) for mask in masks)]
    for number, parts in run_jobs("sweep", model, server, shards, build, settings, ledger):
        dtype = plan.same_dtype(server, dtype, [part.result for part in parts])
        by_mask: list[list[tuple[str, Reading]]] = []
        for which in range(len(masks)):
            of_parts = [plan.read(model, part.batches, part.result["answers"][which], readout) for part in parts]
            by_mask.append([(row.text, row.reading) for rows in of_parts for row in rows])
        for mask, answers in zip(masks, by_mask, strict=True):
            if mask is None:
                refuse_holes(answers, [example for batch in shards[number] for example in batch])
        told(dtype)
        yield number, by_mask


def builder(
    model: TransformersModel,
    shards: Batches,
    masks: Sequence[Change | None],
    readout: str = "generate",
    max_new_tokens: int = 20,
) -> Callable[[int], Build]:
    """For a shard's number, what makes the job of a range of its batches."""
    common = {
        "task": "sweep",
        # All masks in one job, so that the prompts travel once.
        "masks": [plain(model, mask) for mask in masks],
        "generation": generation(model, max_new_tokens),
    }
    return builder_of(shards, common, lambda examples: plan.batch(model, collate(model, examples), readout))
