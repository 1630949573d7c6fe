"""Reading and writing a model's tensors inside a trace, and what a plain forward pass is given."""

from __future__ import annotations

import inspect

from nnsight.intervention.interleaver import OutOfOrderError
from torch import Tensor

from gatescope.traces.workers import unreached


def forward_options(model, inputs: dict[str, Tensor], keep: int) -> dict:
    """What a plain forward pass is given beside its inputs: logits of the last `keep` positions only, no cache, and,
    for text, positions numbered from each row's first real token, as generation numbers them.
    """
    parameters = inspect.signature(model._module.forward).parameters
    options: dict = {"use_cache": False}
    if "logits_to_keep" in parameters:
        options["logits_to_keep"] = keep
    if getattr(model, "processor", None) is None and "position_ids" in parameters:
        options["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return options


def by_token(activation: Tensor, like: Tensor) -> Tensor:
    """The activation as [b, s, n], given any [b, s] tensor; OPT's MLP sees tokens of all rows as one list."""
    return activation if activation.ndim == 3 else activation.unflatten(0, like.shape[:2])


def read(model, path: str, io: str) -> Tensor:
    """Inside a trace: a module's input or output.

    Raises:
        GatescopeError: if the model does not get there, naming the module.
    """
    envoy = model.get(path)
    try:
        return envoy.input if io == "input" else envoy.output
    except OutOfOrderError as error:
        raise unreached(error, path) from None


def write(model, path: str, io: str, value: Tensor) -> None:
    """Inside a trace: replace a module's input or output."""
    envoy = model.get(path)
    if io == "input":
        envoy.input = value
    else:
        envoy.output = value
