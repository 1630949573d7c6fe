"""Which model an artefact belongs to: recorded when it is made, checked when it is used with a model."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn

if TYPE_CHECKING:  # importing the class costs seconds
    from transformers import PreTrainedModel


def module_of(model: Any) -> PreTrainedModel:
    """The plain Hugging Face module of an nnsight model; a plain module itself."""
    return getattr(model, "_module", model)


def identity(model: Any) -> dict[str, str]:
    """What identifies a model: artefacts record it, and are refused by every other model.

    Args:
        model: from `load_model`, or a plain Hugging Face module.

    Returns:
        id, revision, class, dtype, and a digest of the weights: SHA-256 over every parameter's name, shape and a
        few hundred evenly spaced values rounded to bfloat16 (so that it does not depend on the dtype loaded). A
        model without weights has an empty digest.
    """
    module = module_of(model)
    parameters = sorted(module.named_parameters())
    written = sum(parameter._version for _, parameter in parameters)  # grows with every in-place write
    # An intervention in the weights may touch none of the values that are read, so its mark is part of the digest.
    mark: str = getattr(module.config, "gatescope_baked", "")
    state = written, module.dtype, mark
    # Kept on the module: the digest takes a second on a large model, and every artefact asks for it.
    cached = module.__dict__.get("_gatescope_identity")
    if cached is not None and cached[0] == state:
        return dict(cached[1])
    result = {
        "id": str(getattr(module.config, "_name_or_path", "") or type(module).__name__),
        "revision": str(getattr(module.config, "_commit_hash", None) or ""),
        "class": type(module).__name__,
        "dtype": str(module.dtype).removeprefix("torch."),
        "digest": _digest(parameters, mark),
    }
    module.__dict__["_gatescope_identity"] = state, result
    return dict(result)


def _digest(parameters: Iterable[tuple[str, nn.Parameter]], mark: str) -> str:
    digest = hashlib.sha256(mark.encode())
    for name, parameter in parameters:
        if parameter.is_meta:
            return ""
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        flat = parameter.detach().flatten()
        values = flat[:: max(1, flat.numel() // 256)].to(torch.bfloat16).cpu()
        digest.update(values.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


@functools.cache
def versions() -> str:
    """Versions of the packages that decide a result, as JSON."""
    from importlib.metadata import version

    return json.dumps(
        {
            "gatescope": version("gatescope"),
            "nnsight": version("nnsight"),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
    )
