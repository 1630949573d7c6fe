"""The run in words: what it is, what was found, what a reader must know before believing it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from gatescope.core.counters import Counters
from gatescope.reports.effects import Effect, is_random, lead
from gatescope.reports.words import NOTHING, chance, how_many, number, span, with_span
from gatescope.select.selection import Selection
from gatescope.statistics.table import Table


def title(manifest: Mapping[str, Any]) -> str:
    """What the page is called: the study, or the run."""
    return str(manifest.get("study", {}).get("name") or "A run")


def model_name(manifest: Mapping[str, Any]) -> str:
    """The model in short: its hub id, or its class where it came from a directory.

    >>> model_name({"model": {"id": "Qwen/Qwen2.5-VL-7B-Instruct", "class": "Qwen2_5_VL"}})
    'Qwen/Qwen2.5-VL-7B-Instruct'
    >>> model_name({"model": {"id": "/data/mine", "class": "LlamaForCausalLM"}})
    'LlamaForCausalLM (mine)'
    """
    model = manifest.get("model", {})
    name = str(model.get("id", ""))
    if PurePath(name).is_absolute():
        return f"{model.get('class', 'model')} ({PurePath(name).name[:12]})"
    return name or str(model.get("class", "model"))


def about(manifest: Mapping[str, Any], table: Table, selections: Mapping[str, Selection]) -> str:
    """Model, questions, groups, neurons: one line."""
    asked = sum(not row.selector and not row.mask for row in table.rows)
    parts = [model_name(manifest), f"{asked:,} questions", f"{len(table.groups)} groups"]
    layouts = {str(s.layout) for selection in selections.values() for s in selection.values()}
    parts += [f"neurons: {layout}" for layout in sorted(layouts)]
    return " · ".join(parts)


def size(selection: Selection | None) -> str:
    """How many neurons a selector found for a group; a dash where the run does not hold its selection."""
    return how_many([len(neurons) for neurons in selection.values()] if selection else [])


def lines(
    table: Table,
    shown: Mapping[str, Sequence[Effect]],
    selections: Mapping[str, Selection],
    against: Mapping[str, Mapping[str, float]],
) -> list[str]:
    """The finding in a few sentences.

    Args:
        table: of the first sweep.
        shown: effects by sweep, that one first.
        selections: the run's.
        against: by sweep, CULNIG's p-values of its general set against random ones.
    """
    (first_sweep, effects), *_ = shown.items()
    accuracy = table.accuracy()
    many = "the one group" if len(accuracy) == 1 else f"{len(accuracy)} groups"
    said = [f"Unmasked, the model answers {number(accuracy.mean().item())}% of the questions right (mean of {many})."]
    said += _one_for_all(shown, selections, against.get(first_sweep, {}))
    first = lead(tuple(effects))
    if first is not None:
        self_, cross, gap = (with_span(first.accuracy[part], signed=True) for part in ("self", "cross", "gap"))
        neurons = selections.get(first.selector)
        which = f"{size(neurons)} {first.selector} neurons" if neurons else f"{first.selector} neurons"
        said.append(
            f"Switching off a group's {which} changes its own accuracy by {self_} points and that of the other groups by "
            f"{cross}: a gap of {gap}. {number(first.flips['self'].value)}% of a group's own answers change, and "
            f"{number(first.flips['cross'].value)}% of the others'."
        )
        said += _against_random(first, effects)
    if len(said) == 1:  # nothing but random neurons
        changes = [(e.selector, with_span(e.accuracy["self"], signed=True)) for e in effects[:3]]
        said += [f"Switching off {name} neurons changes accuracy by {change} points." for name, change in changes]
    return said


def _one_for_all(
    shown: Mapping[str, Sequence[Effect]], selections: Mapping[str, Selection], p: Mapping[str, float]
) -> list[str]:
    """Of the set that is one for all groups and changes most: what it changes in each sweep, and random sets beside it."""
    (_, effects), *others = shown.items()
    shared = [e for e in effects if math.isnan(e.accuracy["gap"].value) and e.selector != "RND" and not is_random(e.selector)]
    if not shared:
        return []
    most = min(shared, key=lambda effect: effect.accuracy["self"].value)
    elsewhere = [(name, e) for name, of in others for e in of if e.selector == most.selector]
    also = "".join(f", on {name} by {with_span(e.accuracy['self'], signed=True)}" for name, e in elsewhere)
    many = f"{size(selections[most.selector])} " if most.selector in selections else ""
    change = with_span(most.accuracy["self"], signed=True)
    said = [f"Switching off the {many}{most.selector} neurons changes accuracy by {change} points{also}."]
    for drawn in (effect for effect in effects if is_random(effect.selector)):
        mean, ends = number(drawn.accuracy["self"].value, signed=True), span(drawn.accuracy["self"])
        test = f"; p {chance(p['mean'], int(p['resamples']))} against their mean" if p else ""
        said.append(f"Random sets of as many change it by {mean} points on average ({ends}){test}.")
    return said


def _against_random(first: Effect, effects: Sequence[Effect]) -> list[str]:
    random = next((effect for effect in effects if effect.selector == "RND" and effect is not first), None)
    if random is None:
        return []
    drop, base = first.accuracy["self"], random.accuracy["self"]
    apart = drop.high < base.low or drop.low > base.high
    told = "the two intervals do not overlap" if apart else "the two intervals overlap, so the difference may be chance"
    known = not any(math.isnan(end) for end in (drop.low, base.low))
    return [
        f"Neurons drawn at random (RND) change its own by {with_span(base, signed=True)} points{f'; {told}' if known else ''}. "
        f"Brackets hold 95% bootstrap intervals over questions."
    ]


def warnings(manifest: Mapping[str, Any], counters: Counters | None, selections: Mapping[str, Selection]) -> list[str]:
    """Groups left out and shortfalls: as the study noted them, or as they are found."""
    if "warnings" in manifest:
        return [str(warning) for warning in manifest["warnings"]]
    empty = counters.empty if counters is not None else ()
    said = [f"{group!r}: no token was counted, for no identification example was answered correctly." for group in empty]
    for name, selection in selections.items():
        for group, missing in selection.shortfall.items():
            why = f": {selection.why_fewer}" if selection.why_fewer else ""
            said.append(f"{name} found {len(selection[group])} of {len(selection[group]) + missing} for {group!r}{why}.")
    return said


def groups(table: Table, counters: Counters | None) -> list[tuple[str, str, str, str, str]]:
    """Of each group: counted of seen identification examples, counted tokens, evaluation examples, accuracy."""
    accuracy = dict(zip(table.groups, table.accuracy().tolist(), strict=True))
    asked = [row.group for row in table.rows if not row.selector and not row.mask]
    sums: dict[str, tuple[str, str]] = {}
    if counters is not None:
        parts = (counters.groups, counters.counted.tolist(), counters.seen.tolist(), counters.T.tolist())
        sums = {group: (f"{c:,} of {s:,}", f"{t:,}") for group, c, s, t in zip(*parts, strict=True)}
    return [
        (group, *sums.get(group, (NOTHING, NOTHING)), f"{asked.count(group):,}", number(accuracy.get(group, math.nan)))
        for group in dict.fromkeys([*sums, *accuracy])
    ]
