"""Jobs on a server: several in flight, each picked up again after whatever may happen to the client or the line.

A piece is a range of a shard's batches; at first one piece is the whole shard. Its job is submitted without waiting, and
its number is written to the ledger (`jobs.json` in the run directory) before anything else is done. A client that is
killed finds the numbers there and asks for the results; a piece leaves the ledger only when the shard it belongs to has
been stored. A job's result is looked at once, so no job counts twice; a job whose number was lost is run again, and the
first run of it is never asked for. A job that ended in an error leaves the ledger before the error is raised, so the next
run submits it again. What else may fail, and what is done then: see `gatescope.steps.remote.line`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from nnsight import TransformersModel

from gatescope.core.errors import GatescopeError
from gatescope.data.example import Example
from gatescope.steps.batches import Batches
from gatescope.steps.remote import plan, wire
from gatescope.steps.remote.ledger import Ledger, Piece, alone
from gatescope.steps.remote.line import Build, Line
from gatescope.steps.remote.results import Expected
from gatescope.steps.remote.server import Server


class Part(NamedTuple):
    """What came back for a piece of a shard.

    Attributes:
        batches: of examples, as they were sent.
        expected: what had to come back.
        result: what did.
    """

    batches: list[Sequence[Example]]
    expected: Expected
    result: dict[str, Any]


def run_jobs(
    task: str,
    model: TransformersModel,
    server: Server,
    shards: Batches,
    build: Callable[[int], Build],
    settings: Sequence[Any],
    ledger: Path | None,
) -> Iterator[tuple[int, list[Part]]]:
    """Run shards as jobs, and yield each when all of it is finished: its number and its pieces' results in order.

    The consumer stores a shard before it asks for the next; that is when it leaves the ledger.

    Args:
        task: "record", "attribute" or "sweep".
        model: from `load_client` or `load_model`.
        server: where.
        shards: batches by shard number.
        build: for a shard's number, what makes the job of a range of its batches.
        settings: what else decides the results; a ledger of jobs with others is refused.
        ledger: file to remember jobs in; None keeps them in memory.

    Raises:
        GatescopeError: as the docstring of `gatescope.steps.remote.line` says; if the ledger is of other work, was altered,
            or is another client's; or if there is no server at that address.
    """
    with alone(ledger):
        book = Ledger.at(ledger, plan.work(task, model, server, list(settings)), plan.keys(shards))
        # Before anything is submitted: a request that cannot be read would fail only after its turn in the queue.
        greet(server, known=book.submitted)
        book.expect(shards)
        yield from _run(book, Line(server, task, shards, book), model, shards, build)


def _run(
    book: Ledger, line: Line, model: TransformersModel, shards: Batches, build: Callable[[int], Build]
) -> Iterator[tuple[int, list[Part]]]:
    waiting = deque(number for number in shards if number not in book.pieces)
    while waiting or book.pieces:
        under_way = book.under_way
        # A few at a time: results that are not fetched expire, and others use the server too.
        if waiting and len(under_way) < line.server.in_flight:
            number = waiting.popleft()
            book.begin(number, len(shards[number]))
            continue
        for piece in under_way:
            line.advance(model, piece, build)
        finished = book.finished
        for number in finished:
            yield number, [_part(shards, piece) for piece in book.pieces[number]]
            # Reached when the consumer asks for the next shard, so this one is stored by now.
            book.done(number)
        line.rest(bool(finished))


def _part(shards: Batches, piece: Piece) -> Part:
    assert piece.expected is not None and piece.result is not None  # of a shard that is finished
    batches = plan.cut(shards[piece.shard][piece.start : piece.stop], piece.cut)
    return Part(batches, piece.expected, piece.result)


def greet(server: Server, *, known: bool) -> None:
    """Refuse what is no server, and one whose nnsight cannot read our requests.

    Args:
        server: where jobs are to go.
        known: whether it has answered before: then it is given time to answer again.

    Raises:
        GatescopeError: saying what is there instead.
    """
    try:
        theirs = wire.nnsight_there(server)
    except wire.Silence as nothing:
        if known:
            return
        raise GatescopeError(
            f"There is no server of nnsight's at {server.address}: {nothing}. Check the address, and that the server runs."
        ) from nothing
    ours = version("nnsight")
    # Major and minor only: patches keep the format of requests.
    if theirs and theirs.split(".")[:2] != ours.split(".")[:2]:
        raise GatescopeError(
            f"{server.address} runs nnsight {theirs}; this machine has nnsight {ours}, and the two do not read each other's "
            f"requests. Install the server's: pip install 'nnsight=={theirs}'."
        )


def builder_of(
    shards: Batches, common: Mapping[str, Any], batch_of: Callable[[Sequence[Example]], Mapping[str, Any]]
) -> Callable[[int], Build]:
    """For a shard's number, what makes the job of a range of its batches, where one job does all there is to do.

    Args:
        shards: batches by shard number.
        common: what the jobs have in common.
        batch_of: a batch of examples as plain data.
    """

    def build(number: int) -> Build:
        def job(start: int, stop: int, answers: list[Any] | None, times: int = 0) -> Any:
            return {**common, "batches": [batch_of(examples) for examples in plan.cut(shards[number][start:stop], times)]}

        return job

    return build
