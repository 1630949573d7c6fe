"""The one runner of all steps: plans, hands shards out, stores or adds them in order, shows progress.

Examples are cut into shards and batches once (see `gatescope.steps.plan`). A shard is computed here, by a cluster, or on a
server. With a run directory it is stored when it is done, so that a run that was killed goes on with the next; without one,
shards are added up in order as they come, so that scheduling cannot change a bit.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Generic

from gatescope.core import artefacts
from gatescope.core.progress import bar
from gatescope.models.identity import identity
from gatescope.steps.batches import Plan
from gatescope.steps.claims import Claims
from gatescope.steps.compute import compute
from gatescope.steps.places import stem
from gatescope.steps.plan import plan
from gatescope.steps.questions import keeping
from gatescope.steps.run import Run
from gatescope.steps.shards import Shards, first
from gatescope.steps.step import Options, S, Step
from gatescope.steps.stopping import telling


@dataclass(frozen=True)
class Outcome(Generic[S]):
    """The result of a step.

    Attributes:
        plan: which examples ran together.
        total: the shards added up; None where they are in a run directory.
        directory, stored: the run and its shards; None without a run directory.
    """

    plan: Plan
    total: S | None
    directory: Run | None
    stored: Shards | None

    @property
    def complete(self) -> bool:
        """Whether every shard is done, by whichever process."""
        return self.stored is None or not self.stored.missing


def run_step(step: Step[S], options: Options) -> Outcome[S]:
    """Run a step, or what is left of it.

    Raises:
        GatescopeError: if the run directory was started with something else or holds a damaged shard, if an example does not
            fit into memory, or as the step does.
    """
    directory, stored, planned = _begin(step, options)
    todo = _todo(stored, planned, options)
    finished: Generator[tuple[int, S], None, None]
    total = None
    path = None if directory is None else directory.path
    with (
        bar(len(step.examples) * step.times, step.doing, step.unit, show=options.progress and first()) as shown,
        telling(path, step.name, stored, remote=options.remote is not None),
    ):
        if options.remote is not None:
            finished = _on_server(step, planned, todo, options.remote, directory, stored, shown.update)
        elif options.executor is not None:
            finished = options.executor.shards(step, planned, Claims(todo, stored), options.workers, shown.update)
        else:
            finished = _here(step, planned, todo, options.workers, shown.update)
        with closing(finished):  # at once, not when the error that ends it is forgotten
            if stored is None:
                for shard in _in_order(finished):
                    total = shard if total is None else step.add(total, shard)
            else:
                for index, shard in finished:
                    stored.save(index, *step.pack(shard))
                    del shard  # before the next one is there as well
                stored.bind()
    return Outcome(planned, total, directory, stored)


def _begin(step: Step[S], options: Options) -> tuple[Run | None, Shards | None, Plan]:
    def planned() -> Plan:
        return plan(step.model, step.examples, options.batch_size, options.shard_size)

    if options.run is None:
        return None, None, planned()
    card = identity(step.model)
    directory = Run.at(options.run, card)
    artefacts.clear_partials(directory.path)
    ids = [example.id for example in step.examples]
    # Which dtype a server computes in, only its first shard can say.
    metadata = {"dtype": card["dtype"] if options.remote is None else None, "weights": card["digest"], **step.metadata}
    # Around the start, so that a refused continuation can name the question that differs.
    with keeping(directory, step.name, step.metadata["fingerprint"], step.examples), directory.locked():
        step.check(directory)
        stored, batches = Shards.start(directory, step.name, metadata, ids, planned)
    step.started(stored.metadata)
    return directory, stored, batches


def _todo(stored: Shards | None, planned: Plan, options: Options) -> Iterator[int]:
    if stored is None:
        return iter(range(len(planned.shards)))
    if options.remote is not None:  # the ledger, not a lock, says who works on what
        return iter(stored.missing)
    if options.executor is not None:  # it locks them as it takes them, several at a time
        return iter(stored.todo(options.part))
    # Locked one by one: several processes may share a run directory.
    return stored.open(options.part)


def _in_order(finished: Iterator[tuple[int, S]]) -> Iterator[S]:
    """Shards by number, in whatever order they arrive."""
    early: dict[int, S] = {}
    turn = 0
    for index, shard in finished:
        early[index] = shard
        del shard
        # Sums in floating point depend on their order, and a server finishes shards in any.
        while turn in early:
            yield early.pop(turn)
            turn += 1


def _here(
    step: Step[S], planned: Plan, todo: Iterator[int], workers: int, done: Callable[[int], Any]
) -> Generator[tuple[int, S], None, None]:
    """Shards computed in this process."""
    with step.running():
        # map, so that nothing here holds a shard when the next one begins
        yield from map(lambda index: (index, compute(step, planned, index, workers, done)), todo)


def _on_server(
    step: Step[S],
    planned: Plan,
    todo: Iterator[int],
    remote: Any,
    directory: Run | None,
    stored: Shards | None,
    done: Callable[[int], Any],
) -> Generator[tuple[int, S], None, None]:
    """Shards computed on a server, in whatever order they finish."""
    numbers = list(todo)
    batches = {number: planned.batches(number, step.examples) for number in numbers}
    positions = {number: planned.positions(number) for number in numbers}
    ledger = None if directory is None else directory.path / f"jobs.{stem(step.name, directory.manifest)}.json"
    dtype = None if stored is None else stored.dtype
    for number, shard in step.on_server(batches, positions, remote, ledger, dtype):
        done(len(positions[number]) * step.times)
        yield number, shard
