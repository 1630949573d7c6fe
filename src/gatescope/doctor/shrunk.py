"""A small model of a large architecture: what the doctor examines where the weights are not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nnsight
import torch
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedTokenizerFast

from gatescope.core.errors import GatescopeError, first_line
from gatescope.models.load import task_of
from gatescope.models.preprocessors import IMAGES

# What configs call the number of layers, and that of heads.
_DEPTH = ("num_hidden_layers", "depth", "n_layer")
_HEADS = ("num_attention_heads", "num_heads", "n_head")


def random_model(source: str | Path) -> nnsight.TransformersModel:
    """A small model of the architecture a config describes, with random weights: no weights are needed.

    Depth, width and heads shrink; everything else (fused projections, norms, rotation, activation) stays.

    Args:
        source: a hub id, a directory with a config.json, or a config file.

    Raises:
        GatescopeError: if there is no config, or a model of it cannot be built.
    """
    try:
        config: Any = AutoConfig.from_pretrained(str(source))
    except Exception as error:  # of whatever kind a config that is altered makes of it
        raise GatescopeError(f"No model config at {source!s}: {first_line(error)}") from error
    for section in [config, *(getattr(config, name, None) for name in ("text_config", "vision_config"))]:
        if section is not None:
            _shrink(section)
    text, vision = config.get_text_config(decoder=True), getattr(config, "vision_config", None)
    if vision is not None and hasattr(vision, "out_hidden_size"):
        vision.out_hidden_size = text.hidden_size
    auto = AutoModelForImageTextToText if task_of(config) == IMAGES else AutoModelForCausalLM
    torch.manual_seed(0)  # a failure can be looked at again
    try:
        module: Any = auto.from_config(config).eval().requires_grad_(False)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise GatescopeError(f"A small model of {source!s} ({type(config).__name__}) cannot be built: {error}") from error
    tokenizer = plain_tokenizer()
    model = nnsight.TransformersModel(module, task="text-generation", tokenizer=tokenizer, dispatch=True)
    model.tokenizer, model.processor = tokenizer, None
    return model


def plain_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of one token, for models that are fed ids: nnsight requires one."""
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0}, "<pad>")), pad_token="<pad>")


def _shrink(config: Any) -> None:
    """Two layers, four heads, a few hundred neurons, in place; the width of a head stays, for rotation depends on it."""
    depth, heads = _first_field(config, _DEPTH), _first_field(config, _HEADS)
    if depth is None or heads is None:
        return  # the outer config of a vision-language model
    old_heads = getattr(config, heads)
    head_width = getattr(config, "head_dim", None) or _width(config) // old_heads
    _keep_last_two(config, getattr(config, depth))
    setattr(config, depth, 2)
    setattr(config, heads, 4)
    smaller = {
        # As many as heads where each has its own, else two of them share one.
        "num_key_value_heads": 4 if getattr(config, "num_key_value_heads", None) == old_heads else 2,
        "hidden_size": 4 * head_width,
        "n_embd": 4 * head_width,
        "word_embed_proj_dim": 4 * head_width,
        **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner"), 96),
        "fullatt_block_indexes": [0],
    }
    for name, value in smaller.items():
        if getattr(config, name, None):
            setattr(config, name, value)


def _first_field(config: Any, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if hasattr(config, name)), None)


def _width(config: Any) -> int:
    return getattr(config, "hidden_size", None) or config.n_embd


def _keep_last_two(config: Any, depth: int) -> None:
    """In every list with one entry per layer keep the last two: the first layers may be special."""
    fields: dict[str, Any] = dict(vars(config))
    for name, value in fields.items():
        if isinstance(value, list) and len(value) == depth:
            setattr(config, name, value[-2:])
