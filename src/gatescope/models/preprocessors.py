"""A model's tokenizer and processor: those given, or the checkpoint's own."""

from __future__ import annotations

from typing import Any

import transformers

from gatescope.core.errors import GatescopeError
from gatescope.models.identity import module_of
from gatescope.models.reported import cause, refuse_untrusted

IMAGES = "image-text-to-text"


def preprocessors(source: Any, task: str, tokenizer: Any, processor: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    """The tokenizer and, for a vision-language model, the processor: those given, or the checkpoint's own.

    Args:
        source: the checkpoint, or a model in memory, which has none.
        task: the pipeline's.
        tokenizer, processor: as they were given.
        options: of `from_pretrained`.

    Raises:
        GatescopeError: if they cannot be loaded.
    """
    if tokenizer is not None and not hasattr(tokenizer, "padding_side"):
        raise GatescopeError(
            f"tokenizer is a {type(tokenizer).__name__}; it must be a tokenizer of Transformers, such as "
            f"AutoTokenizer.from_pretrained(...)."
        )
    if task != IMAGES:
        return tokenizer if tokenizer is not None else _own("tokenizer", source, options), None
    processor = processor if processor is not None else _own("processor", source, options)
    tokenizer = tokenizer or getattr(processor, "tokenizer", None)
    if tokenizer is None:
        raise GatescopeError(
            f"processor is a {type(processor).__name__}, which holds no tokenizer; give tokenizer= with it, or a processor of "
            f"Transformers that holds one (AutoProcessor.from_pretrained(...))."
        )
    return tokenizer, processor


def _own(what: str, source: Any, options: dict[str, Any]) -> Any:
    """The checkpoint's own tokenizer or processor."""
    auto: Any = {"tokenizer": transformers.AutoTokenizer, "processor": transformers.AutoProcessor}[what]
    if not isinstance(source, str):
        raise GatescopeError(
            f"The {type(module_of(source)).__name__} was given without its {what}, which a model in memory does not include. "
            f"Give {what}={auto.__name__}.from_pretrained(...) with it."
        )
    try:
        return auto.from_pretrained(source, **options)
    except Exception as error:  # of whatever kind a file that is altered makes of it
        refuse_untrusted(source, error)
        raise GatescopeError(
            f"The {what} of {source} cannot be loaded: {cause(error).rstrip('.')}. If it lies elsewhere, give it as {what}=."
        ) from error


def pad_left(tokenizer: Any) -> None:
    """Let a tokenizer pad on the left, with the end of a text where it has no token for padding.

    Raises:
        GatescopeError: if it has neither.
    """
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise GatescopeError(
            "The tokenizer has neither a pad nor an eos token, and a batch is padded. Set one: tokenizer.pad_token = ..., and "
            "give it as tokenizer=."
        )
