"""Load a model as an nnsight TransformersModel with its processor, ready to trace.

The preprocessor is loaded here and handed to nnsight, which cannot find it by itself under transformers 5. Batches are
padded on the left: every model gatescope supports generates from its last position.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nnsight
import torch
import transformers  # its classes are imported when they are first named, PreTrainedModel for seconds
from nnsight.modeling.quantization import QUANTIZATIONS, quantization

from gatescope.core.errors import GatescopeError
from gatescope.models.identity import module_of
from gatescope.models.reported import listening, mismatched, missing
from gatescope.models.wrappers import ADAPTER, adapter_message, unwrapped

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IMAGES = "image-text-to-text"
_LONGEST = 400  # characters of another library's message


def load_model(
    model: Any,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device_map: str | dict[str, Any] | None = None,
    tokenizer: Any = None,
    processor: Any = None,
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
    if isinstance(source, str):
        config = _config(source, revision)
    else:
        _check_in_memory(module_of(source), revision, dtype, device_map)
        config = module_of(source).config
    task = task_of(config)
    traced: Any = source if isinstance(source, nnsight.TransformersModel) else None
    if traced is not None:
        tokenizer, processor = tokenizer or traced.tokenizer, processor or traced.processor
    tokenizer, processor = _preprocessors(source, task, tokenizer, processor, revision)
    # Another task is another pipeline, with another preprocessor: it is traced anew.
    if traced is None or traced.task != task:
        options: dict[str, Any] = {"tokenizer": tokenizer, "processor": processor}
        if isinstance(source, str):
            options.update(dtype=dtype, device_map=device_map, **pinned(revision))
        traced = _load(source, task, config, {name: value for name, value in options.items() if value is not None})
    # nnsight takes these over from its pipeline, which may not carry the objects given.
    traced.tokenizer, traced.processor = tokenizer, processor
    pad_left(tokenizer)
    if (own := getattr(processor, "tokenizer", None)) is not None:  # may be another object than the one given
        pad_left(own)
    module_of(traced).eval().requires_grad_(False)
    return traced


def task_of(config: Any) -> str:
    """The pipeline's task that a model of this config is for."""
    has_images = type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return IMAGES if has_images else "text-generation"


def _dtype(given: str | torch.dtype) -> str | torch.dtype:
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


def _check_in_memory(
    module: PreTrainedModel, revision: str | None, dtype: str | torch.dtype, device_map: str | dict[str, Any] | None
) -> None:
    """Refuse a model that does not write text, or has no weights, and what only loading can do."""
    _check_writes_text(module)
    other_dtype = None if dtype in ("auto", module.dtype) else dtype
    options = {"revision": revision, "device_map": device_map, "dtype": other_dtype}
    given = [f"{name}={value!r}" for name, value in options.items() if value is not None]
    if given:
        raise GatescopeError(
            f"The {type(module).__name__} is in memory already ({str(module.dtype).removeprefix('torch.')}), where "
            f"{', '.join(given)} would change nothing. Leave it out, or give the directory or hub id in place of the model."
        )
    if all(parameter.is_meta for parameter in module.parameters()):
        raise GatescopeError(
            f"The {type(module).__name__} has no weights (they are on the device 'meta'). Load it with dispatch=True, or give "
            f"its directory or hub id; for work on a server, gatescope.remote.load_client makes a model without weights."
        )


def _check_writes_text(module: PreTrainedModel) -> None:
    is_encoder_decoder = getattr(module.config, "is_encoder_decoder", False)
    if task_of(module.config) != IMAGES and (is_encoder_decoder or not module.can_generate()):
        why = "an encoder with a decoder" if is_encoder_decoder else "no language model head to answer with"
        raise GatescopeError(
            f"The {type(module).__name__} is not supported ({why}): gatescope takes causal language models "
            f"(AutoModelForCausalLM) and vision-language models (AutoModelForImageTextToText)."
        )


def _preprocessors(source: Any, task: str, tokenizer: Any, processor: Any, revision: str | None) -> tuple[Any, Any]:
    """The tokenizer and, for a vision-language model, the processor: those given, or the checkpoint's own.

    Raises:
        GatescopeError: if they cannot be loaded.
    """
    if tokenizer is not None and not hasattr(tokenizer, "padding_side"):
        raise GatescopeError(
            f"tokenizer is a {type(tokenizer).__name__}; it must be a tokenizer of Transformers, such as "
            f"AutoTokenizer.from_pretrained(...)."
        )
    if task != IMAGES:
        return tokenizer if tokenizer is not None else _own("tokenizer", source, revision), None
    processor = processor if processor is not None else _own("processor", source, revision)
    tokenizer = tokenizer or getattr(processor, "tokenizer", None)
    if tokenizer is None:
        raise GatescopeError(
            f"processor is a {type(processor).__name__}, which holds no tokenizer; give tokenizer= with it, or a processor of "
            f"Transformers that holds one (AutoProcessor.from_pretrained(...))."
        )
    return tokenizer, processor


def _own(what: str, source: Any, revision: str | None) -> Any:
    """The checkpoint's own tokenizer or processor."""
    auto: Any = {"tokenizer": transformers.AutoTokenizer, "processor": transformers.AutoProcessor}[what]
    if not isinstance(source, str):
        raise GatescopeError(
            f"The {type(module_of(source)).__name__} was given without its {what}, which a model in memory does not include. "
            f"Give {what}={auto.__name__}.from_pretrained(...) with it."
        )
    try:
        return auto.from_pretrained(source, **pinned(revision))
    except Exception as error:  # of whatever kind a file that is altered makes of it
        raise GatescopeError(
            f"The {what} of {source} cannot be loaded: {_cause(error).rstrip('.')}. If it lies elsewhere, give it as {what}=."
        ) from error


