"""Processes of their own that need not import everything again: each is forked from one that has, and computed nothing.

(Autograd's threads do not survive a fork.) For what happens to a process: kills, and the package without the type checker
that the tests have. What happens while importing needs a new interpreter: `subprocess`.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import traceback
from pathlib import Path
from subprocess import CompletedProcess

# What a child would otherwise import for seconds: torch._dynamo is loaded by transformers' models.
PRELOADED = ["torch._dynamo", "transformers.models.llama.modeling_llama", "transformers.pipelines", "accelerate.state"]
PRELOADED += ["gatescope.steps.record", "gatescope.steps.attribute", "gatescope.steps.sweep", "gatescope.steps.remote"]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(PRELOADED)


def _run(code: str, arguments: list[str], environment: dict[str, str], out: str, err: str) -> None:
    for descriptor, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY), descriptor)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    os.environ.update(environment)
    sys.argv = ["-c", *arguments]
    exit_code = 0
    try:
        exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})
    except SystemExit as stop:
        exit_code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        exit_code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def python(code: str, *arguments: str, **environment: str) -> CompletedProcess[str]:
    """`python -c CODE ARGUMENTS`: its exit code and what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        out.touch()
        err.touch()
        child = CONTEXT.Process(target=_run, args=(code, list(arguments), environment, str(out), str(err)))
        child.start()
        child.join()
        return CompletedProcess(["python"], child.exitcode, out.read_text(), err.read_text())
