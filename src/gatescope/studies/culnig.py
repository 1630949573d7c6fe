"""CULNIG end to end: attribute, select, suppress, and compare tasks with ten random sets of the same size.

1. Attribute the culture questions, their control (question removed) and the reading-comprehension questions.
2. Select culture-general neurons, with and without dropping those the reading set scores, and culture-specific ones.
3. Suppress each set and as many neurons drawn at random from the same modules, ten times; answer every task again.

("Neuron-Level Analysis of Cultural Understanding in LLMs", sections 3 and 4.3; random sets matched by module.)

Tasks answered by a label are read as the published evaluation reads them, `readout="argmax"`: right is only who makes the
right label the most probable of all tokens. Under suppression this falls lower than `readout="label"`, which compares
the labels alone: it also counts a model that no longer answers by a label. How often that is, `no_label` says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import nnsight
import torch
from jaxtyping import Float64
from torch import Tensor

from gatescope import select
from gatescope.core.attributions import Attributions
from gatescope.core.errors import GatescopeError
from gatescope.core.neurons import NeuronSet
from gatescope.data.example import Study
from gatescope.interventions.intervention import Intervention, ablate
from gatescope.models.identity import identity
from gatescope.select import Selection
from gatescope.select.attribution import check_share, check_z
from gatescope.statistics.significance import AgainstRandom, against_random
from gatescope.statistics.table import ALL, Effects, Row, Table
from gatescope.steps.attribute import attribute
from gatescope.steps.step import Executor
from gatescope.steps.sweep import sweep
from gatescope.studies.begun import begun
from gatescope.studies.culnig_result import GENERAL, SEEDS, SPECIFIC, UNFILTERED, CulnigResult
from gatescope.traces.batch import readout_named


def run_culnig(
    model: nnsight.TransformersModel,
    tasks: Mapping[str, Study],
    *,
    mlp_rate: float = 0.01,
    attention_rate: float = 0.002,
    exclude_rate: float = 0.01,
    rate: float = 0.003,
    z: float = 0.5,
    known: NeuronSet | None = None,
    out: str | Path | None = None,
    readout: str | None = None,
    batch_size: int | str = 16,
    max_new_tokens: int = 20,
    executor: Executor | None = None,
    progress: bool = True,
) -> CulnigResult:
    """Run CULNIG on a model.

    Args:
        model: from `load_model`.
        tasks: "culture", "control" and, if there is one, "reading" to identify on; all but "control" are evaluated, as is
            every other (neutral) task.
        mlp_rate, attention_rate, exclude_rate: of the general selector.
        rate, z: of the specific selector.
        known: neurons (of gate_pre) known to carry culture, where they are known.
        out: run directory for the neurons and every answer; new or empty.
        readout: how answers are read (see `gatescope.traces.readouts`); if None each task's own way, and those that are
            answered by a label as CULNIG's published evaluation does, "argmax".
        batch_size: examples a batch.
        max_new_tokens: at most this many tokens an answer, where answers are generated.
        executor: as for `record`.
        progress: show bars.

    Raises:
        GatescopeError: as `attribute` and the selectors do; before anything is run, for an example that cannot be read.
    """
    if not {"culture", "control"} <= set(tasks):
        raise GatescopeError(f"CULNIG needs the tasks 'culture' and 'control'; these were given: {', '.join(tasks)}.")
    # A bad rate or threshold is refused here, before hours of attribution.
    for share in (mlp_rate, attention_rate, exclude_rate, rate):
        check_share(share)
    check_z(z)
    read_by = _readouts(model, tasks, readout)
    rates: dict[str, Any] = {"mlp_rate": mlp_rate, "attention_rate": attention_rate, "exclude_rate": exclude_rate}
    rates |= {"rate": rate, "z": z}
    culture = tasks["culture"]
    about = {"name": culture.name, **culture.notes, **rates}
    with nullcontext() if out is None else begun(out, identity(model), about, rates) as run:
        how: dict[str, Any] = {"run": run, "batch_size": batch_size, "executor": executor, "progress": progress}
        identified = [name for name in ("culture", "control", "reading") if name in tasks]
        # All attributions first: selecting needs the three of them together.
        scored = {name: attribute(model, tasks[name].identification, name=name, **how) for name in identified}
        chosen = choose(scored["culture"], scored["control"], scored.get("reading"), **rates)
        if run is not None:
            run.add_selections(chosen.values())
        options = how | {"max_new_tokens": max_new_tokens}
        result = _result(chosen, _swept(model, tasks, read_by, chosen, options), read_by, known)
        if run is not None:
            run.note({"against_random": _tests(result)})
    return result


def _swept(
    model: nnsight.TransformersModel,
    tasks: Mapping[str, Study],
    read_by: Mapping[str, str],
    chosen: Mapping[str, Selection],
    options: Mapping[str, Any],
) -> dict[str, Table]:
    """Every task's answers."""
    swept: dict[str, Table] = {}
    for task, reading in read_by.items():
        masks = _masks(chosen, with_specific=task == "culture")
        swept[task] = sweep(model, tasks[task].evaluation, masks, name=task, readout=reading, **options)
    return swept


def _readouts(model: nnsight.TransformersModel, tasks: Mapping[str, Study], readout: str | None) -> dict[str, str]:
    """How each task that is evaluated is read.

    Raises:
        GatescopeError: for an example that its task's read-out cannot read.
    """
    read_by = {task: readout or published_readout(study) for task, study in tasks.items() if task != "control"}
    for task, how in read_by.items():
        readout_named(how).readable(model, tasks[task].evaluation)
    return read_by


