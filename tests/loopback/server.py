"""A small server that speaks nnsight's remote protocol, for tests and for trying things at home. Not for production:
whoever can reach it runs Python in it.

    python server.py MODEL [--port N]
    python server.py --starter    # imports everything once, and forks a server for each line of arguments it reads

It is NDIF's interface as nnsight's client uses it, made of nnsight's own classes: POST /request, the websocket /subscribe,
GET /response/ID for jobs that are polled, and the address a result is downloaded from. One job runs at a time. As on
NDIF, the weights are frozen and this package is not there: gatescope, jaxtyping and beartype cannot be imported.

It misbehaves on request. POST /control takes {"faults": [{"kind": ..., "times": 1, ...}]}:

    status    answer POST /request with an HTTP status ("code", "detail"), and run nothing
    lost      take the job, and close the connection without saying its number
    error     end the job in ERROR with a "description", before running it
    late      end a job of more than "batches" batches as NDIF does when it exceeds the execution timeout
    delay     wait "seconds" before running the job
    drop      close the connection in the middle of a result's download
    hang_up   close the websocket instead of sending the result
    poll      answer GET /response/ID with an HTTP status ("code")
    forget    forget every job, as after a restart

POST /control also takes {"paused": true}, which holds the queue; {"key": ...}, without which requests are answered 401;
{"version": ...} of nnsight, to report; {"dtype": ...}, to compute in from now on; {"tokenizer": false}, to run jobs
without one, as NDIF does; {"calm": true}, which takes faults back; and {"clear": true}, which takes back faults, log and
waiting jobs. GET /log lists what was received and run.
"""

from __future__ import annotations

import sys


class _Absent:
    """Makes packages impossible to import, as they are on a server that does not have them."""

    names = ("gatescope", "jaxtyping", "beartype")

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, _Absent())
sys.path.pop(0)  # this file's directory: nothing of the client's source may be found

import argparse  # noqa: E402
import base64  # noqa: E402
import contextlib  # noqa: E402
import hashlib  # noqa: E402
import importlib  # noqa: E402
import io  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import queue  # noqa: E402
import shlex  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
import traceback  # noqa: E402
import uuid  # noqa: E402
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer  # noqa: E402

import nnsight  # noqa: E402
import torch  # noqa: E402
import zstandard  # noqa: E402
from nnsight.ndif import get_local_env  # noqa: E402
from nnsight.schema.request import RequestModel  # noqa: E402
from nnsight.schema.response import ResponseModel, Status  # noqa: E402
from nnsight.tracing.tracer import _saves, dec, inc  # noqa: E402
from transformers import AutoConfig  # noqa: E402
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING  # noqa: E402

ENVIRONMENT = get_local_env()  # looking through every installed package takes most of a second
SMALL = 100_000  # a result of fewer bytes goes back on the websocket itself, as NDIF sends it


