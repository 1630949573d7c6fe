"""Reading many small objects that stay, without looking for garbage among them again and again."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Without collection of cycles while open: each would walk over all objects, and of those being read none is garbage."""
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            _take_for_old()
            gc.enable()


def _take_for_old() -> None:
    """Move all objects to the oldest generation: the next look at the young ones would otherwise be at everything just read."""
    if not gc.get_freeze_count():  # somebody else's frozen objects would thaw with ours
        gc.freeze()
        gc.unfreeze()
