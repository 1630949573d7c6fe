"""Perplexity of plain texts under interventions: what CAPE looks at, and CULNIG's replication of it (Figure 23).

    perplexity = exp( mean over tokens of -log P(token | those before it) )

The mean is over all predicted tokens of all texts, so a long text weighs more than a short one. A text's first token
(the BOS, where the tokenizer writes one) is not predicted, and padding is neither predicted nor seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import nnsight
import torch
from jaxtyping import Float, Int64
from nnsight import TransformersModel
from torch import Tensor

from gatescope.core.errors import GatescopeError
from gatescope.core.progress import bar
from gatescope.interventions.intervention import Intervention
from gatescope.traces.access import forward_options


@dataclass(frozen=True)
class Perplexity:
    """Perplexity of the full model and under each mask.

    Attributes:
        full: of the full model.
        masks: by the mask's name; NaN where the model gives NaN under it, infinite where a token has no probability at all.
        tokens: how many were predicted.

    >>> Perplexity(10.0, {"Arveni": 12.5, "Belthar": 10.0}, 100).changes
    {'Arveni': 2.5, 'Belthar': 0.0}
    """

    full: float
    masks: dict[str, float]
    tokens: int

    @property
    def changes(self) -> dict[str, float]:
        """Each mask's perplexity minus the full model's."""
        return {name: value - self.full for name, value in self.masks.items()}


def perplexity(
    model: TransformersModel,
    texts: Sequence[str],
    interventions: Mapping[str, Intervention],
    *,
    batch_size: int = 8,
    max_length: int = 512,
    progress: bool = True,
) -> Perplexity:
    """Perplexity of texts with the full model and under each intervention.

    Args:
        model: from `load_model`.
        texts: plain texts; no chat template is put round them.
        interventions: by name.
        batch_size: texts a batch.
        max_length: a text is cut to its first so many tokens, special ones included. (The papers do not give theirs.)
        progress: show a bar if it takes longer than a few seconds.

    Raises:
        GatescopeError: if there is nothing to predict, batch_size is below 1 or max_length below 2, neurons belong to
            another model, or the full model gives NaN.
    """
    _check(texts, batch_size, max_length)
    masks: list[Intervention | None] = [None, *interventions.values()]
    loss, tokens = [0.0] * len(masks), 0
    with bar(len(texts) * len(masks), "perplexity", "texts", show=progress) as shown:
        for start in range(0, len(texts), batch_size):
            inputs = _encode(model, texts[start : start + batch_size], max_length)
            real = inputs["attention_mask"].bool()
            if real.sum(1).max() < 2:  # nothing to predict, and perhaps no token at all
                shown.update(len(real) * len(masks))
                continue
            tokens += int((real[:, 1:] & real[:, :-1]).sum())  # a token is predicted where the one before it is real
            for i, mask in enumerate(masks):
                loss[i] += _loss(_logits(model, inputs, mask), inputs["input_ids"], inputs["attention_mask"])
                shown.update(len(real))
            if math.isnan(loss[0]):
                raise GatescopeError(
                    f"The model gave NaN in one of texts {start} to {start + len(real) - 1}. Load it in a wider dtype, such as "
                    f"dtype='float32', or leave the text out."
                )
    if not tokens:
        raise GatescopeError(f"There is no token to predict in the {len(texts)} texts: each has fewer than two tokens.")
    # Over all tokens of all texts, so that long texts weigh more than short ones.
    full, *masked = [_exp(total / tokens) for total in loss]
    return Perplexity(full, dict(zip(interventions, masked, strict=True)), tokens)


def _exp(nats: float) -> float:
    try:
        return math.exp(nats)
    except OverflowError:  # Python's own; everywhere else such a number is infinite
        return math.inf


def _logits(model: TransformersModel, inputs: dict[str, Tensor], mask: Intervention | None) -> Tensor:
    """The logits [b, s, vocabulary] of a forward pass under a mask."""
    # keep=0 is all positions: every token is predicted, not the last alone.
    with torch.no_grad(), model.trace(**inputs, **forward_options(model, inputs, keep=0)):
        if mask is not None:
            mask.apply(model)
        logits = nnsight.save(model.output.logits)
    return logits


def _check(texts: Sequence[str], batch_size: int, max_length: int) -> None:
    if batch_size < 1 or max_length < 2:
        raise GatescopeError(
            f"batch_size is {batch_size} and max_length {max_length}; at least 1 text a batch and 2 tokens a text are needed, "
            f"the first token being given and the next predicted."
        )
    # A string is a sequence of strings too: its letters would be taken for texts.
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise GatescopeError(
            f"texts must be a list of strings; {'one string' if isinstance(texts, str) else 'a list of something else'} was "
            f"given. One text: [text]; the texts of examples: [example.prompt for example in examples]."
        )


def _encode(model: TransformersModel, texts: Sequence[str], max_length: int) -> dict[str, Tensor]:
    """input_ids and attention_mask [b, s], padded on the left."""
    options = {"truncation": True, "max_length": max_length, "padding": True, "padding_side": "left"}
    return dict(model.tokenizer(list(texts), return_tensors="pt", return_token_type_ids=False, **options))


def _loss(logits: Float[Tensor, "b s v"], ids: Int64[Tensor, "b s"], attention_mask: Int64[Tensor, "b s"]) -> float:
    """Summed negative log likelihood of every real token that a real one precedes, in nats; a row at a time, since
    float32 logits of a whole batch can be the largest tensor there is.
    """
    total = 0.0
    for row, tokens, real in zip(logits, ids.to(logits.device), attention_mask.bool().to(logits.device), strict=True):
        scores, targets = row[real][:-1].float(), tokens[real][1:]
        total += torch.nn.functional.cross_entropy(scores, targets, reduction="none").double().sum().item()
    return total
