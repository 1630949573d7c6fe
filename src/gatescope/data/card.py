"""What a dataset is, for `gatescope data list` and `gatescope data show`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """One dataset.

    Attributes:
        name: what it is called, here and on the command line.
        load: the function that loads it; its first argument is `path`.
        what: what is in it, in a sentence.
        licence: as published.
        size: how many rows, groups.
        answered: how its questions are answered, and by which read-out.
        home: where it is.
        paper: which of the two papers uses it, and for what.
    """

    name: str
    load: Callable
    what: str
    licence: str
    size: str
    answered: str
    home: str
    paper: str

    def __str__(self) -> str:
        lines = [self.name, f"  {self.what}"]
        facts = {"size": self.size, "answered": self.answered, "licence": self.licence, "home": self.home, "paper": self.paper}
        return "\n".join([*lines, *(f"  {name:9}{value}" for name, value in facts.items())])
