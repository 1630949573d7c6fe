"""What a selector returns: a neuron set per group, the scores it ranked by, and where it found too few.

A selector takes the round(rate x N) best-scoring neurons of each group, N being all neurons of the site (PAPERS:
"we select the r% highest scoring neurons out of all MLP-neurons", section 3.2). A score of -inf means "never": if
fewer neurons are left than wanted, fewer are returned and the shortfall says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from gatescope import artefacts
from gatescope._typing import checked
from gatescope.counters import Counters
from gatescope.errors import GatescopeError
from gatescope.neurons import Layout, NeuronSet

FORMAT = "gatescope.selection/1"


@checked
@dataclass(frozen=True, eq=False)
class Selection(Mapping[str, NeuronSet]):
    """Neuron sets by group, as one selector found them. A mapping: `selection["JPN"]` is a NeuronSet.

    Attributes:
        method: name of the selector, as tables show it.
        sets: the neurons of each group, best first.
        wanted: how many neurons were asked for in each group.
        scores: what they were ranked by, float64 [g, l, n]; None for a selector that does not score (RND).
    """

    method: str
    sets: dict[str, NeuronSet]
    wanted: int
    scores: Float64[Tensor, "g l n"] | None = None

    def __getitem__(self, group: str) -> NeuronSet:
        return self.sets[group]

    def __iter__(self) -> Iterator[str]:
        return iter(self.sets)

    def __len__(self) -> int:
        return len(self.sets)

    @property
    def shortfall(self) -> dict[str, int]:
        """By how many neurons each group fell short of what was wanted; groups that did not are left out."""
        return {g: self.wanted - len(s) for g, s in self.sets.items() if len(s) < self.wanted}

    def save(self, path: str | Path) -> None:
        """Write sets, scores and provenance as one safetensors file."""
        first = next(iter(self.sets.values()))
        tensors = {f"set.{i}": s.flat for i, s in enumerate(self.sets.values())}
        tensors |= {} if self.scores is None else {"scores": self.scores}
        metadata = {"method": self.method, "wanted": self.wanted, "groups": list(self.sets)}
        metadata |= {"origins": [dict(s.origin) for s in self.sets.values()]}
        metadata |= {"layout": first.layout.plain(), "model": dict(first.model)}
        artefacts.write(path, FORMAT, tensors, metadata)

    @classmethod
    def load(cls, path: str | Path) -> Selection:
        """Read a selection written by `save`.

        Raises:
            GatescopeError: if the file cannot be read or holds something else.
        """
        tensors, metadata = artefacts.read(path, FORMAT)
        layout, model = Layout.parse(metadata["layout"]), metadata["model"]
        sets = {
            group: NeuronSet(layout, tensors[f"set.{i}"], model, metadata["origins"][i])
            for i, group in enumerate(metadata["groups"])
        }
        return cls(metadata["method"], sets, metadata["wanted"], tensors.get("scores"))


def wanted_count(layout: Layout, rate: float) -> int:
    """round(rate x N) neurons.

    >>> wanted_count(Layout.single("gate", 32, 14336), 0.01)
    4588

    Raises:
        GatescopeError: if rate is not in (0, 1], or so small that it selects nothing.
    """
    if not 0 < rate <= 1:
        raise GatescopeError(f"rate is {rate}; it is a share of all neurons, so it must lie in (0, 1], such as 0.01.")
    wanted = round(rate * layout.size)
    if wanted == 0:
        raise GatescopeError(
            f"rate {rate} of {layout.size} neurons selects none; the smallest useful rate here is {1 / layout.size:.2g}."
        )
    return wanted


@checked
def top(
    method: str,
    counters: Counters,
    rate: float,
    scores: Float64[Tensor, "g l n"],
    tie_breaks: Sequence[Float64[Tensor, "g l n"]] = (),
) -> Selection:
    """The best round(rate x N) neurons of each group by score, then by each tie-break, then by (layer, index).

    Args:
        method: name of the selector.
        counters: whose groups, layout and provenance the sets take.
        rate: share of all neurons, in (0, 1].
        scores: higher is better; -inf is never selected.
        tie_breaks: higher is better, each used only among equals of all before it.
    """
    wanted = wanted_count(counters.layout, rate)
    sets = {}
    for g, group in enumerate(counters.groups):
        score = scores[g].flatten().numpy()
        keys = [np.arange(score.size), *(-tie[g].flatten().numpy() for tie in reversed(tie_breaks)), -score]
        order = np.lexsort(keys)[:wanted]  # the last key counts most
        kept = torch.from_numpy(order[np.isfinite(score[order])])
        sets[group] = NeuronSet(counters.layout, kept, counters.model, {"method": method, "group": group, "rate": str(rate)})
    return Selection(method, sets, wanted, scores)
