"""A step: one kind of work on shards of examples, such as recording, attributing or sweeping.

A step says what decides its result, what is done with a batch, how shards add up and how one is stored; it knows nothing
of files, processes or servers. `gatescope.steps.runner` does the rest, the same for all steps:

    examples -> plan (shards of batches) -> each shard: batch by batch, here or on a server -> stored -> added in order
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from nnsight import TransformersModel
from torch import Tensor

from gatescope.core.errors import GatescopeError
from gatescope.data.example import Example
from gatescope.steps.batches import Batches, Plan
from gatescope.steps.claims import Claims
from gatescope.steps.run import Run
from gatescope.traces.encoding import Batch

S = TypeVar("S")  # the result of a shard


@dataclass(frozen=True)
class Options:
    """How a step is run. None of it changes a result, but for rounding where batches differ.

    Attributes:
        run: directory for shards and manifest; None keeps nothing.
        batch_size: examples a batch, or "auto".
        shard_size: examples a shard.
        workers: processes that prepare text and pictures ahead of the model.
        remote: a server to do the work; None for here.
        part: (k, n) for the k-th of n parts of the shards and no other.
        progress: show a bar if it takes longer than a few seconds.
        executor: a cluster to do the work (`gatescope.Ray`); None for here.
    """

    run: str | Path | Run | None = None
    batch_size: int | str = 16
    shard_size: int = 256
    workers: int = 0
    remote: Any = None
    part: tuple[int, int] | None = None
    progress: bool = True
    executor: Executor | None = None

    def __post_init__(self) -> None:
        if self.executor is not None and self.remote is not None:
            raise GatescopeError("remote= and executor= both say who does the work: a server, or a cluster. Give one of them.")
        if self.executor is not None and not hasattr(self.executor, "shards"):
            raise GatescopeError(f"executor is {self.executor!r}; it must be a gs.Ray(...), or None for this process.")


@runtime_checkable
class Executor(Protocol):
    """Who computes shards in place of this process, each loading the same model."""

    def shards(
        self, step: Step[S], planned: Plan, claims: Claims, workers: int, done: Callable[[int], Any]
    ) -> Generator[tuple[int, S], None, None]:
        """Shards in whatever order they finish.

        Args:
            step, planned: what is done, and which examples run together.
            claims: the shards to do.
            workers: processes that prepare text and pictures ahead of each model.
            done: is told how many of the step's units each shard was.
        """
        ...


class Step(ABC, Generic[S]):
    """One kind of work.

    Attributes:
        name: of the step in a run's manifest, such as "record" or "attribute of control".
        doing, unit: what its progress bar says: "recording", in "examples".
        times: how many units one example is.
        metadata: everything that decides the result, the plan excepted.
    """

    name: str
    doing: str
    unit: str = "examples"
    times: int = 1
    metadata: Mapping[str, Any]

    def __init__(self, model: TransformersModel, examples: Sequence[Example]) -> None:
        self.model = model
        self.examples = examples

    def running(self) -> AbstractContextManager[None]:
        """A context for computing shards in this process, such as eval mode."""
        return nullcontext()

    def check(self, run: Run) -> None:
        """Refuse a run in which the result would mean something else; called under its lock, before the step is started.

        Raises:
            GatescopeError: saying what to do.
        """

    def started(self, metadata: Mapping[str, Any]) -> None:
        """Take over what depends on how the run's step was started, before anything of it is done or read.

        Args:
            metadata: the manifest's, which is the step's own but for the order of what is in it.
        """

    @abstractmethod
    def begin(self) -> S:
        """An empty shard."""

    @abstractmethod
    def work(self, shard: S, positions: Sequence[int], batch: Batch) -> None:
        """Run a batch and add its results to the shard: all of them, or, if an error is raised, none.

        Args:
            shard: of `begin`.
            positions: where in the examples the batch's are.
            batch: their encoding, on the model's device.
        """

    @abstractmethod
    def on_server(
        self, batches: Batches, positions: Mapping[int, list[int]], remote: Any, ledger: Path | None, dtype: str | None
    ) -> Iterator[tuple[int, S]]:
        """Shards computed on a server, each as soon as it is finished.

        Args:
            batches: by number of shard.
            positions: of each shard's examples, in the order of its batches.
            remote: as for `gatescope.record`.
            ledger: file that remembers jobs.
            dtype: what shards done before were computed in.
        """

    @abstractmethod
    def add(self, total: S, shard: S) -> S:
        """The sum of the shards so far and the next."""

    @abstractmethod
    def pack(self, shard: S) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """A shard as tensors and JSON-able facts, to be stored."""
