"""Load a model as an nnsight TransformersModel with its processor, ready to trace.

The preprocessor is loaded here and handed to nnsight, which cannot find it by itself under transformers 5. Batches are
padded on the left: every model gatescope supports generates from its last position.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nnsight
import torch
from nnsight.modeling.quantization import QUANTIZATIONS, quantization
from transformers import AutoConfig, AutoProcessor, AutoTokenizer, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.utils.peft_utils import find_adapter_config_file

from gatescope.core.errors import GatescopeError
from gatescope.models.wrappers import ADAPTER, said_of_adapter, unwrapped


def load_model(
    model: Any,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device_map: str | dict | None = None,
    tokenizer=None,
    processor=None,
) -> nnsight.TransformersModel:
    """Load a language or vision-language model.

    Args:
        model: a hub id, a local directory, or a model in memory: one of Transformers (then `tokenizer`, and `processor` for
            a vision-language model, must come with it), an nnsight TransformersModel, which is used as it is, a compiled
            one, which is used without compilation, or a PeftModel, of which a merged copy is used.
        revision: of a hub id.
        dtype: of the weights; "auto" takes the checkpoint's. A name of torch's, or one of nnsight's for quantised weights,
            such as "nf4".
        device_map: as in transformers; "auto" spreads the model over the devices there are.
        tokenizer, processor: used instead of the model's own.

    Returns:
        An nnsight TransformersModel, in eval mode, weights frozen, with `.tokenizer` and, for a vision-language
        model, `.processor`.

    Raises:
        GatescopeError: if there is no such model, it is neither a causal language model nor an image-text-to-text model,
            it cannot be loaded (a package that reads its weights is missing, there is no such dtype), or, in memory, it has
            no tokenizer, or a prompt-learning adapter.

    Warns:
        UserWarning: if a PeftModel was merged, or a compiled model is used without compilation.
    """
    dtype = _dtype(dtype)
    source = unwrapped(model)
    if not isinstance(source, str):
        _check_in_memory(source, revision, dtype, device_map)
    traced: Any = source if isinstance(source, nnsight.TransformersModel) else None
    config = _config(source, revision) if isinstance(source, str) else _module(source).config
    has_images = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    task = "image-text-to-text" if has_images else "text-generation"
    if traced is not None:
        tokenizer, processor = tokenizer or traced.tokenizer, processor or traced.processor
    tokenizer, processor = _preprocessors(source, has_images, tokenizer, processor, revision)
    if traced is not None and traced.task == task:
        loaded: Any = traced
    else:
        loading: dict[str, Any] = {"tokenizer": tokenizer} | ({"processor": processor} if has_images else {})
        if isinstance(source, str):
            loading |= {"revision": revision} if revision else {}
            loading |= {"dtype": dtype} | ({"device_map": device_map} if device_map else {})
        loaded = _loaded(source if isinstance(source, str) else _module(source), task, config, loading)
    # nnsight takes these over from its pipeline, which may not carry the objects given.
    loaded.tokenizer, loaded.processor = tokenizer, processor if has_images else None
    for part in (tokenizer, getattr(processor, "tokenizer", None)):
        if part is not None:
            _pads_left(part)
    loaded._module.eval().requires_grad_(False)
    return loaded


def _module(model: Any) -> PreTrainedModel:
    return getattr(model, "_module", model)


def _dtype(given: str | torch.dtype) -> str | torch.dtype:
    """A dtype by name; "auto", and nnsight's names for quantised weights, stay names.

    Raises:
        GatescopeError: if there is none of that name, or nothing can be computed in it.
    """
    if given == "auto" or quantization(given) is not None:
        return given
    found = given if isinstance(given, torch.dtype) else getattr(torch, str(given).removeprefix("torch."), None)
    if isinstance(found, torch.dtype) and found.is_floating_point and found.itemsize >= 2:
        return found
    raise GatescopeError(
        f"dtype is {str(given)!r}; it must be 'auto' (the checkpoint's), 'float32', 'bfloat16', 'float16' or 'float64', or a "
        f"quantised format of nnsight's ({', '.join(QUANTIZATIONS)})."
    )


def _check_in_memory(model: Any, revision: str | None, dtype: str | torch.dtype, device_map: Any) -> None:
    """Refuse a model that does not write text, or has no weights, and what only loading can do."""
    module = _module(model)
    both = getattr(module.config, "is_encoder_decoder", False)
    if type(module.config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and (both or not module.can_generate()):
        why = "an encoder with a decoder" if both else "no language model head to answer with"
        raise GatescopeError(
            f"The {type(module).__name__} is of another kind ({why}): gatescope takes causal language models "
            f"(AutoModelForCausalLM) and vision-language models (AutoModelForImageTextToText)."
        )
    asked = {"revision": revision, "device_map": device_map, "dtype": None if dtype in ("auto", module.dtype) else dtype}
    if told := [f"{name}={value!r}" for name, value in asked.items() if value is not None]:
        raise GatescopeError(
            f"The {type(module).__name__} is in memory already ({str(module.dtype).removeprefix('torch.')}), where "
            f"{', '.join(told)} would change nothing. Leave it out, or give the directory or hub id in place of the model."
        )
    if all(parameter.is_meta for parameter in module.parameters()):
        raise GatescopeError(
            f"The {type(module).__name__} has no weights (they are on the device 'meta'). Load it with dispatch=True, or give "
            f"its directory or hub id; for work on a server, gatescope.remote.load_client makes a model without weights."
        )


def _preprocessors(source: Any, has_images: bool, tokenizer, processor, revision: str | None) -> tuple[Any, Any]:
    """The tokenizer and, for a vision-language model, the processor: those given, or the checkpoint's own.

    Raises:
        GatescopeError: if they cannot be had.
    """
    what, auto = ("processor", AutoProcessor) if has_images else ("tokenizer", AutoTokenizer)
    if tokenizer is not None and not hasattr(tokenizer, "padding_side"):
        raise GatescopeError(
            f"tokenizer is a {type(tokenizer).__name__}; it must be a tokenizer of Transformers, such as "
            f"AutoTokenizer.from_pretrained(...)."
        )
    if (processor if has_images else tokenizer) is None:
        if not isinstance(source, str):
            raise GatescopeError(
                f"The {type(_module(source)).__name__} was given without its {what}, and a model in memory does not have one. "
                f"Give {what}={auto.__name__}.from_pretrained(...) with it."
            )
        try:
            own = auto.from_pretrained(source, **({"revision": revision} if revision else {}))
        except (OSError, ValueError, TypeError, ImportError) as error:
            raise GatescopeError(
                f"The {what} of {source} cannot be loaded: {error}. If it lies elsewhere, give it as {what}=."
            ) from error
        processor, tokenizer = (own, tokenizer) if has_images else (processor, own)
    return (tokenizer or processor.tokenizer, processor) if has_images else (tokenizer, processor)


def _loaded(source: str | PreTrainedModel, task: str, config: Any, loading: dict[str, Any]) -> nnsight.TransformersModel:
    try:
        return nnsight.TransformersModel(source, task=task, dispatch=True, **loading)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        named = source if isinstance(source, str) else type(source).__name__
        asked = loading.get("dtype")
        how = f"dtype={asked!r}" if quantization(asked) is not None else _quantised(config)
        if how and isinstance(error, ImportError):
            raise GatescopeError(
                f"The weights of {named} are to be read quantised ({how}), and a package for that is missing: {error}"
            ) from error
        raise GatescopeError(
            f"The weights of {named} cannot be loaded{f' (quantised: {how})' if how else ''}: {_cause(error)}"
        ) from error


def _cause(error: BaseException) -> str:
    """What went wrong; of a message that holds other errors' tracebacks, as a pipeline's does, the last line."""
    text = str(error).strip()
    return text.splitlines()[-1] if "Traceback (most recent call last)" in text else text


def _quantised(config: Any) -> str:
    """How a checkpoint's weights are quantised; empty if they are not."""
    how = getattr(config, "quantization_config", None) or {}
    method = how.get("quant_method") if isinstance(how, dict) else getattr(how, "quant_method", None)
    return str(getattr(method, "value", method) or "")


