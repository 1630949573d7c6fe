"""What a selector returns: a neuron set per group, the scores it ranked by, and where it found too few.

A selector takes the round(rate x N) best-scoring neurons of each group, N being all neurons of the site (VLM paper,
section 3.2: "we select the r% highest scoring neurons out of all MLP-neurons"). A score of -inf means "never": if fewer
neurons are left than wanted, fewer are returned and the shortfall says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from jaxtyping import Float64
from scipy import sparse
from torch import Tensor

from gatescope._typing import checked
from gatescope.core import artefacts
from gatescope.core.attributions import Attributions
from gatescope.core.counters import Counters
from gatescope.core.errors import GatescopeError
from gatescope.core.layout import Layout
from gatescope.core.neuron_tables import to_table
from gatescope.core.neurons import NeuronSet
from gatescope.core.relatives import asked_for

FORMAT = "gatescope.selection/1"


@checked
# Compared by identity: == of two tensors is a tensor, which is neither true nor false.
@dataclass(frozen=True, eq=False)
class Selection(Mapping[str, NeuronSet]):
    """Neuron sets by group, as one selector found them. A mapping: `selection["Arveni"]` is a NeuronSet.

    Attributes:
        method: name of the selector, as tables show it.
        sets: the neurons of each group, best first.
        wanted: how many neurons were asked for in each group; None where the selector does not fix a number.
        scores: what they were ranked by, float64 [g, l, n]; None for a selector that does not score (RND).
        why_fewer: what keeps a group from having as many as wanted.
    """

    method: str
    sets: dict[str, NeuronSet]
    wanted: int | None
    scores: Float64[Tensor, "g l n"] | None = None
    why_fewer: str = ""

    def __getitem__(self, group: str) -> NeuronSet:
        if group not in self.sets:
            raise KeyError(f"{group!r} is none of the groups of this selection: {', '.join(map(repr, self.sets))}")
        return self.sets[group]

    def __iter__(self) -> Iterator[str]:
        return iter(self.sets)

    def __len__(self) -> int:
        return len(self.sets)

    @property
    def shortfall(self) -> dict[str, int]:
        """By how many neurons each group fell short of what was wanted; groups that did not are left out."""
        wanted = self.wanted or 0
        return {g: wanted - len(s) for g, s in self.sets.items() if len(s) < wanted}

    def jaccard(self, other: Selection | None = None) -> Float64[Tensor, "g h"]:
        """Overlap |A and B| / |A or B| of each of these sets with each of another selection's (or of these); 0 if both
        are empty.

        Raises:
            GatescopeError: if the two are of different models or sites.
        """
        rows, columns = list(self.sets.values()), list((self if other is None else other).sets.values())
        if not rows or not columns:
            return torch.zeros(len(rows), len(columns), dtype=torch.float64)
        for neurons in (*rows, *columns):
            _ = rows[0] & neurons  # refuses sets of different models or sites
        both = (_members(rows) @ _members(columns).T).toarray()
        sizes, other_sizes = (np.array([len(neurons) for neurons in sets]) for sets in (rows, columns))
        # At least 1: two empty sets have an empty union.
        return torch.from_numpy(both / np.maximum(sizes[:, None] + other_sizes - both, 1))

    def to_table(self, library: str = "pandas") -> Any:
        """A data frame of every group's neurons and their scores; see `gatescope.core.frames`."""
        return to_table(self, library)

    def report(self) -> str:
        """How many neurons each group has, in which layers, and why fewer than wanted."""
        wide = max(map(len, self.sets), default=0)
        lines = [f"{self.method}: {'no fixed number' if self.wanted is None else self.wanted} wanted for each group"]
        for group, neurons in self.sets.items():
            layers = [f"{neurons.per_layer(site.site).tolist()}" for site in neurons.layout.sites]
            lines.append(f"  {group:{wide}} {len(neurons):6}  by layer {' '.join(layers)}")
        if self.shortfall:
            lines.append(f"  fewer than wanted for {', '.join(map(repr, self.shortfall))}: {self.why_fewer}")
        return "\n".join(lines)

    def save(self, path: str | Path) -> None:
        """Write sets, scores and provenance as one safetensors file.

        Raises:
            GatescopeError: for a selection of no group, or if it cannot be written.
        """
        artefacts.write_bytes(Path(path), self.packed())

    def packed(self) -> bytes:
        """What `save` writes.

        Raises:
            GatescopeError: for a selection of no group.
        """
        if not self.sets:
            raise GatescopeError(f"{self.method} has no group, so there is nothing to save; select for one group at least.")
        first = next(iter(self.sets.values()))
        # By number: a group may have any name.
        tensors = {f"set.{i}": neurons.flat for i, neurons in enumerate(self.sets.values())}
        if self.scores is not None:
            tensors["scores"] = self.scores
        metadata = {
            "method": self.method,
            "wanted": self.wanted,
            "why_fewer": self.why_fewer,
            "groups": list(self.sets),
            "origins": [dict(neurons.provenance) for neurons in self.sets.values()],
            "layout": first.layout.plain(),
            "model": dict(first.model),
        }
        return artefacts.packed(FORMAT, tensors, metadata)

    def used_on(self, model: Any, *, allow: str | None = None) -> Selection:
        """The same selection, its neurons to be used on a model; arguments and errors as for `NeuronSet.used_on`."""
        return replace(self, sets={group: neurons.used_on(model, allow=allow) for group, neurons in self.sets.items()})

    @classmethod
    def load(cls, path: str | Path, *, for_model: Any = None, allow: str | None = None) -> Selection:
        """Read a selection written by `save`.

        Args:
            path: the file.
            for_model: the model it is to be used on, if it is to be checked.
            allow: "same layout" where that may be another than the one it was made on; see `NeuronSet.used_on`.

        Raises:
            GatescopeError: if the file cannot be read or holds something else, or its neurons are another model's, unless that
                is allowed.
        """
        tensors, metadata = artefacts.read(path, FORMAT)
        about = artefacts.facts(path, metadata, _About)
        if len(about.origins) != len(about.groups) or len(set(about.groups)) != len(about.groups):
            raise GatescopeError(f"{path} names a group twice, or not where its neurons are from; make the selection again.")
        kinds: dict[str, Any] = {f"set.{i}": (torch.int64, (None,)) for i in range(len(about.groups))}
        if "scores" in tensors:
            kinds["scores"] = (torch.float64, (len(about.groups), None, None))
        held = artefacts.needed(path, tensors, kinds)
        with artefacts.named(path):
            layout = Layout.parse(about.layout)
            sets = {
                group: NeuronSet(layout, held[f"set.{i}"], about.model, about.origins[i])
                for i, group in enumerate(about.groups)
            }
        selection = cls(about.method, sets, about.wanted, held.get("scores"), about.why_fewer)
        return selection.used_on(for_model, allow=allow) if asked_for(for_model, allow) else selection


