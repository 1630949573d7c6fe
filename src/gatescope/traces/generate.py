"""Asking a model, inside one trace: the place where answers, counts and masks meet.

How an answer is read (`readout`):

    generate      greedy generation, read by Algorithm 1 of the VLM paper
    short         greedy generation that holds one of the accepted short answers
    likert        greedy generation that is a number on the question's scale, scored by its distance (CULNIG, equation 11)
    likert_label  the most probable number on the scale, scored the same way
    label         the most probable label, such as A or B, as the next token; labels of several tokens as a whole
    argmax        the most probable token of the whole vocabulary, and whether it is the right label's: CULNIG's published
                  evaluation. A token that is no label is no answer, and not right
    loglik        the option whose text has the highest log-likelihood
    loglik_mean   the same, divided by its number of tokens
    none          nothing is read: plain passages
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import nnsight
import torch
from torch import Tensor

from gatescope.core import answers
from gatescope.core.answers import Reading
from gatescope.core.errors import GatescopeError, one_of
from gatescope.data.example import Example
from gatescope.traces.access import forward_options
from gatescope.traces.encoding import Batch, collate
from gatescope.traces.forced import answer_logs, force
from gatescope.traces.labels import label_tokens, single_tokens, text_tokens
from gatescope.traces.passes import UNMASKED, Masks, until
from gatescope.traces.readouts import likert, options, short

# Deterministic, as in the paper (temperature 0); sampling settings that a checkpoint may carry are taken back.
GREEDY = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
GENERATED = ("generate", "short", "likert")
READOUTS = (*GENERATED, "likert_label", "label", "argmax", "loglik", "loglik_mean", "none")
LABELLED = ("label", "likert_label", "argmax")
T = TypeVar("T")


def ask(
    model,
    batch: Batch,
    *,
    masks: Masks = UNMASKED,
    inside: Callable[[], Any] | None = None,
    readout: str = "generate",
    max_new_tokens: int = 20,
) -> tuple[list[tuple[str, Reading]], Any]:
    """Put a batch to the model and read its answers.

    Args:
        model, batch, max_new_tokens: as for `generate`.
        masks: what is changed meanwhile; of several, each in its own block of rows (see `vision.repeated`).
        inside: called once in a trace of the prompts, as for `generate`.
        readout: how the answers are read; see this module's docstring.

    Returns:
        Each row's text (or label, or option) and how it was read, and what `inside` returned.

    Raises:
        GatescopeError: for an unknown read-out, or an example it cannot read.
    """
    readable(model, batch.examples, readout)

    def work() -> Any:
        masks.together()
        return inside() if inside is not None else None

    if readout in GENERATED:
        texts, kept = generate(model, batch, work, max_new_tokens=max_new_tokens)
        return [(text, _read(text, e, readout)) for text, e in zip(texts, batch.examples, strict=True)], kept
    if readout == "none":
        return [("", Reading("", False, False))] * len(batch.examples), until(model, batch.inputs, work)
    if readout == "argmax":
        tokens = single_tokens(model, batch.examples)
        kept, logits = _forward(model, batch, work)
        rows = zip(batch.examples, logits.argmax(-1).tolist(), tokens, strict=True)
        return [next_token(model, example, token, labels) for example, token, labels in rows], kept
    labelled = readout in LABELLED
    tokens = label_tokens(model, batch.examples) if labelled else text_tokens(model, batch.examples)
    if labelled and all(len(ids) == 1 for each in tokens for ids in each):
        kept, logits = _forward(model, batch, work)
        logs = [row[torch.tensor(each).flatten()] for row, each in zip(logits.log_softmax(-1), tokens, strict=True)]
    else:
        kept = _forward(model, batch, work)[0] if inside is not None else None
        rows = len(batch.examples) // masks.blocks
        logs = []
        for block in range(masks.blocks):
            mine = slice(block * rows, (block + 1) * rows)
            logs += _options(model, batch.examples[mine], tokens[mine], lambda block=block: masks.alone(block))
    found = []
    for example, log, each in zip(batch.examples, logs, tokens, strict=True):
        best = options.best(log, each, "label" if labelled else readout)
        text = example.labels[best] if labelled else example.choices[best]
        choice = example.choices[best]
        reading = Reading(choice, choice == example.answer, fallback=False)
        found.append((text, reading if readout != "likert_label" else _read(choice, example, "likert")))
    return found, kept


def check(example: Example, readout: str) -> None:
    """Refuse an example a read-out cannot read.

    Raises:
        GatescopeError: saying what it lacks.
    """
    lacks = None
    if readout == "short" and not example.accepted:
        lacks = "accepted answers"
    elif readout not in ("short", "none") and not example.choices:
        lacks = "choices"
    elif readout in LABELLED and not example.labels:
        lacks = "labels"
    elif readout == "generate" and len(set(map(answers.normalise, example.choices))) < len(example.choices):
        lacks = "choices that differ in more than case and white space"
    elif readout in ("likert", "likert_label") and not all(likert.rating(c) >= 0 for c in example.choices):
        lacks = "choices that are numbers on a scale"
    if lacks:
        fits = "short" if example.accepted else "none" if not example.choices else "label" if example.labels else "generate"
        more = " Labels are given with the example: labels=('A', 'B', ...), one for each choice." if lacks == "labels" else ""
        raise GatescopeError(
            f"Example {example.id!r} has no {lacks}, which readout={readout!r} needs; {fits!r} can read it.{more}"
        )


def readable(model, examples: Sequence[Example], readout: str) -> None:
    """Refuse examples a read-out cannot read with this model, before anything is run.

    Raises:
        GatescopeError: for an unknown read-out; as `check` does; for labels the read-out has no tokens for.
    """
    one_of("readout", readout, READOUTS)
    for example in examples:
        check(example, readout)
    if readout == "argmax":
        single_tokens(model, examples)
    elif readout in LABELLED:
        label_tokens(model, examples)


def next_token(model, example: Example, token: int, labels: Sequence[int]) -> tuple[str, Reading]:
    """What it means that a token was the most probable one: the answer of that label, or no answer.

    Args:
        model: whose tokens they are.
        example: the question.
        token: the most probable token's id; it may be one that the tokenizer has no name for.
        labels: the token of each of its labels.

    Returns:
        The label, or the token's text; and its reading, of which "no label: TOKEN" is the prediction where it is none.
    """
    if token in labels:
        which = list(labels).index(token)
        choice = example.choices[which]
        return example.labels[which], Reading(choice, choice == example.answer, fallback=False)
    # The vocabulary's own name, which is the token's alone: two tokens that are no labels are two predictions.
    name = model.tokenizer.convert_ids_to_tokens(token) or f"token {token}"
    return model.tokenizer.decode([token]), Reading(f"no label: {name}", False, fallback=True)


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
    settings = GREEDY | {"max_new_tokens": max_new_tokens, "pad_token_id": model.tokenizer.pad_token_id}
    with model.generate(**batch.inputs, **settings) as tracer:
        kept = nnsight.save(inside())
        ids = nnsight.save(tracer.result)
    new = ids[:, batch.inputs["input_ids"].shape[1] :]
    return model.tokenizer.batch_decode(new, skip_special_tokens=True), kept


def _forward(model, batch: Batch, inside: Callable[[], T]) -> tuple[T, Tensor]:
    """What `inside` returned in a plain forward pass, and the next token's logits, float32 [b, vocabulary]."""
    settings = forward_options(model, batch.inputs, keep=1)
    with torch.no_grad(), model.trace(**batch.inputs, **settings):
        kept = nnsight.save(inside())
        logits = nnsight.save(model.output.logits[:, -1])
    return kept, logits.float().cpu()


def _options(model, examples: Sequence[Example], tokens: Sequence[list[list[int]]], change: Callable[[], None]) -> list[Tensor]:
    """Log-probability of every option of every example; as many options at once as there are examples."""
    rows = [(e, ids) for e, each in zip(examples, tokens, strict=True) for ids in each]
    logs = []
    for start in range(0, len(rows), len(examples)):
        some, forced = zip(*rows[start : start + len(examples)], strict=True)
        inputs = force(model, collate(model, some).to(model._module.device), forced)
        keep = max(map(len, forced))
        settings = forward_options(model, inputs, keep)
        with torch.no_grad(), model.trace(**inputs, **settings):
            change()
            logs.append(nnsight.save(answer_logs(model.output.logits[:, -keep:], forced)))
    return list(torch.cat([log.cpu() for log in logs]).split([len(each) for each in tokens]))


def _read(text: str, example: Example, readout: str) -> Reading:
    if readout == "short":
        return short.read_short(text, example.accepted, example.facts.get("language", "en"))
    if readout == "likert":
        return likert.read_likert(text, example.choices, example.answer)
    return answers.read(text, example.choices, example.answer)
