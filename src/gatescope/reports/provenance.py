"""Where the numbers came from: model, data, what was counted, how neurons were chosen and answers read, versions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gatescope.core.counters import Counters
from gatescope.select.selection import Selection
from gatescope.statistics.intervals import Intervals

LONG = (
    "shards",
    "groups",
    "versions",
    "masks",
    "layout",
    "weights",
)  # of a step; told elsewhere on the page, or too long to tell
STEPS = {"attribute": "Attribution", "sweep": "Evaluation"}
Facts = list[tuple[str, list[tuple[str, str]]]]


def facts(
    manifest: Mapping[str, Any],
    selections: Mapping[str, Selection],
    counters: Counters | None,
    drawn: Intervals | None,
) -> Facts:
    """Titled lists of (what, which), without the batch plan."""
    # Options are shown with their selectors.
    study = {name: value for name, value in manifest.get("study", {}).items() if name != "options"}
    sections: Facts = [
        ("Model", plain({name: value for name, value in manifest.get("model", {}).items() if name not in ("signs", "packed")})),
        ("Study", plain(study)),
        ("Identification", plain(_identification(manifest, counters))),
        ("Selectors", [(name, _selector(name, s, manifest)) for name, s in selections.items()]),
        *_steps(manifest),
        ("Intervals", _intervals(drawn) if drawn is not None else []),
        ("Versions", plain(_versions(manifest, counters))),
    ]
    return [(title, rows) for title, rows in sections if rows]


def _identification(manifest: Mapping[str, Any], counters: Counters | None) -> Mapping[str, Any]:
    """What was recorded; a run that holds counters alone has it from them."""
    if record := _short(manifest.get("record", {})):
        return record
    return {} if counters is None else {name: value for name, value in counters.provenance.items() if name != "versions"}


def _steps(manifest: Mapping[str, Any]) -> Facts:
    """The attributions and sweeps."""
    sections: Facts = []
    for key, value in manifest.items():
        step, _, name = key.partition(" of ")
        if step in STEPS and isinstance(value, Mapping):
            sections.append((f"{STEPS[step]} {name}".strip(), plain(_short(value))))
    return sections


def _short(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name not in LONG}


def _intervals(drawn: Intervals) -> list[tuple[str, str]]:
    how = f"percentile bootstrap over questions, {drawn.resamples:,} resamples, seed {drawn.seed}, level {drawn.level:.0%}"
    return [("how", how), ("p-values", "exact McNemar; Holm over all cells of a selector")]


def plain(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Facts as texts; empty ones left out.

    >>> plain({"token_rule": "all", "revision": "", "tokens": ["text", "image"]})
    [('token rule', 'all'), ('tokens', 'text, image')]
    """

    def text(value: Any) -> str:
        if isinstance(value, Mapping):
            return json.dumps(value, ensure_ascii=False)
        return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

    return [(str(key).replace("_", " "), text(value)) for key, value in facts.items() if value not in ("", None, [], {})]


def _selector(name: str, selection: Selection, manifest: Mapping[str, Any]) -> str:
    provenance = dict(next(iter(selection.values())).provenance) if len(selection) else {}
    # Method and group stand beside it already.
    known = {k: v for k, v in provenance.items() if k not in ("method", "group")}
    known |= manifest.get("study", {}).get("options", {}).get(name, {})
    size = "no fixed number" if selection.wanted is None else f"{selection.wanted:,} wanted for each group"
    return "; ".join([size, *(f"{k} {v}" for k, v in known.items())])


def _versions(manifest: Mapping[str, Any], counters: Counters | None) -> Mapping[str, Any]:
    text = manifest.get("record", {}).get("versions") or (counters.provenance.get("versions") if counters is not None else None)
    try:
        return json.loads(text) if isinstance(text, str) else dict(text or {})
    except json.JSONDecodeError:
        return {"versions": text}
