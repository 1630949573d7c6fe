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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from gatescope import select
from gatescope.core.attributions import Attributions
from gatescope.core.errors import GatescopeError
from gatescope.core.neurons import NeuronSet
from gatescope.data.example import Study
from gatescope.interventions.intervention import ablate
from gatescope.models.load import identity
from gatescope.select import Selection
from gatescope.select.attribution import check_share
from gatescope.statistics.significance import AgainstRandom, against_random
from gatescope.statistics.table import ALL, Effects, Table
from gatescope.steps.attribute import attribute
from gatescope.steps.run import Run
from gatescope.steps.sweep import sweep
from gatescope.traces.ask import readout_named

SEEDS = 10
GENERAL, UNFILTERED, SPECIFIC = "CULNIG-general", "without exclusion", "CULNIG-specific"


@dataclass(frozen=True)
class CulnigResult:
    """What came of it.

    Attributes:
        general: culture-general neurons.
        unfiltered: the same, reading-comprehension neurons kept.
        specific: culture-specific neurons of each country.
        accuracy: by mask ("full", "CULNIG-general", "without exclusion", "random 0", ...) and task, in percent.
        effects: self- and cross-deactivation of the culture-specific neurons on the culture questions.
        against_random: by task, the p-values of the general set's accuracy being below the random sets' (mean of ten,
            one of them at a time).
        precision: share of the general neurons that are known to carry culture, where that is known.
        no_label: by mask and task, percent of the answers that were no label at all; only tasks read by `argmax`.
    """

    general: NeuronSet
    unfiltered: NeuronSet
    specific: Selection
    accuracy: dict[str, dict[str, float]]
    effects: Effects
    against_random: dict[str, AgainstRandom]
    precision: float | None = None
    no_label: dict[str, dict[str, float]] = field(default_factory=dict)

    def random(self, task: str) -> tuple[float, float]:
        """Mean and standard deviation of a task's accuracy over the random sets."""
        values = torch.tensor([row[task] for name, row in self.accuracy.items() if name.startswith("random ")])
        return values.mean().item(), values.std().item()

    def __str__(self) -> str:
        tasks = list(self.accuracy["full"])
        sizes = {"full": 0, GENERAL: len(self.general), UNFILTERED: len(self.unfiltered)}
        sizes = {name: size for name, size in sizes.items() if name in self.accuracy}
        lines = [f"{'accuracy (%)':20}{'neurons':>8}" + "".join(f"{task:>14}" for task in tasks)]
        for name, size in sizes.items():
            lines.append(f"{name:20}{size:8}" + "".join(f"{self.accuracy[name][task]:14.1f}" for task in tasks))
        cells = "".join(f"{mean:8.1f} ± {spread:3.1f}" for mean, spread in map(self.random, tasks))
        lines.append(f"{f'random (mean of {SEEDS})':20}{len(self.general):8}{cells}")
        for name, which in (("p below their mean", "mean"), ("p below one of them", "single")):
            lines.append(f"{name:28}" + "".join(f"{_p(self.against_random[task], which):>14}" for task in tasks))
        if any(self.no_label.get(GENERAL, {}).values()):
            for name in ("full", GENERAL):
                cells = "".join(f"{self.no_label[name].get(task, math.nan):14.1f}" for task in tasks).replace("nan", "  -")
                lines.append(f"{f'no label (%), {name}':28}{cells}")
        lines += ["", str(self.effects)]
        if self.precision is not None:
            lines += ["", f"share of the culture-general neurons that are known to carry culture: {self.precision:.2f}"]
        return "\n".join(lines)


