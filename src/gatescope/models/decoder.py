"""Where the text decoder is: the innermost module around the token embedding that holds a list of `num_hidden_layers` blocks.

True of every decoder in transformers, and never of a vision tower.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from gatescope.core.errors import GatescopeError
from gatescope.models.found import parts_of

# Model types; of one token and one row nothing shows it.
_TOKENS_FIRST = ("xlnet",)


@dataclass(frozen=True)
class Decoder:
    """The text decoder of a model.

    Attributes:
        path: of the module around the embedding and the blocks, from the root of the model.
        module: that module.
        blocks: the blocks by path.
    """

    path: str
    module: nn.Module
    blocks: dict[str, nn.Module]

    def block(self, path: str) -> str:
        """The path of the block that a module is in; "" outside of all."""
        depth = next(iter(self.blocks)).count(".") + 1
        start = ".".join(path.split(".")[:depth])
        return start if start in self.blocks else ""


def decoder_of(model: PreTrainedModel) -> Decoder:
    """The text decoder.

    Raises:
        GatescopeError: if there is none, or an encoder beside it.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        raise GatescopeError(
            f"{type(model).__name__} has an encoder and a decoder, and gatescope reads decoder-only models: "
            f"what it would find first are the encoder's neurons. Use a decoder-only model."
        )
    if model.config.model_type in _TOKENS_FIRST:
        raise GatescopeError(
            f"{type(model).__name__} has tokens on the first axis and rows on the second, and gatescope counts what has rows "
            f"on the first. Use another model."
        )
    outer: Any = model.config
    depth = getattr(outer.get_text_config(decoder=True), "num_hidden_layers", None)
    modules = dict(parts_of(model))
    path = embedding_in(model)
    while path:
        path = path.rpartition(".")[0]
        for name, child in modules[path].named_children():
            if isinstance(child, nn.ModuleList) and len(child) == depth:
                blocks = {f"{path}.{name}.{layer}".lstrip("."): block for layer, block in enumerate(child)}
                return Decoder(path, modules[path], blocks)
    raise GatescopeError(
        f"No text decoder was found in {type(model).__name__}: looked for a list of {depth} blocks (num_hidden_layers in its "
        f"config) beside the token embedding, or around it."
    )


def is_told_positions(model: PreTrainedModel) -> bool:
    """Whether the decoder, and not its head alone, is told at how many positions logits are wanted."""
    known = vars(model).get("_gatescope_told")
    if known is None:
        parameters = inspect.signature(decoder_of(model).module.forward).parameters
        known = vars(model)["_gatescope_told"] = "logits_to_keep" in parameters
    return known


def embedding_in(model: PreTrainedModel) -> str:
    """Path of the token embedding.

    Raises:
        GatescopeError: if the model has none.
    """
    embedding = model.get_input_embeddings()
    for path, candidate in parts_of(model):
        if candidate is embedding:
            return path
    raise GatescopeError(f"{type(model).__name__} has no token embedding, so it is no text decoder.")
