"""How near a model's answers on a Likert scale are to a country's: CULNIG's score for WorldValuesBench (equation 11).

    score_c = 100 / N  sum over questions n of  1 - |a - p| / max(a - low, high - a)

a is the majority answer of the country's participants, p the model's, and the scale of the question runs from low to
high; the divisor is "the maximum possible distance between the options and a". As in the published code, an answer
off the scale, or one that is no number, scores 0, just as the worst answer on it does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from gatescope._typing import checked
from gatescope.core.answers import Reading, normalise
from gatescope.core.errors import GatescopeError

UNREADABLE = -1  # negative codes are no answers in the World Values Survey either


@checked
def likert_scores(
    predicted: Int64[Tensor, " q"], majority: Int64[Tensor, " q"], low: Int64[Tensor, " q"], high: Int64[Tensor, " q"]
) -> Float64[Tensor, " q"]:
    """Each question's score in percent: 100 for the majority answer, 0 for the one furthest from it.

    Args:
        predicted: the model's answers (`rating`), UNREADABLE among them.
        majority: the country's (`majority`).
        low, high: ends of each question's scale.

    Raises:
        GatescopeError: if a scale has fewer than two options or a negative one, or a majority answer is not on it.

    >>> one = torch.ones(3).long()
    >>> likert_scores(torch.tensor([4, 1, UNREADABLE]), 3 * one, one, 4 * one).tolist()
    [50.0, 0.0, 0.0]
    """
    for wrong, why in (
        ((low < 0) | (high <= low), "is no scale: two options at least are needed, none of them negative"),
        ((majority < low) | (majority > high), "does not have the majority answer"),
    ):
        if wrong.any():
            n = int(wrong.nonzero()[0])
            raise GatescopeError(f"Question {n}: {int(low[n])} to {int(high[n])} {why} ({int(majority[n])}).")
    # The worst answer possible depends on where the majority stands on the scale.
    furthest = torch.maximum(majority - low, high - majority)
    score = 100 * (1 - (majority - predicted).abs().double() / furthest)
    # Off the scale is 0, not negative: one stray number must not cost a country its other answers.
    return torch.where((low <= predicted) & (predicted <= high), score, 0.0)


@checked
def score_c(
    predicted: Int64[Tensor, " q"], majority: Int64[Tensor, " q"], low: Int64[Tensor, " q"], high: Int64[Tensor, " q"]
) -> float:
    """Mean over one country's questions, in percent (CULNIG, equation 11); arguments and errors as `likert_scores`.

    Questions on 1 to 4, the majority says 3 and 1: an answer of 4 is half way to the worst (1), one of 1 is right.

    >>> score_c(torch.tensor([4, 1]), torch.tensor([3, 1]), torch.tensor([1, 1]), torch.tensor([4, 4]))
    75.0
    """
    if not len(predicted):
        raise GatescopeError("A Likert score is a mean over questions; there are none.")
    return likert_scores(predicted, majority, low, high).mean().item()


@checked
def majority(answers: Int64[Tensor, " p"]) -> int:
    """The most frequent answer of the participants; of equally frequent ones the smallest (the paper is silent).

    Raises:
        GatescopeError: without answers.

    >>> majority(torch.tensor([4, 2, 4, 2, 3]))
    2
    """
    if not len(answers):
        raise GatescopeError("A majority answer needs answers; there are none.")
    values, counts = answers.unique(return_counts=True)
    # unique() sorts and argmax takes the first, so that ties go to the smallest.
    return int(values[counts.argmax()])


@checked
def rating(text: str) -> int:
    """The number a text consists of, white space aside; UNREADABLE if it is anything else.

    >>> rating(" 7"), rating("7 out of 10")
    (7, -1)
    """
    text = text.strip()
    # isdigit() alone also accepts superscripts, which int() refuses.
    return int(text) if text.isascii() and text.isdigit() else UNREADABLE


def lacks_scale(choices: Sequence[str]) -> str | None:
    """What choices lack to be a scale; None if they are one.

    >>> lacks_scale(["1", "2"]), lacks_scale(["1", "often"])
    (None, 'choices that are numbers on a scale')
    """
    return None if all(rating(choice) >= 0 for choice in choices) else "choices that are numbers on a scale"


def read_likert(text: str, scale: Sequence[str], answer: str) -> Reading:
    """Read a text as a number on a scale, scored by how near it is to the answer.

    Args:
        text: what the model wrote.
        scale: the options, numbers as text.
        answer: the majority's.

    >>> read_likert("4", ["1", "2", "3", "4"], "3")
    Reading(predicted='4', correct=False, fallback=False, score=0.5)
    """
    rated, numbers = rating(text), [int(option) for option in scale]
    ends = torch.tensor([rated]), torch.tensor([int(answer)]), torch.tensor([min(numbers)]), torch.tensor([max(numbers)])
    score = likert_scores(*ends).item() / 100
    predicted = normalise(text) if rated == UNREADABLE else str(rated)
    return Reading(predicted, rated == int(answer), fallback=rated == UNREADABLE, score=score)
