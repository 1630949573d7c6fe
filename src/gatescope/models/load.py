"""Load a model as an nnsight TransformersModel with its processor, ready to trace.

The preprocessor is loaded here and handed to nnsight, which cannot find it by itself under transformers 5. Batches are
padded on the left: every model gatescope supports generates from its last position.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import nnsight
import torch
import transformers  # its classes are imported when they are first named, PreTrainedModel for seconds
from nnsight.modeling.quantization import quantization

from gatescope.core.errors import GatescopeError
from gatescope.models import addresses  # noqa: F401 - neurons can be put in what is loaded
from gatescope.models.adapters import ADAPTER, base_of, has_file, on_base
from gatescope.models.identity import module_of, trusted
from gatescope.models.options import dtype_of, pinned, weights_options
from gatescope.models.preprocessors import IMAGES, pad_left, preprocessors
from gatescope.models.quantised import quantised
from gatescope.models.reported import cause, listening, mismatched, missing, refuse_untrusted, unconverted
from gatescope.models.wrappers import unwrapped

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_model(
    model: Any,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device_map: str | dict[str, Any] | None = None,
    quantization_config: Any = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    tp_plan: str | dict[str, str] | None = None,
    tokenizer: Any = None,
    processor: Any = None,
) -> nnsight.TransformersModel:
    """Load a language or vision-language model.

    Args:
        model: a hub id, a local directory, or a model in memory: one of Transformers (then `tokenizer`, and `processor` for
            a vision-language model, must come with it), an nnsight TransformersModel, which is used as it is, a compiled
            one, which is used without compilation, or a PeftModel, of which a merged copy is used. A hub id or a directory
            may be a PEFT adapter's: it is merged into its base model, which is loaded for it.
        revision: of a hub id.
        dtype: of the weights; "auto" takes the checkpoint's. A name of torch's, or one of nnsight's for quantised weights,
            such as "nf4".
        device_map: as in transformers; "auto" spreads the model over the devices there are.
        quantization_config: how weights are quantised while they are loaded: a configuration of Transformers, or such a name;
            `dtype` is then that of the computation.
        attn_implementation: as in transformers: "eager", "sdpa", "flash_attention_2", ...
        trust_remote_code: run the code that comes with the checkpoint, on this machine. Runs say so in their manifest.
        tp_plan: "auto" splits every layer over the processes that torchrun started.
        tokenizer, processor: used instead of the model's own.

    Returns:
        An nnsight TransformersModel, in eval mode, weights frozen, with `.tokenizer` and, for a vision-language
        model, `.processor`.

    Raises:
        GatescopeError: if there is no such model, it is neither a causal language model nor an image-text-to-text model,
            it cannot be loaded (a package that reads its weights is missing, an option has a value that does not exist, its
            code is not trusted), or, in memory, it has no tokenizer, or a prompt-learning adapter.

    Warns:
        UserWarning: if a PeftModel was merged, or a compiled model is used without compilation.
    """
    dtype = dtype_of(dtype)
    held = {
        "device_map": device_map,
        "quantization_config": quantization_config,
        "attn_implementation": attn_implementation,
        "tp_plan": tp_plan,
    }
    trust = {"trust_remote_code": True} if trust_remote_code else {}
    source = unwrapped(model)
    if not isinstance(source, str):
        _check_in_memory(module_of(source), {"revision": revision, "dtype": dtype, **held, **trust})
        return _finished(source, module_of(source).config, {}, {}, tokenizer, processor)
    config = _config(source, revision, trust_remote_code)
    if isinstance(config, Path):
        how = {"dtype": dtype, **held, **trust}
        return _adapted(source, config, revision, how, tokenizer, processor)
    # Said where it is False, too: left out, Transformers would ask on the terminal, and wait for an answer.
    where = {"trust_remote_code": trust_remote_code, **pinned(revision)}
    traced = _finished(source, config, weights_options(dtype, **held), where, tokenizer, processor)
    if trust_remote_code:
        trusted(module_of(traced))
    return traced


def _finished(
    source: Any, config: Any, options: dict[str, Any], where: dict[str, Any], tokenizer: Any, processor: Any
) -> nnsight.TransformersModel:
    """A model that is traced, from a checkpoint or from memory, with its preprocessors, ready to run.

    Args:
        source: the checkpoint's name; a plain model; or an nnsight model.
        config: its config.
        options: of `from_pretrained`, for its weights.
        where: the same, for its config and its preprocessors too.
        tokenizer, processor: as they were given.
    """
    task = task_of(config)
    traced: Any = source if isinstance(source, nnsight.TransformersModel) else None
    if traced is not None:
        tokenizer, processor = tokenizer or traced.tokenizer, processor or traced.processor
    tokenizer, processor = preprocessors(source, task, tokenizer, processor, where)
    # Another task is another pipeline, with another preprocessor: it is traced anew.
    if traced is None or traced.task != task:
        given = {"tokenizer": tokenizer, "processor": processor, **options, **where}
        traced = _load(source, task, config, {name: value for name, value in given.items() if value is not None})
    # nnsight takes these over from its pipeline, which may not carry the objects given.
    traced.tokenizer, traced.processor = tokenizer, processor
    pad_left(tokenizer)
    if (own := getattr(processor, "tokenizer", None)) is not None:  # may be another object than the one given
        pad_left(own)
    module_of(traced).eval().requires_grad_(False)
    return traced


def _adapted(
    name: str, file: Path, revision: str | None, how: dict[str, Any], tokenizer: Any, processor: Any
) -> nnsight.TransformersModel:
    """A PEFT adapter in the weights of its base.

    Args:
        name, revision: the adapter's.
        file: its adapter_config.json.
        how: options of `load_model`, for the base.
        tokenizer, processor: as they were given.
    """
    base, its_revision = base_of(name, file)
    words = None
    if tokenizer is None and has_file(name, "tokenizer_config.json", revision):
        where = {"trust_remote_code": how.get("trust_remote_code", False), **pinned(revision)}
        tokenizer, _ = preprocessors(name, "text-generation", None, None, where)
        words = len(tokenizer)
    try:
        whole = load_model(base, revision=its_revision, tokenizer=tokenizer, processor=processor, **how)
    except GatescopeError as error:
        raise GatescopeError(
            f"{name} is a PEFT adapter, and its base model cannot be loaded. {error} The base is named in its {ADAPTER} "
            f"(base_model_name_or_path)."
        ) from error
    module = on_base(module_of(whole), name, file, revision, words)
    # Traced anew: the tree has changed.
    return _finished(module, module.config, {}, {}, whole.tokenizer, whole.processor)


def task_of(config: Any) -> str:
    """The pipeline's task that a model of this config is for."""
    has_images = type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return IMAGES if has_images else "text-generation"


