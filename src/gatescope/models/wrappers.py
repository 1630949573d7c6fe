"""What a model may come wrapped in (nnsight, PEFT, torch.compile), and the model inside.

A trace needs the plain module: what torch.compile makes of it has no places to read, and an adapter's layers stand where
a projection is looked for. What has to be changed is changed in a copy, with a warning; the rest is refused with a message.
"""

from __future__ import annotations

import copy
import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nnsight
import transformers  # its classes are imported when they are first named
from nnsight.intervention.envoy import Envoy
from torch import nn

from gatescope.core.errors import GatescopeError
from gatescope.models.identity import module_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER = "adapter_config.json"
MERGED = "peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()"


def unwrapped(model: Any) -> str | PreTrainedModel | nnsight.TransformersModel:
    """A name or directory, a plain model, or an nnsight model, out of what was given.

    Raises:
        GatescopeError: for anything else, saying what to give in its place.

    Warns:
        UserWarning: if what comes out is not quite what was given: a merged copy, a model that is not compiled.
    """
    if isinstance(model, str | Path):
        return str(model)
    if isinstance(model, nnsight.TransformersModel):
        _no_adapter(module_of(model))
        return model
    if isinstance(model, Envoy):  # nnsight.NNsight, round a model of Transformers
        return unwrapped(module_of(model))
    if isinstance(model, nn.Module) and "_orig_mod" in model._modules:
        warnings.warn(
            f"The {type(model._modules['_orig_mod']).__name__} was compiled (torch.compile), which leaves nothing to read in a "
            f"trace; the model inside is used, as it is without compilation.",
            stacklevel=3,
        )
        return unwrapped(model._modules["_orig_mod"])
    if _is_peft(model):
        return _merged(model)
    if isinstance(model, transformers.PreTrainedModel):
        _no_adapter(model)
        return model
    raise GatescopeError(
        f"load_model takes a hub id, a directory, or a model of Transformers, PEFT or nnsight; a {_what(model)} was given."
        + _instead(model)
    )


def _what(given: Any) -> str:
    return f"class, {given.__name__}," if isinstance(given, type) else type(given).__name__


def _instead(given: Any) -> str:
    if isinstance(given, transformers.Pipeline):
        return " Give the pipeline's .model, and its .tokenizer as tokenizer=."
    if isinstance(given, nn.Module) and "module" in given._modules:
        return " Give the model inside it, its .module."
    return ""


def _is_peft(model: Any) -> bool:
    peft = sys.modules.get("peft")  # who has such a model has imported it
    return peft is not None and isinstance(model, peft.PeftModel)


def _merged(model: Any) -> PreTrainedModel:
    """A copy of a PeftModel's base with its active adapter in the weights; the model given stays as it is."""
    kind = getattr(model.active_peft_config.peft_type, "value", model.active_peft_config.peft_type)
    if model.active_peft_config.is_prompt_learning:
        raise GatescopeError(
            f"The PeftModel has an adapter of the kind {kind}, which puts vectors before the prompt and cannot be merged into "
            f"weights; gatescope cannot trace it. Give the base model (model.get_base_model()), or an adapter such as LoRA."
        )
    try:
        base = copy.deepcopy(model).merge_and_unload()
    except (AttributeError, NotImplementedError, ValueError, RuntimeError) as error:
        raise GatescopeError(
            f"The adapter of the PeftModel ({kind}) cannot be merged into a copy of its weights: {error}. Merge it yourself "
            f"(model.merge_and_unload()) and give what comes out."
        ) from error
    warnings.warn(
        f"A PeftModel was given: its adapter ({kind}) is merged into a copy of the weights, and the copy is used; the model "
        f"given stays as it is. To save the memory, give model.merge_and_unload().",
        stacklevel=4,
    )
    return base


def _no_adapter(module: nn.Module) -> None:
    """Refuse a plain model with an adapter's layers in it: where a projection is looked for there is none."""
    if "peft" not in sys.modules:
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    where = next((name for name, child in module.named_modules() if isinstance(child, BaseTunerLayer)), None)
    if where is not None:
        raise GatescopeError(
            f"The {type(module).__name__} has layers of a PEFT adapter in it ({where}), and neurons cannot be found among "
            f"them. Merge the adapter first and give what comes out: {MERGED}."
        )


def adapter_message(named: str, file: Path) -> str:
    """The message for a PEFT adapter that was given by name, as a model.

    Args:
        named: what was given.
        file: its adapter_config.json.
    """
    try:
        base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError, RecursionError):
        base = None
    base_name = repr(base) if base else "its base model"
    return (
        f"{named} is a PEFT adapter of {base_name} and no model by itself: it has {ADAPTER} and no config.json. Load both and "
        f"give the model, with its tokenizer: "
        f"peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base_name}), {named!r})."
    )
