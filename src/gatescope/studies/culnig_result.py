"""The result of a CULNIG study, and how it is printed."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from gatescope.core.neurons import NeuronSet
from gatescope.select.selection import Selection
from gatescope.statistics.significance import AgainstRandom
from gatescope.statistics.table import Effects

SEEDS = 10
GENERAL, UNFILTERED, SPECIFIC = "CULNIG-general", "without exclusion", "CULNIG-specific"


@dataclass(frozen=True)
class CulnigResult:
    """The result of a CULNIG study.

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
        lines = [*self._accuracies(), *self._tests(), *self._unlabelled(), "", str(self.effects)]
        if self.precision is not None:
            lines += ["", f"share of the culture-general neurons that are known to carry culture: {self.precision:.2f}"]
        return "\n".join(lines)

    @property
    def _tasks(self) -> list[str]:
        return list(self.accuracy["full"])

    def _accuracies(self) -> list[str]:
        """Accuracy of the full model, under the two general sets, and under random ones."""
        tasks = "".join(f"{task:>14}" for task in self._tasks)
        lines = [f"{'accuracy (%)':20}{'neurons':>8}{tasks}"]
        for name, size in {"full": 0, GENERAL: len(self.general), UNFILTERED: len(self.unfiltered)}.items():
            # Without a reading set there is no unfiltered set.
            if name in self.accuracy:
                cells = "".join(f"{self.accuracy[name][task]:14.1f}" for task in self._tasks)
                lines.append(f"{name:20}{size:8}{cells}")
        spreads = "".join(f"{mean:8.1f} ± {spread:3.1f}" for mean, spread in map(self.random, self._tasks))
        return [*lines, f"{f'random (mean of {SEEDS})':20}{len(self.general):8}{spreads}"]

    def _tests(self) -> list[str]:
        """The p-values against random sets."""
        rows = (("p below their mean", "mean"), ("p below one of them", "single"))
        return [
            f"{name:28}" + "".join(f"{_p(self.against_random[task], which):>14}" for task in self._tasks)
            for name, which in rows
        ]

    def _unlabelled(self) -> list[str]:
        """How often the model answered by no label at all, where it did."""
        # Lines of zeros would say nothing.
        if not any(self.no_label.get(GENERAL, {}).values()):
            return []
        lines = []
        for name in ("full", GENERAL):
            shares = (self.no_label[name].get(task) for task in self._tasks)
            cells = "".join(f"{'-':>14}" if share is None else f"{share:14.1f}" for share in shares)
            lines.append(f"{f'no label (%), {name}':28}{cells}")
        return lines


def _p(test: AgainstRandom, which: str) -> str:
    value = getattr(test, which)
    # A share of resamples is never known to be 0, only to be below one in as many as were drawn.
    return f"< {1 / test.resamples:.4f}" if value == 0 else f"{value:.4f}"
