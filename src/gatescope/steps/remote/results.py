"""What a job's result must be, and whether it is: whose it is, of which shape, and sums that can be.

A job carries its identity, and the function that runs it gives it back: the result of another job, shard or run is refused.
What is counted is bounded by what was sent: no neuron fires for more tokens than there are, and no token is counted that was
not sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

from gatescope.traces.jobs import Asked, Job, Scored

DTYPES = ("float64", "float32", "bfloat16", "float16")  # a model may compute in


class Identity(msgspec.Struct, frozen=True):
    """Which piece of which work a job runs.

    Attributes:
        run: a number drawn when the ledger was begun.
        task: "record", "attribute" or "sweep".
        shard: its number.
        batches: first batch, and the one after the last.
        cut: how often these were cut in halves.
        request: digest of all that was sent.
    """

    run: str
    task: str
    shard: int
    batches: tuple[int, int]
    cut: int
    request: str


class _Result(msgspec.Struct, forbid_unknown_fields=True):
    of: Identity


class Recorded(_Result):
    """Of recording: see `gatescope.traces.shipped.record`."""

    K: Tensor
    S: Tensor
    T: Tensor
    seen: Tensor
    counted: Tensor
    answers: list[Any]
    dtype: Literal[DTYPES]  # pyright: ignore


class Undecided(_Result):
    """Of recording, where the server cannot read the answers."""

    undecided: Literal[True]
    answers: list[Any]


class Attributed(_Result):
    """Of attribution."""

    sums: Tensor
    clamped: Tensor
    seen: Tensor
    dtype: Literal[DTYPES]  # pyright: ignore


class Swept(_Result):
    """Of a sweep: the answers, by mask and batch."""

    answers: list[list[Any]]
    dtype: Literal[DTYPES]  # pyright: ignore


class WrongResult(Exception):
    """A result that is not the job's."""


@dataclass(frozen=True)
class Batch:
    """One batch that was sent, without its inputs.

    Attributes:
        rows: how many.
        way: how they are answered; None where they are attributed.
        options: how many options each row has.
        longest: tokens of a generated answer, at most.
        group: each row's [b]; None in a sweep.
        tokens: of each class of the prompt's tokens, how many of each row count [c, b]; None but for recording.
    """

    rows: int
    way: str | None
    options: list[int]
    longest: int
    group: Tensor | None
    tokens: Tensor | None


@dataclass(frozen=True)
class Expected:
    """What the result of a job must be.

    Attributes:
        task, batches: of the job.
        sizes: of its sums: classes of tokens, groups, neurons; groups and neurons; or how many masks.
        generated: whether generated tokens are counted, as the last class.
    """

    task: str
    batches: list[Batch]
    sizes: tuple[int, ...]
    generated: bool

    @classmethod
    def of(cls, job: Job) -> Expected:
        """What a job's result must be."""
        longest = job["generation"]["max_new_tokens"] if "generation" in job else 0
        batches = [_batch(batch, longest) for batch in job["batches"]]
        if job["task"] == "record":
            sizes = job["classes"], job["groups"], sum(job["widths"])
        elif job["task"] == "attribute":
            sizes = job["groups"], job["width"]
        else:
            sizes = (len(job["masks"]),)
        return cls(job["task"], batches, sizes, bool(job.get("generated")))

    def check(self, result: Any, identity: Identity) -> dict[str, Any]:
        """The result, if it is this job's.

        Raises:
            WrongResult: saying what is wrong with it.
        """
        undecided = isinstance(result, dict) and "undecided" in result
        schema = {"record": Undecided if undecided else Recorded, "attribute": Attributed, "sweep": Swept}[self.task]
        try:
            checked: Any = msgspec.convert(result, schema, dec_hook=_tensor)
        except (ValueError, RecursionError) as error:
            raise WrongResult(str(error)) from None
        if checked.of != identity:
            raise WrongResult(_another(checked.of, identity))
        if schema is Recorded:
            self._recorded(checked)
        elif schema is Attributed:
            self._attributed(checked)
        elif schema is Swept:
            masks = self.sizes[0]
            _need(len(checked.answers) == masks, f"answers under {masks} masks were asked for, not {len(checked.answers)}")
        if self.task != "attribute":
            for answers in checked.answers if schema is Swept else [checked.answers]:
                self._answers(answers)
        return {name: getattr(checked, name) for name in checked.__struct_fields__}

    def _recorded(self, result: Recorded) -> None:
        classes, groups, _ = self.sizes
        _shaped("K", result.K, self.sizes, torch.int64)
        _shaped("S", result.S, self.sizes, torch.float64)
        _shaped("T", result.T, (classes, groups), torch.int64)
        _shaped("counted", result.counted, (groups,), torch.int64)
        self._seen(result.seen, groups)
        _need(_within(result.counted, result.seen), "more examples are counted than were sent")
        most = self.tokens(torch.ones(self.rows, dtype=torch.bool))
        most = torch.cat([most, self._generated(result.counted)]) if self.generated else most
        _need(_within(result.T, most), "more tokens are counted than were sent")
        _need(_within(result.K, result.T[..., None]), "a neuron fires for more tokens than were counted")
        # NaN is said with its layer, where the shard is put together.
        _need(not bool((result.S < 0).any()), "a sum of positive activations is negative")
        _need(not bool(((result.S > 0) & (result.K == 0)).any()), "a neuron that never fired has a sum")

    def _attributed(self, result: Attributed) -> None:
        _shaped("sums", result.sums, self.sizes, torch.float64)
        _shaped("clamped", result.clamped, self.sizes, torch.float64)
        self._seen(result.seen, self.sizes[0])
        wrong = (result.clamped < 0) | (result.clamped < result.sums)
        _need(not bool(wrong.any()), "a sum without its negative scores is less than with them")

    def _seen(self, seen: Tensor, groups: int) -> None:
        _shaped("seen", seen, (groups,), torch.int64)
        sent = sum((batch.group.bincount(minlength=groups) for batch in self.batches if batch.group is not None), 0 * seen)
        _need(torch.equal(seen, sent), f"{seen.tolist()} examples a group were seen, and {sent.tolist()} sent")

    @property
    def rows(self) -> int:
        """Examples, of all batches."""
        return sum(batch.rows for batch in self.batches)

    def tokens(self, use: Tensor) -> Tensor:
        """The prompt's tokens of each class in each group [c, g], of the rows used, bool [b] over all batches."""
        group = torch.cat([batch.group for batch in self.batches if batch.group is not None])
        tokens = torch.cat([batch.tokens for batch in self.batches if batch.tokens is not None], 1)
        total = torch.zeros(len(tokens), self.sizes[1], dtype=torch.int64)
        return total.index_add_(1, group[use], tokens[:, use])

    def _generated(self, counted: Tensor) -> Tensor:
        """Generated tokens that may be counted in each group [1, g]: the last of an answer is never fed to the model."""
        return counted[None] * max((batch.longest - 1 for batch in self.batches), default=0)

    def _answers(self, answers: Sequence[Any]) -> None:
        """Refuse answers that are not one to each row of each batch."""
        _need(len(answers) == len(self.batches), f"answers to {len(self.batches)} batches were asked for, not {len(answers)}")
        for answer, batch in zip(answers, self.batches, strict=True):
            _need(_fits(answer, batch), "an answer has another shape than what was asked for")


