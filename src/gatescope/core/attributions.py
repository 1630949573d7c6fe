"""Attributions: how much each neuron raised the probability of the right answer, summed over a group's examples.

For an example x with answer y, and a neuron with activation n_i at token i (CULNIG, equations 6, 7 and 10):

    s(x, y) = max over real tokens i of  n_i * dP(y|x) / dn_i          its sum over a group: P(y|x) * s(x, y)

Two sums are kept: the plain one, and one in which an example's negative scores count as 0, which CULNIG's published
code uses for control sets. Axes: g group, n flat neuron number in the layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from gatescope._typing import checked
from gatescope.core import artefacts
from gatescope.core.errors import GatescopeError
from gatescope.core.layout import Layout
from gatescope.core.relatives import check_same_model
from gatescope.core.renamed import rename_fields, renamed

FORMAT = "gatescope.attributions/1"
_SUMS = ("sums", "clamped", "seen")


@checked
# Compared by identity: == of two tensors is a tensor, which is neither true nor false.
@dataclass(frozen=True, eq=False)
class Attributions:
    """Sums of scores over each group's examples.

    Attributes:
        groups: names, in the order of axis g.
        layout: the sites scored.
        sums: P(y|x) s(x, y) summed over examples, float64 [g, n].
        clamped: the same with negative scores of an example counted as 0, float64 [g, n].
        seen: examples summed, int64 [g].
        items: distinct items among all examples of all groups (variants of one item count once); CULNIG's code
            divides by it.
        model: identity of the model.
        provenance: dataset fingerprint, reduction, versions.
    """

    groups: tuple[str, ...]
    layout: Layout
    sums: Float64[Tensor, "g n"]
    clamped: Float64[Tensor, "g n"]
    seen: Int64[Tensor, " g"]
    items: int
    model: Mapping[str, str] = field(default_factory=dict[str, str])
    provenance: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        if tuple(self.sums.shape) != (len(self.groups), self.layout.size):
            raise GatescopeError(
                f"sums are {tuple(self.sums.shape)}; {len(self.groups)} groups of {self.layout} need "
                f"{(len(self.groups), self.layout.size)}."
            )

    @classmethod
    @renamed(origin="provenance")
    def zeros(
        cls,
        groups: Sequence[str],
        layout: Layout,
        items: int,
        model: Mapping[str, str] | None = None,
        provenance: Mapping[str, str] | None = None,
    ) -> Attributions:
        """Attributions of nothing yet."""
        sums = torch.zeros(len(groups), layout.size, dtype=torch.float64)
        seen = torch.zeros(len(groups), dtype=torch.int64)
        # Cloned, or adding to one in place would change the other.
        return cls(tuple(groups), layout, sums, sums.clone(), seen, items, dict(model or {}), dict(provenance or {}))

    def row(self, group: str) -> int:
        """A group's place on axis g.

        Raises:
            GatescopeError: for a group that is not here.
        """
        if group not in self.groups:
            raise GatescopeError(f"No attributions for {group!r}; there are attributions for {list(self.groups)}.")
        return self.groups.index(group)

    def site(self, name: str) -> Float64[Tensor, "g l n"]:
        """The plain sums of one site as [g, l, n], n the widest layer's; 0 where a narrower layer has no neuron."""
        start, shape = self.layout.start(name)
        return shape.table(self.sums[:, start : start + shape.size])

    def __add__(self, other: Attributions) -> Attributions:
        """Attributions of both sets of examples of the same items together.

        Raises:
            GatescopeError: if the two belong to different models, sites, groups or sets of items.
        """
        if (self.groups, self.layout, self.items) != (other.groups, other.layout, other.items):
            raise GatescopeError(
                f"Attributions of {self.groups} over {self.layout} ({self.items} items) and of {other.groups} over "
                f"{other.layout} ({other.items} items) cannot be added."
            )
        check_same_model(self.model, other.model, "add attributions")
        # Not the items: both sets of examples have the same ones, and they are counted once.
        sums = {name: getattr(self, name) + getattr(other, name) for name in _SUMS}
        return Attributions(self.groups, self.layout, **sums, items=self.items, model=self.model, provenance=self.provenance)

    def save(self, path: str | Path) -> None:
        """Write the sums and their provenance as one safetensors file."""
        metadata = {
            "groups": list(self.groups),
            "layout": self.layout.plain(),
            "items": self.items,
            "model": dict(self.model),
            # Called origin in files since the first release, which must stay readable.
            "origin": dict(self.provenance),
        }
        artefacts.write(path, FORMAT, {name: getattr(self, name) for name in _SUMS}, metadata)

    @classmethod
    def load(cls, path: str | Path) -> Attributions:
        """Read attributions written by `save`.

        Raises:
            GatescopeError: if the file cannot be read or holds something else.
        """
        tensors, metadata = artefacts.read(path, FORMAT)
        about = artefacts.facts(path, metadata, _About)
        with artefacts.named(path):
            layout = Layout.parse(about.layout)
        groups = len(about.groups)
        table = (torch.float64, (groups, layout.size))
        sums = artefacts.needed(path, tensors, {"sums": table, "clamped": table, "seen": (torch.int64, (groups,))})
        return cls(tuple(about.groups), layout, **sums, items=about.items, model=about.model, provenance=about.origin)


class _About(msgspec.Struct):
    """What a file of attributions says of itself."""

    groups: list[str]
    layout: list[Any]
    items: int
    model: dict[str, str]
    origin: dict[str, str]


rename_fields(Attributions, origin="provenance")
