"""Shards computed by a Ray cluster: each of its actors has the model, and is given one shard after the other.

    this process    plans, hands shards out, stores them, shows progress
    an actor        computes a shard; one that dies is replaced, and its shard given to whoever is free next

Whoever computes a shard, it is the same shard: the bits are those of a run without Ray.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from typing import Any

import torch
from nnsight import TransformersModel

from gatescope.core.errors import GatescopeError
from gatescope.steps.actor import Actor, Source, packed
from gatescope.steps.batches import Plan
from gatescope.steps.claims import Claims
from gatescope.steps.step import S, Step

LOSSES = 3  # a shard that so many actors died of is no accident
SECONDS = 5.0  # for a cluster to answer


class Ray:
    """A Ray cluster as the place where shards are computed: `gs.record(..., executor=gs.Ray(actors=4))`.

    Without `with` it lasts for one step; with it, for all steps inside, whose actors load the model once:

        with gs.Ray(actors=4) as cluster:
            counters = gs.record(model, study.identification, executor=cluster)
            table = gs.sweep(model, study.evaluation, masks, executor=cluster)

    Args:
        address: of a running cluster ("host:6379", "ray://host:10001", "auto" for the one this machine belongs to); None
            for the one this process is connected to already, or a local one, started for this and shut down afterwards.
        actors: how many, each with a copy of the model.
        gpus: GPUs of each actor, 0 for the CPU; a fraction shares one. 1 if None and this machine has one, else 0.

    Raises:
        GatescopeError: for fewer than one actor or a negative number of GPUs.
    """

    def __init__(self, address: str | None = None, *, actors: int = 2, gpus: float | None = None) -> None:
        if actors < 1 or (gpus is not None and not 0 <= gpus < float("inf")):
            raise GatescopeError(f"A Ray cluster was asked for {actors} actors of {gpus} GPUs; at least 1 and 0 are needed.")
        self.address, self.actors = address, actors
        self.gpus = float(torch.cuda.is_available()) if gpus is None else gpus
        self._kept: contextlib.ExitStack | None = None
        self._crew: Crew | None = None

    def __enter__(self) -> Ray:
        self._kept = contextlib.ExitStack()
        return self

    def __exit__(self, *_: object) -> None:
        kept, self._kept, self._crew = self._kept, None, None
        if kept is not None:
            kept.close()

    def shards(
        self, step: Step[S], planned: Plan, claims: Claims, workers: int, done: Callable[[int], Any]
    ) -> Generator[tuple[int, S], None, None]:
        """Shards in whatever order they finish; each is another process's to take once it has been taken here and stored.

        Raises:
            GatescopeError: without Ray or a cluster, if an actor's model is not the one here, or as the step does.
        """
        if not claims:
            return
        with contextlib.ExitStack() as ended:
            crew = self._hired(step.model, min(self.actors, len(claims)), self._kept or ended)
            for index, shard in crew.work(packed(step, planned, crew.ray.cloudpickle.CloudPickler), claims, workers):
                done(len(planned.positions(index)) * step.times)
                yield index, shard
                del shard  # before the next one is there as well
                claims.release(index)  # stored by now

    def _hired(self, model: TransformersModel, count: int, until: contextlib.ExitStack) -> Crew:
        """Actors that have this model: those of the step before, if there are any."""
        source = Source.of(model, self.gpus)
        if self._crew is not None and self._crew.source.facts != source.facts:
            self._crew.dismiss()  # first, for the new ones may need their GPUs
        if self._crew is None or not self._crew.size:
            ray = until.enter_context(connected(self.address, self.actors))
            _check_gpus(ray, self.gpus, self.address)
            self._crew = Crew(ray, source, self.gpus)
            until.callback(self._crew.dismiss)
        for _ in range(count - self._crew.size):
            self._crew.hire()
        return self._crew


class Crew:
    """Actors, and what each of them is doing."""

    def __init__(self, ray: Any, source: Source, gpus: float) -> None:
        self.ray, self.source = ray, source
        # What tokenizers and processors hold may be large; it is sent to each machine once.
        self._source = ray.put(source)
        self._kind = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0, scheduling_strategy="SPREAD")(Actor)
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, int | None]] = {}  # a call -> the actor, and its shard; None while it is loading
        self._losses: Counter[int | None] = Counter()

    @property
    def size(self) -> int:
        """How many actors there are."""
        return len(self._idle) + len(self._busy)

    def hire(self) -> None:
        """Start one more."""
        actor = self._kind.remote()
        self._busy[actor.load.remote(self._source)] = actor, None

    def dismiss(self) -> None:
        """End all of them."""
        for actor in [*self._idle, *(actor for actor, _ in self._busy.values())]:
            self.ray.kill(actor)
        self._idle, self._busy = [], {}

    def work(self, parcel: tuple[str, bytes], claims: Claims, workers: int) -> Iterator[tuple[int, Any]]:
        """Hand out shards until all are done, each actor one at a time."""
        sent = self.ray.put(parcel)
        try:
            yield from self._handed_out(sent, claims, workers)
        except BaseException:
            self.dismiss()  # what some are still computing is nobody's now
            raise

    def _handed_out(self, sent: Any, claims: Claims, workers: int) -> Iterator[tuple[int, Any]]:
        while claims or any(index is not None for _, index in self._busy.values()):
            self._hand_out(sent, claims, workers)
            if not self._busy:  # all that is left is in the hands of other processes
                time.sleep(1)
                continue
            # Actors that have nothing to do may soon have: another process gives up what it had.
            finished, _ = self.ray.wait(list(self._busy), timeout=1 if self._idle else None)
            for call in finished:
                index, shard = self._result(call, claims)
                if index is not None:
                    yield index, shard

    def _hand_out(self, sent: Any, claims: Claims, workers: int) -> None:
        while self._idle and (index := claims.take()) is not None:
            actor = self._idle.pop()
            self._busy[actor.compute.remote(sent, index, workers)] = actor, index

    def _result(self, call: Any, claims: Claims) -> tuple[int | None, Any]:
        """What a call gave: a shard's number and the shard; nothing of an actor that has loaded its model, or died."""
        errors = self.ray.exceptions
        actor, index = self._busy.pop(call)
        try:
            shard = self.ray.get(call)
        except errors.RayTaskError as error:  # raised there, and meant for here
            self._idle.append(actor)
            raise error.cause if isinstance(error.cause, Exception) else error from None
        except errors.RayError as error:  # it died, its machine did, or what it made was lost on the way
            self._replace(actor, index, claims, error)
            return None, None
        self._idle.append(actor)
        if index is None:
            self._losses[None] = 0
        return index, shard

    def _replace(self, actor: Any, index: int | None, claims: Claims, error: Exception) -> None:
        self.ray.kill(actor)
        self._losses[index] += 1
        if self._losses[index] >= LOSSES:
            what = "loading the model" if index is None else f"computing shard {index}"
            raise GatescopeError(
                f"{LOSSES} actors of Ray died {what}, the last one so: {_first_line(error)} If memory ran out, use a smaller "
                f"batch size or fewer actors."
            ) from error
        if index is not None:
            claims.give_back(index)
        self.hire()


