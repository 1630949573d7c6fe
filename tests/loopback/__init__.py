"""Starting the loopback server in a process of its own."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

SERVER = Path(__file__).parent / "server.py"


@functools.cache
def starter() -> subprocess.Popen[str]:
    """What forks servers: torch and transformers are imported once for all of them. It ends with this process."""
    quiet = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, str(SERVER), "--starter"], text=True, env=quiet, cwd="/", **pipes)


class Loopback:
    """A running server; a context manager that ends it. `restart` keeps the address and forgets every job."""

    def __init__(self, model: Path | str, *options: str) -> None:
        self.model, self.options = model, options
        self.start()

    def start(self, port: str = "0") -> None:
        print(shlex.join([str(self.model), "--port", port, *self.options]), file=starter().stdin, flush=True)
        told = starter().stdout.readline().split()
        assert told, "the loopback server did not start; run it by hand to see why"
        self.address, self.process = told[0], int(told[1])

    def stop(self) -> None:
        os.kill(self.process, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):  # its port is free when it is gone
            while True:
                os.kill(self.process, 0)
                time.sleep(0.01)

    def restart(self) -> None:
        self.stop()
        self.start(self.address.rpartition(":")[2])

    def __enter__(self) -> Loopback:
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def control(self, **what) -> None:
        urllib.request.urlopen(urllib.request.Request(f"{self.address}/control", json.dumps(what).encode()), timeout=10).close()

    def fault(self, kind: str, **how) -> None:
        self.control(faults=[{"kind": kind, **how}])

    def log(self) -> list[dict]:
        with urllib.request.urlopen(f"{self.address}/log", timeout=10) as answer:
            return json.load(answer)

    def received(self) -> list[dict]:
        return [entry for entry in self.log() if "received" in entry]

    def returned(self) -> list[dict]:
        return [entry for entry in self.log() if "returned" in entry]
