"""No read-out: plain passages, which are read and not answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnsight import TransformersModel

from gatescope.core.answers import Reading
from gatescope.data.example import Example
from gatescope.traces.encoding import Batch
from gatescope.traces.jobs import Asked
from gatescope.traces.passes import forward_until
from gatescope.traces.readouts.base import Answer, Asking, Readout, forward_data


class Passages(Readout):
    """Nothing is read."""

    name = "none"

    def lacks(self, example: Example) -> str | None:
        """Nothing."""
        return None

    def put(self, model: TransformersModel, batch: Batch, asking: Asking) -> tuple[None, Any]:
        """A forward pass that goes no further than what is kept."""
        return None, forward_until(model, batch.inputs, asking.work)

    def job(self, model: TransformersModel, batch: Batch) -> Asked:
        """The passages."""
        return {**forward_data(model, batch), "way": "none"}

    def read(self, model: TransformersModel, examples: Sequence[Example], outcome: None) -> list[Answer]:
        """No answers, none of them right."""
        return [("", Reading("", False, False))] * len(examples)
