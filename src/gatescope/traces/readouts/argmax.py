"""The most probable token of the whole vocabulary, and whether it is the right label's: CULNIG's published evaluation.

A token that is no label is no answer, and not right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from nnsight import TransformersModel
from torch import Tensor

from gatescope.core.answers import Reading
from gatescope.data.example import Example
from gatescope.traces.encoding import Batch
from gatescope.traces.holes import most_probable
from gatescope.traces.jobs import Asked
from gatescope.traces.labels import single_tokens
from gatescope.traces.likelihood import next_logits
from gatescope.traces.readouts.base import NO_ANSWER, Answer, Asking, Readout, forward_data


class Argmax(Readout):
    """By the most probable token of all."""

    name = "argmax"
    decides = "token"

    def lacks(self, example: Example) -> str | None:
        """Choices and their labels."""
        if not example.choices:
            return "choices"
        return None if example.labels else "labels"

    def readable(self, model: TransformersModel, examples: Sequence[Example]) -> None:
        """Every label is one token, and no two are the same."""
        super().readable(model, examples)
        single_tokens(model, examples)

    def put(self, model: TransformersModel, batch: Batch, asking: Asking) -> tuple[Tensor, Any]:
        """Each row's most probable next token [b]."""
        logits, returned = next_logits(model, **forward_data(model, batch), inside=asking.work)
        # The whole vocabulary, not the labels alone: CULNIG's published code counts any other token as wrong.
        return most_probable(logits), returned

    def job(self, model: TransformersModel, batch: Batch) -> Asked:
        """The right label's token."""
        rows = zip(batch.examples, single_tokens(model, batch.examples), strict=True)
        right = [labels[example.choices.index(example.answer)] for example, labels in rows]
        return {**forward_data(model, batch), "way": "argmax", "right": torch.tensor(right)}

    def read(self, model: TransformersModel, examples: Sequence[Example], outcome: Tensor) -> list[Answer]:
        """The label that each token is, if it is one."""
        rows = zip(examples, outcome.tolist(), single_tokens(model, examples), strict=True)
        return [NO_ANSWER if token < 0 else next_token(model, example, token, labels) for example, token, labels in rows]


def next_token(model: TransformersModel, example: Example, token: int, labels: Sequence[int]) -> tuple[str, Reading]:
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
