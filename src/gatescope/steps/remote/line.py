"""The line to a server: submits pieces, looks after their jobs, and says what to do when something fails.

refused (401, 403, another nnsight)    one sentence, at once
busy, down, cut off (5xx, 429, sockets) asked again, with longer and longer pauses, for `patience` seconds
job lost, evicted, or result expired   submitted again
execution time exceeded, or too large  the piece is halved and both halves are submitted
anything else                          one sentence with the server's last line
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import httpx
import nnsight
from nnsight import TransformersModel
from nnsight.intervention.backends.remote import RemoteBackend, RemoteError
from nnsight.schema.request import RequestModel
from nnsight.tracing.backend import Backend

from gatescope.core.errors import GatescopeError
from gatescope.models.client import name_there
from gatescope.steps.remote.ledger import Ledger, Piece
from gatescope.steps.remote.server import Server
from gatescope.traces import travel
from gatescope.traces.jobs import Job

# A piece's first batch, the one after its last, and the answers if it was asked before -> its job.
Build = Callable[[int, int, list[Any] | None], Job]

# A server's errors come as text: its own sentences, or the last lines of a traceback.
_LATE = re.compile(r"exceeded the execution timeout|time limit", re.I)
_AGAIN = re.compile(r"evicted|cancelled or preempted|try again later|temporarily unavailable", re.I)
_APART = re.compile(r"does not require grad|not have been used in the graph|does not have a grad_fn", re.I)


class Line:
    """The connection to a server: submits jobs, polls them, and waits for it as long as `patience` allows."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.silent_since: float | None = None
        self.waited = server.pause
        self.weighed = 0

    def rest(self, progress: bool) -> None:
        """Wait before the next round; longer each time nothing has come."""
        self.waited = self.server.pause if progress else min(self.waited * 1.3, 20 * self.server.pause)
        time.sleep(self.waited)

    def backend(self, model: TransformersModel, job: str | None = None) -> RemoteBackend:
        """nnsight's own client for one job."""
        backend = RemoteBackend(
            name_there(model), host=self.server.host, env=model._remoteable_get_env(), blocking=False, job_id=job
        )
        backend.display.enabled = False  # it would print a line a job; the bar is ours
        return backend

    def advance(self, model: TransformersModel, piece: Piece, build: Callable[[int], Build], ledger: Ledger) -> None:
        """Submit a piece that has no job, or look at the job it has."""
        if piece.current:
            return self.look(model, piece, ledger)
        job = build(piece.shard)(piece.start, piece.stop, piece.asked)
        if not self.weighed:  # all jobs of a run call the same functions: if one can travel, all can
            self.weighed = weigh(model, job)
        self.submit(model, piece, job, ledger)

    def submit(self, model: TransformersModel, piece: Piece, job: Job, ledger: Ledger) -> None:
        """Send a piece's job and write its number down."""
        if piece.attempts >= self.server.attempts:
            raise GatescopeError(
                f"The job of {piece} was lost or ended {piece.attempts} times on {self.server.address}. Start again later; "
                f"what is finished is kept."
            )
        backend = self.backend(model)
        try:
            open_job(model, backend, job)
        except RemoteError as error:
            return self.not_taken(piece, error, ledger)
        self.silent_since = None
        piece.job, piece.attempts, piece.unknown_since = str(backend.job_id), piece.attempts + 1, None
        ledger.write()

    def not_taken(self, piece: Piece, error: RemoteError, ledger: Ledger) -> None:
        """A submission that failed: halve the piece, wait, or give up with a reason."""
        cause = error.__cause__
        code = cause.response.status_code if isinstance(cause, httpx.HTTPStatusError) else 0
        detail = said(error)
        if code == 413:
            return self.halve(piece, ledger, f"its request is too large for {self.server.address}")
        if 400 <= code < 500 and code != 429:  # asking again would change nothing
            raise self.refusal(piece, code, detail) from error
        self.tolerate(error, f"{code}: {detail}" if code else detail)

    def refusal(self, piece: Piece, code: int, detail: str) -> GatescopeError:
        """The error for a submission that the server refuses."""
        where, reason = self.server.address, detail.lower()
        if code in (401, 403) or (code == 400 and "key" in reason):
            return GatescopeError(
                f"{where} does not accept the API key ({code}: {detail}). Set the environment variable NDIF_API_KEY to "
                f"yours, or run `nnsight login`."
            )
        if code == 400 and "version" in reason:
            return GatescopeError(f"{where} does not accept this client: {detail} nnsight here is {version('nnsight')}.")
        return GatescopeError(f"{where} refused the job of {piece} ({code}: {detail}).")

    def look(self, model: TransformersModel, piece: Piece, ledger: Ledger) -> None:
        """Ask for a job's status, and take its result if it is there."""
        backend = self.backend(model, piece.current)
        try:
            result = backend.poll()
        except RemoteError as error:
            return self.failed(piece, error, ledger)
        except httpx.HTTPStatusError as error:
            if "/response/" not in str(error.request.url) and error.response.status_code < 500:
                return self.again(piece, ledger)  # the address of the result has expired
            return self.tolerate(error, f"{error.response.status_code} {error.response.reason_phrase}")
        except (httpx.HTTPError, OSError, EOFError, RuntimeError) as error:
            return self.tolerate(error, said(error))
        self.silent_since = None
        if result is not None:
            return self.take(piece, result["result"], ledger)
        if backend.status is not None:
            piece.unknown_since = None
        elif piece.unknown_since is None:  # lost only if it stays unknown for a while
            piece.unknown_since = time.monotonic()
        elif time.monotonic() - piece.unknown_since > self.server.lost_after:
            self.again(piece, ledger)

    def take(self, piece: Piece, result: dict[str, Any], ledger: Ledger) -> None:
        """Keep a result; of a job that could only ask questions, the answers."""
        if not result.get("undecided"):
            piece.result = result if piece.asked is None else result | {"answers": piece.asked}
            return
        if not piece.inquiry:  # what was sent to count could only ask: it is the inquiry, and the next job counts
            piece.inquiry, piece.job, piece.attempts = piece.job, "", 0
            ledger.write()
        piece.asked = result["answers"]

    def failed(self, piece: Piece, error: RemoteError, ledger: Ledger) -> None:
        """A job that ended in an error."""
        text = said(error)
        if _LATE.search(text):
            return self.halve(piece, ledger, f"it exceeds the time {self.server.address} allows a job")
        if _AGAIN.search(text):
            return self.again(piece, ledger)
        if _APART.search(text):
            raise GatescopeError(
                f"{self.server.address} runs the code of a job apart from the model, and gradients do not cross: attribution "
                f"does not work there. Attribute where the weights are, or ask the server's owner for a trusted key."
            ) from error
        if "out of memory" in text.lower():
            raise GatescopeError(f"{self.server.address} ran out of memory on {piece}. Choose a smaller batch_size.") from error
        last = text.strip().splitlines()[-1] if text.strip() else "no reason was given"
        raise GatescopeError(f"The job of {piece} failed on {self.server.address}: {last}") from error

    def again(self, piece: Piece, ledger: Ledger) -> None:
        """Give a piece's job up; the next round submits another."""
        if piece.current == piece.inquiry:
            piece.inquiry = ""
        piece.job, piece.unknown_since = "", None
        ledger.write()

    def halve(self, piece: Piece, ledger: Ledger, why: str) -> None:
        """Two pieces in the place of one."""
        if piece.stop - piece.start < 2:
            raise GatescopeError(
                f"A job of {piece} is one batch and cannot be made smaller, but {why}. Choose a smaller batch_size, or fewer "
                f"new tokens."
            )
        middle = (piece.start + piece.stop) // 2
        pieces = ledger.pieces[piece.shard]
        at = pieces.index(piece)
        halves = [Piece(piece.shard, *ends) for ends in ((piece.start, middle), (middle, piece.stop))]
        pieces[at : at + 1] = halves
        ledger.write()

    def tolerate(self, error: Exception, what: str) -> None:
        """A server that does not answer, or is busy: wait, until `patience` runs out."""
        now = time.monotonic()
        self.silent_since = self.silent_since or now  # patience runs from the first silence, and any answer ends it
        silent, reason = now - self.silent_since, what.splitlines()[0]
        if silent > self.server.patience:
            raise GatescopeError(
                f"{self.server.address} has not answered for {silent:.0f} seconds ({reason}). Its jobs are saved if a "
                f"run directory was given: start the same command again."
            ) from error


class Weigh(Backend):
    """Serialises a block as it would be sent, and sends nothing."""

    def __init__(self) -> None:
        self.compress = nnsight.CONFIG.API.COMPRESS
        self.blob = b""

    def __call__(self, tracer: Any) -> None:
        """Take the place of running the block."""
        self.blob = RequestModel.serialize(tracer, self.compress)


def weigh(model: TransformersModel, job: Job) -> int:
    """Bytes a job's request has, after checking that all of it can travel.

    Raises:
        GatescopeError: naming what a server would not have.
    """
    backend = Weigh()
    open_job(model, backend, job)
    travel.check(backend.blob, backend.compress)
    return len(backend.blob)


def open_job(model: TransformersModel, backend: Backend, job: Job) -> None:
    """One job: a session of which the only value kept is what the shipped function gives."""
    run = travel.shipped().run
    with model.session(backend=backend):
        result = nnsight.save(run(model, job))  # noqa: F841


def said(error: Exception) -> str:
    """What an error says, without the API key, which a server may repeat."""
    key = nnsight.CONFIG.API.APIKEY
    text = str(error).removeprefix("Failed to send request: ") or type(error).__name__
    return text.replace(key, "(your key)") if key else text
