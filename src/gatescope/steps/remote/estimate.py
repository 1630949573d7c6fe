"""How much a run on a server will transfer, before it begins: jobs, bytes sent, bytes returned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nnsight import TransformersModel

from gatescope.core.errors import GatescopeError
from gatescope.data.example import Example, listed, readout_of
from gatescope.models.sites import site_of
from gatescope.steps.batches import Batches
from gatescope.steps.plan import plan
from gatescope.steps.remote.line import Build
from gatescope.steps.remote.record import builder
from gatescope.steps.remote.sealing import weigh
from gatescope.traces.jobs import Asked, Job

# Bytes of a token's id, of an option's log-probability (float32), of a neuron's K and S, and of its two sums of scores.
TOKEN, LOG, COUNT, SCORE = 4, 4, 16, 16


@dataclass(frozen=True)
class Estimate:
    """How much a run transfers.

    Attributes:
        jobs: how many; twice as many where the server cannot read the answers.
        payload: bytes sent, compressed.
        result: bytes returned at most, before compression; it depends on neurons, groups and answers, not on prompts.
        weighed: shards whose request was made to find out; the others are taken to be like them.
    """

    jobs: int
    payload: int
    result: int
    weighed: int

    def __str__(self) -> str:
        return f"{self.jobs} jobs, {_size(self.payload)} sent, at most {_size(self.result)} returned"


def estimate(model: TransformersModel, shards: Batches, build: Callable[[int], Build], *, sample: int = 3) -> Estimate:
    """Make the requests of a few shards, check that they can travel, send nothing, and extrapolate.

    Args:
        model: from `load_client` or `load_model`.
        shards: planned batches by shard number.
        build: `gatescope.steps.remote.record.builder(...)`, or attribute's, or sweep's.
        sample: shards to weigh, evenly spaced.

    Raises:
        GatescopeError: if something a job calls cannot travel.
    """
    numbers = list(shards)
    # Evenly spaced, since shards with pictures may lie together.
    chosen = numbers[:: max(1, len(numbers) // sample)][:sample]
    sizes = {number: sum(map(len, batches)) for number, batches in shards.items()}
    payload = result = jobs = 0
    for number in chosen:
        job = build(number)(0, len(shards[number]), None)
        payload += weigh(model, job)
        result += returned(job)
        # One job asks, and a second counts what is read as right here.
        jobs += 2 if job.get("decides") == "client" else 1
    scale = sum(sizes.values()) / sum(sizes[number] for number in chosen)
    jobs = jobs * len(numbers) // len(chosen)
    twice = jobs // len(numbers)
    return Estimate(jobs, round(payload * scale) * twice, round(result / len(chosen) * len(numbers)), len(chosen))


def estimate_record(
    model: TransformersModel,
    examples: Sequence[Example],
    *,
    site: str = "gate",
    tokens: Sequence[str] = ("all",),
    only_correct: bool = True,
    batch_size: int | str = 16,
    shard_size: int = 256,
    readout: str | None = None,
    max_new_tokens: int = 20,
) -> Estimate:
    """What `gatescope.record(..., remote=...)` with these arguments will move; errors as for `estimate`."""
    if not listed(examples):
        raise GatescopeError("An estimate needs examples; there are none.")
    readout = readout or readout_of(examples)
    planned = plan(model, examples, batch_size, shard_size)
    shards = {number: planned.batches(number, examples) for number in range(len(planned.shards))}
    groups = tuple(dict.fromkeys(example.group for example in examples))
    build = builder(model, shards, site_of(model, site), groups, tokens, only_correct, readout, max_new_tokens)
    return estimate(model, shards, build)


def returned(job: Job) -> int:
    """Bytes a job's result has at most."""
    if job["task"] == "record":
        counts = job["classes"] * job["groups"] * sum(job["widths"])
        return counts * COUNT + sum(_answer(batch, job["generation"]) for batch in job["batches"])
    if job["task"] == "attribute":
        return job["groups"] * job["width"] * SCORE
    # Answers only: a sweep sends no sums back.
    return len(job["masks"]) * sum(_answer(batch, job["generation"]) for batch in job["batches"])


def _answer(batch: Asked, generation: dict[str, Any]) -> int:
    if batch["way"] == "generate":
        return len(batch["answer"]) * generation["max_new_tokens"] * TOKEN
    if batch["way"] == "argmax":
        return len(batch["right"]) * TOKEN
    return sum(len(options) for options in batch.get("tokens", ())) * LOG


def _size(count: int) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count = count / 1000  # type: ignore[assignment]
    raise AssertionError
