"""What all jobs have in common: the plain data that a task's places, batches, masks and answers become."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from operator import add
from typing import Any

from nnsight import TransformersModel
from torch import Tensor

from gatescope.core.errors import GatescopeError
from gatescope.data.example import Example, fingerprint
from gatescope.models.identity import identity
from gatescope.statistics.table import Row
from gatescope.steps.batches import Batches
from gatescope.steps.remote.server import Server
from gatescope.traces.batch import readout_named
from gatescope.traces.encoding import Batch
from gatescope.traces.jobs import Asked, MaskRow


def batch(model: TransformersModel, encoded: Batch, readout: str) -> Asked:
    """A batch of questions and what is needed to read its answers.

    Raises:
        GatescopeError: for an unknown read-out, or an example it cannot read.
    """
    way = readout_named(readout)
    way.readable(model, encoded.examples)
    return way.job(model, encoded)


def read(model: TransformersModel, batches: Iterable[Sequence[Example]], outcomes: Iterable[Any], readout: str) -> list[Row]:
    """Answers read here, by the same rules as in a local run: one row for each example of the batches."""
    way = readout_named(readout)
    rows: list[Row] = []
    for examples, outcome in zip(batches, outcomes, strict=True):
        answers = way.read(model, examples, outcome)
        rows += [Row.full(example.id, example.group, *answer) for example, answer in zip(examples, answers, strict=True)]
    return rows


def total(pieces: Sequence[dict[str, Any]], name: str) -> Tensor:
    """One of a shard's sums, its pieces' added in order."""
    # In order: S is a float64 sum, and the last bit depends on it.
    return reduce(add, (piece[name] for piece in pieces))


def same_dtype(server: Server, before: str | None, pieces: Sequence[dict[str, Any]]) -> str:
    """The dtype a shard was computed in.

    Raises:
        GatescopeError: if it is not that of the shards before it, naming both.
    """
    for piece in pieces:
        if before is not None and piece["dtype"] != before:
            raise GatescopeError(
                f"{server.address} now computes in {piece['dtype']}; the shards before were computed in {before}, and the two "
                f"cannot be added up. Finish the run where it was started, or begin another in a new directory."
            )
        before = piece["dtype"]
    return str(before)


def work(task: str, model: TransformersModel, server: Server, settings: list[Any]) -> str:
    """A digest of what the jobs are of, so that a ledger of other work is not taken for this one's."""
    # Not the digest of the weights: a client has none.
    card = identity(model)
    return hashlib.sha256(json.dumps([task, card["id"], card["revision"], server.address, settings]).encode()).hexdigest()


def keys(shards: Batches) -> Callable[[int], str]:
    """For a shard's number, a digest of its examples and how they are cut into batches."""

    def key(number: int) -> str:
        examples = [example for batch in shards[number] for example in batch]
        # The same examples in other batches pad otherwise, and are other jobs.
        sizes = [len(batch) for batch in shards[number]]
        return hashlib.sha256(json.dumps([sizes, fingerprint(examples)]).encode()).hexdigest()

    return key


def digest_of(table: list[MaskRow]) -> str:
    """A digest of a mask's plain data."""
    plain = [(path, io, index.tolist(), kind, values.tolist()) for path, io, index, kind, values in table]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()
