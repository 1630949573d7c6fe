"""Where organisms are kept: each made once in a temporary directory, under a lock, and moved into place when complete."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock
from tqdm.auto import tqdm

from gatescope.core.errors import GatescopeError


def cached(prefix: str, spec: list[Any], make: Callable[[Path], None], cache: str | Path | None) -> Path:
    """The directory of what `spec` describes, made now if it is not there yet.

    Args:
        prefix: what its name begins with; the rest is a digest of `spec`.
        spec: everything that determines it, as JSON.
        make: fills an empty directory; what it leaves when it fails is thrown away.
        cache: directory to keep organisms in; the user's cache directory, or $GATESCOPE_CACHE, if None.
    """
    key = prefix + hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]
    root = Path(cache or os.environ.get("GATESCOPE_CACHE") or platformdirs.user_cache_dir("gatescope")) / "organisms"
    try:
        root.mkdir(parents=True, exist_ok=True)
        Path(tempfile.mkdtemp(prefix=f".{key}-", dir=root)).rmdir()  # a directory may be there and not be ours to write to
    except OSError as error:
        raise GatescopeError(
            f"The cache {root} cannot be written to: {error.strerror}. Set GATESCOPE_CACHE to a directory that can be."
        ) from error
    path = root / key
    # Two processes may want the same organism: the second waits, rather than training it too.
    with FileLock(root / f"{key}.lock"):
        if not path.is_dir():
            partial = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=root))
            try:
                make(partial)
                partial.rename(path)  # complete or not at all
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return path


@contextlib.contextmanager
def progress_bar(title: str, steps: int, show: bool) -> Generator[Callable[[int, str], None], None, None]:
    """A bar over training steps, as the callback `train` wants: it is given (step, message)."""
    with tqdm(total=steps, desc=title, unit="steps", disable=not show) as bar:

        def report(step: int, message: str) -> None:
            bar.update()
            bar.set_postfix_str(message)

        yield report
