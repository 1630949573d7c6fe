"""The line to a server: submits pieces, looks after their jobs, and says what to do when something fails.

refused (401, 403, another nnsight)    one sentence, at once
busy, down, cut off (5xx, 429, sockets) asked again, with longer and longer pauses, for `patience` seconds
job lost, evicted, or result expired   submitted again
time exceeded, out of memory, too large the piece is halved, then its batches are
anything else                          one sentence; the job is given up, and the next run submits another
"""

from __future__ import annotations

import re
import time
from importlib.metadata import version
from typing import Any, Protocol

import msgspec
import nnsight
from nnsight import TransformersModel
from nnsight.schema.response import Status

from gatescope.core.errors import GatescopeError
from gatescope.models.client import name_there
from gatescope.steps.batches import Batches
from gatescope.steps.remote import plan, wire
from gatescope.steps.remote.ledger import Ledger, Piece
from gatescope.steps.remote.results import Expected, WrongResult
from gatescope.steps.remote.sealing import sealed, weigh
from gatescope.steps.remote.server import Server
from gatescope.traces.jobs import Job


class Build(Protocol):
    """What makes a job."""

    def __call__(self, start: int, stop: int, answers: list[Any] | None, times: int = 0) -> Job:
        """A job.

        Args:
            start, stop: a piece's first batch, and the one after its last.
            answers: to its questions, if it was asked before.
            times: how often each batch is cut in halves.
        """
        ...


# A server's errors come as text: its own sentences, or the last lines of a traceback.
_LATE = re.compile(r"exceeded the execution timeout|time limit", re.I)
_AGAIN = re.compile(r"evicted|cancelled or preempted|try again later|temporarily unavailable", re.I)
_APART = re.compile(r"does not require grad|not have been used in the graph|does not have a grad_fn", re.I)
_UNREAD = 3  # a result that cannot be read is fetched so often


