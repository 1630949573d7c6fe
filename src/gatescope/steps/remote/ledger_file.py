"""The file of a ledger: its schema, a checksum over all of it, and what is said where it is neither whole nor ours."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import msgspec

from gatescope.core import artefacts, foreign
from gatescope.core.errors import GatescopeError, quoted

FORMAT = "gatescope.jobs/2"
BEFORE = "gatescope.jobs/1"  # of the first release: its jobs do not say whose they are
Count = Annotated[int, msgspec.Meta(ge=0)]
Number = Annotated[str, msgspec.Meta(pattern=r"\A([A-Za-z0-9][A-Za-z0-9_.-]{0,199})?\Z")]  # of a job, or empty


class PieceEntry(msgspec.Struct, forbid_unknown_fields=True):
    """A piece in the file."""

    start: Count
    stop: Count
    job: Number
    attempts: Count
    inquiry: Number
    request: str
    inquired: str
    cut: Count


class ShardEntry(msgspec.Struct, forbid_unknown_fields=True):
    """A shard in the file: the digest of its examples, and its pieces."""

    examples: str
    pieces: Annotated[list[PieceEntry], msgspec.Meta(min_length=1)]


class File(msgspec.Struct, forbid_unknown_fields=True):
    """The file, with a checksum over all the rest of it."""

    format: str
    run: str
    work: str
    shards: dict[Count, ShardEntry]
    checksum: str = ""

    def sum(self) -> str:
        """What the checksum must be."""
        content = msgspec.structs.replace(self, checksum="")
        return hashlib.sha256(msgspec.json.encode(content)).hexdigest()


class Headline(msgspec.Struct):
    """What files of every version begin with."""

    format: str
    work: str = ""


def write(path: Path, content: File) -> None:
    """Put a ledger on disk."""
    content.checksum = content.sum()
    artefacts.write_bytes(path, msgspec.json.format(msgspec.json.encode(content), indent=1))


def read(path: Path) -> File | Headline:
    """What a file holds.

    Raises:
        GatescopeError: if it cannot be read, is of another format or was altered.
    """
    where, advice = f"{path} cannot be read", "Remove it to submit its jobs again."
    content = foreign.content_of(path, where, advice)
    head = foreign.parse(content, Headline, where, advice)
    if head.format == BEFORE:
        return head
    if head.format != FORMAT:
        raise GatescopeError(f"{path} is {quoted(head.format)}; this version reads {FORMAT}.")
    held = foreign.parse(content, File, where, advice)
    if held.checksum != held.sum():
        raise GatescopeError(
            f"{path} was altered after it was written: its checksum does not match. Remove it to submit its jobs again."
        )
    return held
