"""A twin of a module: its structure and its code, and none of its weights.

Every parameter and buffer is ones (a single number in memory where there would be many), and a projection has sizes only:
what it gives is for the caller to say. So a twin costs next to nothing at any size, it can be had also where the weights are
elsewhere, off-loaded, split or quantised, and running it leaves the module alone: its hooks, its mode, its caches, a trace.
"""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import torch
from torch import Tensor, nn

from gatescope.models.found import is_projection, size

_LARGE = 2**20  # elements
# What an instance carries besides its structure: what wraps its forward.
_WRAPPERS = ("forward", "_old_forward", "_hf_hook", "__nnsight__")


class Projection(nn.Linear):
    """Stands for a projection of whatever class; nothing is there of its weight but the shape."""

    def __init__(self, inputs: int, outputs: int) -> None:
        nn.Module.__init__(self)  # nn.Linear would draw a weight
        self.in_features, self.out_features = inputs, outputs
        self.weight = nn.Parameter(torch.empty(outputs, inputs, device="meta"), requires_grad=False)
        self.register_parameter("bias", None)


def twin_of(module: nn.Module) -> Any:
    """A module's twin, on the CPU and in evaluation mode."""
    memo: dict[int, Any] = {id(tensor): _ones(tensor) for tensor in (*module.parameters(), *module.buffers())}
    for part in module.modules():
        for name, value in vars(part).items():
            if name in _WRAPPERS:
                memo[id(value)] = None
            elif name.endswith("_hooks"):
                memo[id(value)] = type(value)()
        if is_projection(part):
            memo[id(part)] = Projection(*size(part))
    twin = copy.deepcopy(module, memo)
    for part in twin.modules():
        for name in _WRAPPERS:
            vars(part).pop(name, None)
        if (config := getattr(part, "config", None)) is not None:
            _plain_functions(twin, config)
    return twin.eval()


def on_cpu() -> contextlib.AbstractContextManager[object]:
    """The CPU as default device; nothing where it is already, for the context slows every operation down."""
    return contextlib.nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")


def weightless(tensor: Any) -> bool:
    """Whether it is made of a large parameter of a twin."""
    return isinstance(tensor, Tensor) and tensor.numel() >= _LARGE and tensor.untyped_storage().nbytes() < _LARGE


def _ones(tensor: Tensor) -> Tensor:
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    if tensor.numel() < _LARGE:
        ones = torch.ones(tensor.shape, dtype=dtype)
    else:
        ones = torch.ones((), dtype=dtype).expand(tensor.shape)
    return nn.Parameter(ones, requires_grad=False) if isinstance(tensor, nn.Parameter) else ones


def _plain_functions(twin: nn.Module, config: Any) -> None:
    """Attention and experts by functions of torch, which run anywhere and show what they are given."""
    if getattr(config, "_attn_implementation", None) not in (None, "eager", "sdpa"):
        config._attn_implementation = "sdpa" if getattr(twin, "_supports_sdpa", False) else "eager"
    if getattr(config, "_experts_implementation", None) is not None:
        config._experts_implementation = "eager"