class Line:
    """The connection to a server: submits jobs, polls them, and waits for it as long as `patience` allows."""

    def __init__(self, server: Server, task: str, shards: Batches, ledger: Ledger) -> None:
        self.server, self.task, self.shards, self.ledger = server, task, shards, ledger
        self.silent_since: float | None = None
        self.waited = server.pause
        self.weighed = 0
        self.compress = bool(nnsight.CONFIG.API.COMPRESS)

    def rest(self, progress: bool) -> None:
        """Wait before the next round; longer each time nothing has come."""
        self.waited = self.server.pause if progress else min(self.waited * 1.3, 20 * self.server.pause)
        time.sleep(self.waited)

    def advance(self, model: TransformersModel, piece: Piece, build: Any) -> None:
        """Submit a piece that has no job, or look at the job it has."""
        if piece.current:
            if piece.expected is None:  # a client before this one submitted it
                piece.expected = Expected.of(self.job(piece, build))
            return self.look(piece)
        job = self.job(piece, build)
        piece.expected, request = Expected.of(job), plan.digest(job)
        job["of"] = msgspec.to_builtins(self.ledger.identity(self.task, piece, request))
        if not self.weighed:  # all jobs of a run call the same functions: if one can travel, all can
            self.weighed = weigh(model, job)
        self.submit(model, piece, job, request)

    def job(self, piece: Piece, build: Any) -> Job:
        """The job of a piece, as it was sent or will be."""
        return build(piece.shard)(piece.start, piece.stop, piece.asked, piece.cut)

    def submit(self, model: TransformersModel, piece: Piece, job: Job, request: str) -> None:
        """Send a piece's job and write its number down."""
        if piece.attempts >= self.server.attempts:
            attempts, piece.attempts = piece.attempts, 0
            self.ledger.write()  # the next run begins to count anew
            raise GatescopeError(
                f"The job of {piece} was lost or ended {attempts} times on {self.server.address}. Start again later; "
                f"what is finished is kept."
            )
        blob = sealed(model, job, self.compress)
        try:
            number = wire.submit(self.server, name_there(model), model._remoteable_get_env(), blob, self.compress)
        except wire.Refusal as error:
            return self.not_taken(piece, error)
        except wire.Silence as error:
            return self.tolerate(error)
        self.silent_since = None
        piece.job, piece.request, piece.attempts = number, request, piece.attempts + 1
        piece.unknown_since, piece.unread = None, 0
        self.ledger.write()

    def not_taken(self, piece: Piece, error: wire.Refusal) -> None:
        """A submission that failed: make the piece smaller, wait, or give up with a reason."""
        if error.code == 413:
            return self.smaller(piece, f"its request is too large for {self.server.address}")
        if error.code < 500 and error.code != 429:  # asking again would change nothing
            raise self.refusal(piece, error) from error
        self.tolerate(wire.Silence(str(error)))

    def refusal(self, piece: Piece, error: wire.Refusal) -> GatescopeError:
        """The error for a request that the server refuses."""
        where, code, detail = self.server.address, error.code, error.detail
        reason = detail.lower()
        if code in (401, 403) or (code == 400 and "key" in reason):
            return GatescopeError(
                f"{where} does not accept the API key ({code}: {detail}). Set the environment variable NDIF_API_KEY to "
                f"yours, or run `nnsight login`."
            )
        if code == 400 and "version" in reason:
            return GatescopeError(f"{where} does not accept this client: {detail} nnsight here is {version('nnsight')}.")
        return GatescopeError(f"{where} refused the job of {piece} ({code}: {detail}).")

    def look(self, piece: Piece) -> None:
        """Ask for a job's status, and take its result if it is there."""
        try:
            reply = wire.reply_of(self.server, piece.current)
        except wire.Refusal as error:
            if error.code in (401, 403):
                raise self.refusal(piece, error) from error
            return self.tolerate(wire.Silence(str(error)))
        except wire.Silence as error:
            return self.tolerate(error)
        if reply is None:
            self.silent_since = None
            return self.unknown(piece)
        piece.unknown_since = None
        if reply.status == Status.ERROR:
            self.silent_since = None
            return self.failed(piece, reply.description)
        if reply.status == Status.COMPLETED:
            return self.fetch(piece, reply)
        self.silent_since = None

    def unknown(self, piece: Piece) -> None:
        """A job the server knows nothing of: lost only if it stays unknown for a while."""
        if piece.unknown_since is None:
            piece.unknown_since = time.monotonic()
        elif time.monotonic() - piece.unknown_since > self.server.lost_after:
            self.again(piece)

    def fetch(self, piece: Piece, reply: wire.Reply) -> None:
        """Get the result of a job that is completed."""
        try:
            result = wire.result_of(self.server, reply, self.compress)
        except wire.Refusal as error:
            if error.code < 500:
                return self.again(piece)  # the address of the result has expired
            return self.tolerate(wire.Silence(str(error)))
        except wire.Silence as error:
            return self.tolerate(error)
        except wire.NoResult as error:
            piece.unread += 1
            if piece.unread < _UNREAD and reply.data:  # it may be whole the next time
                return None
            raise self.given_up(
                piece,
                f"{self.server.address} says that the job of {piece} is completed, and gives no result ({error}). Start the "
                f"same command again: it submits the job anew.",
            ) from error
        self.silent_since = None
        self.take(piece, result)

    def take(self, piece: Piece, result: Any) -> None:
        """Keep a result; of a job that could only ask questions, the answers."""
        assert piece.expected is not None
        wrong, checked = "", {}
        try:
            checked = piece.expected.check(result, self.ledger.identity(self.task, piece, piece.sent))
        except WrongResult as error:
            wrong = self.server.masked(str(error))
        if wrong:  # not in the except: what was raised there quotes the server
            raise self.given_up(
                piece,
                f"What {self.server.address} gave back for {piece} is not the result of the job that was sent: {wrong}. "
                f"Nothing of it is kept. Start the same command again: it submits the job anew.",
            )
        if not checked.get("undecided"):
            piece.result = checked if piece.asked is None else checked | {"answers": piece.asked}
            return
        if piece.asked is not None:
            raise self.given_up(piece, f"{self.server.address} was told which answers of {piece} are right, and still asks.")
        if not piece.inquiry:  # what was sent to count could only ask: it is the inquiry, and the next job counts
            piece.inquiry, piece.inquired = piece.job, piece.request
            piece.job, piece.request, piece.attempts = "", "", 0
            self.ledger.write()
        piece.asked = checked["answers"]

    def failed(self, piece: Piece, text: str) -> None:
        """A job that ended in an error."""
        if _LATE.search(text):
            return self.smaller(piece, f"it exceeds the time {self.server.address} allows a job")
        if "out of memory" in text.lower():
            return self.smaller(piece, f"{self.server.address} ran out of memory on it", batches=True)
        if _AGAIN.search(text):
            return self.again(piece)
        if _APART.search(text):
            raise self.given_up(
                piece,
                f"{self.server.address} runs the code of a job apart from the model, and gradients do not cross: attribution "
                f"does not work there. Attribute where the weights are, or ask the server's owner for a trusted key.",
            )
        last = text.strip().splitlines()[-1][:500].rstrip(".") if text.strip() else "no reason was given"
        raise self.given_up(
            piece,
            f"The job of {piece} failed on {self.server.address}: {last}. Start the same command again to submit another.",
        )

    def again(self, piece: Piece) -> None:
        """Give a piece's job up; the next round submits another."""
        piece.give_up()
        self.ledger.write()

    def given_up(self, piece: Piece, why: str) -> GatescopeError:
        """The error for a job that cannot be used. It is forgotten first: the next run must not ask for it for ever."""
        piece.attempts = 0
        self.again(piece)
        return GatescopeError(why)

    def smaller(self, piece: Piece, why: str, *, batches: bool = False) -> None:
        """Make a piece smaller: two in the place of one, or each of its batches in halves, where it has but one.

        Args:
            piece: which.
            why: what it is too large for.
            batches: cut the batches at once, since it is their size that matters.
        """
        if piece.stop - piece.start > 1 and not batches:
            middle = (piece.start + piece.stop) // 2
            ends = [(piece.start, middle), (middle, piece.stop)]
            parts = [Piece(piece.shard, *end, cut=piece.cut) for end in ends]
        else:
            whole = self.shards[piece.shard][piece.start : piece.stop]
            if max(map(len, plan.cut(whole, piece.cut))) < 2:
                raise self.given_up(
                    piece,
                    f"A job of {piece} is one example at a time and cannot be made smaller, but {why}. Choose fewer new "
                    f"tokens, smaller pictures, or another server.",
                )
            parts = [Piece(piece.shard, piece.start, piece.stop, cut=piece.cut + 1)]
        pieces = self.ledger.pieces[piece.shard]
        at = pieces.index(piece)
        pieces[at : at + 1] = parts
        self.ledger.write()

    def tolerate(self, error: wire.Silence) -> None:
        """A server that does not answer, or is busy: wait, until `patience` runs out."""
        now = time.monotonic()
        self.silent_since = self.silent_since or now  # patience runs from the first silence, and any answer ends it
        silent = now - self.silent_since
        if silent <= self.server.patience:
            return
        if isinstance(error, wire.Garbled):
            raise GatescopeError(
                f"{self.server.address} has given no answer that can be read for {silent:.0f} seconds ({error}). Its jobs are "
                f"saved if a run directory was given: start the same command again."
            ) from error
        raise GatescopeError(
            f"{self.server.address} has not answered for {silent:.0f} seconds ({error}). Its jobs are saved if a "
            f"run directory was given: start the same command again."
        ) from error
