"""The command line. A mistake ends in one sentence on stderr and exit code 2."""

from __future__ import annotations

import sys
import warnings

import typer

from gatescope.cli import data, demo, interop, model, neurons, remote, report, runs, steps, study  # noqa: F401 - each adds its commands
from gatescope.cli.common import app
from gatescope.core.errors import GatescopeError

__all__ = ["app", "main"]


def main() -> None:
    """Entry point: run a command; print a GatescopeError as one sentence."""
    warnings.showwarning = lambda message, *_: typer.echo(f"gatescope: {message}", err=True)
    warnings.filterwarnings("ignore", message=".*was never reached: the loop asked for a step the run did not make.*")
    try:
        app()
    except GatescopeError as error:
        typer.echo(f"gatescope: {error}", err=True)
        sys.exit(2)
