"""The run in words: what it is, what was found, what a reader must know before believing it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from gatescope.core.counters import Counters
from gatescope.reports.effects import PARTS, Effect, is_random, lead
from gatescope.reports.words import NOTHING, Value, chance, how_many, number, span, with_span
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
    # In a line of words a path would only be long; it is printed in full where the page says where it came from.
    if PurePath(name).is_absolute():
        return f"{model.get('class', 'model')} ({PurePath(name).name[:12]})"
    return name or str(model.get("class", "model"))


def found_elsewhere(manifest: Mapping[str, Any]) -> list[str]:
    """The models that a run's neurons were found on, where it is not the one they were switched off in.

    >>> found_elsewhere({"sweep": {"neurons_found_on": ["/data/base weights 0123456789ab"]}})
    ['base weights 0123456789ab']
    """
    steps = (facts for facts in manifest.values() if isinstance(facts, Mapping))
    names = {str(name) for facts in steps for name in facts.get("neurons_found_on", ())}
    # As in `model_name`: a directory's path is printed where the page says where things came from.
    return sorted(PurePath(name).name if PurePath(name).is_absolute() else name for name in names)


def about(manifest: Mapping[str, Any], table: Table, selections: Mapping[str, Selection]) -> str:
    """Model, questions, groups, neurons: one line."""
    items = [model_name(manifest), *(f"neurons found on {name}" for name in found_elsewhere(manifest))]
    items += [f"{len(table.full):,} questions", f"{len(table.groups)} groups"]
    layouts = {str(s.layout) for selection in selections.values() for s in selection.values()}
    items += [f"neurons: {layout}" for layout in sorted(layouts)]
    return " · ".join(items)


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
        said += [_leading(first, selections.get(first.selector)), *_against_random(first, effects)]
    if len(said) == 1:  # nothing but random neurons
        changes = [(e.selector, with_span(e.accuracy["self"], signed=True)) for e in effects[:3]]
        said += [f"Switching off {name} neurons changes accuracy by {change} points." for name, change in changes]
    return said


def _leading(first: Effect, neurons: Selection | None) -> str:
    """What the selector of the largest gap does."""
    self_, cross, gap = (with_span(first.accuracy[part], signed=True) for part in PARTS)
    which = f"{size(neurons)} {first.selector} neurons" if neurons else f"{first.selector} neurons"
    return (
        f"Switching off a group's {which} changes its own accuracy by {self_} points and that of the other groups by "
        f"{cross}: a gap of {gap}. {number(first.flips['self'].value)}% of a group's own answers change, and "
        f"{number(first.flips['cross'].value)}% of the others'."
    )


def _one_for_all(
    shown: Mapping[str, Sequence[Effect]], selections: Mapping[str, Selection], p: Mapping[str, float]
) -> list[str]:
    """The effect, in each sweep, of the set for all groups that changes most; and that of random sets."""
    (_, effects), *others = shown.items()
    most = min(filter(_is_shared, effects), key=lambda effect: effect.accuracy["self"].value, default=None)
    if most is None:
        return []
    also = ""
    for sweep, elsewhere in others:
        same = [effect.accuracy["self"] for effect in elsewhere if effect.selector == most.selector]
        also += "".join(f", on {sweep} by {with_span(change, signed=True)}" for change in same)
    many = f"{size(selections[most.selector])} " if most.selector in selections else ""
    change = with_span(most.accuracy["self"], signed=True)
    said = f"Switching off the {many}{most.selector} neurons changes accuracy by {change} points{also}."
    return [said, *(_random_sets(effect.accuracy["self"], p) for effect in effects if is_random(effect.selector))]


def _is_shared(effect: Effect) -> bool:
    """Whether a set is one for all groups, and was chosen: it has no gap, and is not drawn at random."""
    random = effect.selector == "RND" or is_random(effect.selector)
    known = not math.isnan(effect.accuracy["self"].value)  # neither is known where the model gave NaN for every answer
    return known and math.isnan(effect.accuracy["gap"].value) and not random


def _random_sets(change: Value, p: Mapping[str, float]) -> str:
    mean, ends = number(change.value, signed=True), span(change)
    test = f"; p {chance(p['mean'], int(p['resamples']))} against their mean" if p else ""
    return f"Random sets of as many change it by {mean} points on average ({ends}){test}."


def _against_random(first: Effect, effects: Sequence[Effect]) -> list[str]:
    # The control: what as many neurons do that were chosen for nothing.
    random = next((effect for effect in effects if effect.selector == "RND" and effect is not first), None)
    if random is None:
        return []
    drop, base = first.accuracy["self"], random.accuracy["self"]
    change = with_span(base, signed=True)
    return [
        f"Neurons drawn at random (RND) change its own by {change} points{_apart(drop, base)}. Brackets hold 95% bootstrap "
        f"intervals over questions."
    ]


def _apart(one: Value, other: Value) -> str:
    """Whether two intervals overlap, where there are two."""
    # A group of one question has no interval.
    if math.isnan(one.low) or math.isnan(other.low):
        return ""
    if one.high < other.low or one.low > other.high:
        return "; the two intervals do not overlap"
    return "; the two intervals overlap, so the difference may be chance"


def left_out(swept: Mapping[str, Table]) -> list[str]:
    """How many answers no number includes, because the model gave NaN."""
    return [
        f"{effect.selector}{f' on {name}' if name else ''}: {effect.holes:,} answers under its masks are left out: the model "
        f"gave NaN there."
        for name, table in swept.items()
        for effect in table.self_cross().effects
        if effect.holes
    ]


def warnings(manifest: Mapping[str, Any], counters: Counters | None, selections: Mapping[str, Selection]) -> list[str]:
    """Groups left out and shortfalls: as the study noted them, or as they are found."""
    # Only `run_study` notes them; other runs are looked through here.
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
    group_of_question = [row.group for row in table.full]
    rows: list[tuple[str, str, str, str, str]] = []
    sums = counted(counters)
    for group in dict.fromkeys([*sums, *accuracy]):
        seen, right, tokens = sums.get(group, (None, None, None))
        identified = NOTHING if seen is None else f"{right:,} of {seen:,}"
        read = NOTHING if tokens is None else f"{tokens:,}"
        rows.append((group, identified, read, f"{group_of_question.count(group):,}", number(accuracy.get(group, math.nan))))
    return rows


def counted(counters: Counters | None) -> dict[str, tuple[int, int, int]]:
    """By group: examples that were seen, examples that were counted, tokens that were counted."""
    if counters is None:
        return {}
    sums = zip(counters.seen.tolist(), counters.counted.tolist(), counters.T.tolist(), strict=True)
    return dict(zip(counters.groups, sums, strict=True))
