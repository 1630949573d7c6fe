"""What all jobs have in common: the plain data that a task's places, batches, masks and answers become."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

import torch
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


def total(results: Sequence[Mapping[str, Any]], name: str) -> Tensor:
    """One of a shard's sums, its pieces' added in order."""
    # In order: S is a float64 sum, and the last bit depends on it.
    return reduce(add, (result[name] for result in results))


def same_dtype(server: Server, before: str | None, results: Sequence[Mapping[str, Any]]) -> str:
    """The dtype a shard was computed in.

    Raises:
        GatescopeError: if it is not that of the shards before it, naming both.
    """
    for result in results:
        if before is not None and result["dtype"] != before:
            raise GatescopeError(
                f"{server.address} now computes in {result['dtype']}; the shards before were computed in {before}, and the two "
                f"cannot be added up. Finish the run where it was started, or begin another in a new directory."
            )
        before = result["dtype"]
    return str(before)


def not_finite(server: Server, where: str, dtype: str) -> GatescopeError:
    """The error for a model on a server that gives NaN or infinity."""
    return GatescopeError(
        f"The model on {server.address} gave NaN {where}. Its dtype there, {dtype}, is too narrow for these examples; run them "
        f"elsewhere or leave them out."
    )


def cut(batches: Sequence[Sequence[Example]], times: int) -> list[Sequence[Example]]:
    """Batches, each cut in halves as often as is said and as it can be.

    >>> cut(["abcde"], 0), cut(["abcde"], 1), cut(["abcde", "f"], 2), cut(["ab"], 9)
    (['abcde'], ['abc', 'de'], ['ab', 'c', 'd', 'e', 'f'], ['a', 'b'])
    """
    pieces = list(batches)
    for _ in range(times):
        halves = [(batch[: (len(batch) + 1) // 2], batch[(len(batch) + 1) // 2 :]) for batch in pieces]
        pieces = [half for pair in halves for half in pair if len(half)]
    return pieces


def digest(value: Any) -> str:
    """A digest of plain data: dictionaries, lists, tensors, words and numbers.

    >>> digest({"a": [1, torch.ones(2)]}) == digest({"a": [1, torch.ones(2)]}) != digest({"a": [1, torch.ones(2).long()]})
    True
    """
    sha = hashlib.sha256()
    _feed(sha.update, value)
    return sha.hexdigest()


def _feed(update: Callable[[bytes], None], value: Any) -> None:
    if isinstance(value, Tensor):
        update(f"tensor {value.dtype} {tuple(value.shape)}:".encode())
        update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, Mapping):
        update(f"mapping {len(value)}:".encode())
        for name in sorted(value):
            _feed(update, name)
            _feed(update, value[name])
    elif isinstance(value, list | tuple):
        update(f"list {len(value)}:".encode())
        for item in value:
            _feed(update, item)
    else:
        update(f"{type(value).__name__} {value!r}:".encode())


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
