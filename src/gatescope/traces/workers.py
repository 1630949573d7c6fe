"""Code that runs alongside a trace's own block, at every step of the run.

nnsight binds a block's reads and writes to the first time a module runs. A separate worker, in the same run, can walk
the model again at every step (every generated token) without holding the block up.
"""

from __future__ import annotations

from collections.abc import Callable

from nnsight.intervention.interleaver import Mediator, OutOfOrderError
from nnsight.intervention.iterator import Iterations


def run_alongside(caller: Mediator, block: Callable[[], None]) -> None:
    """Run a block as a separate worker in the caller's run, on the caller's rows, before the caller is served."""
    worker = Mediator(compile("block()", "<gatescope worker>", "exec"), {}, {"block": block})
    # Inside an invoke a worker must see that invoke's rows and no others.
    worker.batch_group = caller.batch_group
    mediators = caller.interleaver.mediators
    mediators.insert(mediators.index(caller), worker)  # after those started before, so that they act in that order
    worker.start(caller.interleaver)
    # The interleaver numbers its workers; one that was inserted shifts the rest.
    caller.interleaver.reindex()


def every_step(walk: Callable[[], None], start: int = 0) -> None:
    """Walk at every step from `start` on. The run ends by not making another step, which nnsight reports as this.

    Raises:
        GatescopeError: if a step of the run did not reach all that the walk reads, naming the module (see `unreached`).
    """
    try:
        for _ in Iterations()[start:]:
            walk()
    except OutOfOrderError:
        pass


def unreached(error: OutOfOrderError, path: str) -> Exception:
    """What to raise where a worker waited for a module that the model did not get to.

    nnsight says the same of a step that the run did not make and of a module that did not run in a step it made. A worker
    is pinned to a step from 1 on until the first of its reads there is served; so only where it is pinned so has the run
    made no such step, which is how it ends. A run that has no result was stopped on purpose. Anything else was asked for
    and not done.
    """
    worker = Mediator.current("unreached")
    if worker.iteration not in (0, None) or not worker.occurrence("result"):
        return error
    try:
        from gatescope.core.errors import GatescopeError
    except ImportError:  # on a server, where this function travels
        GatescopeError = RuntimeError
    return GatescopeError(
        f"{path} did not run when expected, so nothing was read or changed there. Either the model runs "
        f"it for some inputs only, as Llama 3.2 Vision does its cross-attention layers, which run where there is a picture: "
        f"leave its neurons out, or give pictures. Or it had run before it was asked for: ask in the order of the layers."
    )