def _check_in_memory(module: PreTrainedModel, options: dict[str, Any]) -> None:
    """Refuse a model that does not write text, or has no weights, and what only loading can do."""
    _check_writes_text(module)
    there = {"dtype": ("auto", module.dtype), "attn_implementation": (module.config._attn_implementation,)}
    changing = {name: value for name, value in options.items() if value is not None and value not in there.get(name, ())}
    given = [f"{name}={value!r}" for name, value in changing.items()]
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
        refuse_untrusted(named, error)
        if "distributed_config" in options:
            raise GatescopeError(
                f"{named} cannot be split over processes (tp_plan) with nnsight {nnsight.__version__} and Transformers "
                f"{transformers.__version__}: {cause(error)}. Spread its layers over devices instead, with device_map='auto'."
            ) from error
        dtype = options.get("dtype")
        asked = f"dtype={dtype!r}" if quantization(dtype) is not None else ""
        how = asked or quantised(SimpleNamespace(**options)) or quantised(config)
        if how and isinstance(error, ImportError):
            raise GatescopeError(
                f"The weights of {named} are quantised ({how}), and a package they need is missing: {error}"
            ) from error
        note = f" (quantised: {how})" if how else ""
        shapes = mismatched(reports)
        why = f"{shapes[0]} ({len(shapes)} do not fit)" if shapes else next(iter(unconverted(reports)), cause(error))
        raise GatescopeError(f"The weights of {named} cannot be loaded{note}: {why}") from error


def _config(model: str, revision: str | None, trust_remote_code: bool) -> Any:
    """A checkpoint's config; of a PEFT adapter the path of its own.

    Raises:
        GatescopeError: if it cannot be read, there is none, or the checkpoint's code is needed and not trusted.
    """
    path = Path(model)
    is_local = os.path.exists(path) or model.startswith((".", "/", "~"))
    # A path is never looked up on the hub, whose message would be about repositories.
    if is_local and not os.path.isfile(path / "config.json"):  # unlike Path's, it takes names that are too long
        if os.path.isfile(path / ADAPTER):
            return path / ADAPTER
        problem = "it has no config.json" if os.path.isdir(path) else "there is no such directory"
        raise GatescopeError(f"No model at {model!r}: {problem}. Give a directory written by save_pretrained, or a hub id.")
    try:
        return transformers.AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code, **pinned(revision))
    except Exception as error:  # of whatever kind a config that is altered makes of it
        refuse_untrusted(model, error)
        first = cause(error)
        if isinstance(error, OSError) and error.filename and not Path(error.filename).is_relative_to(path):
            raise GatescopeError(
                f"{error.filename} cannot be used: {error.strerror}. It is a cache of torch or transformers: set "
                f"TORCHINDUCTOR_CACHE_DIR or HF_HOME to a directory that can be written to."
            ) from error
        if is_local:
            raise GatescopeError(f"The config.json of {model} cannot be read: {first}") from error
        if file := _adapter_there(model, revision, first):
            return file
        raise GatescopeError(
            f"No model {model!r}: it is not a local directory, and it could not be downloaded "
            f"from the hub ({first}). Check the name, the network and your access, or give a local directory."
        ) from error


def _adapter_there(model: str, revision: str | None, error: str) -> Path | None:
    """The configuration of an adapter on the hub, if what went wrong means that the name itself is known there."""
    from transformers.utils.peft_utils import find_adapter_config_file

    if "Unrecognized model" not in error and "does not appear to have a file" not in error:
        return None
    file = find_adapter_config_file(model, revision=revision)
    return Path(file) if file else None
