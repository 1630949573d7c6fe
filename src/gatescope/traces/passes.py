"""A forward pass that stops as soon as its activations have been read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import nnsight
import torch
from nnsight import TransformersModel
from torch import Tensor

from gatescope.traces.access import forward_options

T = TypeVar("T")


@dataclass(frozen=True)
class Masks:
    """What is changed while a model is asked, in equal blocks of rows.

    Attributes:
        blocks: how many.
        together: called inside a trace of all blocks' rows.
        alone: called inside a trace of one block's rows, with its number.
    """

    blocks: int = 1
    together: Callable[[], None] = lambda: None
    alone: Callable[[int], None] = lambda block: None


UNMASKED = Masks()


def forward_until(model: TransformersModel, inputs: dict[str, Tensor], inside: Callable[[], T]) -> T:
    """What `inside` returned in a forward pass, without gradients, that ends as soon as it has.

    Args:
        model: from `load_model`.
        inputs: of one batch, as `collate` makes them.
        inside: called once in the trace, before the model begins; reads in the order of the forward pass.
    """
    stops: list[Exception] = []
    with torch.no_grad(), model.trace(**inputs, **forward_options(model, inputs, keep=1)) as tracer:
        returned = nnsight.save(inside())
        try:
            tracer.stop()
        except Exception as stop:
            stops.append(stop)
            raise
    # Its traceback holds the frames of the forward pass, and they hold it: activations would stay until garbage is collected.
    for stop in stops:
        stop.__traceback__ = stop.__context__ = None
        vars(stop).clear()
    return returned
