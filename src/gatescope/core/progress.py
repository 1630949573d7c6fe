"""One way to show progress: a bar for anything that takes longer than two seconds."""

from __future__ import annotations

import sys
from typing import Any

from tqdm.auto import tqdm


def bar(total: int, what: str, unit: str, *, show: bool = True) -> tqdm[Any]:
    """A progress bar with rate and time left; in a log file it writes a line every ten seconds at most."""
    # A log file keeps every line, so it is given few.
    interval = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(total=total, desc=what, unit=f" {unit}", delay=2, disable=not show, mininterval=interval)
