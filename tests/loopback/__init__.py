"""Starting the loopback server in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

SERVER = Path(__file__).parent / "server.py"


class Loopback:
    """A running server; a context manager that ends it. `restart` keeps the address and forgets every job."""

    def __init__(self, model: Path | str, *options: str) -> None:
        self.model, self.options = model, options
        self.start()

    def start(self, port: str = "0") -> None:
        command = [sys.executable, str(SERVER), str(self.model), "--port", port, *self.options]
        quiet = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=quiet, cwd="/"
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address, "the loopback server did not start; run it by hand to see why"

    def stop(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

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
