"""Read-outs that compare the choices' own probabilities.

label         the most probable label, such as A or B, as the next token; labels of several tokens as a whole
likert_label  the most probable number on the scale, scored by its distance as `likert` scores it
loglik        the option whose text has the highest log-likelihood
loglik_mean   the same, divided by its number of tokens
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from nnsight import TransformersModel
from torch import Tensor

from gatescope.core.answers import Reading
from gatescope.data.example import Example
from gatescope.traces.encoding import Batch, collate
from gatescope.traces.forced import forced_batch
from gatescope.traces.jobs import Asked, Forced
from gatescope.traces.labels import label_tokens, text_tokens
from gatescope.traces.likelihood import forced_logprobs, next_logits, option_logprobs
from gatescope.traces.readouts import likert, options
from gatescope.traces.readouts.base import NO_ANSWER, Answer, Asking, Readout, forward_data

Tokens = Sequence[list[list[int]]]  # of every option, for each example


class Choices(Readout):
    """The most probable option; which tokens stand for an option is the subclass's.

    Attributes:
        how: how options are compared; see `gatescope.traces.readouts.options.best`.
    """

    how: str

    @abstractmethod
    def tokens(self, model: TransformersModel, examples: Sequence[Example]) -> Tokens:
        """The tokens of every option of each example."""

    def lacks(self, example: Example) -> str | None:
        """Choices."""
        return None if example.choices else "choices"

    def next_only(self, tokens: Tokens) -> bool:
        """Whether the next token alone tells the options apart."""
        return False

    def text(self, example: Example, which: int) -> str:
        """What an option is called."""
        return example.choices[which]

    def reading(self, example: Example, which: int) -> Reading:
        """What it means that an option was the most probable."""
        choice = example.choices[which]
        return Reading(choice, choice == example.answer, fallback=False)

    def put(self, model: TransformersModel, batch: Batch, asking: Asking) -> tuple[list[Tensor], Any]:
        """Each row's log-probabilities of its options."""
        tokens = self.tokens(model, batch.examples)
        if self.next_only(tokens):
            logits, returned = next_logits(model, **forward_data(model, batch), inside=asking.work)
            return option_logprobs(logits, tokens), returned
        returned = None
        if asking.inside is not None:  # the prompts by themselves: what is counted must not hold the options
            returned = next_logits(model, **forward_data(model, batch), inside=asking.work)[1]
        # Every block has the same questions, each under its own mask. Options are forced block by block, since a chunk of
        # them would mix rows of several masks; and chunk by chunk, since encoding one, with its pictures, takes long.
        rows = len(batch.examples) // asking.masks.blocks
        by_block: list[list[Tensor]] = [[] for _ in range(asking.masks.blocks)]
        for chunk in _chunks(model, batch.examples[:rows], tokens[:rows]):
            for block, logprobs in enumerate(by_block):
                logprobs.append(forced_logprobs(model, chunk, partial(asking.masks.alone, block)))
        forced = torch.cat([logprobs for block in by_block for logprobs in block])
        return list(forced.split([len(options) for options in tokens])), returned

    def job(self, model: TransformersModel, batch: Batch) -> Asked:
        """The options' tokens, and which of them are right."""
        examples = batch.examples
        tokens = self.tokens(model, examples)
        right = [[self.reading(example, which).correct for which in range(len(example.choices))] for example in examples]
        asked: Asked = {**forward_data(model, batch), "tokens": tokens, "how": self.how, "right": right}
        if self.next_only(tokens):
            return {**asked, "way": "next"}
        return {**asked, "way": "options", "chunks": list(_chunks(model, examples, tokens))}

    def read(self, model: TransformersModel, examples: Sequence[Example], outcome: Sequence[Tensor]) -> list[Answer]:
        """The most probable option of each row."""
        answers: list[Answer] = []
        for example, logprobs, tokens in zip(examples, outcome, self.tokens(model, examples), strict=True):
            if logprobs.isnan().any():  # the largest of them would be an option like any other
                answers.append(NO_ANSWER)
                continue
            which = options.best(logprobs, tokens, self.how)
            answers.append((self.text(example, which), self.reading(example, which)))
        return answers


class Label(Choices):
    """By labels."""

    name = "label"
    how = "label"

    def lacks(self, example: Example) -> str | None:
        """Choices and their labels."""
        if not example.choices:
            return "choices"
        return None if example.labels else "labels"

    def readable(self, model: TransformersModel, examples: Sequence[Example]) -> None:
        """Every label has tokens."""
        super().readable(model, examples)
        label_tokens(model, examples)

    def tokens(self, model: TransformersModel, examples: Sequence[Example]) -> Tokens:
        """Of every label."""
        return label_tokens(model, examples)

    def next_only(self, tokens: Tokens) -> bool:
        """Labels of one token each."""
        # With one longer label ("10"), all are compared as whole texts: the next token alone would favour "1".
        return all(len(ids) == 1 for labels in tokens for ids in labels)

    def text(self, example: Example, which: int) -> str:
        """The label."""
        return example.labels[which]


class LikertLabel(Label):
    """By labels that are numbers on a scale."""

    name = "likert_label"

    def lacks(self, example: Example) -> str | None:
        """Labels, and a scale."""
        return super().lacks(example) or likert.lacks_scale(example.choices)

    def reading(self, example: Example, which: int) -> Reading:
        """The number and its score."""
        return likert.read_likert(example.choices[which], example.choices, example.answer)


class Loglik(Choices):
    """By the log-likelihood of an option's text."""

    name = "loglik"
    how = "loglik"

    def tokens(self, model: TransformersModel, examples: Sequence[Example]) -> Tokens:
        """Of every choice's text."""
        return text_tokens(model, examples)


class LoglikMean(Loglik):
    """By the same, a token."""

    name = "loglik_mean"
    how = "loglik_mean"


def _chunks(model: TransformersModel, examples: Sequence[Example], tokens: Tokens) -> Iterator[Forced]:
    """Every option of every example put after its prompt; as many at once as there are examples."""
    rows = [(example, ids) for example, options in zip(examples, tokens, strict=True) for ids in options]
    # No larger than the batch was, since that is what fits into memory.
    for start in range(0, len(rows), len(examples)):
        prompted, forced = zip(*rows[start : start + len(examples)], strict=True)
        yield forced_batch(model, collate(model, prompted).to(model._module.device), forced)
