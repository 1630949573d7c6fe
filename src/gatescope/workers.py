"""Code that runs beside a trace's own block, at every step of the run.

nnsight binds a block's reads and writes to the first time a module runs. A worker of its own, in the same run, can walk
the model again at every step (every generated token) without holding the block up.
"""

from __future__ import annotations

from collections.abc import Callable

from nnsight.intervention.interleaver import Mediator, OutOfOrderError
from nnsight.intervention.iterator import Iterations


def beside(caller: Mediator, block: Callable[[], None]) -> None:
    """Run a block as a worker of its own in the caller's run, on the caller's rows, before the caller is served."""
    worker = Mediator(compile("block()", "<gatescope worker>", "exec"), {}, {"block": block})
    worker.batch_group = caller.batch_group
    mediators = caller.interleaver.mediators
    mediators.insert(mediators.index(caller), worker)  # after those started before, so that they act in that order
    worker.start(caller.interleaver)
    caller.interleaver.reindex()


def every_step(walk: Callable[[], None], start: int = 0) -> None:
    """Walk at every step from `start` on. The run ends by not making another step, which nnsight reports as this."""
    try:
        for _ in Iterations()[start:]:
            walk()
    except OutOfOrderError:
        pass
