"""Which model an artefact belongs to: recorded when it is made, checked when it is used with a model."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from gatescope.models.quantised import quantised

if TYPE_CHECKING:  # importing the class costs seconds
    from transformers import PreTrainedModel

RUNS, RUN = 16, 256  # of signs: how many, and how long each is


def module_of(model: Any) -> PreTrainedModel:
    """The plain Hugging Face module of an nnsight model; a plain module itself."""
    return getattr(model, "_module", model)


def identity(model: Any) -> dict[str, str]:
    """What identifies a model: artefacts record it, and are refused by every other model.

    Args:
        model: from `load_model`, or a plain Hugging Face module.

    Returns:
        id, revision, class, dtype, and a digest of the weights: SHA-256 over every parameter's name, shape and a
        few hundred evenly spaced values rounded to bfloat16, so that it is the same for a checkpoint loaded in float32,
        float64 or bfloat16. Loaded in float16, weights below 6e-5 or above 65504 are others; what no rounding changes is
        a weight's sign, so there is a digest of `signs` too. A model without weights has empty digests. Of a quantised
        model also how it is `quantised`, and a digest of what is `packed` beside its parameters; of one loaded with
        `trust_remote_code` that it may run `code` of its own.
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
        "digest": _digest(parameters, mark, _rounded),
        "signs": _digest(parameters, mark, _signs),
        **_packed(module, {name for name, _ in parameters}),
        **({"code": "the checkpoint's own (trust_remote_code)"} if runs_its_code(module) else {}),
    }
    module.__dict__["_gatescope_identity"] = state, result
    return dict(result)


def runs_its_code(module: nn.Module) -> bool:
    """Whether a model may run code that came with its checkpoint."""
    return "_gatescope_trusted" in module.__dict__ or type(module).__module__.startswith("transformers_modules")


def trusted(module: nn.Module) -> None:
    """Remember that a model was loaded with `trust_remote_code`, which also covers its config and its tokenizer."""
    module.__dict__["_gatescope_trusted"] = True


def _packed(module: PreTrainedModel, parameters: Collection[str]) -> dict[str, str]:
    """Of a quantised model how it is quantised, and a digest of what the method keeps beside the parameters, such as scales;
    some keep whole weights there.
    """
    if not (how := quantised(module.config)):
        return {}
    beside = sorted((name, held) for name, held in module.state_dict().items() if name not in parameters)
    tensors = ((name, held) for name, held in beside if isinstance(held, Tensor))
    return {"quantised": how, "packed": _digest(tensors, "", _rounded)}


def _digest(parameters: Iterable[tuple[str, Tensor]], mark: str, values: Callable[[Tensor], bytes]) -> str:
    digest = hashlib.sha256(mark.encode())
    for name, parameter in parameters:
        if parameter.is_meta:
            return ""
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        for tensor in _plain(parameter):
            digest.update(values(tensor.detach().flatten()))
    return digest.hexdigest()


def _plain(tensor: Tensor) -> Iterator[Tensor]:
    """The tensors that a tensor consists of: itself, or those that torchao's are made of."""
    # A DTensor, of which this process has a part; naming its class would take seconds to import.
    if (whole := getattr(tensor, "full_tensor", None)) is not None:
        yield whole()
    elif is_traceable_wrapper_subclass(tensor):
        names, _ = tensor.__tensor_flatten__()
        for name in names:
            yield from _plain(getattr(tensor, name))
    else:
        yield tensor


def _rounded(flat: Tensor) -> bytes:
    """A few hundred evenly spaced values, in bfloat16."""
    values = flat[:: max(1, flat.numel() // 256)].to(torch.bfloat16).cpu()
    return values.view(torch.int16).numpy().tobytes()


def _signs(flat: Tensor) -> bytes:
    """The signs of a few thousand values: more than of the others, for a sign says less. A zero has one too, which a weight
    that is rounded to zero keeps.
    """
    # Evenly spaced runs, not values: of weights that are still on disk few pages are read.
    if flat.numel() > RUNS * RUN:
        step = flat.numel() // RUNS
        flat = flat[: step * RUNS].view(RUNS, step)[:, :RUN]
    # In float32, which has them all: not every dtype can be asked.
    return np.packbits(torch.signbit(flat.float()).cpu().numpy()).tobytes()


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