class Jobs:
    """What was asked, what became of it, and the one thread that runs it."""

    def __init__(self, model: nnsight.TransformersModel) -> None:
        self.model = model
        self.waiting: queue.Queue = queue.Queue()
        self.latest: dict[str, ResponseModel] = {}
        self.results: dict[str, bytes] = {}
        self.sockets: dict[str, socket.socket] = {}
        self.faults: list[dict] = []
        self.log: list[dict] = []
        self.tensors = {name: tensor.clone() for name, tensor in self.named()}
        self.settings = {"key": "", "version": "", "tokenizer": True}
        self.going = threading.Event()
        self.going.set()
        self.lock = threading.Lock()

    def named(self):
        """The model's parameters and buffers; some buffers are in no state dict."""
        return [*self.model._module.named_parameters(), *self.model._module.named_buffers()]

    def compute_in(self, dtype: torch.dtype) -> None:
        for name, tensor in self.named():
            if tensor.is_floating_point():
                tensor.data = self.tensors[name].to(dtype)

    def fault(self, *kinds: str) -> dict | None:
        """The next fault of these kinds that was asked for, used up once."""
        with self.lock:
            for fault in self.faults:
                if fault["kind"] in kinds and fault.get("times", 1) > 0:
                    fault["times"] = fault.get("times", 1) - 1
                    return fault
        return None

    def clear(self) -> None:
        """Give up what waits, and begin again: no faults, nothing in the log."""
        with contextlib.suppress(queue.Empty):
            while True:
                self.waiting.get_nowait()
        self.faults.clear()
        self.log.clear()

    def submit(self, request: RequestModel, blob: bytes) -> ResponseModel:
        job = uuid.uuid4().hex
        self.log.append({"job": job, "received": len(blob), "blocking": bool(request.session_id)})
        answer = self.tell(job, request, Status.RECEIVED, "Your job has been received and is waiting to be queued.")
        self.waiting.put((job, request, blob))
        return answer

    def tell(self, job: str, request: RequestModel, status: Status, description: str = "", data=None) -> ResponseModel:
        response = ResponseModel(id=job, status=status, description=description, data=data)
        if request.session_id and request.session_id in self.sockets:
            binary = isinstance(data, bytes)
            send_frame(
                self.sockets[request.session_id], response.pickle() if binary else response.model_dump_json().encode(), binary
            )
        elif not request.session_id:
            self.latest[job] = response
        return response

    def work(self, address: str) -> None:
        """Run jobs for ever, one after the other."""
        while True:
            job, request, blob = self.waiting.get()
            self.going.wait()
            self.tell(job, request, Status.RUNNING, "Your job has started running.")
            try:
                result = self.run(request, blob, job)
            except Exception as error:
                text = str(error) if isinstance(error, Late) else "".join(traceback.format_exception(error))
                self.log.append({"job": job, "failed": text.strip().splitlines()[-1]})
                self.tell(job, request, Status.ERROR, text)
                continue
            self.log.append({"job": job, "returned": len(result)})
            if request.session_id and self.fault("hang_up"):
                hang_up(self.sockets.pop(request.session_id))
            elif request.session_id and len(result) < SMALL:
                self.tell(job, request, Status.COMPLETED, data=result)
            else:
                self.results[job] = result
                self.tell(job, request, Status.COMPLETED, data=f"{address}/result/{job}")

    def run(self, request: RequestModel, blob: bytes, job: str) -> bytes:
        if (fault := self.fault("error")) is not None:
            raise Late(fault["description"])
        if (fault := self.fault("delay")) is not None:
            time.sleep(fault["seconds"])
        self.model._remoteable_set_env(request.env)
        objects = self.model._remoteable_persistent_objects()
        if not self.settings["tokenizer"]:
            objects["Tokenizer"] = None
        tracer = RequestModel.deserialize(blob, objects, request.compress)
        frame = tracer.info.frame
        batches = len((frame.f_locals.get("job") or {}).get("batches", ()))
        late = next((f for f in self.faults if f["kind"] == "late" and f["times"] > 0 and batches > f["batches"]), None)
        if late is not None:
            late["times"] -= 1
            raise Late("Your job exceeded the execution timeout of 1s.")
        inc()
        try:
            tracer.execute(tracer.info.code)
            marked = _saves()
            saved = {name: value for name, value in frame.f_locals.items() if id(value) in marked}
        finally:
            dec()
        buffer = io.BytesIO()
        torch.save(saved, buffer, pickle_protocol=4)
        content = buffer.getvalue()
        return zstandard.ZstdCompressor(level=6).compress(content) if request.compress else content


class Late(Exception):
    """An error whose text goes to the client as it stands."""


def send_frame(to: socket.socket, payload: bytes, binary: bool) -> None:
    """One unmasked websocket frame (RFC 6455)."""
    size = len(payload)
    head = bytes([0x82 if binary else 0x81])
    head += (
        bytes([size]) if size < 126 else bytes([126]) + size.to_bytes(2) if size < 1 << 16 else bytes([127]) + size.to_bytes(8)
    )
    with contextlib.suppress(OSError):  # the client has gone; so be it
        to.sendall(head + payload)


