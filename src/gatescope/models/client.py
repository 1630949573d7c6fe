"""A model without weights, for a client of a remote server: its structure locates the sites, its processor encodes prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nnsight
from nnsight.modeling.huggingface import _ID_CACHE
from transformers import AutoConfig, AutoProcessor, AutoTokenizer

from gatescope.core.errors import GatescopeError, first_line
from gatescope.models.identity import module_of, trusted
from gatescope.models.load import task_of
from gatescope.models.options import pinned
from gatescope.models.preprocessors import IMAGES, pad_left
from gatescope.models.reported import refuse_untrusted


def load_client(
    model: str | Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> nnsight.TransformersModel:
    """Build a model's structure without its weights, with its tokenizer and processor.

    Args:
        model: a hub id, or a local directory that the server knows by the same name.
        revision: of a hub id.
        trust_remote_code: as for `load_model`.

    Returns:
        An nnsight TransformersModel that records, attributes and sweeps on a server, and nowhere else.

    Raises:
        GatescopeError: if its config, tokenizer or processor cannot be loaded.
    """
    source, options = str(model), {"trust_remote_code": trust_remote_code, **pinned(revision)}
    processor: Any = None
    try:
        task = task_of(AutoConfig.from_pretrained(source, **options))
        if task == IMAGES:
            processor = AutoProcessor.from_pretrained(source, **options)
        tokenizer: Any = AutoTokenizer.from_pretrained(source, **options) if processor is None else processor.tokenizer
    except Exception as error:  # of whatever kind a file that is altered makes of it
        refuse_untrusted(source, error)
        raise GatescopeError(f"The config and processor of {source} cannot be loaded: {first_line(error)}") from error
    pad_left(tokenizer)
    preprocessors = {"tokenizer": tokenizer} if processor is None else {"tokenizer": tokenizer, "processor": processor}
    loaded: Any = nnsight.TransformersModel(source, task=task, dispatch=False, **preprocessors, **options)
    loaded.tokenizer, loaded.processor = tokenizer, processor
    module_of(loaded).eval()
    if trust_remote_code:
        trusted(module_of(loaded))
    return loaded


def name_there(model: nnsight.TransformersModel) -> str:
    """What a server calls a model: nnsight's key, in which the hub says how a model's name is really spelt.

    Raises:
        GatescopeError: if the hub cannot be reached.
    """
    if Path(str(model.repo_id)).is_dir():  # a directory is called what it is
        _ID_CACHE.setdefault(model.repo_id, model.repo_id)
    try:
        return model.to_model_key()
    except (OSError, ValueError) as error:  # the hub's own errors are kinds of these
        raise GatescopeError(
            f"The name of {model.repo_id} on a server could not be looked up on the hub ({first_line(error)}). Check "
            f"the name and the network."
        ) from error
