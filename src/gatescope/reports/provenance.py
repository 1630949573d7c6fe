"""Where the numbers came from: model, data, what was counted, how neurons were chosen and answers read, versions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gatescope.core.counters import Counters
from gatescope.select.selection import Selection
from gatescope.statistics.significance import Intervals

LONG = ("shards", "groups", "versions", "masks", "layout")  # of a step; told elsewhere on the page, or too long to tell
STEPS = {"attribute": "Attribution", "sweep": "Evaluation"}
Facts = list[tuple[str, list[tuple[str, str]]]]


def facts(
    manifest: Mapping[str, Any],
    selections: Mapping[str, Selection],
    counters: Counters | None,
    drawn: Intervals | None,
) -> Facts:
    """Titled lists of (what, which), without the batch plan."""
    record = {k: v for k, v in manifest.get("record", {}).items() if k not in LONG}
    if not record and counters is not None:
        record = {k: v for k, v in counters.origin.items() if k != "versions"}
    found: Facts = [("Model", plain(manifest.get("model", {})))]
    found.append(("Study", plain({k: v for k, v in manifest.get("study", {}).items() if k != "options"})))
    found.append(("Identification", plain(record)))
    found.append(("Selectors", [(name, _selector(name, s, manifest)) for name, s in selections.items()]))
    for key, value in manifest.items():
        step, _, of = key.partition(" of ")
        if step in STEPS and isinstance(value, Mapping):
            found.append((f"{STEPS[step]} {of}".strip(), plain({k: v for k, v in value.items() if k not in LONG})))
    if drawn is not None:
        how = f"percentile bootstrap over questions, {drawn.resamples:,} resamples, seed {drawn.seed}, level {drawn.level:.0%}"
        found.append(("Intervals", [("how", how), ("p-values", "exact McNemar; Holm over all cells of a selector")]))
    found.append(("Versions", plain(_versions(manifest, counters))))
    return [(title, rows) for title, rows in found if rows]


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
    origin = dict(next(iter(selection.values())).origin) if len(selection) else {}
    known = {k: v for k, v in origin.items() if k not in ("method", "group")}
    known |= manifest.get("study", {}).get("options", {}).get(name, {})
    wanted = "no fixed number" if selection.wanted is None else f"{selection.wanted:,} wanted for each group"
    return "; ".join([wanted, *(f"{k} {v}" for k, v in known.items())])


def _versions(manifest: Mapping[str, Any], counters: Counters | None) -> Mapping[str, Any]:
    text = manifest.get("record", {}).get("versions") or (counters.origin.get("versions") if counters is not None else None)
    try:
        return json.loads(text) if isinstance(text, str) else dict(text or {})
    except json.JSONDecodeError:
        return {"versions": text}