def pinned(revision: str | None) -> dict[str, str]:
    """The revision as an option of `from_pretrained`, if there is one: not every class takes None."""
    return {"revision": revision} if revision else {}


def _load(source: Any, task: str, config: Any, options: dict[str, Any]) -> nnsight.TransformersModel:
    """A model traced by nnsight: its weights read from a checkpoint, or those in memory."""
    in_memory = not isinstance(source, str)
    named = type(module_of(source)).__name__ if in_memory else source
    with listening() as reports:
        traced = _traced(module_of(source) if in_memory else source, named, task, config, options, reports)
    if names := missing(reports):
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise GatescopeError(
            f"The weights of {named} are incomplete: the checkpoint has no {names[0]}{more}, and random numbers would stand "
            f"there. Load a checkpoint that fits its config.json."
        )
    return traced


def _traced(
    source: Any, named: str, task: str, config: Any, options: dict[str, Any], reports: list[str]
) -> nnsight.TransformersModel:
    try:
        return nnsight.TransformersModel(source, task=task, dispatch=True, **options)
    except Exception as error:  # of whatever kind weights or a config that are altered make of it
        dtype = options.get("dtype")
        how = f"dtype={dtype!r}" if quantization(dtype) is not None else _quantised(config)
        if how and isinstance(error, ImportError):
            raise GatescopeError(
                f"The weights of {named} are quantised ({how}), and a package they need is missing: {error}"
            ) from error
        quantised = f" (quantised: {how})" if how else ""
        shapes = mismatched(reports)
        cause = f"{shapes[0]} ({len(shapes)} do not fit)" if shapes else _cause(error)
        raise GatescopeError(f"The weights of {named} cannot be loaded{quantised}: {cause}") from error


def _cause(error: BaseException) -> str:
    """What went wrong, in a line; of a message that holds other errors' tracebacks, as a pipeline's does, the last line."""
    text = str(error).strip()
    if "Traceback (most recent call last)" in text:
        return text.splitlines()[-1]
    line = " ".join(text.split())
    line = line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."
    # Others' messages may be a name alone, which says nothing without the kind of error.
    return line if isinstance(error, OSError | ValueError | RuntimeError | ImportError) else f"{type(error).__name__}: {line}"


def _quantised(config: Any) -> str:
    """How a checkpoint's weights are quantised; empty if they are not."""
    # A dict as read from a file, an object once a quantiser has prepared it.
    how: Any = getattr(config, "quantization_config", None) or {}
    method = how.get("quant_method") if isinstance(how, dict) else getattr(how, "quant_method", None)
    return str(getattr(method, "value", method) or "")


def pad_left(tokenizer: Any) -> None:
    """Let a tokenizer pad on the left, with the end of a text where it has no token for padding.

    Raises:
        GatescopeError: if it has neither.
    """
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise GatescopeError(
            "The tokenizer has neither a pad nor an eos token, and a batch is padded. Set one: tokenizer.pad_token = ..., and "
            "give it as tokenizer=."
        )


def _config(model: str, revision: str | None) -> Any:
    path = Path(model)
    is_local = os.path.exists(path) or model.startswith((".", "/", "~"))
    # A path is never looked up on the hub, whose message would be about repositories.
    if is_local:
        _check_directory(model, path)
    try:
        return transformers.AutoConfig.from_pretrained(model, **pinned(revision))
    except Exception as error:  # of whatever kind a config that is altered makes of it
        first = _cause(error)
        if isinstance(error, OSError) and error.filename and not Path(error.filename).is_relative_to(path):
            raise GatescopeError(
                f"{error.filename} cannot be used: {error.strerror}. It is a cache of torch or transformers: set "
                f"TORCHINDUCTOR_CACHE_DIR or HF_HOME to a directory that can be written to."
            ) from error
        if is_local:
            raise GatescopeError(f"The config.json of {model} cannot be read: {first}") from error
        _refuse_adapter(model, revision, first)
        raise GatescopeError(
            f"No model {model!r}: it is not a local directory, and it could not be downloaded "
            f"from the hub ({first}). Check the name, the network and your access, or give a local directory."
        ) from error


def _check_directory(model: str, path: Path) -> None:
    if os.path.isfile(path / "config.json"):  # unlike Path's, it takes names that are too long
        return
    if os.path.isfile(path / ADAPTER):
        raise GatescopeError(adapter_message(model, path / ADAPTER))
    problem = "it has no config.json" if os.path.isdir(path) else "there is no such directory"
    raise GatescopeError(f"No model at {model!r}: {problem}. Give a directory written by save_pretrained, or a hub id.")


def _refuse_adapter(model: str, revision: str | None, error: str) -> None:
    """Say that a name on the hub is an adapter's, if what went wrong means that the name itself is known there."""
    from transformers.utils.peft_utils import find_adapter_config_file

    if "Unrecognized model" not in error and "does not appear to have a file" not in error:
        return
    if file := find_adapter_config_file(model, revision=revision):
        raise GatescopeError(adapter_message(model, Path(file)))
