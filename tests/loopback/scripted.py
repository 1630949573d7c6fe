"""A server in this process that says what a test tells it to say: nnsight's protocol without nnsight, a model or a network.

Jobs are run where they are sealed, here, with the functions that travel; the server gives their results back. Any answer may be
replaced: `server.say("response", body=..., code=...)`, and any result altered: `server.alter = lambda result: ...`.
"""

from __future__ import annotations

import io
import json
import pickle
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

import torch
import zstandard

from gatescope.traces import shipped


class Scripted:
    """A running server; a context manager that ends it."""

    def __init__(self) -> None:
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        self.results: dict[str, bytes] = {}
        self.submitted: list[dict] = []
        self.asked: list[tuple[str, dict]] = []
        self.said: dict[str, dict] = {}
        self.result = None
        self.compress = True
        self.alter = lambda result: result
        self.pack = packed

    def seal(self, model, job, compress: bool) -> bytes:
        """In the place of `gatescope.steps.remote.sealing.sealed`: runs the job, too."""
        self.submitted.append(job["of"])
        self.result = shipped.run(model, job)
        return pickle.dumps(job["of"])

    def say(self, what: str, body: bytes | str = b"", code: int = 200, kind: str = "application/json", **headers: str) -> None:
        """Answer "env", "request", "response" or "result" so from now on; {job} in a body is the job's number."""
        self.said[what] = {"body": body.encode() if isinstance(body, str) else body, "code": code, "kind": kind, **headers}

    def completed(self, **how) -> None:
        """Answer "response" with a job that is completed, of which this is said."""
        self.say("response", json.dumps({"id": "{job}", "status": "COMPLETED", "description": "", "data": None} | how))

    def __enter__(self) -> Scripted:
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.http.shutdown()
        self.http.server_close()


def packed(result) -> bytes:
    buffer = io.BytesIO()
    torch.save({"result": result}, buffer, pickle_protocol=4)
    return zstandard.ZstdCompressor().compress(buffer.getvalue())


def _handler(server: Scripted) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_) -> None:
            pass

        def reply(self, what: str, body: bytes, job: str = "") -> None:
            server.asked.append((what, dict(self.headers)))
            said = {"body": body, "code": 200, "kind": "application/json"} | server.said.get(what, {})
            content = said.pop("body").replace(b"{job}", job.encode())
            self.send_response(said.pop("code"))
            self.send_header("Content-Type", said.pop("kind"))
            self.send_header("Content-Length", str(len(content)))
            for name, value in said.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            job = f"job{len(server.submitted)}"
            server.results[job] = server.pack(server.alter(server.result))
            self.reply("request", json.dumps({"id": job, "status": "RECEIVED"}).encode(), job)

        def do_GET(self) -> None:
            what, _, job = self.path.strip("/").partition("/")
            if what == "env":
                return self.reply("env", json.dumps({"packages": {"nnsight": version("nnsight")}}).encode())
            if what == "response":
                done = {"id": job, "status": "COMPLETED", "data": f"{server.address}/result/{job}"}
                return self.reply("response", json.dumps(done).encode(), job)
            return self.reply("result", server.results.get(job, b""), job)

    return Handler
