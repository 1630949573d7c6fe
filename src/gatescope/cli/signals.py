"""Ctrl-C and SIGTERM: one line that says what is kept, and an exit code that says which (130 or 143)."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import typer

from gatescope.core.stopping import NAMES, stop

AGAIN = 3.0  # seconds


class Signals:
    """The signals that ask a command to stop, from when it begins to when it ends.

    An exception that is raised in the wrong place is lost: Python prints and forgets what is raised where an object is
    deleted, and libraries make others of it. So the signal is remembered here, and `Stopped` raised again every few seconds
    until it arrives. A second signal does not wait.

    Attributes:
        number: of the first that came; 0 before.
    """

    def __init__(self) -> None:
        self.number = 0
        self.process = os.getpid()

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """While open, signals raise `Stopped`; afterwards they do what they did before."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python hears signals in the main thread only
            return
        before = {number: signal.signal(number, self._asked) for number in NAMES}
        alarm = signal.signal(signal.SIGALRM, self._again)
        try:
            try:
                yield
            except RuntimeError as error:
                # A signal to the whole group may end a worker, and tell of its end, just before it comes here.
                if "DataLoader worker" in str(error):
                    time.sleep(0.5)
                raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in {**before, signal.SIGALRM: alarm}.items():
                signal.signal(number, handler)

    def _asked(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self.process:  # a process that was forked from this one, and has nothing to say
            os._exit(128 + number)
        if self.number:
            self.leave(None, os._exit)
        self.number = number
        # The signal ends workers too. PyTorch would report each of them from wherever the command is by then. A function that
        # does nothing, for Python complains of a signal that came before it was to be ignored.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, AGAIN, AGAIN)
        stop(number)

    def _again(self, _number: int, _frame: FrameType | None) -> None:
        stop(self.number)

    def leave(self, error: BaseException | None, exit: Any = sys.exit) -> None:
        """Say that the command was stopped and what is kept, and end it.

        Args:
            error: what it was stopped by; what is kept may be noted on it.
            exit: what ends it.
        """
        notes: list[str] = []
        while error is not None:
            notes += getattr(error, "__notes__", [])
            error = error.__context__
        kept = " ".join(dict.fromkeys(notes)) or "What was finished before is kept."
        name = NAMES[signal.Signals(self.number)]
        typer.echo(f"gatescope: stopped by {name}. {kept} Run the same command again to go on.", err=True)
        sys.stderr.flush()
        exit(128 + self.number)
