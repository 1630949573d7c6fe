"""The command line. A mistake ends in one sentence on stderr and exit code 2; Ctrl-C in one and 130, SIGTERM in one and 143."""

from __future__ import annotations

import sys
import warnings

import typer

from gatescope.cli import data, demo, interop, model, neurons, remote, report, runs, steps, study  # noqa: F401 - each adds its commands
from gatescope.cli.common import app
from gatescope.cli.signals import Signals
from gatescope.core.errors import GatescopeError

__all__ = ["app", "main"]


def main() -> None:
    """Entry point: run a command; print a GatescopeError as one sentence."""
    warnings.showwarning = lambda message, *_: typer.echo(f"gatescope: {message}", err=True)
    warnings.filterwarnings("ignore", message=".*was never reached: the loop asked for a step the run did not make.*")
    signals = Signals()
    try:
        with signals.heard():
            app()
    except BaseException as error:
        finished = isinstance(error, SystemExit) and not error.code
        # Whatever libraries made of the signal on its way here.
        if signals.number and not finished:
            signals.leave(error)
        if not isinstance(error, GatescopeError):
            raise
        typer.echo(f"gatescope: {error}", err=True)
        sys.exit(2)