def _masks(chosen: Mapping[str, Selection], *, with_specific: bool) -> dict[str, dict[str, Intervention]]:
    """The general sets and as many random ones, and, where groups are those of the questions, the specific sets."""
    masks = {name: ablate(selection) for name, selection in chosen.items() if name != SPECIFIC}
    for seed in range(SEEDS):
        # From the same sites: an attention neuron and an MLP neuron do not weigh alike.
        masks[f"random {seed}"] = {ALL: ablate(matched_random(chosen[GENERAL][ALL], seed))}
    # Other tasks have other groups, to which the sets of the countries do not apply.
    if with_specific:
        masks[SPECIFIC] = ablate(chosen[SPECIFIC])
    return masks


def _result(
    chosen: Mapping[str, Selection], swept: Mapping[str, Table], read_by: Mapping[str, str], known: NeuronSet | None
) -> CulnigResult:
    general = chosen[GENERAL][ALL]
    randoms = [f"random {seed}" for seed in range(SEEDS)]
    names = ["full", *(name for name in chosen if name != SPECIFIC), *randoms]
    right = {task: {name: _right(table, name) for name in names} for task, table in swept.items()}

    def percent(name: str) -> dict[str, float]:
        return {task: 100 * scores[name][~scores[name].isnan()].mean().item() for task, scores in right.items()}

    def unlabelled(name: str) -> dict[str, float]:
        return {task: _no_label(table, name) for task, table in swept.items() if read_by[task] == "argmax"}

    return CulnigResult(
        general,
        # Without a reading set nothing was excluded, and the two are one.
        chosen[UNFILTERED][ALL] if UNFILTERED in chosen else general,
        chosen[SPECIFIC],
        {name: percent(name) for name in names},
        Effects((swept["culture"].self_cross()[SPECIFIC],)),
        {task: _tested(scores[GENERAL], torch.stack([scores[name] for name in randoms])) for task, scores in right.items()},
        _precision(general, known),
        {name: unlabelled(name) for name in names},
    )


def _tested(general: Float64[Tensor, " e"], random: Float64[Tensor, "m e"]) -> AgainstRandom:
    """CULNIG's test, over the examples that the model answered under every mask."""
    answered = ~(general.isnan() | random.isnan().any(0))
    if not answered.any():
        return AgainstRandom(math.nan, math.nan, 0, 0)
    return against_random(general[answered], random[:, answered])


def _tests(result: CulnigResult) -> dict[str, dict[str, float]]:
    """What the tests against random sets say, by task."""
    return {
        task: {"mean": test.mean, "single": test.single, "resamples": test.resamples}
        for task, test in result.against_random.items()
    }


def _precision(general: NeuronSet, known: NeuronSet | None) -> float | None:
    """Share of the general neurons that are known to carry culture."""
    # Only organisms have known neurons.
    if known is None:
        return None
    return len(set(general) & set(known)) / max(len(general), 1)


def published_readout(study: Study) -> str:
    """How CULNIG's published evaluation reads a task: by the most probable of all tokens where it is answered by a label.

    >>> published_readout(Study("qnli", [], [], readout="label")), published_readout(Study("cvqa", [], []))
    ('argmax', 'generate')
    """
    return "argmax" if study.readout == "label" else study.readout


def choose(
    scores: Attributions,
    control: Attributions,
    reading: Attributions | None,
    *,
    mlp_rate: float = 0.01,
    attention_rate: float = 0.002,
    exclude_rate: float = 0.01,
    rate: float = 0.003,
    z: float = 0.5,
) -> dict[str, Selection]:
    """CULNIG's sets by name: general (one set, for all), the same with the reading neurons kept, and specific.

    Args:
        scores, control, reading: attributions of the questions, of their control and of reading comprehension.
        mlp_rate, attention_rate, exclude_rate, rate, z: as for `run_culnig`.

    Raises:
        GatescopeError: as the selectors do.
    """
    how: dict[str, Any] = {"mlp_rate": mlp_rate, "attention_rate": attention_rate, "exclude_rate": exclude_rate}
    kinds = {GENERAL: reading} | ({UNFILTERED: None} if reading is not None else {})
    general = {name: select.culnig_general(scores, control, exclude, **how) for name, exclude in kinds.items()}
    selections = {name: Selection(name, {ALL: neurons}, None) for name, neurons in general.items()}
    return selections | {SPECIFIC: select.culnig_specific(scores, control, reading, rate=rate, exclude_rate=exclude_rate, z=z)}


def matched_random(neurons: NeuronSet, seed: int) -> NeuronSet:
    """As many neurons drawn at random, from each site as many as `neurons` has there."""
    # A generator of its own: the global one belongs to the user.
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for shape in neurons.layout.sites:
        start, _ = neurons.layout.start(shape.site)
        count = int(neurons.mask(shape.site).sum())
        drawn.append(start + torch.randperm(shape.size, generator=generator)[:count])
    provenance = {"method": "RND", "matched": "sites", "seed": str(seed)}
    return NeuronSet(neurons.layout, torch.cat(drawn), neurons.model, provenance)


def _rows(table: Table, name: str) -> list[Row]:
    return list(table.full) if name == "full" else [row for row in table.rows if row.selector == name]


def _no_label(table: Table, name: str) -> float:
    """Percent of a mask's answers that are no label; holes are no answers."""
    rows = [row for row in _rows(table, name) if not row.reading.hole]
    # `argmax` marks as fallback what was no label.
    return 100 * sum(row.reading.fallback for row in rows) / len(rows) if rows else math.nan


def _right(table: Table, name: str) -> Float64[Tensor, " e"]:
    return torch.tensor([row.reading.value for row in _rows(table, name)], dtype=torch.float64)
