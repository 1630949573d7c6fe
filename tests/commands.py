"""The command line, called as a shell calls it, in this process: starting another costs seconds of imports each time."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import warnings

from gatescope.cli import main


def gatescope(*arguments) -> subprocess.CompletedProcess[str]:
    """What `gatescope ARGUMENTS` prints, and its exit code."""
    command = ["gatescope", *map(str, arguments)]
    before, out, err = sys.argv, io.StringIO(), io.StringIO()
    code = 0
    sys.argv = command
    try:
        # Warnings and filters are the command's own, as in a process of its own.
        with warnings.catch_warnings(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    finally:
        sys.argv = before
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())
