"""Being told to stop: by Ctrl-C, or by the SIGTERM of a scheduler.

The command line turns both into `Stopped`, and no library user's signals are touched; theirs is a KeyboardInterrupt.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class Stopped(BaseException):
    """A signal that asks a command to stop; no Exception, so that nothing takes it for an error to recover from.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(NAMES.get(signal.Signals(number), str(number)))
        self.number = number


class _Waiting:
    """Whether a signal must wait, and the one that does."""

    depth = 0
    number = 0


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """While open, `Stopped` waits: it would be lost in what runs around a fork, which Python prints and goes on from.

    Raises:
        Stopped: at the end, if a signal came.
    """
    _Waiting.depth += 1
    try:
        yield
    finally:
        _Waiting.depth -= 1
    if _Waiting.number and not _Waiting.depth:
        number, _Waiting.number = _Waiting.number, 0
        raise Stopped(number)


def stop(number: int) -> None:
    """Stop what runs, now or as soon as it may be disturbed.

    Raises:
        Stopped: now.
    """
    if _Waiting.depth:
        _Waiting.number = number
    else:
        raise Stopped(number)
