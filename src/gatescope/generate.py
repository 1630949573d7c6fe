"""Greedy generation inside one trace: the place where answers, counts and masks meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import nnsight

from gatescope.batches import Batch

# Deterministic, as in the paper (temperature 0); sampling settings that a checkpoint may carry are taken back.
GREEDY = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
T = TypeVar("T")


def generate(model, batch: Batch, inside: Callable[[], T], *, max_new_tokens: int = 20) -> tuple[list[str], T]:
    """Generate an answer for every row, with code running inside the trace.

    Args:
        model: from `load_model`, or an edited copy.
        batch: the encoded prompts.
        inside: called in the trace before the first token; what it reads is the prefill, what it returns is kept.
        max_new_tokens: at most this many tokens a row (the paper: 20).

    Returns:
        The generated texts without special tokens, and what `inside` returned.
    """
    options = GREEDY | {"max_new_tokens": max_new_tokens, "pad_token_id": model.tokenizer.pad_token_id}
    with model.generate(**batch.inputs, **options) as tracer:
        kept = nnsight.save(inside())
        ids = nnsight.save(tracer.result)
    new = ids[:, batch.inputs["input_ids"].shape[1] :]
    return model.tokenizer.batch_decode(new, skip_special_tokens=True), kept
