"""The manifest of a run directory: what was run, what each step of it must be continued with, and the files it consists of.

    files       the SHA-256 of every file of the run, by its path in it
    checksum    the SHA-256 of the manifest's own text, with zeros in this place

So the manifest answers for every byte of the run. It is changed under a lock, always from what is on disk at that moment:
any number of processes may work on a run. Manifests of the first release have neither, and are taken as they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from gatescope.core import artefacts, foreign
from gatescope.core.errors import GatescopeError, quoted
from gatescope.steps import schema

FORMAT = "gatescope.run/2"
_BLANK = "0" * 64  # in the place of the checksum, while it is computed


class Manifest:
    """The manifest of the run at `path`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def _manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def manifest(self) -> dict[str, Any]:
        """What was run.

        Raises:
            GatescopeError: if it cannot be read, is of another format, or was altered.
        """
        where = f"{self._manifest} cannot be read"
        content = foreign.content_of(self._manifest, where, schema.MEND)
        facts = foreign.parse(content, dict[str, Any], where, schema.MEND, ours=True)
        if facts.get("format") != FORMAT:
            raise GatescopeError(f"{self.path} is {quoted(facts.get('format'))}; this version reads {FORMAT}.")
        facts = schema.manifest(facts, self._manifest)
        checksum = facts.pop("checksum", None)
        # A manifest of the first release has no checksum, and no table of files either.
        if checksum != _checksum(content, checksum) and (checksum is not None or "files" in facts):
            raise GatescopeError(
                f"{self._manifest} was altered after it was written: its checksum does not match, so nothing in the run can be "
                f"relied on. Put back a copy of the file, or begin a new run in another directory."
            )
        return facts

    def note(self, metadata: Mapping[str, Any]) -> None:
        """Add facts to the manifest: to what it holds at this moment.

        Raises:
            GatescopeError: if there is none any more.
        """
        with self.locked():
            # Only the first note says the format.
            before = {} if "format" in metadata and not self._manifest.exists() else self.manifest
            # What the first release left is bound from now on, as it is found.
            files = before["files"] if "files" in before else self._found()
            facts = before | {"files": files} | dict(metadata)
            if not facts.get("alone"):
                facts.pop("alone", None)
            blank = foreign.encoded(facts | {"checksum": _BLANK}, str(self._manifest), indent=1)
            head, _, tail = blank.rpartition(_BLANK.encode())
            checksum = hashlib.sha256(blank).hexdigest()
            artefacts.write_bytes(self._manifest, head + checksum.encode() + tail)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Exclusive access to the manifest, among processes; a block inside another in the same thread has it already."""
        with self._lock():
            yield

    def _lock(self) -> contextlib.AbstractContextManager[Any]:
        """The lock, held: on a file beside the manifest, which is itself replaced, and a lock on it with the old file."""
        try:
            while True:
                self.path.mkdir(parents=True, exist_ok=True)
                # One for each file: a second one in the same process would wait for the first for ever.
                lock = FileLock(self.path.resolve() / "manifest.lock", is_singleton=True)
                # Not there if a run that came to nothing was cleared away just now.
                with contextlib.suppress(FileNotFoundError):
                    return lock.acquire()
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            why = getattr(error, "strerror", None) or error
            raise GatescopeError(f"{self.path} cannot be written to: {why}.") from error

    @property
    def files(self) -> dict[str, str] | None:
        """The SHA-256 of every file of the run; None in a run of the first release, which has no such table."""
        return self.manifest.get("files")

    def bind(self, digests: Mapping[str, str]) -> None:
        """Make the manifest answer for files, of which the SHA-256 is given by their path in the run."""
        with self.locked():
            files = self.files
            if files is None or any(files.get(name) != digest for name, digest in digests.items()):
                self.note({"files": (self._found() if files is None else files) | dict(digests)})

    def bind_written(self, paths: Iterable[Path]) -> None:
        """Make the manifest answer for those of some files just written, such as a report, that lie in the run."""
        inside = [path for path in paths if path.resolve().is_relative_to(self.path.resolve())]
        # A run of the first release is left as it is by those who only read it.
        if inside and self.files is not None:
            self.bind({path.resolve().relative_to(self.path.resolve()).as_posix(): digest_of(path) for path in inside})

    def store(self, name: str, content: bytes) -> None:
        """Write a file of the run, by its path in it, and make the manifest answer for it."""
        # Together, so that nobody finds the one without the other.
        with self.locked():
            artefacts.write_bytes(self.path / name, content)
            self.bind({name: hashlib.sha256(content).hexdigest()})

    def refuse_altered(self, name: str) -> None:
        """Refuse a file of the run that is not as the run wrote it.

        Raises:
            GatescopeError: saying what is wrong with it.
        """
        if wrong := self.wrong(name):
            raise GatescopeError(wrong)

    def wrong(self, name: str, files: Mapping[str, str] | None = None) -> str:
        """What is wrong with a file of the run, in a sentence; empty if nothing is, or the run has no table of files.

        Args:
            name: its path in the run.
            files: the manifest's table, by one who looks at many files; read if None.
        """
        said = self._wrong(name, self.files if files is None else files)
        if said and os.access(self.path, os.W_OK):
            # Another process may be between writing it and noting it down.
            with self.locked():
                said = self._wrong(name, self.files)
        return said

    def _wrong(self, name: str, files: Mapping[str, str] | None) -> str:
        path = self.path / name
        if files is None:
            return ""
        if name not in files:
            return f"{path} is no file of this run, which did not write it. Move it to another place."
        if not path.is_file():
            return f"{path} is missing. Run the command that made it again."
        if digest_of(path) != files[name]:
            return (
                f"{path} was altered after it was written: its checksum is not the manifest's. Delete it, and run the command "
                f"that made it again."
            )
        return ""

    def _found(self) -> dict[str, str]:
        """The files, shards excepted, that a run of the first release consists of, as they are now."""
        kinds = ("identification.jsonl", "answers*.jsonl", "selections/*.safetensors", "questions/*.jsonl")
        return digests(self.path, (path for kind in kinds for path in sorted(self.path.glob(kind))))


def digests(root: Path, paths: Iterable[Path]) -> dict[str, str]:
    """The SHA-256 of files, by their path below `root`."""
    return {path.relative_to(root).as_posix(): digest_of(path) for path in paths}


def digest_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksum(content: bytes, checksum: Any) -> str:
    """What the checksum of a manifest's text has to be, where it says that it is `checksum`."""
    head, _, tail = content.rpartition(str(checksum).encode())
    return hashlib.sha256(head + _BLANK.encode() + tail).hexdigest()