def _batch(batch: Asked | Scored, longest: int) -> Batch:
    """A batch of a job, without its inputs."""
    if "forced" in batch:
        return Batch(len(batch["forced"]), None, [], 0, torch.tensor(batch["group"]), None)
    masks = batch.get("masks")
    options = [len(row) for row in batch.get("tokens", ())]
    return Batch(
        len(batch["inputs"]["input_ids"]),
        batch["way"],
        options,
        longest,
        batch.get("group"),
        None if masks is None else masks.sum(2).cpu(),
    )


def _fits(answer: Any, batch: Batch) -> bool:
    """Whether an answer is what a batch was asked for: see `gatescope.traces.readouts.base`."""
    if batch.way == "none":
        return answer is None
    return _ids(answer, batch) if batch.way in ("generate", "argmax") else _logprobs(answer, batch)


def _logprobs(answer: Any, batch: Batch) -> bool:
    if not isinstance(answer, list | tuple) or not all(isinstance(row, Tensor) for row in answer):
        return False
    shaped = [tuple(row.shape) for row in answer] == [(count,) for count in batch.options]
    # Not below 0: NaN is a hole, and a sum of logarithms may be above by its rounding.
    return shaped and all(row.is_floating_point() and not (row > 1e-3).any() for row in answer)


def _ids(answer: Any, batch: Batch) -> bool:
    if not isinstance(answer, Tensor) or answer.layout != torch.strided or answer.dtype not in (torch.int32, torch.int64):
        return False
    shape = tuple(answer.shape)
    sized = shape == (batch.rows,) if batch.way == "argmax" else len(shape) == 2 and shape[0] == batch.rows
    return sized and (len(shape) == 1 or 0 < shape[1] <= batch.longest) and bool((answer >= -1).all())


def _another(found: Identity, wanted: Identity) -> str:
    """How an identity differs."""
    parts = {"run": "of another run", "task": "of another step", "shard": f"of shard {found.shard}"}
    differs = next(name for name in Identity.__struct_fields__ if getattr(found, name) != getattr(wanted, name))
    return f"it is {parts.get(differs, 'of another request')}"


def _shaped(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    right = tensor.layout == torch.strided and (tensor.dtype, tuple(tensor.shape)) == (dtype, shape)
    _need(right, f"{name} must be {str(dtype).removeprefix('torch.')} {list(shape)}, and is {_kind(tensor)}")


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _tensor(kind: type, value: Any) -> Any:
    if isinstance(value, kind):
        return value
    raise ValueError(f"Expected {kind.__name__}, got {type(value).__name__}")


def _within(counts: Tensor, most: Tensor) -> bool:
    return bool(((counts >= 0) & (most >= counts)).all())


def _need(true: bool, otherwise: str) -> None:
    if not true:
        raise WrongResult(otherwise)
