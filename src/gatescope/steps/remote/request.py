"""A job as a request: made, weighed, sent."""

from __future__ import annotations

import nnsight
from nnsight import TransformersModel
from nnsight.schema.request import RequestModel
from nnsight.tracing.backend import Backend

from gatescope.traces import travel
from gatescope.traces.jobs import Job


class Weigh(Backend):
    """Serialises a block as it would be sent, and sends nothing."""

    def __init__(self) -> None:
        self.compress = nnsight.CONFIG.API.COMPRESS
        self.blob = b""

    def __call__(self, tracer) -> None:
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
