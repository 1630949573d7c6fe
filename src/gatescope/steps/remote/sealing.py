"""A job as the bytes that are sent: a block of nnsight's with the functions it calls, and nothing that a server lacks."""

from __future__ import annotations

from typing import Any

import nnsight
from nnsight import TransformersModel
from nnsight.schema.request import RequestModel
from nnsight.tracing.backend import Backend

from gatescope.traces import travel
from gatescope.traces.jobs import Job


class Sealed(Backend):
    """Serialises a block as it would be sent, and sends nothing."""

    def __init__(self, compress: bool) -> None:
        self.compress = compress
        self.blob = b""

    def __call__(self, tracer: Any) -> None:
        """Take the place of running the block."""
        self.blob = RequestModel.serialize(tracer, self.compress)


def sealed(model: TransformersModel, job: Job, compress: bool) -> bytes:
    """A job as it is sent: a session of which the only value kept is what the shipped function gives."""
    backend, run = Sealed(compress), travel.shipped().run
    with model.session(backend=backend):
        result = nnsight.save(run(model, job))  # noqa: F841
    return backend.blob


def weigh(model: TransformersModel, job: Job) -> int:
    """Bytes a job's request has, after checking that all of it can travel.

    Raises:
        GatescopeError: naming what a server would not have.
    """
    compress = bool(nnsight.CONFIG.API.COMPRESS)
    blob = sealed(model, job, compress)
    travel.check(blob, compress)
    return len(blob)
