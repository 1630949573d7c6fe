"""Load a model as an nnsight TransformersModel with its processor, ready to trace.

The preprocessor is loaded here and handed to nnsight, which cannot find it by itself under transformers 5. Batches are
padded on the left: every model gatescope supports generates from its last position.
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path

import nnsight
import torch
import transformers
from transformers import AutoConfig, AutoProcessor, AutoTokenizer, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from gatescope.errors import GatescopeError


def load_model(
    model: str | Path | PreTrainedModel,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device_map: str | dict | None = None,
    tokenizer=None,
    processor=None,
) -> nnsight.TransformersModel:
    """Load a language or vision-language model.

    Args:
        model: a hub id, a local directory, or a model already loaded (then `tokenizer`, and `processor` for a
            vision-language model, must come with it).
        revision: of a hub id.
        dtype: of the weights; "auto" takes the checkpoint's.
        device_map: as in transformers; "auto" spreads the model over the devices there are.
        tokenizer, processor: used instead of the model's own.

    Returns:
        An nnsight TransformersModel, in eval mode, weights frozen, with `.tokenizer` and, for a vision-language
        model, `.processor`.

    Raises:
        GatescopeError: if there is no such model, or it is neither a causal language model nor an
            image-text-to-text model.
    """
    if isinstance(model, PreTrainedModel):
        source, config = model, model.config
    else:
        source, config = str(model), _config(str(model), revision)
    has_images = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    loading = {"revision": revision} if revision else {}
    try:
        if has_images:
            processor = processor or AutoProcessor.from_pretrained(source, **loading)
            tokenizer = tokenizer or processor.tokenizer
        else:
            tokenizer = tokenizer or AutoTokenizer.from_pretrained(source, **loading)
    except (OSError, ValueError, TypeError) as error:
        what = "processor" if has_images else "tokenizer"
        raise GatescopeError(
            f"The {what} of {model if isinstance(source, str) else type(model).__name__} cannot be loaded: {error}"
        ) from error
    if not isinstance(model, PreTrainedModel):
        loading |= {"dtype": dtype} | ({"device_map": device_map} if device_map else {})
    preprocessors = {"tokenizer": tokenizer} | ({"processor": processor} if has_images else {})
    task = "image-text-to-text" if has_images else "text-generation"
    try:
        loaded = nnsight.TransformersModel(source, task=task, dispatch=True, **preprocessors, **loading)
    except (OSError, ValueError, KeyError) as error:
        raise GatescopeError(f"The weights of {source} cannot be loaded: {error}") from error
    # nnsight takes these over from its pipeline, which may not carry the objects given.
    loaded.tokenizer, loaded.processor = tokenizer, processor if has_images else None
    for part in (tokenizer, getattr(processor, "tokenizer", None)):
        if part is not None:
            part.padding_side = "left"
            if part.pad_token is None:
                part.pad_token = part.eos_token
    loaded._module.eval().requires_grad_(False)
    return loaded


def _config(model: str, revision: str | None):
    path = Path(model)
    if (path.exists() or model.startswith((".", "/", "~"))) and not (path / "config.json").is_file():
        there = "there is no such directory" if not path.is_dir() else "it has no config.json"
        raise GatescopeError(f"No model at {model!r}: {there}. Give a directory written by save_pretrained, or a hub id.")
    try:
        return AutoConfig.from_pretrained(model, **({"revision": revision} if revision else {}))
    except (OSError, ValueError) as error:
        raise GatescopeError(
            f"No model {model!r}: it is not a local directory, and the hub did not give it "
            f"({str(error).splitlines()[0]}). Check the name, the network and your access, or give a local directory."
        ) from error


def identity(model) -> dict[str, str]:
    """What a model is, for artefacts to say where they came from and to be refused elsewhere.

    Returns:
        id, revision, class, dtype, and a digest of the weights: SHA-256 over every parameter's name, shape and a
        few hundred evenly spaced values rounded to bfloat16 (so that it does not depend on the dtype loaded). A
        model without weights has an empty digest.
    """
    module = getattr(model, "_module", model)
    parameters = sorted(module.named_parameters())
    written = sum(parameter._version for _, parameter in parameters)  # grows with every in-place write
    cached = module.__dict__.get("_gatescope_identity")
    mark = getattr(module.config, "gatescope_baked", "")  # an intervention in the weights may touch none of the values read
    if cached is not None and cached[0] == (written, module.dtype, mark):
        return dict(cached[1])
    digest = hashlib.sha256(mark.encode())
    for name, parameter in parameters:
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        if not parameter.is_meta:
            flat = parameter.detach().flatten()
            values = flat[:: max(1, flat.numel() // 256)].to(torch.bfloat16).cpu()
            digest.update(values.view(torch.int16).numpy().tobytes())
    found = {
        "id": str(getattr(module.config, "_name_or_path", "") or type(module).__name__),
        "revision": str(getattr(module.config, "_commit_hash", None) or ""),
        "class": type(module).__name__,
        "dtype": str(module.dtype).removeprefix("torch."),
        "digest": "" if any(parameter.is_meta for _, parameter in parameters) else digest.hexdigest(),
    }
    module.__dict__["_gatescope_identity"] = (written, module.dtype, mark), found
    return dict(found)


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
