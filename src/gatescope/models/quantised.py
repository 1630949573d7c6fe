"""How a model's weights are quantised, and what cannot be done with weights that are.

A packed weight is no matrix of numbers: nothing can be written into single rows or columns of it, and only some methods let
a gradient through.
"""

from __future__ import annotations

from typing import Any

import torch
from nnsight.modeling.quantization import QUANTIZATIONS, quantization
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from gatescope.core.errors import GatescopeError


def quantised(config: Any) -> str:
    """How the weights of a model with this config are quantised; empty if they are not.

    >>> from types import SimpleNamespace
    >>> quantised(SimpleNamespace(quantization_config={"quant_method": "gptq", "bits": 4}))
    'gptq 4-bit'
    """
    # A dict as read from a file, an object once a quantiser has prepared it.
    how: Any = getattr(config, "quantization_config", None)

    def said(name: str) -> Any:
        return how.get(name) if isinstance(how, dict) else getattr(how, name, None)

    method, bits, kind = said("quant_method"), said("bits"), said("quant_type")  # the last is torchao's, and says its bits
    if said("load_in_4bit"):
        bits, kind = 4, said("bnb_4bit_quant_type")
    elif said("load_in_8bit"):
        bits = 8
    words = [getattr(method, "value", method), bits and f"{bits}-bit"]
    if kind and not isinstance(kind, dict):
        words.append(kind if isinstance(kind, str) else type(kind).__name__)
    return " ".join(str(word) for word in words if word)


def options(given: Any, dtype: str | torch.dtype) -> dict[str, Any]:
    """How weights are to be held, as options of `from_pretrained`.

    Args:
        given: None, a name of nnsight's such as "nf4", a configuration of Transformers, or one as config.json has it.
        dtype: of what stays as it is, and of the computation; or a name of nnsight's, and nothing else is given.

    Raises:
        GatescopeError: if it is none of these, or both say how weights are quantised.
    """
    if given is None:
        return {"dtype": dtype}
    if quantization(dtype) is not None:
        raise GatescopeError(f"dtype={dtype!r} and quantization_config both say how weights are quantised; give one of them.")
    if isinstance(given, str) and quantization(given) is not None:
        # nnsight takes the name in the place of the dtype, and knows in which each format computes.
        return {"dtype": given} | ({} if dtype == "auto" else {"compute_dtype": dtype})
    return {"dtype": dtype, "quantization_config": _configuration(given)}


def _configuration(given: Any) -> Any:
    from transformers.quantizers.auto import AutoQuantizationConfig

    allowed = (
        f"it must be a name of nnsight's ({', '.join(QUANTIZATIONS)}), or a configuration of Transformers such as "
        f"BitsAndBytesConfig(load_in_4bit=True)"
    )
    if isinstance(given, dict):
        try:
            return AutoQuantizationConfig.from_dict(dict(given))
        except Exception as error:  # of whatever kind: each method checks its own fields
            raise GatescopeError(f"quantization_config is {given}; {allowed}. ({error})") from error
    if not hasattr(given, "quant_method"):
        raise GatescopeError(f"quantization_config is {given!r}; {allowed}.")
    return given


def is_packed(weight: Tensor) -> bool:
    """Whether a weight is held in fewer bits than are computed with, by a dtype or by a class of torchao's."""
    return not weight.is_floating_point() or weight.element_size() < 2 or is_traceable_wrapper_subclass(weight)


def refuse_gradients(module: nn.Module, what: str) -> None:
    """Refuse what needs gradients of a model whose method of quantisation lets none through.

    Raises:
        GatescopeError: naming the method.
    """
    quantiser: Any = getattr(module, "hf_quantizer", None)
    # Transformers' word for it: where gradients go through, an adapter can be trained on top.
    if quantiser is not None and not quantiser.is_trainable:
        raise GatescopeError(
            f"{what} needs gradients, and the {type(module).__name__} is quantised ({quantised(module.config)}), which lets "
            f"none through. Load it without quantisation, or with quantization_config='nf4'; counting and masks work as it is."
        )