class _About(msgspec.Struct):
    """What a file of a selection says of itself."""

    method: str
    wanted: int | None
    why_fewer: str
    groups: list[str]
    origins: list[dict[str, str]]
    layout: list[Any]
    model: dict[str, str]


def _members(sets: Sequence[NeuronSet]) -> sparse.csr_array:
    """Which neurons are in which set [set, n]; a product of two of these counts what sets have in common."""
    flat = torch.cat([neurons.flat for neurons in sets]).numpy()
    row = np.repeat(np.arange(len(sets)), [len(neurons) for neurons in sets])
    return sparse.csr_array((np.ones(len(flat), dtype=np.int64), (row, flat)), shape=(len(sets), sets[0].layout.size))


def wanted_count(layout: Layout, rate: float) -> int:
    """round(rate x N) neurons.

    >>> wanted_count(Layout.single("gate", 32, 14336), 0.01)
    4588

    Raises:
        GatescopeError: if rate is not in (0, 1], or so small that it selects nothing.
    """
    if not 0 < rate <= 1:
        raise GatescopeError(f"rate is {rate}; it is a share of all neurons, so it must lie in (0, 1], such as 0.01.")
    count = round(rate * layout.size)
    if count == 0:
        raise GatescopeError(
            f"rate {rate} of {layout.size} neurons selects none; the smallest useful rate here is {1 / layout.size:.2g}."
        )
    return count


@checked
def top(
    method: str,
    counters: Counters | Attributions,
    rate: float,
    scores: Float64[Tensor, "g l n"],
    tie_breaks: Sequence[Float64[Tensor, "g l n"]] = (),
    *,
    why_fewer: str = "the selector scores no more",
) -> Selection:
    """The best round(rate x N) neurons of each group by score, then by each tie-break, then by (layer, index).

    What every selector here ends in, and all that one of your own needs: compute scores [g, l, n] from counters (or
    attributions), and hand them in.

    Args:
        method: name of the selector.
        counters: whose groups, layout and provenance the sets take.
        rate: share of all neurons, in (0, 1].
        scores: higher is better; -inf is never selected.
        tie_breaks: higher is better, each used only among equals of all before it.
        why_fewer: what to say where fewer than wanted are found.

    Raises:
        GatescopeError: for a rate outside (0, 1], or NaN among the scores.

    >>> layout = Layout.single("gate", 1, 3)
    >>> counters = Counters.zeros(["a"], layout)
    >>> list(top("mine", counters, 0.67, torch.tensor([[[1.0, 3.0, 2.0]]], dtype=torch.float64))["a"])
    [('gate', 0, 1), ('gate', 0, 2)]
    """
    count = wanted_count(counters.layout, rate)
    # Refused, since NaN has no order: sorting would put it anywhere.
    if scores.isnan().any():
        first: list[int] = scores.flatten(1).isnan().nonzero()[0].tolist()
        group, number = first
        _, layer, index = counters.layout.locate(number)
        raise GatescopeError(f"{method} scored NaN for {counters.groups[group]!r}, layer {layer}, neuron {index}.")
    sets: dict[str, NeuronSet] = {}
    for g, group in enumerate(counters.groups):
        score = scores[g].flatten().numpy()
        # Ascending, so that scores are negated; positions break what ties are left.
        keys = [np.arange(score.size), *(-tie[g].flatten().numpy() for tie in reversed(tie_breaks)), -score]
        order = np.lexsort(keys)[:count]  # the last key counts most
        # -inf is never selected, even where too few are left.
        chosen = torch.from_numpy(order[np.isfinite(score[order])])
        sets[group] = NeuronSet(counters.layout, chosen, counters.model, {"method": method, "group": group, "rate": str(rate)})
    return Selection(method, sets, count, scores, why_fewer)
