"""The kernels, compiled: one pass over the activation, by Inductor's C++ on a CPU and Triton on a GPU.

Which form runs depends on shape and device alone, so that scheduling cannot change a bit:

    eager     fewer than `LARGE` elements, where compiling seldom pays for itself, or one token an example, or one neuron
    compiled  everything else

`GATESCOPE_KERNEL=eager` and `=compiled` override the size, `=auto` is the default. Without a compiler everything is
eager, after one warning that says what is missing. K is the same in both forms, S agrees to float32 rounding.

A kernel is compiled once for its dtype, width, layout and number of classes, on a batch of fixed shape: what the
compiler makes of it then does not depend on which batch came first. Batch and length stay dynamic; a batch of one is a
kernel of its own, since torch.compile treats a dimension of size one as a constant.
"""

from __future__ import annotations

import inspect
import os
import types
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gatescope.core.errors import one_of
from gatescope.kernels import eager as kernels

LARGE = 2**19
"""Elements [b, s, n] from which `auto` compiles."""

MODES = ("auto", "eager", "compiled")
_TYPICAL = (8, 256)  # b and s of the batch a kernel is compiled on
_NEEDS = {"cpu": "a C++ compiler (g++ or clang++, or the one CXX names)", "cuda": "Triton and a C compiler"}

Kernel = Callable[..., Any]
_compiled: dict[tuple[Any, ...], Kernel] = {}
_failed: dict[str, str] = {}  # a device's type: why it cannot compile


def count_classes(gate: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """K, int64, and S, float32, both [c, b, n]: see `kernels.count_classes`.

    Args:
        gate: activations [b, s, n], any float type.
        masks: which tokens count in each class, bool [c, b, s], on the same device.

    Raises:
        GatescopeError: if GATESCOPE_KERNEL is set to an unknown mode.
    """
    return _run(kernels.count_masked, kernels.count_classes, (gate,), masks, ())


def attribution(activation: Tensor, gradient: Tensor, real: Tensor, reduce: str, pad_zero: bool = False) -> Tensor:
    """Activation x gradient reduced over real tokens, float32 [b, n]: see `kernels.attribution`.

    Args:
        activation, gradient: [b, s, n], any float type.
        real: which tokens are not padding, bool [b, s], on the same device.
        reduce: "max", "mean" or "sum".
        pad_zero: let padding count as 0 in the max.

    Raises:
        GatescopeError: if GATESCOPE_KERNEL is set to an unknown mode.
    """
    return _run(kernels.attribution_masked, kernels.attribution, (activation, gradient), real, (reduce, pad_zero))


def name(device: str | torch.device = "cpu") -> str:
    """How large activations on a device are reduced, for a manifest: "compiled", or "eager" and why.

    Whether a compiler is there is known once a kernel has run: ask afterwards.
    """
    if mode() == "eager":
        return "eager: GATESCOPE_KERNEL"
    reason = _failed.get(torch.device(device).type)
    return "compiled" if reason is None else f"eager: {reason}"


def mode() -> str:
    """What GATESCOPE_KERNEL says.

    Raises:
        GatescopeError: if it is no mode.
    """
    return one_of("GATESCOPE_KERNEL", os.environ.get("GATESCOPE_KERNEL") or "auto", MODES)


def compiles(shape: tuple[int, ...], device: str | torch.device) -> bool:
    """Whether activations [b, s, n] of this shape are reduced by a compiled kernel.

    >>> compiles((8, 128, 1024), "cpu"), compiles((8, 1, 1024), "cpu")
    (True, False)
    """
    b, s, n = shape
    chosen = mode()
    if chosen == "eager" or torch.device(device).type in _failed or not b or s < 2 or n < 2:
        return False
    return chosen == "compiled" or b * s * n >= LARGE


def _run(masked: Kernel, eager: Kernel, tensors: tuple[Tensor, ...], mask: Tensor, options: tuple[Any, ...]) -> Any:
    """`eager` of the arguments, or `masked` of them compiled."""
    device = tensors[0].device.type
    if not compiles(tuple(tensors[0].shape), device):
        return eager(*tensors, mask, *options)
    try:
        with torch.no_grad():
            tidy = [_tidy(tensor) for tensor in tensors]
            return _kernel(masked, tidy, mask, options)(*tidy, mask.contiguous(), *options)
    except (torch.OutOfMemoryError, MemoryError):
        raise  # not the compiler's doing: a smaller batch may fit
    except Exception as error:
        _failed[device] = _reason(error)
        warnings.warn(
            f"No compiled kernels on {device}, which need {_NEEDS.get(device, 'a compiler')}: {_failed[device]}. Counting "
            "and attribution run in eager mode: the same results, more slowly. GATESCOPE_KERNEL=eager chooses that silently.",
            stacklevel=3,
        )
    return eager(*tensors, mask, *options)


def _tidy(tensor: Tensor) -> Tensor:
    """Detached and in a layout the compiled kernels know: the rows of a wider or equal tensor, one after the other."""
    tensor = tensor.detach()
    if len(tensor) == 1:
        tensor = tensor[0].unsqueeze(0)  # the stride of a batch of one is arbitrary; now it is as usual
    row = tensor.stride(1)
    regular = tensor.stride(2) == 1 and row >= tensor.shape[2] and tensor.stride(0) == row * tensor.shape[1]
    return tensor if regular else tensor.contiguous()


def _kernel(masked: Kernel, tensors: list[Tensor], mask: Tensor, options: tuple[Any, ...]) -> Kernel:
    layout = tuple((t.dtype, t.device, t.shape[2], t.stride(1)) for t in tensors)
    single = len(tensors[0]) == 1
    key = (masked.__name__, layout, single, mask.shape[:-2], options)
    if key not in _compiled:
        source = inspect.unwrap(masked)  # a type checker may have wrapped it
        # torch.compile keeps a limited number of kernels for one code object; each key gets a code object of its own.
        twin = types.FunctionType(source.__code__.replace(), source.__globals__, source.__name__)
        kernel = torch.compile(twin, fullgraph=True, dynamic=False, options=_options())
        b, s = (1 if single else _TYPICAL[0]), _TYPICAL[1]
        typical = [torch.zeros(b, s, row, dtype=d, device=where)[..., :n] for d, where, n, row in layout]
        mask = torch.ones(*mask.shape[:-2], b, s, dtype=torch.bool, device=mask.device)
        for tensor in (*typical, mask):
            axes = (0, 1) if tensor.ndim == 3 and tensor is not mask else (mask.ndim - 2, mask.ndim - 1)
            for axis in axes[single:]:
                torch._dynamo.mark_dynamic(tensor, axis)
        kernel(*typical, mask, *options)
        _compiled[key] = kernel
    return _compiled[key]


def _options() -> dict[str, Any]:
    """No choice by timing where it would change the order of a sum; newer versions of torch have a name for that."""
    return {"deterministic": True} if "deterministic" in torch._inductor.list_options() else {}


def _reason(error: BaseException) -> str:
    """What went wrong in one line: the root of the chain of errors that torch.compile makes of it."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
