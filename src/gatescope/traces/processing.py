"""What a model's processor makes of prompts and their pictures.

Processors differ in how they take pictures and in what they can put into one tensor.
"""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

import torch
from nnsight import TransformersModel
from PIL.Image import Image
from torch import Tensor

from gatescope.core.errors import GatescopeError

# What processors raise of what they cannot encode; Idefics 2's divides by the height of a picture that it has shrunk to 0.
_UNENCODABLE = (ValueError, TypeError, IndexError, RuntimeError, ArithmeticError)


def processed(
    model: TransformersModel, texts: list[str], images: list[list[Image]], options: dict[str, Any]
) -> dict[str, Tensor]:
    """What the processor makes of prompts and their pictures.

    Raises:
        GatescopeError: if it cannot encode them.
    """
    processor, count = model.processor, sum(map(bool, images))
    if inspect.signature(model._module.forward).parameters["pixel_values"].default is inspect.Parameter.empty:
        raise GatescopeError(
            f"{type(model._module).__name__} needs a picture with every question and puts it where no chat template says "
            f"(its forward pass has no default for pixel_values), and gatescope does not support such models. Use one that "
            f"answers questions without a picture too."
        )
    if 0 < count < len(texts) and "cross_attention_mask" in processor.model_input_names:
        raise GatescopeError(
            f"{type(model._module).__name__} takes questions with a picture or questions without, and {count} of these "
            f"{len(texts)} have one: its cross-attention layers run where there is a picture, and for whole batches. Ask those "
            f"with pictures and those without apart."
        )
    try:
        inputs = _tensors(processor, texts, images, options)
    except _UNENCODABLE as error:
        raise GatescopeError(
            f"{type(processor).__name__} cannot encode {len(texts)} questions, {count} of them with a picture: {error}"
        ) from error
    inputs.pop("labels", None)  # PaliGemma's: for training
    return inputs


def _tensors(processor: Any, texts: list[str], images: list[list[Image]], options: dict[str, Any]) -> dict[str, Tensor]:
    """A processor's encoding: of pictures by row, else of all in one list, as GOT-OCR2's takes them, else of tiles that it
    cannot stack, as Perception-LM's where pictures have unlike numbers of them.
    """
    given = {"text": texts, "images": images or None, **options}
    try:
        return dict(processor(**given))
    except _UNENCODABLE as error:
        others = [given | {"return_tensors": None}]
        if images and all(len(row) == 1 for row in images):
            others.insert(0, given | {"images": [picture for (picture,) in images]})
        for other in others:
            with contextlib.suppress(*_UNENCODABLE):
                return {name: _stacked(rows) for name, rows in processor(**other).items()}
        raise error


def _stacked(rows: Any) -> Tensor:
    """Rows as one tensor. Pictures' tiles, each picture's [tiles, channels, height, width], are laid one after the other, as if
    they were one picture's: their model takes them as one row.
    """
    if isinstance(rows, list) and isinstance(rows[0], Tensor) and rows[0].ndim == 4:
        return torch.cat(rows)[None]
    return torch.as_tensor(rows)
