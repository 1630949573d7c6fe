"""Jobs on a server: several in flight, each picked up again after whatever may happen to the client or the line.

A piece is a range of a shard's batches; at first one piece is the whole shard. Its job is submitted without waiting, and
its number is written to the ledger (`jobs.json` in the run directory) before anything else is done. A client that is
killed finds the numbers there and asks for the results; a piece leaves the ledger only when the shard it belongs to has
been stored. A job's result is looked at once, so no job counts twice; a job whose number was lost is run again, and the
first run of it is never asked for. What else may fail, and what is done then: see `gatescope.steps.remote.line`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnsight import TransformersModel

from gatescope.data.example import Example
from gatescope.steps.batches import Batches
from gatescope.steps.remote import plan
from gatescope.steps.remote.ledger import Ledger
from gatescope.steps.remote.line import Build, Line
from gatescope.steps.remote.server import Server, greet

Results = list[dict[str, Any]]  # of a shard's pieces, in order


def run_jobs(
    task: str,
    model: TransformersModel,
    server: Server,
    shards: Batches,
    build: Callable[[int], Build],
    settings: Sequence[Any],
    ledger: Path | None,
) -> Iterator[tuple[int, Results]]:
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
        GatescopeError: as the docstring of `gatescope.steps.remote.line` says; or if the ledger is of other work.
    """
    book = Ledger.at(ledger, plan.work(task, model, server, list(settings)), plan.keys(shards))
    # Before anything is submitted: a request that cannot be read would fail only after its turn in the queue.
    greet(server)
    book.expect(shards)
    waiting = deque(number for number in shards if number not in book.pieces)
    line = Line(server)
    while waiting or book.pieces:
        under_way = book.under_way
        # A few at a time: results that are not fetched expire, and others use the server too.
        if waiting and len(under_way) < server.in_flight:
            number = waiting.popleft()
            book.begin(number, len(shards[number]))
            continue
        for piece in under_way:
            line.advance(model, piece, build, book)
        finished = book.finished
        for number in finished:
            yield number, book.results(number)
            # Reached when the consumer asks for the next shard, so this one is stored by now.
            book.done(number)
        line.rest(bool(finished))


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
        def job(start: int, stop: int, _answers: list[Any] | None) -> Any:
            return {**common, "batches": [batch_of(examples) for examples in shards[number][start:stop]]}

        return job

    return build
