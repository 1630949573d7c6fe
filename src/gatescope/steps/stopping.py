"""What is kept of a step that is stopped, for whoever stopped it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from gatescope.core.stopping import Stopped
from gatescope.steps.shards import Shards


@contextlib.contextmanager
def telling(path: Path | None, step: str, stored: Shards | None, *, remote: bool) -> Iterator[None]:
    """Note on a KeyboardInterrupt, or on `Stopped`, what the run at a path keeps."""
    try:
        yield
    except (KeyboardInterrupt, Stopped) as stop:
        if stored is None:
            stop.add_note("Nothing is kept, as no run directory was given.")
        else:
            done = f"{len(stored) - len(stored.missing)} of {len(stored)} shards ({step})"
            jobs = "; the jobs that were sent go on there, and are asked for" if remote else ""
            stop.add_note(f"{path} keeps {done}{jobs}.")
        raise
