"""A run too large for one page: its maps are pictures, and each mask's numbers are on a page of their own beside it.

A cell of a map is 200 bytes of page, and 200 groups have 40,000 cells a map. Below the limit a page needs nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gatescope.reports.effects import Cell, Matrix, panels
from gatescope.reports.words import count, number, probability, span

CELLS = 20_000  # of all maps of a page together: 4 MB
TABLE = 1_000  # cells of a map that is a table even so

COLUMNS = (
    *("asked", "accuracy change (points)", "95% interval", "flip rate (%)", "95% interval"),
    *("right before", "right after", "of", "answers changed", "McNemar p", "Holm p"),
)


def most(maps: Sequence[Matrix]) -> float:
    """How many cells a map may have to be a table on the page: any number, where all maps fit on it."""
    return math.inf if sum(panel.size for panel in maps) <= CELLS else TABLE


def pages(swept: Mapping[str, tuple[Cell, ...]], limit: float, common: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What the page of each mask shows whose map is a picture, by the page's file.

    Args:
        swept: cells by sweep.
        limit: cells of a map that is no picture.
        common: what all these pages show.
    """
    found: dict[str, dict[str, Any]] = {}
    for s, (sweep, cells) in enumerate(swept.items()):
        for p, (panel, rows) in enumerate(panels(cells).items()):
            if sum(map(len, rows.values())) <= limit:
                continue
            for r, (row, by_group) in enumerate(rows.items()):
                # By number: a group may have any name.
                file = f"masks/{s}-{p}-{r}.html"
                texts = [_texts(cell) for cell in by_group.values()]
                about = {"title": f"{panel}, {row}", "sweep": sweep, "columns": COLUMNS, "rows": texts}
                found[file] = {"key": (sweep, panel, row), **common, **about}
    return found


def _texts(cell: Cell) -> list[str]:
    """A cell's numbers as a reader meets them, in the order of the columns."""
    return [
        f"{cell.group} (its own)" if cell.mask == cell.group else cell.group,
        number(cell.accuracy.value, signed=True),
        span(cell.accuracy),
        number(cell.flips.value),
        span(cell.flips),
        count(cell.before),
        count(cell.after),
        f"{cell.examples:,}",
        count(cell.changed),
        probability(cell.p),
        probability(cell.holm),
    ]