def _pads_left(tokenizer: Any) -> None:
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise GatescopeError(
            "The tokenizer has neither a pad nor an eos token, and a batch is padded. Set one: tokenizer.pad_token = ..., and "
            "give it as tokenizer=."
        )


def _config(model: str, revision: str | None):
    path = Path(model)
    local = path.exists() or model.startswith((".", "/", "~"))
    if local and not (path / "config.json").is_file():
        if (path / ADAPTER).is_file():
            raise GatescopeError(said_of_adapter(model, path / ADAPTER))
        there = "there is no such directory" if not path.is_dir() else "it has no config.json"
        raise GatescopeError(f"No model at {model!r}: {there}. Give a directory written by save_pretrained, or a hub id.")
    try:
        return AutoConfig.from_pretrained(model, **({"revision": revision} if revision else {}))
    except (OSError, ValueError, ImportError) as error:
        first = str(error).splitlines()[0]
        if local:
            raise GatescopeError(f"The config.json of {model} cannot be read: {first}") from error
        no_config = "Unrecognized model" in first or "does not appear to have a file" in first  # the name itself is known
        if no_config and (file := find_adapter_config_file(model, revision=revision)):
            raise GatescopeError(said_of_adapter(model, Path(file))) from error
        raise GatescopeError(
            f"No model {model!r}: it is not a local directory, and the hub did not give it "
            f"({first}). Check the name, the network and your access, or give a local directory."
        ) from error
