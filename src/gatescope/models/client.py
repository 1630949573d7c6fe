"""A model without weights: what a client of a remote server needs. Its structure names the places, its processor encodes."""

from __future__ import annotations

from pathlib import Path

import nnsight
from nnsight.modeling.huggingface import _ID_CACHE
from transformers import AutoConfig, AutoProcessor, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from gatescope.core.errors import GatescopeError


def load_client(model: str | Path, *, revision: str | None = None) -> nnsight.TransformersModel:
    """Build a model's structure without its weights, with its tokenizer and processor.

    Args:
        model: a hub id, or a local directory that the server knows by the same name.
        revision: of a hub id.

    Returns:
        An nnsight TransformersModel that records, attributes and sweeps on a server, and nowhere else.

    Raises:
        GatescopeError: if its config, tokenizer or processor cannot be had.
    """
    source, loading = str(model), {"revision": revision} if revision else {}
    try:
        config = AutoConfig.from_pretrained(source, **loading)
        has_images = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        processor = AutoProcessor.from_pretrained(source, **loading) if has_images else None
        tokenizer = processor.tokenizer if processor is not None else AutoTokenizer.from_pretrained(source, **loading)
    except (OSError, ValueError, TypeError) as error:
        raise GatescopeError(f"The config and processor of {source} cannot be loaded: {str(error).splitlines()[0]}") from error
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    task = "image-text-to-text" if has_images else "text-generation"
    parts = {"tokenizer": tokenizer} | ({"processor": processor} if has_images else {})
    loaded = nnsight.TransformersModel(source, task=task, dispatch=False, **parts, **loading)
    loaded.tokenizer, loaded.processor = tokenizer, processor
    loaded._module.eval()
    return loaded


def name_there(model) -> str:
    """What a server calls a model: nnsight's key, in which the hub says how a model's name is really spelt.

    Raises:
        GatescopeError: if the hub cannot be asked.
    """
    if Path(str(model.repo_id)).is_dir():  # a directory is called what it is
        _ID_CACHE.setdefault(model.repo_id, model.repo_id)
    try:
        return model.to_model_key()
    except (OSError, ValueError) as error:  # the hub's own errors are kinds of these
        raise GatescopeError(
            f"The hub does not say what {model.repo_id} is called on a server ({str(error).splitlines()[0]}). Check the name "
            f"and the network."
        ) from error
