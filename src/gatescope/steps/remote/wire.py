"""What a server says, read and checked: the one place where bytes of a server come in.

Statuses are JSON of a fixed schema. A result is what torch.save made, and is loaded without running any code of it. All that
can go wrong becomes one of three errors, raised apart from the library's own, whose text and causes may hold the key:

Silence   no answer, or a busy server: to be asked again
Garbled   an answer, and not of a server that speaks nnsight's protocol
Refusal   an HTTP status that says no
"""

from __future__ import annotations

import functools
import io
import pickle
import ssl
import sys
import time
import types
import zipfile
from importlib.metadata import version
from typing import Annotated, Any
from urllib.parse import urlsplit

import httpx
import msgspec
import torch
import zstandard
from nnsight.schema.request import RequestModel
from nnsight.schema.response import Status

from gatescope.steps.remote.server import Server, wrong_address

CONNECT, GREETING, READ = 5.0, 10.0, 600.0  # seconds: to be connected, for the first answer, for any other
# What stands in the path of an address and in a file; nnsight's servers give hexadecimal numbers.
Job = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,199}\Z")]


class Reply(msgspec.Struct):
    """What a server says of a job; nnsight's ResponseModel.

    Attributes:
        id: the job.
        status: where it is.
        description: in words; of a job that failed, why.
        data: of a job that is completed, the address of its result.
    """

    id: Job
    status: Status
    description: str = ""
    data: Any = None


class Environment(msgspec.Struct):
    """What a server says of itself."""

    packages: dict[str, Any]


class Refused(msgspec.Struct):
    """What comes with an HTTP status that is an error."""

    detail: Any = ""


class Silence(Exception):
    """No answer, or a busy server."""


class Garbled(Silence):
    """An answer that is none."""


class Refusal(Exception):
    """An HTTP status that says no.

    Attributes:
        code: the status.
        detail: what the server says, in words.
    """

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code, self.detail = code, detail


class NoResult(Exception):
    """A result that is not there, or cannot be read."""


def nnsight_there(server: Server) -> str:
    """The version of nnsight on a server; empty if it does not say.

    Raises:
        Silence, Garbled: if there is no such server.
    """
    answer = _asked(server, "GET", f"{server.address}/env", timeout=GREETING)
    if answer.is_redirect:
        raise Garbled(f"it sends on to {server.masked(answer.headers.get('location', 'nowhere'))}: give that address")
    if answer.status_code == 200:
        packages = _decoded(server, answer, Environment).packages
        theirs = packages.get("nnsight")
        if not isinstance(theirs, str):
            raise Garbled("it does not name the nnsight it has")
        return theirs
    # A busy server, or one that asks for a key, is a server; an older one has no such address, and says so in JSON.
    if answer.status_code in (404, 405):
        _decoded(server, answer, Refused)
    return ""


def submit(server: Server, model: str, env: dict[str, Any], blob: bytes, compress: bool) -> str:
    """Send a request; the number of its job.

    Raises:
        Silence, Garbled, Refusal: if it was not taken.
    """
    envelope = RequestModel(model_key=model, compress=compress, env=env)
    answer = _asked(
        server,
        "POST",
        f"{server.address}/request",
        headers={
            "ndif-timestamp": repr(time.time()),
            "nnsight-version": version("nnsight"),
            "python-version": " ".join(sys.version.split()),
        },
        data={"data": envelope.metadata()},
        files={"blob": ("request", blob, "application/octet-stream")},
    )
    if answer.is_success:
        return _decoded(server, answer, Reply).id
    raise Refusal(answer.status_code, _detail(server, answer))


def reply_of(server: Server, job: str) -> Reply | None:
    """Where a job is; None if the server does not know it.

    Raises:
        Silence, Garbled, Refusal: if it does not say.
    """
    answer = _asked(server, "GET", f"{server.address}/response/{job}")
    if answer.status_code == 404:
        return None
    if not answer.is_success:
        raise Refusal(answer.status_code, _detail(server, answer))
    reply = _decoded(server, answer, Reply)
    if reply.id != job:
        raise Garbled("it speaks of another job than it was asked about")
    reply.description = server.masked(reply.description)
    return reply


