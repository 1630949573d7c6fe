"""One shard of a step, computed in this process: the same for whoever asks, a run here or an actor of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gatescope.steps.batches import Plan
from gatescope.steps.plan import prepared, split_on_oom
from gatescope.steps.step import S, Step
from gatescope.traces.encoding import Batch, collate


def compute(step: Step[S], planned: Plan, index: int, workers: int, done: Callable[[int], Any]) -> S:
    """A shard of a step, batch by batch.

    Args:
        step: what is done, within its `running()`.
        planned: which examples run together.
        index: of the shard.
        workers: processes that prepare text and pictures ahead of the model.
        done: is told how many of the step's units each batch was.
    """
    result = step.begin()
    encoded = prepared(step.model, planned.batches(index, step.examples), workers)
    for positions, batch in zip(planned.shards[index], encoded, strict=True):
        split_on_oom(_batch_work(step, result, batch), positions, lambda position: step.examples[position].id)
        done(len(positions) * step.times)
    return result


def _batch_work(step: Step[S], result: S, batch: Batch) -> Callable[[Sequence[int]], None]:
    """The step's work on the examples at some places: on the batch as it was encoded, the first time; on a part of it,
    which is encoded anew, where the whole did not fit into memory.
    """
    encoded = [batch]

    def work(positions: Sequence[int]) -> None:
        if encoded:
            return step.work(result, positions, encoded.pop())
        smaller = collate(step.model, [step.examples[position] for position in positions])
        step.work(result, positions, smaller.to(step.model._module.device))

    return work
