"""A change to the activations of some neurons, as data: which neurons, what is done to them, with which values."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from nnsight import TransformersModel
from torch import Tensor

from gatescope.core.errors import GatescopeError
from gatescope.core.layout import SiteShape
from gatescope.core.neurons import NeuronSet
from gatescope.core.relatives import check_same_model
from gatescope.models.identity import identity
from gatescope.models.sites import site_of
from gatescope.traces.jobs import MaskRow

Kind = Literal["zero", "scale", "set", "add"]


class Target(NamedTuple):
    """One module whose tensor is changed: `columns` [k] of it get `values` [k]."""

    reached: tuple[int, int]  # layer and rank: the order of a forward pass
    path: str
    io: str
    columns: Tensor
    values: Tensor


@dataclass(frozen=True)
class Change:
    """What is done to which neurons.

    Attributes:
        neurons: whose activations change; they may span sites.
        kind: what is done to them.
        values: the factor, value or addend of each neuron, in the order of `neurons`; empty for "zero".
    """

    neurons: NeuronSet
    kind: Kind = "zero"
    values: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_one_set(self.neurons)
        for value in self.values:
            if not math.isfinite(value):
                raise GatescopeError(f"An activation cannot be changed by {value} ({self.kind}): it must be a finite number.")

    def __eq__(self, other: object) -> bool:
        """The same kind and values on the same neurons; in the same order, where neurons have different values."""
        if not isinstance(other, Change):
            return NotImplemented
        if (self.neurons, self.kind, self.values) != (other.neurons, other.kind, other.values):
            return False
        # Sets are equal in whatever order, but here the order says which neuron gets which value.
        return len(set(self.values)) < 2 or torch.equal(self.neurons.flat, other.neurons.flat)

    def digest(self) -> str:
        """SHA-256 of everything in it that can change a result."""
        decisive = [self.kind, self.values, self.neurons.layout.plain(), self.neurons.flat.tolist()]
        return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()

    def targets(self, model: TransformersModel) -> list[Target]:
        """Where the model is changed, in the order of its forward pass.

        Raises:
            GatescopeError: if the neurons are not this model's.
        """
        check_same_model(self.neurons.model, identity(model), "apply an intervention", relatives=True)
        targets: list[Target] = []
        for shape in self.neurons.layout.sites:
            site = site_of(model, shape.site)
            if site.layout.only() != shape:
                raise GatescopeError(f"The neurons are numbered in {self.neurons.layout}; the model has {site.layout}.")
            table = self.table(shape)
            for layer, index in self.neurons.indices(shape.site).items():
                here = site.at(layer)
                targets.append(Target((layer, site.rank), here.path, here.io, here.columns_of(index), table[layer, index]))
        # Layer, then rank within it: nnsight must meet modules in the order in which they run.
        return sorted(targets, key=lambda target: target.reached)

    def table(self, shape: SiteShape) -> Float[Tensor, "l n"]:
        """The values of one site's neurons, float32, n the widest layer's; 0 where there is none."""
        start, _ = self.neurons.layout.start(shape.site)
        values = torch.zeros(shape.size)
        if self.values:
            in_site = (self.neurons.flat >= start) & (self.neurons.flat < start + shape.size)
            values[self.neurons.flat[in_site] - start] = torch.tensor(self.values)[in_site]
        return shape.table(values)


def check_one_set(neurons: object) -> None:
    """Refuse what is not one set of neurons.

    Raises:
        GatescopeError: saying what it is.
    """
    if not isinstance(neurons, NeuronSet):
        raise GatescopeError(
            f"An intervention is on one NeuronSet, and this is a {type(neurons).__name__}. "
            f"gs.ablate(selection) makes one for each group of a selection."
        )


def plain(model: TransformersModel, change: Change | None) -> list[MaskRow]:
    """A change as plain data that can travel, in the order in which the model reaches its layers: path, input or output,
    columns [k], kind, values [k].

    None is empty; no neurons are one row that changes nothing, so that a loop over steps has something to wait for.

    Raises:
        GatescopeError: if the neurons belong to another model.
    """
    if change is None:
        return []
    rows: list[MaskRow] = []
    for target in change.targets(model):
        rows.append((target.path, target.io, target.columns, change.kind, target.values))
    if rows:
        return rows
    # Any module would do; the first is reached soonest.
    first = site_of(model, change.neurons.layout.sites[0].site).layers[0]
    return [(first.path, first.io, torch.zeros(0, dtype=torch.int64), change.kind, torch.zeros(0))]