def run_culnig(
    model,
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
        progress: show bars.

    Raises:
        GatescopeError: as `attribute` and the selectors do; before anything is run, for an example that cannot be read.
    """
    if not {"culture", "control"} <= set(tasks):
        raise GatescopeError(f"CULNIG needs the tasks 'culture' and 'control'; these were given: {', '.join(tasks)}.")
    for share in (mlp_rate, attention_rate, exclude_rate, rate):
        check_share(share)
    read_by = {task: readout or published_readout(study) for task, study in tasks.items() if task != "control"}
    for task, how in read_by.items():
        readout_named(how).readable(model, tasks[task].evaluation)
    run = None if out is None else Run.at(out, identity(model))
    scored = {
        name: attribute(model, tasks[name].identification, run=run, name=name, batch_size=batch_size, progress=progress)
        for name in ("culture", "control", "reading")
        if name in tasks
    }
    rates: dict[str, Any] = {
        "mlp_rate": mlp_rate,
        "attention_rate": attention_rate,
        "exclude_rate": exclude_rate,
        "rate": rate,
        "z": z,
    }
    chosen = choose(scored["culture"], scored["control"], scored.get("reading"), **rates)
    specific, found = chosen[SPECIFIC], {name: s[ALL] for name, s in chosen.items() if name != SPECIFIC}
    general = found[GENERAL]
    masks = found | {f"random {seed}": matched_random(general, seed) for seed in range(SEEDS)}
    named = {name: {ALL: ablate(neurons)} for name, neurons in masks.items()}
    if run is not None:
        for selection in chosen.values():
            run.add_selection(selection)
    options: dict[str, Any] = {"batch_size": batch_size, "max_new_tokens": max_new_tokens, "progress": progress}
    accuracy: dict[str, dict[str, float]] = {name: {} for name in ("full", *masks)}
    no_label: dict[str, dict[str, float]] = {name: {} for name in accuracy}
    effects, tests = Effects(()), {}
    for task, how in read_by.items():
        more = {SPECIFIC: ablate(specific)} if task == "culture" else {}
        kept = {"run": run, "name": task} if run is not None else {}
        table = sweep(model, tasks[task].evaluation, named | more, readout=how, **kept, **options)
        right = {name: _right(table, "" if name == "full" else name) for name in accuracy}
        for name, values in right.items():
            accuracy[name][task] = 100 * values.mean().item()
            if how == "argmax":
                no_label[name][task] = _no_label(table, "" if name == "full" else name)
        drawn = torch.stack([values for name, values in right.items() if name.startswith("random ")])
        tests[task] = against_random(right[GENERAL], drawn)
        if more:
            effects = Effects((table.self_cross()[SPECIFIC],))
    if run is not None:
        drawn = {task: {"mean": t.mean, "single": t.single, "resamples": t.resamples} for task, t in tests.items()}
        run.note(
            {
                "study": {"name": tasks["culture"].name} | tasks["culture"].notes | rates | {"rate": rate, "z": z},
                "against_random": drawn,
            }
        )
    flat = None if known is None else sum((site, layer, i) in set(known) for site, layer, i in general) / max(len(general), 1)
    return CulnigResult(general, found.get(UNFILTERED, general), specific, accuracy, effects, tests, flat, no_label)


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
    found = {name: Selection(name, {ALL: neurons}, None) for name, neurons in general.items()}
    return found | {SPECIFIC: select.culnig_specific(scores, control, reading, rate=rate, exclude_rate=exclude_rate, z=z)}


def matched_random(neurons: NeuronSet, seed: int) -> NeuronSet:
    """As many neurons drawn at random, from each site as many as `neurons` has there."""
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for shape in neurons.layout.sites:
        start, _ = neurons.layout.start(shape.site)
        count = int(neurons.mask(shape.site).sum())
        drawn.append(start + torch.randperm(shape.size, generator=generator)[:count])
    origin = {"method": "RND", "matched": "sites", "seed": str(seed)}
    return NeuronSet(neurons.layout, torch.cat(drawn), neurons.model, origin)


def _p(test: AgainstRandom, which: str) -> str:
    value = getattr(test, which)
    return f"< {1 / test.resamples:.4f}" if value == 0 else f"{value:.4f}"


def _no_label(table: Table, selector: str) -> float:
    missed = [row.reading.fallback for row in table.rows if row.selector == selector]
    return 100 * sum(missed) / len(missed)


def _right(table: Table, selector: str) -> Float64[Tensor, " e"]:
    return torch.tensor([row.reading.value for row in table.rows if row.selector == selector], dtype=torch.float64)
