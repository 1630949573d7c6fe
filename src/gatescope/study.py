"""The whole job: record, select, ablate, compare, keep; the VLM paper's pipeline (its Figure 2) as one function."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gatescope import organism, select
from gatescope.counters import Counters
from gatescope.data.example import Study
from gatescope.errors import GatescopeError
from gatescope.evaluate.sweep import sweep
from gatescope.evaluate.table import Table
from gatescope.intervene import ablate
from gatescope.models import identity
from gatescope.neurons import NeuronSet
from gatescope.record import record
from gatescope.runs import Run
from gatescope.select.selection import Selection, wanted_count
from gatescope.sites import site_of

SELECTORS = {"RND": select.random, "CAS": select.cas}


@dataclass(frozen=True)
class Result:
    """What a study found.

    Attributes:
        counters: of all groups, those without a counted token included.
        selections: by selector.
        table: the sweep over the evaluation examples.
        warnings: what a reader must know: groups left out, shortfalls.
        precision: where the true neurons are known, by selector, the mean over groups of precision at k.
    """

    counters: Counters
    selections: dict[str, Selection]
    table: Table
    warnings: tuple[str, ...]
    precision: dict[str, float] | None = None

    def __str__(self) -> str:
        lines = [str(self.table.self_cross())]
        if self.precision is not None:
            values = ", ".join(f"{name} {value:.2f}" for name, value in self.precision.items())
            lines += ["", f"precision at k against the known neurons: {values}"]
        return "\n".join([*lines, *(f"note: {warning}" for warning in self.warnings)])


def run_study(
    model,
    study: Study,
    *,
    rate: float,
    out: str | Path,
    known: Mapping[str, NeuronSet] | None = None,
    batch_size: int = 16,
    max_new_tokens: int = 20,
) -> Result:
    """Record on the identification examples, select with RND and CAS, switch off, answer the evaluation examples.

    Args:
        model: from `load_model`.
        study: the examples.
        rate: share of all neurons to select for each group, in (0, 1].
        out: run directory; new or empty.
        known: the true neurons by group, where they are known.
        batch_size: examples a batch.
        max_new_tokens: at most this many tokens an answer.

    Raises:
        GatescopeError: for fewer than two groups, a bad rate, a directory in use, or if fewer than two groups have
            a correctly answered example. Nothing is left behind then.
    """
    _check(model, study, rate, out)
    with _cleared_on_error(Path(out)):
        counters = record(model, study.identification, run=out, batch_size=batch_size, max_new_tokens=max_new_tokens)
        run = Run.at(out, identity(model))
        run.note({"study": {"name": study.name, "rate": rate, **study.notes}})
        selections = {name: selector(_usable(counters), rate) for name, selector in SELECTORS.items()}
        for selection in selections.values():
            run.add_selection(selection)
        masks = {name: {group: ablate(neurons) for group, neurons in s.items()} for name, s in selections.items()}
        table = sweep(model, study.evaluation, masks, run=run, batch_size=batch_size, max_new_tokens=max_new_tokens)
        result = Result(counters, selections, table, _warnings(counters, selections, study), _precision(selections, known))
        run.note({"warnings": list(result.warnings), "precision": result.precision})
    return result


def open_result(path: str | Path) -> Result:
    """The result of a finished study, from its run directory alone.

    Raises:
        GatescopeError: if there is no run, or it was not finished.
    """
    run = Run.open(path)
    manifest = run.manifest
    return Result(run.counters, run.selections, run.table, tuple(manifest.get("warnings", ())), manifest.get("precision"))


def _check(model, study: Study, rate: float, out: str | Path) -> None:
    groups = sorted({example.group for example in study.identification})
    if len(groups) < 2:
        raise GatescopeError(f"A study compares groups and needs at least two; {study.name!r} has {groups} to identify on.")
    if not study.evaluation:
        raise GatescopeError(f"{study.name!r} has no evaluation examples.")
    wanted_count(site_of(model, "gate").layout, rate)
    path = Path(out)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise GatescopeError(f"{out} exists and is not empty. Choose a new directory for the run.")


def _usable(counters: Counters) -> Counters:
    usable = counters.with_tokens()
    if len(usable.groups) < 2:
        raise GatescopeError(
            f"The model answered no identification example correctly for {', '.join(map(repr, counters.empty))}, so only "
            f"{list(usable.groups)} can be compared and at least two groups are needed. Give it examples it can answer."
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
    unseen = {e.group for e in study.identification} - {e.group for e in study.evaluation}
    lines += [f"{group!r} has no evaluation example." for group in sorted(unseen)]
    return tuple(lines)


def _precision(selections: Mapping[str, Selection], known: Mapping[str, NeuronSet] | None) -> dict[str, float] | None:
    if known is None:
        return None
    found = {name: organism.precision(selection, dict(known)) for name, selection in selections.items()}
    return {name: sum(values.values()) / len(values) for name, values in found.items()}


@contextlib.contextmanager
def _cleared_on_error(path: Path) -> Iterator[None]:
    """A user's mistake leaves nothing half-written; a crash leaves the finished shards for a restart."""
    try:
        yield
    except GatescopeError:
        shutil.rmtree(path, ignore_errors=True)
        raise
