"""Reading a multiple-choice answer out of generated text: Algorithm 1 of the VLM paper (Appendix A.4).

The text and the choices are lowercased, white space is collapsed and trimmed. Every whole-word occurrence of every
choice is looked for; the one that starts last is the answer. If no choice occurs, the text is right if the true
answer is anywhere in it. Where the algorithm leaves room:

- the true answer is normalised too, else a capitalised one could never be equal;
- "whole word" means no word character on either side, so that choices such as "C++" or "$5" can be found;
- of "red" and "dark red", the text "dark red" is read as "red", which starts last: literal, as printed;
- of two choices at the same place the first listed wins.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from gatescope._typing import checked

ALL = "*"  # the group of what is the same for all groups, such as a mask; no group may be called that


_BETWEEN = " \0 "  # choices, for a moment


@dataclass(frozen=True)
class Reading:
    """What a text was read as.

    Attributes:
        predicted: the choice found; else the true answer if the fallback found it; else the normalised text.
        correct: whether that is the true answer.
        fallback: whether no choice was found as a whole word.
        score: how good the answer is, in [0, 1], where it can be good in part (a Likert scale); None if right or wrong.
        hole: whether there is no answer at all, because the model gave NaN in the place of numbers. A hole is neither right
            nor wrong, and no mean includes it.
    """

    predicted: str
    correct: bool
    fallback: bool
    score: float | None = None
    hole: bool = field(default=False, repr=False)  # most readings are none, and print as they always did

    @property
    def value(self) -> float:
        """What the answer adds to an accuracy: its score, or whether it is right; NaN for a hole."""
        if self.hole:
            return math.nan
        return float(self.correct) if self.score is None else self.score


HOLE = Reading("NaN", False, False, hole=True)


def normalise(text: str) -> str:
    r"""Lowercase, collapse white space, trim.

    >>> normalise("  Dark\n Red ")
    'dark red'
    """
    return " ".join(text.lower().split())


def clearly_distinct(choices: Sequence[str]) -> bool:
    """Whether no choice is blank, nor normalised like another; False too where only a closer look could tell.

    All choices at once, which takes a third of the time that they take one by one: a file may have millions.
    """
    joined = _BETWEEN.join(choices)
    normalised = normalise(joined).split(_BETWEEN)
    # A blank choice takes what is beside it away; one with a NUL of its own adds some.
    return len(set(normalised)) == len(normalised) == len(choices) == joined.count("\0") + 1


@checked
def read(text: str, choices: Sequence[str], answer: str) -> Reading:
    """Read a generated text as one of the choices (Algorithm 1).

    >>> read("Not a kite, so: BOAT.", ["kite", "boat"], "Boat")
    Reading(predicted='boat', correct=True, fallback=False, score=None)
    >>> read("boats", ["kite", "boat"], "boat")
    Reading(predicted='boat', correct=True, fallback=True, score=None)
    """
    return Reading(*read_choice(text, choices, answer))


def read_choice(text: str, choices: Sequence[str], answer: str) -> tuple[str, bool, bool]:
    """What `read` finds, as plain data: predicted, correct, fallback. It needs strings and `re` alone, and travels to
    servers.
    """
    text, truth = normalise(text), normalise(answer)
    last, chosen = -1, None
    for choice in [normalise(choice) for choice in choices]:
        # Not \b, which needs a word character at the edge: "C++" and "$5" have none there.
        for match in re.finditer(rf"(?<!\w){re.escape(choice)}(?!\w)", text):
            if match.start() > last:  # not >=: of two choices at one place the first listed wins
                last, chosen = match.start(), choice
    if chosen is not None:
        return chosen, chosen == truth, False
    # Here a substring is enough: "boats" counts for "boat".
    if truth and truth in text:
        return truth, True, True
    return text, False, True
