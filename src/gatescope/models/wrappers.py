"""What a model may come wrapped in (nnsight, PEFT, torch.compile), and the model inside.

A trace needs the plain module: what torch.compile makes of it has no places to read, and an adapter's layers stand where
a projection is looked for. What has to be changed is changed in a copy, with a warning; the rest is refused with a message.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nnsight
import transformers  # its classes are imported when they are first named
from nnsight.intervention.envoy import Envoy
from torch import nn

from gatescope.core.errors import GatescopeError
from gatescope.models.adapters import is_peft, merged, refuse_layers
from gatescope.models.identity import module_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
        refuse_layers(module_of(model))
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
    if is_peft(model):
        return merged(model)
    if isinstance(model, transformers.PreTrainedModel):
        refuse_layers(model)
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
