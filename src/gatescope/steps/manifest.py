"""The manifest of a run directory: what was run, and what each step of it must be continued with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from gatescope.core import artefacts, foreign
from gatescope.core.errors import GatescopeError
from gatescope.steps import schema


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
            GatescopeError: if it cannot be read.
        """
        content = foreign.read_json(self._manifest, dict[str, Any], advice=schema.MEND, ours=True)
        return schema.manifest(content, self._manifest)

    def note(self, metadata: Mapping[str, Any]) -> None:
        """Add facts to the manifest."""
        before = self.manifest if self._manifest.is_file() else {}
        content = foreign.encoded(before | dict(metadata), str(self._manifest), indent=1)
        artefacts.write_bytes(self._manifest, content)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Exclusive access to the manifest, among processes."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # A file beside it: the manifest itself is replaced, and a lock on it would go with the old file.
            lock = FileLock(self.path / "manifest.lock")
            lock.acquire()
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            why = getattr(error, "strerror", None) or error
            raise GatescopeError(f"{self.path} cannot be written to: {why}.") from error
        try:
            yield
        finally:
            lock.release()
