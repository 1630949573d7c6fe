"""Which job runs which piece of a run: what a client that was killed finds when it comes back.

A piece is a range of a shard's batches. A shard is in the ledger from when it is taken up until it has been stored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from gatescope.core import artefacts, foreign
from gatescope.core.errors import GatescopeError

FORMAT = "gatescope.jobs/1"


@dataclass
class Piece:
    """A range of a shard's batches, and the job that runs it.

    Where the server cannot tell which answers are right, a first job asks (`inquiry`, its answers are `asked`), and a
    second one counts.
    """

    shard: int
    start: int
    stop: int
    job: str = ""
    attempts: int = 0
    inquiry: str = ""
    asked: list[Any] | None = None
    result: dict[str, Any] | None = None
    unknown_since: float | None = None

    @property
    def current(self) -> str:
        """The job to look at: the inquiry's, as long as its answers are not here."""
        return self.inquiry if self.inquiry and self.asked is None else self.job

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
    """

    path: Path | None
    work: str
    key: Callable[[int], str]
    pieces: dict[int, list[Piece]] = field(default_factory=dict)
    keys: dict[int, str] = field(default_factory=dict)

    @classmethod
    def at(cls, path: Path | None, work: str, key: Callable[[int], str]) -> Ledger:
        """The ledger at a path, with the jobs that were under way.

        Raises:
            GatescopeError: if it cannot be read, or belongs to other work.
        """
        ledger = cls(path, work, key)
        if path is None or not path.is_file():
            return ledger
        held = foreign.read_json(path, _Held, advice="Remove it to submit its jobs again.")
        if held.format != FORMAT:
            raise GatescopeError(f"{path} is {held.format}; this version reads {FORMAT}.")
        if held.work != work:
            # Its jobs would otherwise be taken for this work's, and their results for its results.
            raise ledger.other()
        for shard, entry in held.shards.items():
            ledger.keys[shard] = entry.examples
            ledger.pieces[shard] = [Piece(shard, *piece) for piece in entry.pieces]
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

    @property
    def under_way(self) -> list[Piece]:
        """The pieces whose results are not here yet."""
        return [piece for pieces in self.pieces.values() for piece in pieces if piece.result is None]

    @property
    def finished(self) -> list[int]:
        """The shards all of whose results are here."""
        # One piece may still run where the others of its shard are done.
        open_shards = {piece.shard for piece in self.under_way}
        return [shard for shard in self.pieces if shard not in open_shards]

    def results(self, shard: int) -> list[dict[str, Any]]:
        """The results of a shard's pieces, in order."""
        return [piece.result for piece in self.pieces[shard] if piece.result is not None]

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
        shards = {
            # Neither results nor answers: they are asked for again, and a ledger stays small.
            shard: {"examples": self.keys[shard], "pieces": [[p.start, p.stop, p.job, p.attempts, p.inquiry] for p in pieces]}
            for shard, pieces in sorted(self.pieces.items())
        }
        text = json.dumps({"format": FORMAT, "work": self.work, "shards": shards}, indent=1)
        artefacts.write_bytes(self.path, text.encode())

    def done(self, shard: int) -> None:
        """Forget a shard that has been stored; without shards there is no file."""
        self.pieces.pop(shard, None)
        self.keys.pop(shard, None)
        if self.pieces or self.path is None:
            self.write()
        else:
            # An empty ledger would refuse other work in this directory for nothing.
            self.path.unlink(missing_ok=True)
