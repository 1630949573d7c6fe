"""Neuron sets: which neurons, by coordinate (site, layer, index), and where they came from.

A `Layout` is the space of a model's neurons, one (site, layers, width) after the other; a neuron's flat number is its
place in that space read site by site, layer by layer. A `NeuronSet` is a list of distinct flat numbers: the order is
the order of selection (best first), and set operations ignore it.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from gatescope._typing import checked
from gatescope.core import artefacts, frames
from gatescope.core.errors import GatescopeError
from gatescope.core.layout import Layout
from gatescope.core.renamed import rename_fields, renamed

FORMAT = "gatescope.neurons/1"


@checked
@dataclass(frozen=True, eq=False)
class NeuronSet:
    """Distinct neurons of one model, best first.

    Attributes:
        layout: the space they are numbered in.
        flat: their numbers, int64 [k], distinct.
        model: identity of the model they belong to (see `gatescope.models.identity.identity`); may be empty.
        provenance: how they were found; may be empty.

    >>> s = NeuronSet.of(Layout.single("gate", 2, 4), [("gate", 1, 3), ("gate", 0, 2)])
    >>> list(s), s.per_layer("gate").tolist()
    ([('gate', 1, 3), ('gate', 0, 2)], [1, 1])
    >>> len(s | s), len(s - s), len(s.complement())
    (2, 0, 6)
    """

    layout: Layout
    flat: Int64[Tensor, " k"]
    model: Mapping[str, str] = field(default_factory=dict[str, str])
    provenance: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        # An empty tensor has no min or max.
        if self.flat.numel() and not (int(self.flat.min()) >= 0 and int(self.flat.max()) < self.layout.size):
            raise GatescopeError(f"Neuron numbers must lie in 0 .. {self.layout.size - 1} for {self.layout}.")
        if self.flat.unique().numel() != self.flat.numel():
            raise GatescopeError("A neuron is listed twice; a NeuronSet holds each neuron once.")

    @classmethod
    @renamed(origin="provenance")
    def of(
        cls,
        layout: Layout,
        neurons: Iterable[tuple[str, int, int]],
        model: Mapping[str, str] | None = None,
        provenance: Mapping[str, str] | None = None,
    ) -> NeuronSet:
        """A set from coordinates (site, layer, index).

        Raises:
            GatescopeError: for a site, layer or index outside the layout, or a neuron listed twice.
        """
        flat: list[int] = []
        for site, layer, index in neurons:
            layer, index = _whole(site, layer, index)
            start, shape = layout.start(site)
            if not (0 <= layer < shape.layers and 0 <= index < shape.width):
                raise GatescopeError(f"No neuron {(site, layer, index)}; there is {layout}.")
            flat.append(start + layer * shape.width + index)
        return cls(layout, torch.tensor(flat, dtype=torch.int64), dict(model or {}), dict(provenance or {}))

    @classmethod
    def from_mask(cls, site: str, mask: Bool[Tensor, "l n"], model: Mapping[str, str] | None = None) -> NeuronSet:
        """The neurons where `mask` is true, in (layer, index) order."""
        layout = Layout.single(site, mask.shape[0], mask.shape[1])
        return cls(layout, mask.flatten().nonzero().flatten(), dict(model or {}))

    def mask(self, site: str) -> Bool[Tensor, "l n"]:
        """True where a neuron of `site` is in the set."""
        start, shape = self.layout.start(site)
        members = torch.zeros(self.layout.size, dtype=torch.bool)
        members[self.flat] = True
        return members[start : start + shape.size].view(shape.layers, shape.width)

    def per_layer(self, site: str) -> Int64[Tensor, " l"]:
        """How many neurons of `site` each layer holds."""
        return self.mask(site).sum(1)

    def indices(self, site: str) -> dict[int, Int64[Tensor, " k"]]:
        """The layers of `site` that hold any neuron, ascending, with the indices of their neurons, ascending."""
        mask = self.mask(site)
        layers: list[int] = mask.any(1).nonzero().flatten().tolist()
        return {layer: mask[layer].nonzero().flatten() for layer in layers}

    def __len__(self) -> int:
        return self.flat.numel()

    def __iter__(self) -> Iterator[tuple[str, int, int]]:
        numbers: list[int] = self.flat.tolist()
        for number in numbers:
            for site in self.layout.sites:
                if number < site.size:
                    yield site.site, number // site.width, number % site.width
                    break
                # Sites lie one after the other; what remains counts from the start of the next.
                number -= site.size

    def __contains__(self, neuron: object) -> bool:
        return neuron in set(self)

    def __eq__(self, other: object) -> bool:
        """The same neurons of the same space, in whatever order."""
        if not isinstance(other, NeuronSet):
            return NotImplemented
        return self.layout == other.layout and torch.equal(self.flat.sort().values, other.flat.sort().values)

    def __hash__(self) -> int:
        # Sorted because == ignores the order, and equal sets need equal hashes.
        return hash((self.layout, tuple(sorted(self.flat.tolist()))))

    def __or__(self, other: NeuronSet) -> NeuronSet:
        self._same_space(other)
        new = other.flat[~torch.isin(other.flat, self.flat)]
        # Without provenance, here and below: what comes of two sets was found by neither's method.
        return NeuronSet(self.layout, torch.cat([self.flat, new]), self.model)

    def __and__(self, other: NeuronSet) -> NeuronSet:
        self._same_space(other)
        return NeuronSet(self.layout, self.flat[torch.isin(self.flat, other.flat)], self.model)

    def __sub__(self, other: NeuronSet) -> NeuronSet:
        self._same_space(other)
        return NeuronSet(self.layout, self.flat[~torch.isin(self.flat, other.flat)], self.model)

    def complement(self) -> NeuronSet:
        """Every neuron of the space that is not in the set, in flat order."""
        outside = torch.ones(self.layout.size, dtype=torch.bool)
        outside[self.flat] = False
        return NeuronSet(self.layout, outside.nonzero().flatten(), self.model)

    def restrict(self, *, sites: Iterable[str] | None = None, layers: Iterable[int] | None = None) -> NeuronSet:
        """The neurons of some sites or layers, in their order; the space stays the same.

        Raises:
            GatescopeError: for a site that the layout does not have.
        """
        keep = torch.zeros(self.layout.size, dtype=torch.bool)
        chosen_layers = None if layers is None else torch.tensor(list(layers), dtype=torch.int64)
        for name in [s.site for s in self.layout.sites] if sites is None else sites:
            start, shape = self.layout.start(name)
            chosen = (
                torch.ones(shape.layers).bool()
                if chosen_layers is None
                else torch.isin(torch.arange(shape.layers), chosen_layers)
            )
            keep[start : start + shape.size] = chosen.repeat_interleave(shape.width)
        return NeuronSet(self.layout, self.flat[keep[self.flat]], self.model, self.provenance)

    def sample(self, count: int, *, seed: int) -> NeuronSet:
        """`count` of these neurons drawn at random, without replacement.

        Raises:
            GatescopeError: if the set has fewer.
        """
        if not 0 <= count <= len(self):
            raise GatescopeError(f"Cannot draw {count} of {len(self)} neurons.")
        # A separate generator leaves torch's global random state as it was.
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:count]
        return NeuronSet(
            self.layout, self.flat[order], self.model, {**self.provenance, "sample": str(count), "seed": str(seed)}
        )

    def __repr__(self) -> str:
        return f"NeuronSet({len(self)} of {self.layout.size}: {self.layout})"

    def to_table(self, library: str = "pandas") -> Any:
        """A data frame of the neurons; see `gatescope.core.frames`."""
        return frames.frame(frames.neuron_columns(self), library)

    @classmethod
    def from_table(cls, table: Any, layout: Layout, model: Mapping[str, str] | None = None) -> NeuronSet:
        """The neurons of a data frame; see `gatescope.core.frames`."""
        return cls.of(layout, [neuron for _, neuron in frames.neuron_rows(table, layout)], model)

    def _same_space(self, other: NeuronSet) -> None:
        if self.layout != other.layout:
            raise GatescopeError(f"Neuron sets of {self.layout} and of {other.layout} cannot be combined.")
        check_same_model(self.model, other.model, "combine neuron sets")

    def save(self, path: str | Path) -> None:
        """Write the set and its provenance as one safetensors file."""
        # Called origin in files since the first release, which must stay readable.
        metadata = {"layout": self.layout.plain(), "model": dict(self.model), "origin": dict(self.provenance)}
        artefacts.write(path, FORMAT, {"flat": self.flat}, metadata)

    @classmethod
    def load(cls, path: str | Path, model: Mapping[str, str] | None = None) -> NeuronSet:
        """Read a set written by `save`.

        Args:
            path: the file.
            model: identity of the model it is to be used with (`gatescope.models.identity.identity(model)`).

        Raises:
            GatescopeError: if the file is not a neuron set, or belongs to another model than `model`.
        """
        tensors, metadata = artefacts.read(path, FORMAT)
        about = artefacts.facts(path, metadata, _About)
        flat = artefacts.needed(path, tensors, {"flat": (torch.int64, (None,))})["flat"]
        with artefacts.named(path):
            neurons = cls(Layout.parse(about.layout), flat, about.model, about.origin)
        if model is not None:
            check_same_model(neurons.model, model, f"use {path}")
        return neurons


rename_fields(NeuronSet, origin="provenance")


class _About(msgspec.Struct):
    """What a file of neurons says of itself."""

    layout: list[Any]
    model: dict[str, str]
    origin: dict[str, str]


def _whole(site: str, *numbers: Any) -> list[int]:
    """A layer and an index as integers, those of NumPy and PyTorch too.

    Raises:
        GatescopeError: for anything else. True is no number here: a mask would be read as neurons 0 and 1.
    """
    try:
        if any(isinstance(number, bool) or str(getattr(number, "dtype", "")).endswith("bool") for number in numbers):
            raise TypeError("truth values")
        return [operator.index(number) for number in numbers]
    except TypeError as error:
        raise GatescopeError(
            f"No neuron {(site, *numbers)}: its layer and its index must be whole numbers. NeuronSet.from_mask reads a mask."
        ) from error


def check_same_model(ours: Mapping[str, str], theirs: Mapping[str, str], what: str) -> None:
    """Refuse to mix artefacts of two models.

    Two identities agree if their weights' digests do, or if id and revision do where one has no weights (remote use). Where one
    is in float16, which rounds weights of other dtypes to others, their signs decide. An empty identity agrees with everything.

    Raises:
        GatescopeError: naming both models.
    """
    if not ours or not theirs:
        return
    keys, why = _compared_by(ours, theirs)
    if any(ours.get(key) != theirs.get(key) for key in keys):
        raise GatescopeError(
            f"Cannot {what}: one model is {_name(ours)}, the other {_name(theirs)}. Neurons of one model mean nothing in "
            f"another; select them again with the model you want to use.{why}"
        )


def _compared_by(ours: Mapping[str, str], theirs: Mapping[str, str]) -> tuple[tuple[str, ...], str]:
    # Digests first: one model may be called by several names, its directory's and the hub's.
    if not ours.get("digest") or not theirs.get("digest"):
        return ("id", "revision"), ""
    # In one dtype the digests themselves are exact, and so they are in any two others.
    if ours.get("dtype") == theirs.get("dtype") or "float16" not in (ours.get("dtype"), theirs.get("dtype")):
        return ("digest",), ""
    if ours.get("signs") and theirs.get("signs"):
        return ("signs",), ""
    why = " One is in float16, and the first release did not write down what dtypes are compared by: load the other's dtype."
    return ("digest",), why


def same_card(ours: Mapping[str, str], theirs: Mapping[str, str]) -> bool:
    """Whether all is the same that two identities say of a model; the first release did not say its signs.

    >>> same_card({"id": "m", "dtype": "float32"}, {"id": "m", "dtype": "float32", "signs": "0f"})
    True
    """
    return {**ours, "signs": ""} == {**theirs, "signs": ""}


def _name(model: Mapping[str, str]) -> str:
    revision, digest = model.get("revision"), model.get("digest")
    name = model.get("id", "unknown")
    name += f" revision {revision}" if revision else ""
    return name + (f" weights {digest[:12]}" if digest else "")
