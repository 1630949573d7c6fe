"""How a model is to be loaded: what a user may ask for, checked, as Transformers and nnsight take it."""

from __future__ import annotations

from typing import Any

import torch
from nnsight.modeling.quantization import QUANTIZATIONS, quantization

from gatescope.core.environment import number
from gatescope.core.errors import GatescopeError
from gatescope.models.quantised import options as quantised_options


def pinned(revision: str | None) -> dict[str, str]:
    """The revision as an option of `from_pretrained`, if there is one: not every class takes None."""
    return {"revision": revision} if revision else {}


def dtype_of(given: str | torch.dtype) -> str | torch.dtype:
    """A dtype by name; "auto", and nnsight's names for quantised weights, stay names.

    Raises:
        GatescopeError: if there is none of that name, or nothing can be computed in it.
    """
    if given == "auto" or quantization(given) is not None:
        return given
    resolved = given if isinstance(given, torch.dtype) else getattr(torch, str(given).removeprefix("torch."), None)
    # At least two bytes: torch stores float8, but has few operations on it.
    if isinstance(resolved, torch.dtype) and resolved.is_floating_point and resolved.itemsize >= 2:
        return resolved
    raise GatescopeError(
        f"dtype is {str(given)!r}; it must be 'auto' (the checkpoint's), 'float32', 'bfloat16', 'float16' or 'float64', or a "
        f"quantised format of nnsight's ({', '.join(QUANTIZATIONS)})."
    )


def weights_options(
    dtype: str | torch.dtype, device_map: Any, quantization_config: Any, attn_implementation: Any, tp_plan: Any
) -> dict[str, Any]:
    """What was asked of the weights, as `from_pretrained` takes it.

    Raises:
        GatescopeError: if something has a value that does not exist.
    """
    _check_attention(attn_implementation)
    options = {"device_map": device_map, "attn_implementation": attn_implementation}
    return options | quantised_options(quantization_config, dtype) | _split(tp_plan, device_map)


def _check_attention(given: Any) -> None:
    if given is None or (isinstance(given, str) and "/" in given):  # a kernel on the hub
        return
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    known = ("eager", *ALL_ATTENTION_FUNCTIONS.valid_keys())
    if given not in known:
        raise GatescopeError(f"attn_implementation is {given!r}; it must be one of {', '.join(known)}, or a kernel on the hub.")


def _split(tp_plan: Any, device_map: Any) -> dict[str, Any]:
    """Tensor parallelism as an option of `from_pretrained`."""
    if tp_plan is None:
        return {}
    if number("WORLD_SIZE", 1) < 2:
        raise GatescopeError(
            f"tp_plan={tp_plan!r} splits every layer over several processes, and this is the only one. Start them with "
            f"torchrun --nproc-per-node N, or spread the layers over the devices of this one with device_map='auto'."
        )
    if device_map is not None:
        raise GatescopeError(f"tp_plan={tp_plan!r} and device_map={device_map!r} both say where the weights are; give one.")
    from transformers.distributed.configuration_utils import DistributedConfig

    return {"distributed_config": DistributedConfig(tp_plan=tp_plan)}