def hang_up(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def handler(jobs: Jobs) -> type[BaseHTTPRequestHandler]:
    """The requests a server of these jobs answers."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_) -> None:
            pass

        def reply(self, code: int, body: bytes, kind: str = "application/json") -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def say(self, code: int, what) -> None:
            self.reply(code, json.dumps(what).encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/control":
                asked = json.loads(body)
                if asked.get("calm"):
                    jobs.faults.clear()
                jobs.faults += [{"times": 1} | fault for fault in asked.get("faults", [])]
                if asked.get("clear"):
                    jobs.clear()
                if "paused" in asked:
                    (jobs.going.clear if asked["paused"] else jobs.going.set)()
                if "dtype" in asked:
                    jobs.compute_in(getattr(torch, asked["dtype"]))
                jobs.settings |= {name: asked[name] for name in jobs.settings if name in asked}
                return self.say(200, {})
            if jobs.settings["key"] and self.headers.get("ndif-api-key") != jobs.settings["key"]:
                return self.say(401, {"detail": "Missing or invalid API key."})
            if (fault := jobs.fault("status")) is not None:
                return self.say(fault["code"], {"detail": fault.get("detail", "")})
            fields = multipart(body, self.headers["Content-Type"])
            answer = jobs.submit(RequestModel.model_validate_json(fields["data"]), fields["blob"])
            if jobs.fault("lost"):
                self.close_connection = True
                return hang_up(self.connection)
            self.reply(200, answer.model_dump_json().encode())

        def do_GET(self) -> None:
            kind, _, name = self.path.strip("/").partition("/")
            if kind == "subscribe":
                self.subscribe()
            elif kind == "response":
                if jobs.fault("forget"):
                    jobs.latest.clear()
                if (fault := jobs.fault("poll")) is not None:
                    self.say(fault["code"], {"detail": "No."})
                elif name in jobs.latest:
                    self.reply(200, jobs.latest[name].model_dump_json().encode())
                else:
                    self.say(404, {"detail": "No such job."})
            elif kind == "result":
                content = jobs.results.get(name)
                if content is None:
                    return self.say(403, {"detail": "Request has expired"})
                if jobs.fault("drop"):
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content[: len(content) // 2])
                    self.close_connection = True
                    return hang_up(self.connection)
                self.reply(200, content, "application/octet-stream")
            elif kind == "env":
                packages = ENVIRONMENT["packages"]
                shown = jobs.settings["version"] or packages["nnsight"]
                self.say(200, ENVIRONMENT | {"packages": packages | {"nnsight": shown}})
            elif kind == "log":
                self.say(200, jobs.log)
            else:
                self.say(200 if kind == "ping" else 404, "pong")

        def subscribe(self) -> None:
            accept = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            self.send_response(101)
            self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "Upgrade")
            self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(accept.encode()).digest()).decode())
            self.end_headers()
            session = uuid.uuid4().hex
            jobs.sockets[session] = self.connection
            send_frame(self.connection, json.dumps({"session_id": session}).encode(), binary=False)
            with contextlib.suppress(OSError):
                self.connection.recv(1024)  # the client says nothing but goodbye,
                self.connection.sendall(b"\x88\x00")  # and waits for ours
            jobs.sockets.pop(session, None)
            self.close_connection = True

    return Handler


def multipart(body: bytes, kind: str) -> dict[str, bytes]:
    """The fields of a multipart form, by name."""
    boundary = b"--" + kind.partition("boundary=")[2].strip('"').encode()
    fields = {}
    for part in body.split(boundary)[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        name = head.partition(b'name="')[2].partition(b'"')[0].decode()
        fields[name] = content[:-2]
    return fields


def outlive_nobody(parent: int) -> None:
    """End with the process that started this one, however it ended."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


def serve(arguments: list[str]) -> None:
    """Load the model and answer for ever; the address is printed."""
    options = argparse.ArgumentParser(description="A loopback server for nnsight's remote protocol.")
    options.add_argument("model")
    options.add_argument("--port", type=int, default=0)
    chosen = options.parse_args(arguments)
    torch.set_num_threads(1)
    images = type(AutoConfig.from_pretrained(chosen.model)) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    task = "image-text-to-text" if images else "text-generation"
    model = nnsight.TransformersModel(chosen.model, task=task, dispatch=True)
    model._module.eval().requires_grad_(False)
    jobs = Jobs(model)
    server = ThreadingHTTPServer(("127.0.0.1", chosen.port), handler(jobs))
    server.daemon_threads = True
    address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=jobs.work, args=(address,), daemon=True).start()
    threading.Thread(target=outlive_nobody, args=(os.getppid(),), daemon=True).start()
    print(address, os.getpid(), flush=True)
    server.serve_forever()


def start_servers() -> None:
    """A server for each line of arguments, in a process of its own, until nobody writes any more."""
    importlib.import_module("transformers.models.llama.modeling_llama")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # a server that was killed is gone, not a zombie
    for line in sys.stdin:
        if os.fork() == 0:
            try:
                serve(shlex.split(line))
            finally:
                print(flush=True)  # there is no address
                os._exit(1)


if __name__ == "__main__":
    start_servers() if sys.argv[1:] == ["--starter"] else serve(sys.argv[1:])
