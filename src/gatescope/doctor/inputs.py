"""What a model is examined on: random token ids, and questions with pictures of different sizes."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import nnsight
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedConfig

from gatescope.data.example import Example
from gatescope.models.identity import module_of
from gatescope.models.sites import Site
from gatescope.traces.access import forward_options
from gatescope.traces.encoding import Batch, collate

SIZES = ((56, 84), (112, 56), (84, 84))  # width and height of each row's picture
LENGTHS = (5, 9, 12)  # tokens of each row of text


@dataclass(frozen=True)
class Patient:
    """A model on one batch.

    Attributes:
        model: as nnsight has it.
        module: the Hugging Face module in it.
        sites: to be examined.
        inputs: what the batch is of: "text" or "pictures".
        batch: encoded, on the model's device.
        options: of a plain forward pass.
        logits: of the last position, with nothing changed, [b, vocabulary].
    """

    model: nnsight.TransformersModel
    module: Any
    sites: Mapping[str, Site]
    inputs: str
    batch: Batch
    options: dict[str, Any]
    logits: Tensor

    @classmethod
    def of(cls, model: nnsight.TransformersModel, sites: Mapping[str, Site], inputs: str, batch: Batch) -> Patient:
        """The model on a batch, run once as it is."""
        module = module_of(model)
        batch = batch.to(module.device)
        options: dict[str, Any] = forward_options(model, batch.inputs, keep=1)
        if "pixel_values" not in batch.inputs and "position_ids" in inspect.signature(module.forward).parameters:
            # Of text, nnsight numbers positions from each row's first token, whatever the model would do.
            options["position_ids"] = (batch.inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
        with torch.no_grad():
            logits = module(**batch.inputs, **options).logits[:, -1]
        return cls(model, module, sites, inputs, batch, options, logits)


def random_text(model: nnsight.TransformersModel) -> Batch:
    """Three rows of ordinary token ids, of different lengths, padded on the left."""
    config: Any = module_of(model).config
    vocabulary: int = config.get_text_config(decoder=True).vocab_size
    special = set(special_ids(model))
    ordinary = torch.tensor([i for i in range(1, min(vocabulary, 500)) if i not in special])
    generator = torch.Generator().manual_seed(0)
    rows, longest = len(LENGTHS), max(LENGTHS)
    ids = ordinary[torch.randint(len(ordinary), (rows, longest), generator=generator)]
    real = torch.arange(longest).expand(rows, longest) >= longest - torch.tensor(LENGTHS)[:, None]
    # Padding is of ordinary tokens too: no token must see it, whatever it is, and some models' gradients are NaN where an
    # embedding is all 0, as that of an untrained padding token is.
    return Batch((), {"input_ids": ids, "attention_mask": real.long()}, real)


def special_ids(model: nnsight.TransformersModel) -> Iterator[int]:
    """Ids that stand for something other than text: ends (a config may list several), padding, pictures."""
    yield from model.tokenizer.all_special_ids
    for config in _configs(module_of(model).config):
        for name, value in vars(config).items():
            if name.endswith(("token_id", "token_index", "token_ids")):
                ids: Iterable[Any] = value if isinstance(value, list | tuple) else [value]
                yield from (id for id in ids if isinstance(id, int))  # a field that is not used is None


def picture_questions(model: nnsight.TransformersModel) -> Batch:
    """Three questions of different lengths, each with a picture of its own size."""
    return collate(model, questions())


def questions() -> list[Example]:
    """The questions, with pictures of coarse noise: whatever a processor does to their size, they stay different."""
    generator = np.random.default_rng(0)
    examples: list[Example] = []
    for row, (width, height) in enumerate(SIZES):
        noise = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        picture = Image.fromarray(noise).resize((width, height), Image.Resampling.NEAREST)
        question = "What is this?" + " Say what you see." * row
        examples.append(Example(f"picture {row}", "doctor", question, ("a kite", "a boat"), "a kite", picture))
    return examples


def _configs(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    yield config
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            yield from _configs(value)
