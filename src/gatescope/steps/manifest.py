"""The manifest of a run directory: what was run, and what each step of it must be continued with."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from gatescope.core import artefacts
from gatescope.core.errors import GatescopeError


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
        try:
            return json.loads(self._manifest.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise GatescopeError(f"{self._manifest} cannot be read: {error}.") from error

    def note(self, metadata: Mapping[str, Any]) -> None:
        """Add facts to the manifest."""
        before = self.manifest if self._manifest.is_file() else {}
        text = json.dumps(before | dict(metadata), indent=1, ensure_ascii=False)
        artefacts.write_bytes(self._manifest, text.encode())

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Exclusive access to the manifest, among processes."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # A file beside it: the manifest itself is replaced, and a lock on it would go with the old file.
            lock = FileLock(self.path / "manifest.lock")
            lock.acquire()
        except OSError as error:
            raise GatescopeError(f"{self.path} cannot be written to: {error.strerror}.") from error
        try:
            yield
        finally:
            lock.release()
