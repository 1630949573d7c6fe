"""One row, several prompts: an example for each wording asked for."""

from __future__ import annotations

from collections.abc import Sequence

from gatescope.data.prompts import WORDINGS, Wording
from gatescope.errors import GatescopeError


def chosen_wordings(name: str, which: Sequence[int] | None) -> list[tuple[int, Wording]]:
    """The wordings of a benchmark that were asked for, each with its number; all if None.

    Raises:
        GatescopeError: for a number it does not have, or none.
    """
    every = WORDINGS[name]
    numbers = range(len(every)) if which is None else which
    if not numbers or any(not 0 <= number < len(every) for number in numbers):
        raise GatescopeError(f"{name} has the wordings 0 to {len(every) - 1}; {list(numbers)} were asked for.")
    return [(number, every[number]) for number in numbers]


def variant(item: str, number: int) -> str:
    """The id of an item under one wording.

    >>> variant("17", 2)
    '17/2'
    """
    return f"{item}/{number}"
