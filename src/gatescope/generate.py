"""Asking a model, inside one trace: the place where answers, counts and masks meet.

Two ways to read an answer: generate it greedily and read the text (Algorithm 1), or take the label, such as A or B,
that is the most probable next token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import nnsight
import torch

from gatescope.batches import Batch
from gatescope.errors import one_of
from gatescope.evaluate import answers
from gatescope.evaluate.answers import Reading
from gatescope.labels import label_tokens
from gatescope.sites import forward_options

# Deterministic, as in the paper (temperature 0); sampling settings that a checkpoint may carry are taken back.
GREEDY = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
T = TypeVar("T")


def ask(
    model, batch: Batch, inside: Callable[[], T], *, readout: str = "generate", max_new_tokens: int = 20
) -> tuple[list[tuple[str, Reading]], T]:
    """Put a batch to the model and read its answers.

    Args:
        model, batch, inside, max_new_tokens: as for `generate`.
        readout: "generate" reads generated text; "label" takes the most probable of each example's labels.

    Returns:
        Each row's text (or label) and how it was read, and what `inside` returned.
    """
    if one_of("readout", readout, ("generate", "label")) == "generate":
        texts, kept = generate(model, batch, inside, max_new_tokens=max_new_tokens)
        return [(t, answers.read(t, e.choices, e.answer)) for t, e in zip(texts, batch.examples, strict=True)], kept
    tokens = label_tokens(model, batch.examples)
    options = forward_options(model, batch.inputs, keep=1)
    with torch.no_grad(), model.trace(**batch.inputs, **options):
        kept = nnsight.save(inside())
        logits = nnsight.save(model.output.logits[:, -1])
    found = []
    for row, example, ids in zip(logits.float().cpu(), batch.examples, tokens, strict=True):
        best = int(row[torch.tensor(ids)].argmax())
        choice = example.choices[best]
        found.append((example.labels[best], Reading(choice, choice == example.answer, fallback=False)))
    return found, kept


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
