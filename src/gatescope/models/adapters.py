"""PEFT adapters, which are merged into the weights: where a projection is looked for, an adapter's layers would stand.

a PeftModel             merged into a copy, for the model given stays as it is
a directory, a hub id   merged into its base, which is loaded for it
"""

from __future__ import annotations

import copy
import json
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from gatescope.core.errors import GatescopeError
from gatescope.models.reported import cause

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER = "adapter_config.json"
MERGED = "peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()"


def is_peft(model: Any) -> bool:
    """Whether a model is PEFT's."""
    peft = sys.modules.get("peft")  # who has such a model has imported it
    return peft is not None and isinstance(model, peft.PeftModel)


def merged(model: Any) -> PreTrainedModel:
    """A copy of a PeftModel's base with its active adapter in the weights; the model given stays as it is."""
    kind = _kind(model)
    base = _merge(copy.deepcopy(model), f"the PeftModel ({kind})")
    warnings.warn(
        f"A PeftModel was given: its adapter ({kind}) is merged into a copy of the weights, and the copy is used; the model "
        f"given stays as it is. To save the memory, give model.merge_and_unload().",
        stacklevel=4,
    )
    return base


def refuse_layers(module: nn.Module) -> None:
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


def base_of(name: str, file: Path) -> tuple[str, str | None]:
    """The base model of an adapter, and its revision.

    Args:
        name: the adapter's.
        file: its adapter_config.json.

    Raises:
        GatescopeError: if PEFT is not installed, or the file does not name a base.
    """
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        base, revision = facts["base_model_name_or_path"], facts.get("revision")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        base, revision = None, None
    if not isinstance(base, str) or not base:
        raise GatescopeError(
            f"{name} is a PEFT adapter, and its {ADAPTER} does not say of which model (base_model_name_or_path). Load both and "
            f"give the PeftModel, with its tokenizer."
        )
    try:
        import peft  # noqa: F401 - before the base is loaded, which may take minutes
    except ImportError as error:
        raise GatescopeError(f"{name} is a PEFT adapter of {base!r}: pip install 'gatescope[adapters]'.") from error
    return base, revision if isinstance(revision, str) else None


def has_file(name: str, file: str, revision: str | None) -> bool:
    """Whether a directory, or a repository on the hub, has a file."""
    from transformers.utils.hub import cached_file

    if os.path.isdir(name):
        return os.path.isfile(Path(name) / file)
    quiet: dict[str, Any] = {
        f"_raise_exceptions_for_{what}": False for what in ("gated_repo", "missing_entries", "connection_errors")
    }
    return cached_file(name, file, revision=revision, **quiet) is not None


def on_base(base: PreTrainedModel, name: str, file: Path, revision: str | None, words: int | None) -> PreTrainedModel:
    """The base with an adapter in its weights, in place; from then on it is called by the adapter's name.

    Args:
        base: freshly loaded.
        name, file, revision: of the adapter; the file is its configuration.
        words: in the adapter's own tokenizer, where it has one.

    Raises:
        GatescopeError: if it does not fit the base, or cannot be merged.
    """
    import peft
    from transformers.utils.hub import extract_commit_hash

    try:
        # Tokens were added in training, and the adapter has their embeddings.
        if words is not None and words > len(base.get_input_embeddings().get_parameter("weight")):
            base.resize_token_embeddings(words)
        adapted = peft.PeftModel.from_pretrained(base, name, revision=revision)
    except Exception as error:  # of whatever kind a file that is altered makes of it
        raise GatescopeError(f"The adapter {name} cannot be put on {type(base).__name__}, its base: {cause(error)}") from error
    whole = _merge(adapted, f"{name} ({_kind(adapted)})")
    whole.config._name_or_path = name
    whole.config._commit_hash = extract_commit_hash(str(file), None)
    return whole


def _kind(model: Any) -> str:
    """The kind of a PeftModel's adapter.

    Raises:
        GatescopeError: if it is none that weights can hold.
    """
    config = model.active_peft_config
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if config.is_prompt_learning:
        raise GatescopeError(
            f"The PeftModel has an adapter of the kind {kind}, which puts vectors before the prompt and cannot be merged into "
            f"weights; gatescope cannot trace it. Give the base model (model.get_base_model()), or an adapter such as LoRA."
        )
    return kind


def _merge(model: Any, what: str) -> PreTrainedModel:
    try:
        return model.merge_and_unload()
    except (AttributeError, NotImplementedError, ValueError, RuntimeError) as error:
        raise GatescopeError(
            f"The adapter of {what} cannot be merged into its weights: {error}. Merge it yourself (model.merge_and_unload()) "
            f"and give what comes out."
        ) from error
