"""A picture's features, computed once and used by every mask.

The masks act on the language model, so the features of a picture, made before it, are the same under all of them. Models
of transformers take features that were made before (`mm_encoder_outputs`) in place of pixels, one picture after the
other, however their towers pack them. A model that takes none is given the pixels again with every mask's rows.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from nnsight import TransformersModel
from torch import Tensor
from transformers.utils.generic import ModelOutput

from gatescope.traces.encoding import Batch


@dataclass
class Pictures(ModelOutput):
    """Of all that an encoder gives, what the models read: the pictures' features, and those that go to deeper layers."""

    pooler_output: Any = None
    deepstack_features: list[Tensor] | None = None


# What an encoder may give beside them, which no model reads.
_UNREAD = {"last_hidden_state", "hidden_states", "attentions"}


def features(model: TransformersModel, batch: Batch) -> Pictures | None:
    """What a batch's pictures become, picture by picture; None where there are none, or the model takes no features.

    Also where the model is an edited copy: an edit may touch the picture encoder, which is run here outside a trace. And
    where the encoder gives what others' do not, as Ovis2's does: its model may read that too.
    """
    module = model._module
    taken = "mm_encoder_outputs" in inspect.signature(module.forward).parameters
    encode = getattr(module.base_model, "get_image_features", None)
    if "pixel_values" not in batch.inputs or not taken or encode is None or model._edits:
        return None
    # Encoders differ in what they need beside the pixels: sizes, grids, tiles.
    known = inspect.signature(encode).parameters
    with torch.no_grad():
        encoded = encode(**{name: tensor for name, tensor in batch.inputs.items() if name in known}, return_dict=True)
    made = {name: tensor for name, tensor in encoded.items() if name not in _UNREAD}
    if "pooler_output" not in made or made.keys() - {"pooler_output", "deepstack_features"}:
        return None
    return Pictures(**made)


def repeated(batch: Batch, times: int, pictures: Pictures | None = None) -> Batch:
    """The batch's rows, `times` over; with the features of its pictures, where they are known, instead of the pixels."""
    inputs = {
        name: _repeat(tensor, times) for name, tensor in batch.inputs.items() if pictures is None or name != "pixel_values"
    }
    if pictures is not None:
        inputs["mm_encoder_outputs"] = {"image": _tiled(pictures, times)}
    return Batch(batch.examples * times, inputs, _repeat(batch.token_mask, times))


def _tiled(pictures: Pictures, times: int) -> Pictures:
    """The pictures' features, `times` over; those that go to deeper layers come in a list, a layer each."""
    deeper = pictures.deepstack_features
    return Pictures(
        pooler_output=_repeat(pictures.pooler_output, times),
        deepstack_features=None if deeper is None else [_repeat(layer, times) for layer in deeper],
    )


def _repeat(rows: Any, times: int) -> Any:
    """Rows of a tensor, or tensors of a list, `times` over: the first axis counts rows, pictures, or their patches."""
    if isinstance(rows, Tensor):
        return rows.repeat(times, *[1] * (rows.ndim - 1)) if rows.ndim else rows
    return list(rows) * times
