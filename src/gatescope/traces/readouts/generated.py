"""Read-outs of generated answers: greedy decoding, as in the paper (temperature 0).

generate   read by Algorithm 1 of the VLM paper
short      right if it holds one of the accepted short answers
likert     a number on the question's scale, scored by its distance (CULNIG, equation 11)
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import nnsight
from nnsight import TransformersModel
from nnsight.intervention.interleaver import Mediator
from torch import Tensor
from transformers import GenerationMixin

from gatescope.core import answers
from gatescope.core.answers import Reading
from gatescope.core.errors import GatescopeError
from gatescope.data.example import Example
from gatescope.traces.access import every_token
from gatescope.traces.encoding import Batch
from gatescope.traces.holes import holes, no_number, with_holes
from gatescope.traces.jobs import Asked
from gatescope.traces.readouts import likert, short
from gatescope.traces.readouts.base import NO_ANSWER, Answer, Asking, Readout
from gatescope.traces.workers import every_step, run_alongside

# Deterministic; sampling settings that a checkpoint may carry are taken back.
GREEDY = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
T = TypeVar("T")


def generate(
    model: TransformersModel, batch: Batch, inside: Callable[[], T], *, max_new_tokens: int = 20
) -> tuple[list[str], T]:
    """Generate an answer for every row, with code running inside the trace.

    Args:
        model: from `load_model`, or an edited copy.
        batch: the encoded prompts.
        inside: called in the trace before the first token; what it reads is the prefill, what it returns is kept.
        max_new_tokens: at most this many tokens a row (the paper: 20).

    Returns:
        The generated texts without special tokens, and what `inside` returned.
    """
    ids, returned = _generated_ids(model, batch, inside, max_new_tokens)
    return texts_of(model, ids), returned


def texts_of(model: TransformersModel, ids: Tensor) -> list[str]:
    """Generated ids [b, t] as texts without special tokens; of a hole, any text."""
    return model.tokenizer.batch_decode(ids.clamp(min=0), skip_special_tokens=True)


def check_new_tokens(most: int) -> None:
    """Refuse to generate no token.

    Raises:
        GatescopeError: saying what was given and what is allowed.
    """
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise GatescopeError(f"max_new_tokens is {most!r}; an answer needs at least one token (the paper: 20).")


def generation(model: TransformersModel, max_new_tokens: int) -> dict[str, Any]:
    """The settings answers are generated with.

    Raises:
        GatescopeError: for fewer than one token.
    """
    check_new_tokens(max_new_tokens)
    settings = GREEDY | {"max_new_tokens": max_new_tokens, "pad_token_id": model.tokenizer.pad_token_id}
    return settings | every_token(model, keep=1)


def _generated_ids(model: TransformersModel, batch: Batch, inside: Callable[[], T], max_new_tokens: int) -> tuple[Tensor, T]:
    settings = generation(model, max_new_tokens)
    failed: list[Tensor] = []
    # Janus's own `generate` leaves logits processors out.
    drops_processors = type(model._module).generate is not vars(GenerationMixin)["generate"]

    def watch(_ids: Tensor, scores: Tensor) -> Tensor:
        failed.append(no_number(scores))
        return scores

    def watch_every_step() -> None:
        every_step(lambda: failed.append(no_number(model.output.logits[:, -1])))

    # Greedy decoding makes a token of NaN too, always the first of the vocabulary: only the logits tell.
    with model.generate(**batch.inputs, **settings, logits_processor=[watch]) as tracer:
        if drops_processors:
            run_alongside(Mediator.current("generate"), watch_every_step)
        returned = nnsight.save(inside())
        ids = nnsight.save(tracer.result)
    # transformers gives the prompt back in front of what it generated.
    return with_holes(ids[:, batch.inputs["input_ids"].shape[1] :], failed, settings["pad_token_id"]), returned


class Generated(Readout):
    """Greedy decoding; what is made of the text is the subclass's."""

    generates = True
    decides = "client"

    @abstractmethod
    def reading(self, text: str, example: Example) -> Reading:
        """What a text is read as."""

    def put(self, model: TransformersModel, batch: Batch, asking: Asking) -> tuple[Tensor, Any]:
        """The generated ids [b, t]."""
        return _generated_ids(model, batch, asking.work, asking.max_new_tokens)

    def job(self, model: TransformersModel, batch: Batch) -> Asked:
        """Prompts, and the words an answer is looked for among."""
        return {
            "inputs": dict(batch.inputs),
            "way": "generate",
            "choices": [list(example.choices) for example in batch.examples],
            "answer": [example.answer for example in batch.examples],
        }

    def read(self, model: TransformersModel, examples: Sequence[Example], outcome: Tensor) -> list[Answer]:
        """Each row's text and its reading."""
        rows = zip(texts_of(model, outcome), holes(outcome), examples, strict=True)
        return [NO_ANSWER if hole else (text, self.reading(text, example)) for text, hole, example in rows]


class Generate(Generated):
    """Algorithm 1."""

    name = "generate"
    decides = "text"

    def lacks(self, example: Example) -> str | None:
        """Choices that normalisation keeps apart."""
        if not example.choices:
            return "choices"
        # Algorithm 1 compares normalised texts: choices that it makes equal would always tie.
        if len(set(map(answers.normalise, example.choices))) < len(example.choices):
            return "choices that differ in more than case and white space"
        return None

    def reading(self, text: str, example: Example) -> Reading:
        """The choice whose last occurrence starts last."""
        return answers.read(text, example.choices, example.answer)


class Short(Generated):
    """Accepted short answers."""

    name = "short"

    def lacks(self, example: Example) -> str | None:
        """Accepted answers."""
        return None if example.references else "accepted answers"

    def reading(self, text: str, example: Example) -> Reading:
        """Whether an accepted answer is in the text, as lemmas of its language."""
        return short.read_short(text, example.references, example.facts.get("language", "en"))


class Likert(Generated):
    """Numbers on a scale."""

    name = "likert"

    def lacks(self, example: Example) -> str | None:
        """A scale."""
        return "choices" if not example.choices else likert.lacks_scale(example.choices)

    def reading(self, text: str, example: Example) -> Reading:
        """The number and its score."""
        return likert.read_likert(text, example.choices, example.answer)
