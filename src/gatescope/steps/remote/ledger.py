"""Which job runs which piece of a run: what a client that was killed finds when it comes back.

A piece is a range of a shard's batches. A shard is in the ledger from when it is taken up until it has been stored. One
client at a time: two would submit everything twice.
"""

from __future__ import annotations

import contextlib
import secrets
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from filelock import FileLock, Timeout

from gatescope.core.errors import GatescopeError
from gatescope.steps.remote.ledger_file import FORMAT, File, PieceEntry, ShardEntry, read, write
from gatescope.steps.remote.results import Expected, Identity


@dataclass
class Piece:
    """A range of a shard's batches, and the job that runs it.

    Where the server cannot tell which answers are right, a first job asks (`inquiry`, its answers are `asked`), and a
    second one counts.

    Attributes:
        shard: its number.
        start, stop: its batches.
        job, inquiry: numbers of jobs; empty if there is none.
        request, inquired: digests of what was sent for them.
        attempts: how often a job was submitted.
        cut: how often each batch was cut in halves, because it did not fit.
        asked, result: what came back; not in the file.
        expected: what must come back; not in the file.
        unknown_since: since when the server has not known the job.
        unread: how often the result could not be read.
    """

    shard: int
    start: int
    stop: int
    job: str = ""
    attempts: int = 0
    inquiry: str = ""
    request: str = ""
    inquired: str = ""
    cut: int = 0
    asked: list[Any] | None = None
    result: dict[str, Any] | None = None
    expected: Expected | None = None
    unknown_since: float | None = None
    unread: int = 0

    @property
    def current(self) -> str:
        """The job to look at: the inquiry's, as long as its answers are not here."""
        return self.inquiry if self.inquiry and self.asked is None else self.job

    @property
    def sent(self) -> str:
        """The digest of what was sent for the job to look at."""
        return self.inquired if self.current == self.inquiry else self.request

    def give_up(self) -> None:
        """Forget the job to look at, so that another is submitted."""
        if self.current == self.inquiry:
            self.inquiry = self.inquired = ""
        self.job = self.request = ""
        self.unknown_since, self.unread = None, 0

    def __str__(self) -> str:
        return f"shard {self.shard}" + (f" (batches {self.start} to {self.stop - 1})" if self.start else "")


class _Entry(msgspec.Struct):
    """A shard in the file: a digest of its examples; of each piece start, stop, job, attempts and inquiry."""

    examples: str
    pieces: list[tuple[int, int, str, int, str]]


class _Held(msgspec.Struct):
    """The file."""

    format: str
    work: str
    shards: dict[int, _Entry]


@dataclass
class Ledger:
    """Which job runs which piece, on disk where a run directory is given.

    Attributes:
        path: the file; None keeps it in memory.
        work: digest of what the jobs are of; a ledger of other work is refused.
        key: for a shard's number, a digest of its examples.
        run: a number drawn when the ledger is begun, which its jobs carry.
    """

    path: Path | None
    work: str
    key: Callable[[int], str]
    pieces: dict[int, list[Piece]] = field(default_factory=dict)
    keys: dict[int, str] = field(default_factory=dict)
    run: str = field(default_factory=lambda: secrets.token_hex(16))

    @classmethod
    def at(cls, path: Path | None, work: str, key: Callable[[int], str]) -> Ledger:
        """The ledger at a path, with the jobs that were under way.

        Raises:
            GatescopeError: if it cannot be read, was altered, or belongs to other work.
        """
        ledger = cls(path, work, key)
        if path is None or not path.is_file():
            return ledger
        held = read(path)
        if held.work != work:
            # Its jobs would otherwise be taken for this work's, and their results for its results.
            raise ledger.other()
        if not isinstance(held, File):
            warnings.warn(
                f"{path} was written by an earlier version, whose jobs do not say whose they are: they are submitted again.",
                stacklevel=2,
            )
            return ledger
        ledger.run = held.run
        for shard, entry in held.shards.items():
            ledger.keys[shard] = entry.examples
            ledger.pieces[shard] = [Piece(shard, **msgspec.structs.asdict(piece)) for piece in entry.pieces]
        return ledger

    def expect(self, shards: Iterable[int]) -> None:
        """Drop the shards that are not wanted any more: stored, but the client was killed before it said so.

        Raises:
            GatescopeError: if a shard is not the one its job was submitted for.
        """
        expected = set(shards)
        # A list: `done` removes from the dictionary that is walked.
        for shard in list(self.pieces):
            if shard not in expected:
                self.done(shard)
            elif self.keys[shard] != self.key(shard):
                raise self.other()

    def begin(self, shard: int, batches: int) -> None:
        """Start a shard as one piece."""
        self.pieces[shard] = [Piece(shard, 0, batches)]
        self.keys[shard] = self.key(shard)

    def identity(self, task: str, piece: Piece, request: str) -> Identity:
        """What the job of a piece carries, and its result must."""
        return Identity(self.run, task, piece.shard, (piece.start, piece.stop), piece.cut, request)

    @property
    def under_way(self) -> list[Piece]:
        """The pieces whose results are not here yet."""
        return [piece for pieces in self.pieces.values() for piece in pieces if piece.result is None]

    @property
    def submitted(self) -> bool:
        """Whether any job was submitted: then the server has answered before."""
        return any(piece.job or piece.inquiry for piece in self.under_way)

    @property
    def finished(self) -> list[int]:
        """The shards all of whose results are here."""
        # One piece may still run where the others of its shard are done.
        open_shards = {piece.shard for piece in self.under_way}
        return [shard for shard in self.pieces if shard not in open_shards]

    def other(self) -> GatescopeError:
        """The error for a ledger of other work."""
        return GatescopeError(
            f"{self.path} holds jobs of other work (other examples, model, server or settings). Finish that with what it "
            f"was started with, or remove the file to give its jobs up."
        )

    def write(self) -> None:
        """Put the ledger on disk."""
        if self.path is None:
            return
        # Neither results nor answers: they are asked for again, and a ledger stays small.
        shards = {
            shard: ShardEntry(self.keys[shard], [_entry(piece) for piece in pieces])
            for shard, pieces in sorted(self.pieces.items())
        }
        write(self.path, File(FORMAT, self.run, self.work, shards))

    def done(self, shard: int) -> None:
        """Forget a shard that has been stored; without shards there is no file."""
        self.pieces.pop(shard, None)
        self.keys.pop(shard, None)
        if self.pieces or self.path is None:
            self.write()
        else:
            # An empty ledger would refuse other work in this directory for nothing.
            self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def alone(path: Path | None) -> Iterator[None]:
    """Be the one client of a ledger.

    Raises:
        GatescopeError: if another is, or if the directory cannot be written to.
    """
    if path is None:
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The system lets go of it when a process dies.
        lock = FileLock(path.with_name(f"{path.name}.lock"))
        lock.acquire(timeout=0)
    except Timeout:
        lock = None
    except OSError as error:
        raise GatescopeError(f"{path.parent} cannot be written to: {error.strerror}.") from error
    if lock is None:
        raise GatescopeError(
            f"Another process is running the jobs of {path}. Two would submit each of them twice: wait until it has "
            f"ended, then start the same command again if anything is left."
        )
    try:
        yield
    finally:
        lock.release()


def _entry(piece: Piece) -> PieceEntry:
    return PieceEntry(**{name: getattr(piece, name) for name in PieceEntry.__struct_fields__})
