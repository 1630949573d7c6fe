"""Reading and writing a model's tensors inside a trace, and what a plain forward pass is given.

All but the last two functions travel to servers (see `gatescope.traces.shipped`): they take a model and plain data.
"""

from __future__ import annotations

import inspect
from typing import Any

from nnsight import TransformersModel
from nnsight.intervention.interleaver import OutOfOrderError
from torch import Tensor

from gatescope.kernels.change import change, take
from gatescope.models import decoder  # the module: functions that are imported would have to travel
from gatescope.models.sites import Place
from gatescope.traces.jobs import MaskRow
from gatescope.traces.workers import unreached


def unflatten_tokens(activation: Tensor, like: Tensor) -> Tensor:
    """The activation as [b, s, n], given any [..., b, s] tensor; OPT's MLP sees the tokens of all rows as one list."""
    return activation if activation.ndim == 3 else activation.unflatten(0, like.shape[-2:])


def read(model: TransformersModel, path: str, io: str) -> Tensor:
    """Inside a trace: a module's input or output.

    Raises:
        GatescopeError: if the model does not get there, naming the module.
    """
    envoy = model.get(path)
    try:
        return envoy.input if io == "input" else envoy.output
    # nnsight raises this both at the end of a run and for a module that did not run; `unreached` tells them apart.
    except OutOfOrderError as error:
        raise unreached(error, path) from None


def write(model: TransformersModel, path: str, io: str, value: Tensor) -> None:
    """Inside a trace: replace a module's input or output."""
    envoy = model.get(path)
    if io == "input":
        envoy.input = value
    else:
        envoy.output = value


def neurons(model: TransformersModel, location: Place, like: Tensor) -> Tensor:
    """Inside a trace: the activations [b, s, n] of the neurons at a place, given any [..., b, s] tensor."""
    path, io, columns = location
    return take(unflatten_tokens(read(model, path, io), like), columns)


def change_all(model: TransformersModel, mask: list[MaskRow], moved: dict[int, tuple[Tensor, Tensor]]) -> None:
    """Inside a trace: change a mask's neurons, layer by layer, in the order in which the model reaches them.

    Args:
        model: whose neurons.
        mask: as `gatescope.interventions.value.plain` gives it.
        moved: its columns and values where the activations are; filled at the first step, so that later steps wait for no
            copy.
    """
    for row, (path, io, columns, kind, values) in enumerate(mask):
        activation = read(model, path, io)
        if row not in moved:  # by row, not by path: q, k and v may be columns of one module
            moved[row] = columns.to(activation.device), values.to(activation)
        write(model, path, io, change(activation, moved[row][0], kind, moved[row][1]))


def every_token(model: TransformersModel, keep: int) -> dict[str, Any]:
    """What makes all layers see all tokens where the decoder itself is told how many positions' logits are wanted: Gemma 4
    then computes those positions alone in its last layers, if it is told a number, and everything if it is told which.
    """
    told = decoder.is_told_positions(model._module)
    return {"logits_to_keep": list(range(-keep, 0))} if told and keep else {}


def forward_options(model: TransformersModel, inputs: dict[str, Tensor], keep: int) -> dict[str, Any]:
    """The arguments of a plain forward pass besides its inputs: logits of the last `keep` positions only, no cache, and,
    for text, positions numbered from each row's first real token, as generation numbers them.
    """
    parameters = inspect.signature(model._module.forward).parameters
    options: dict[str, Any] = {"use_cache": False}
    # Without it a model computes logits of every position, [b, s, vocabulary]: often the largest tensor of all.
    if "logits_to_keep" in parameters:
        options |= {"logits_to_keep": keep} | every_token(model, keep)
    # Models that take pictures number positions by rules of their own (M-RoPE), so those are left alone.
    if getattr(model, "processor", None) is None and "position_ids" in parameters:
        options["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return options
