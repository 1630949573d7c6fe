"""What a dataset is, for `gatescope data list` and `gatescope data show`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gatescope.data.example import Study


@dataclass(frozen=True)
class Card:
    """One dataset.

    Attributes:
        name: its name, here and on the command line.
        load: the function that loads it; its first argument is `path`.
        what: what is in it, in a sentence.
        licence: as published.
        size: how many rows and groups it has.
        answered: how its questions are answered, and by which read-out.
        home: its web page.
        paper: which of the two papers uses it, and for what.
    """

    name: str
    load: Callable[..., Study]
    what: str
    licence: str
    size: str
    answered: str
    home: str
    paper: str

    def __str__(self) -> str:
        lines = [self.name, f"  {self.what}"]
        for field in ("size", "answered", "licence", "home", "paper"):
            lines.append(f"  {field:9}{getattr(self, field)}")
        return "\n".join(lines)
