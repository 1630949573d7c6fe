"""The whole job: record, select, ablate, compare, keep; the VLM paper's pipeline (its Figure 2) as one function."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nnsight

from gatescope import organism, select
from gatescope.core.counters import Counters
from gatescope.core.errors import GatescopeError, one_of
from gatescope.core.neurons import NeuronSet
from gatescope.data.example import Study
from gatescope.interventions.intervention import ablate
from gatescope.models.identity import identity
from gatescope.models.sites import site_of
from gatescope.select.selection import Selection, wanted_count
from gatescope.statistics.table import Table
from gatescope.steps.attribute import attribute
from gatescope.steps.record import record
from gatescope.steps.run import Run, occupied
from gatescope.steps.step import Executor
from gatescope.steps.sweep import sweep
from gatescope.studies.begun import begun, refuse_others

COUNTED = {"RND": select.random, "LAP": select.lap, "LAPE": select.lape, "MAD": select.mad, "CAS": select.cas}
SELECTORS = (*COUNTED, "ATT")


@dataclass(frozen=True)
class Result:
    """What a study found.

    Attributes:
        counters: of all groups, those without a counted token included.
        selections: by selector.
        table: the sweep over the evaluation examples.
        warnings: what a reader must know: groups left out, shortfalls.
        precision: where the true neurons are known, by selector, the mean over groups of precision at k.
        intervals: by selector, 95% bootstrap intervals of self and gap, accuracy change and flip rate.
    """

    counters: Counters
    selections: dict[str, Selection]
    table: Table
    warnings: tuple[str, ...]
    precision: dict[str, float] | None = None
    intervals: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [str(self.table.self_cross()), *self._intervals()]
        if self.precision is not None:
            values = ", ".join(f"{name} {value:.2f}" for name, value in self.precision.items())
            lines += ["", f"precision at k against the known neurons: {values}"]
        return "\n".join([*lines, *(f"note: {warning}" for warning in self.warnings)])

    def _intervals(self) -> list[str]:
        if not self.intervals:
            return []
        wide = 4 + max(8, *map(len, self.intervals))
        names = ("accuracy, self", "accuracy, gap", "flips, self", "flips, gap")
        lines = ["", f"{'95% intervals':{wide}}" + "".join(f"{name:>18}" for name in names)]
        for selector, ends in self.intervals.items():
            lines.append(f"{selector:{wide}}" + "".join(f"{_span(ends[name]):>18}" for name in names))
        return lines


def run_study(
    model: nnsight.TransformersModel,
    study: Study,
    *,
    rate: float,
    out: str | Path,
    selectors: Sequence[str] = ("RND", "CAS"),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    site: str = "gate",
    tokens: str = "all",
    readout: str | None = None,
    known: Mapping[str, NeuronSet] | None = None,
    batch_size: int | str = 16,
    max_new_tokens: int = 20,
    executor: Executor | None = None,
) -> Result:
    """Record on the identification examples, select, switch off, answer the evaluation examples.

    Args:
        model: from `load_model`.
        study: the examples.
        rate: share of all neurons to select for each group, in (0, 1].
        out: run directory; new, or one in which the same study was started, which is continued.
        selectors: of RND, LAP, LAPE, MAD, CAS (from counters) and ATT (from attributions).
        options: keyword arguments of a selector, by its name; LAPE needs {"LAPE": {"rho": percent}}.
        site: which neurons.
        tokens: which tokens are counted.
        readout: how answers are read (see `gatescope.traces.readouts`); the study's own way if None.
        known: the true neurons by group, where they are known.
        batch_size: examples a batch.
        max_new_tokens: at most this many tokens an answer.
        executor: as for `record`.

    Raises:
        GatescopeError: for fewer than two groups, a bad rate or selector, a directory in use, or if fewer than two
            groups have a correctly answered example. What was recorded by then is kept.
    """
    by_selector = _by_selector(selectors, options or {})
    _check(study, by_selector)
    wanted_count(site_of(model, site).layout, rate)  # refuses a bad rate
    _check_begun(out, _decisive(rate, by_selector))
    how: dict[str, Any] = {"readout": readout or study.readout, "batch_size": batch_size, "max_new_tokens": max_new_tokens}
    how["executor"] = executor
    about = {"name": study.name, "rate": rate, "options": by_selector, **study.notes}
    with begun(out, identity(model), about, _decisive(rate, by_selector)) as run:
        counters = record(model, study.identification, site=site, tokens=tokens, run=run, **how)
        usable = _usable(counters, run, str(how["readout"]))
        selections = {name: COUNTED[name](usable, rate, **by_selector[name]) for name in selectors if name in COUNTED}
        if "ATT" in selectors:
            scores = attribute(model, study.identification, sites=(site,), run=run, batch_size=batch_size, executor=executor)
            selections["ATT"] = select.att(scores, rate, **by_selector["ATT"])
        # Before the sweep: answers that are stored must have their neurons beside them.
        run.add_selections(selections.values())
        masks = ablate(selections)
        table = sweep(model, study.evaluation, masks, run=run, **how)
        warnings = _warnings(counters, selections, study)
        result = Result(counters, selections, table, warnings, _precision(selections, known), intervals_of(table))
        run.note({"warnings": list(warnings), "precision": result.precision, "intervals": result.intervals})
    return result


def intervals_of(table: Table) -> dict[str, dict[str, list[float]]]:
    """95% bootstrap intervals of self and gap of every selector."""
    by_selector = {}
    for selector in table.selectors:
        drawn = table.intervals(selector)
        by_selector[selector] = {
            f"{what}, {label}": list(getattr(bounds, name))
            for what, bounds in (("accuracy", drawn.accuracy), ("flips", drawn.flips))
            for label, name in (("self", "self_"), ("gap", "gap"))
        }
    return by_selector


def _span(ends: Sequence[float]) -> str:
    low, high = ends
    return "-" if math.isnan(low) else f"{low:.1f} to {high:.1f}"


def open_result(path: str | Path) -> Result:
    """The result of a finished study, from its run directory alone.

    Raises:
        GatescopeError: if there is no run, or it was not finished.
    """
    run = Run.open(path)
    manifest = run.manifest
    # Runs of earlier versions have no intervals.
    known = manifest.get("precision"), manifest.get("intervals", {})
    return Result(run.counters, run.selections, run.table, tuple(manifest.get("warnings", ())), *known)


def _by_selector(selectors: Sequence[str], options: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every selector's options, those without any too."""
    if unused := set(options) - set(selectors):
        raise GatescopeError(
            f"There are options for {', '.join(map(repr, sorted(unused)))}, and the selectors are {', '.join(selectors)}; "
            f"leave the options out, or add the selector."
        )
    return {name: dict(options.get(name, {})) for name in selectors}