def result_of(server: Server, reply: Reply, compressed: bool) -> Any:
    """The result of a job that is completed, as plain data.

    Raises:
        Silence: if it does not arrive.
        Refusal: if its address has expired.
        NoResult: if there is none, or it cannot be read.
    """
    address = reply.data
    if not isinstance(address, str) or wrong_address(address, signed=True):
        raise NoResult("there is no result")
    # The address is signed, and often another server's, which must not be given the key.
    own = urlsplit(address).netloc == urlsplit(server.address).netloc
    answer = _asked(server, "GET", address, login=own, key=False)
    if not answer.is_success:
        raise Refusal(answer.status_code, answer.reason_phrase)
    wrong = ""
    try:
        content = zstandard.ZstdDecompressor().decompress(answer.content) if compressed else answer.content
        saved = loaded(content)
    except Exception as error:  # bytes of a stranger: what three libraries make of them has no common kind
        wrong = type(error).__name__
    if wrong:
        raise NoResult(f"it cannot be read: {wrong}")
    if not isinstance(saved, dict) or "result" not in saved:
        raise NoResult("there is no result in it")
    return saved["result"]


def loaded(content: bytes) -> Any:
    """What torch.save wrote, if it is tensors, lists, dictionaries, words and numbers.

    Raises:
        Exception: of many kinds, if it is not.
    """
    # What torch.load would give to another loader, which takes programs.
    if any(name.endswith("constants.pkl") for name in zipfile.ZipFile(io.BytesIO(content)).namelist()):
        raise pickle.UnpicklingError("it is a program")
    # Not weights_only, which knows an older pickle than the one servers write.
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=False, pickle_module=_PlainPickle)


class _PlainUnpickler(pickle.Unpickler):
    """Makes tensors, and calls nothing else: a pickle could run anything."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PLAIN:
            raise pickle.UnpicklingError(f"{module}.{name} is no plain data")
        return super().find_class(module, name)


_PLAIN = {("torch._utils", "_rebuild_tensor_v2"), ("collections", "OrderedDict")}
_PlainPickle = types.SimpleNamespace(Unpickler=_PlainUnpickler, __name__="plain")


def _asked(
    server: Server,
    method: str,
    address: str,
    *,
    timeout: float = READ,
    headers: dict[str, str] | None = None,
    login: bool = True,
    key: bool = True,
    **content: Any,
) -> httpx.Response:
    """What a server answers.

    Raises:
        Silence: if it does not.
    """
    sent = {**(headers or {}), **({"ndif-api-key": server.key} if key and server.key else {})}
    wrong = ""
    try:
        patience = httpx.Timeout(timeout, connect=CONNECT)
        with httpx.Client(timeout=patience, auth=server.login if login else None, verify=_certificates()) as client:
            return client.request(method, address, headers=sent, **content)
    # The last three are of addresses, of names of hosts and of proxies.
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        wrong = str(error).strip() or type(error).__name__
    raise Silence(server.masked(wrong.splitlines()[0]))


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Whom to trust: read once, for that takes longer than a request."""
    return httpx.create_ssl_context()


def _decoded(server: Server, answer: httpx.Response, schema: type) -> Any:
    wrong = ""
    try:
        return msgspec.json.decode(answer.content, type=schema)
    except (ValueError, RecursionError) as error:  # all of msgspec's are ValueErrors
        wrong = str(error)
    kind = answer.headers.get("content-type", "no type").partition(";")[0]
    raise Garbled(server.masked(f"it answers {answer.status_code} with {kind}, not with what is expected: {wrong}"))


def _detail(server: Server, answer: httpx.Response) -> str:
    """What a server says of an error: FastAPI's detail, or the first words of its page."""
    try:
        detail = msgspec.json.decode(answer.content, type=Refused).detail
    except (ValueError, RecursionError):
        detail = answer.text
    said = detail if isinstance(detail, str) else repr(detail)
    return server.masked(" ".join(said.split())[:300]) or answer.reason_phrase
