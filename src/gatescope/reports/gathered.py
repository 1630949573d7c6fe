"""Everything a page shows of a run, computed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gatescope.core.counters import Counters
from gatescope.core.errors import GatescopeError
from gatescope.reports import found
from gatescope.reports.effects import Cell, Effect, Matrix, cells, effects, intervals, lead, together
from gatescope.select.selection import Selection
from gatescope.statistics.intervals import Intervals
from gatescope.statistics.table import Table
from gatescope.steps.run import Run


@dataclass(frozen=True)
class Gathered:
    """What a page shows, computed once; by the name of a sweep where the run may have several.

    Attributes:
        manifest, counters, selections, swept: of the run.
        unread: why there are no counters, where the run recorded some.
        intervals, effects, cells: of each sweep.
        shown: effects with the random sets as one.
        histograms, layers, shared, across: of the selections.
    """

    manifest: Mapping[str, Any]
    counters: Counters | None
    unread: tuple[str, ...]
    selections: dict[str, Selection]
    swept: dict[str, Table]
    intervals: dict[str, dict[str, Intervals]]
    effects: dict[str, tuple[Effect, ...]]
    shown: dict[str, tuple[Effect, ...]]
    cells: dict[str, tuple[Cell, ...]]
    histograms: tuple[found.Histogram, ...]
    layers: tuple[Matrix, ...]
    shared: tuple[Matrix, ...]
    across: Matrix | None

    @property
    def first(self) -> str:
        """The sweep the page begins with."""
        return next(iter(self.swept))

    @property
    def leading(self) -> str | None:
        """The selector its first sentence is about."""
        effect = lead(self.effects[self.first])
        return effect.selector if effect else None


def gather(run: Run) -> Gathered:
    """Compute it.

    Raises:
        GatescopeError: if the run holds no sweep, or what it holds cannot be read.
    """
    swept = sweeps(run)
    selections = chosen(run, swept)
    counters, unread = counted(run)
    drawn = {name: intervals(table) for name, table in swept.items()}
    of_selectors = {name: effects(table, drawn[name]) for name, table in swept.items()}
    return Gathered(
        manifest=run.manifest,
        counters=counters,
        unread=unread,
        selections=selections,
        swept=swept,
        intervals=drawn,
        effects=of_selectors,
        shown={name: together(rows) for name, rows in of_selectors.items()},
        cells={name: cells(table, drawn[name]) for name, table in swept.items()},
        histograms=found.histograms(selections),
        layers=found.layers(selections),
        shared=found.overlap_of_groups(selections),
        across=found.overlap_of_selectors(selections),
    )


def sweeps(run: Run) -> dict[str, Table]:
    """The run's sweeps by name: the one without a name, and those of several tasks.

    Raises:
        GatescopeError: if there is none, or the answers are only the full model's.
    """
    # A sweep that was stopped early may hold the unmodified model's answers alone.
    swept = {name: table for name, table in run.sweeps.items() if table.selectors}
    if not swept:
        raise GatescopeError(
            f"{run.path} holds no sweep with a mask, so there is no effect to report. Run one first: "
            f"gs.sweep(model, study.evaluation, masks, run={str(run.path)!r})."
        )
    return swept


def asked(manifest: Mapping[str, Any], name: str) -> str | None:
    """The fingerprint of the examples of the sweep of that name; None where the run does not say."""
    return manifest.get(f"sweep of {name}" if name else "sweep", {}).get("fingerprint")


def chosen(run: Run, swept: Mapping[str, Table]) -> dict[str, Selection]:
    """The run's selections, in the order of its sweeps."""
    selections = run.selections
    # As they were swept; then those that were selected and never swept.
    names = [selector for table in swept.values() for selector in table.selectors if selector in selections]
    return {name: selections[name] for name in dict.fromkeys([*names, *selections])}


def counted(run: Run) -> tuple[Counters | None, tuple[str, ...]]:
    """The run's counters; None where it has none, or of several classes of tokens, and why where they cannot be read."""
    recorded = run.manifest.get("record", {})
    # A run of attributions alone has none, and its report does not need them.
    if "shards" not in recorded or len(recorded.get("tokens", ["all"])) != 1:
        return None, ()
    try:
        return run.counters, ()
    except GatescopeError as error:
        return None, (f"What was recorded is not shown: {error}",)