def _check(study: Study, options: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse what cannot end in a comparison, before anything is run."""
    for name in options:
        one_of("selector", name, SELECTORS)
    if study.readout == "none":
        raise GatescopeError(
            f"{study.name!r} holds passages, which are not answered, and a study compares answers. Record them with "
            f"readout='none' and only_correct=False, select, and compare perplexity: see recipes/language_neurons.py."
        )
    # The variant of the LAPE paper has its own thresholds; the VLM paper's needs rho.
    lape = options.get("LAPE")
    if lape is not None and lape.get("rho") is None and lape.get("variant", "vlm") == "vlm":
        raise GatescopeError(
            "LAPE needs rho, the percentage of neurons of lowest entropy it chooses from, which the paper does not give: "
            "--rho on the command line, options={'LAPE': {'rho': 20}} in Python."
        )
    groups = sorted({example.group for example in study.identification})
    if len(groups) < 2:
        raise GatescopeError(f"A study compares groups and needs at least two; {study.name!r} has {groups} to identify on.")
    if not study.evaluation:
        raise GatescopeError(f"{study.name!r} has no evaluation examples.")


def _decisive(rate: float, options: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What a run cannot be continued without."""
    return {"rate": rate, "selectors": list(options), "options": options}


def _check_begun(out: str | Path, decisive: Mapping[str, Any]) -> None:
    """Refuse a directory in use, before a model of hours of work is put to it."""
    if occupied(Path(out)):
        raise GatescopeError(f"{out} exists and is not a run. Choose a new directory for the run.")
    if (Path(out) / "manifest.json").is_file():
        refuse_others(Path(out), Run.open(out).manifest.get("study", {}), decisive)


def _usable(counters: Counters, run: Run, readout: str) -> Counters:
    # A group with T = 0 has no firing rate, so selectors cannot rank by it.
    usable = counters.with_tokens()
    if len(usable.groups) < 2:
        left = f"only {list(usable.groups)}" if usable.groups else "no group"
        rows = run.read_rows("identification.jsonl")
        # Three of them, evenly spaced: enough to see that it answers by letters, or not at all.
        said = ", ".join(repr(row["text"][:60]) for row in rows[:: max(1, len(rows) // 3)][:3])
        raise GatescopeError(
            f"The model answered no identification example correctly for {', '.join(map(repr, counters.empty))}, so {left} can "
            f"be compared and at least two groups are needed. Its answers, read by readout={readout!r}, are such as {said}. "
            f"Give it examples it can answer; if it answers by letters, give each row its 'labels', such as "
            f'["A", "B", "C", "D"], and the \'prompt\' it is used to.'
        )
    return usable


def _warnings(counters: Counters, selections: Mapping[str, Selection], study: Study) -> tuple[str, ...]:
    lines = [
        f"{group!r} was left out: none of its {int(counters.seen[counters.groups.index(group)])} identification examples "
        f"was answered correctly, so no token of it was counted (T = 0)."
        for group in counters.empty
    ]
    for name, selection in selections.items():
        for group, missing in selection.shortfall.items():
            lines.append(f"{name} found {len(selection[group])} of {len(selection[group]) + missing} neurons for {group!r}.")
    # Its mask is applied to others' questions only: it has a cross value, and no self value.
    unseen = {e.group for e in study.identification} - {e.group for e in study.evaluation}
    lines += [f"{group!r} has no evaluation example." for group in sorted(unseen)]
    return tuple(lines)


def _precision(selections: Mapping[str, Selection], known: Mapping[str, NeuronSet] | None) -> dict[str, float] | None:
    if known is None:
        return None
    by_group = {name: organism.precision(selection, dict(known)) for name, selection in selections.items()}
    return {name: sum(values.values()) / len(values) for name, values in by_group.items()}