@contextlib.contextmanager
def connected(address: str | None, actors: int) -> Iterator[Any]:
    """Ray, connected to a cluster; or to one of its own, with room for so many actors, that is ended afterwards.

    A connection that is there already is used, and left alone.

    Raises:
        GatescopeError: if Ray is not installed, or no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read on import: nothing is reported from here
    try:
        import ray
    except ImportError as error:
        raise GatescopeError("Ray is not installed: pip install 'gatescope[ray]'.") from error
    if ray.is_initialized():
        yield ray
        return
    # Actors are counted by cores, and a user may want more of them than this machine has.
    local = {"include_dashboard": False, "num_cpus": max(actors, os.cpu_count() or 1)}
    with _handlers_kept():
        try:
            _check_answers(address)
            options = local if address is None else {}
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **options)
        except (OSError, RuntimeError, ValueError, ImportError) as error:
            if address is None:
                raise GatescopeError(f"Ray could not be started on this machine ({_first_line(error)})") from error
            raise GatescopeError(
                f"No Ray cluster answers at {address!r} ({_first_line(error)}) Give the address that `ray start --head` "
                f"printed, or none, and one is started on this machine."
            ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_answers(address: str | None) -> None:
    """Raise OSError if nobody listens there: Ray itself takes minutes to find out, and then ends the process."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), SECONDS).close()


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Leave SIGTERM to whoever handles it: connecting to Ray takes it over, and would abort the process with a stack trace."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():  # elsewhere no handler can be set
        # Where nobody handles it: an exit in which the cluster that was started here is ended, not left alone.
        signal.signal(signal.SIGTERM, _exit if before in (signal.SIG_DFL, None) else before)


def _exit(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def _check_gpus(ray: Any, gpus: float, address: str | None) -> None:
    there = ray.cluster_resources().get("GPU", 0)
    if gpus <= there:
        return
    lack = f"An actor was to have {gpus:g} GPUs, and the cluster has {there:g}"
    if address is None:
        raise GatescopeError(f"{lack}. Ask for fewer: 0 computes on the CPU.")
    warnings.warn(f"{lack}: the work begins when it has grown.", stacklevel=2)  # some clusters do, on demand


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".:") + "."
