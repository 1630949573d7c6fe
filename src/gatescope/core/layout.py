"""The space of a model's neurons: one site after the other, and in it one layer after the other.

A neuron's flat number is its place in that space. Layers of a site may differ in width, and a layer may be without the
site: hybrids have attention in some layers only. Tensors over a site's neurons are [..., l, n] where all layers are of one
width, else [..., 1, N], all neurons one after the other; either way the last two axes, read in order, are flat numbers.
"""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gatescope.core import foreign
from gatescope.core.errors import GatescopeError

_MOST = 2**32  # a mask of more would not fit into memory
_DEEPEST = 2**16  # layers
_RUNS = 4  # of layers of one width that a layout names


@dataclass(frozen=True)
class SiteShape:
    """One site's place in the space: its name, and how many neurons it has in each layer of the model.

    Attributes:
        site: its name.
        widths: neurons by layer; 0 where a layer is without the site.

    >>> SiteShape("gate", (3, 0, 2)).locate(4)
    (2, 1)
    """

    site: str
    widths: tuple[int, ...]

    @property
    def layers(self) -> int:
        """How many layers the model has."""
        return len(self.widths)

    @functools.cached_property  # cached, as the next two: asked for at every neuron of a set
    def width(self) -> int:
        """Neurons in the widest layer."""
        return max(self.widths, default=0)

    @functools.cached_property
    def size(self) -> int:
        """How many neurons it has."""
        return sum(self.widths)

    @functools.cached_property
    def even(self) -> bool:
        """Whether all layers are of one width."""
        return len(set(self.widths)) < 2

    @property
    def shape(self) -> tuple[int, int]:
        """The last two axes of a tensor over its neurons: (l, n), or (1, N) where layers differ."""
        return (self.layers, self.width) if self.even else (1, self.size)

    @functools.cached_property
    def starts(self) -> tuple[int, ...]:
        """Number, within the site, of each layer's first neuron."""
        return tuple(itertools.accumulate(self.widths, initial=0))[:-1]

    def has(self, layer: int, index: int) -> bool:
        """Whether there is such a neuron."""
        return 0 <= layer < self.layers and 0 <= index < self.widths[layer]

    def locate(self, number: int) -> tuple[int, int]:
        """Layer and index of a neuron by its number within the site."""
        # The last layer that starts at or before it: one without neurons starts where the next one does.
        layer = bisect.bisect_right(self.starts, number) - 1
        return layer, number - self.starts[layer]

    def table(self, values: Tensor) -> Tensor:
        """Values of its neurons [..., N] as a table [..., l, n], n the widest layer's; 0 where there is no neuron."""
        if self.even:
            return values.unflatten(-1, (self.layers, self.width))
        table = values.new_zeros(*values.shape[:-1], self.layers * self.width)
        return table.index_copy(-1, self._places.to(values.device), values).unflatten(-1, (self.layers, self.width))

    def values(self, table: Tensor) -> Tensor:
        """The reverse of `table`: values of its neurons [..., N] out of a table [..., l, n]."""
        flat = table.flatten(-2)
        return flat if self.even else flat.index_select(-1, self._places.to(table.device))

    @functools.cached_property
    def _places(self) -> Tensor:
        """Where in a table, read row by row, each neuron is."""
        rows = [torch.arange(width) + layer * self.width for layer, width in enumerate(self.widths)]
        return torch.cat(rows)


@dataclass(frozen=True)
class Layout:
    """The sites a neuron may be in, in order.

    >>> Layout.single("gate", layers=3, width=300).size
    900
    """

    sites: tuple[SiteShape, ...]

    @classmethod
    def single(cls, site: str, layers: int, width: int) -> Layout:
        """A layout of one site, of one width in all layers."""
        return cls((SiteShape(site, (width,) * layers),))

    @classmethod
    def of(cls, site: str, widths: Iterable[int]) -> Layout:
        """A layout of one site with a width for each layer; 0 where a layer is without it.

        >>> str(Layout.of("q", [0, 0, 8, 8]))
        'q [layers 2-3 x 8]'
        """
        return cls((SiteShape(site, tuple(widths)),))

    @property
    def size(self) -> int:
        """How many neurons there are."""
        return sum(site.size for site in self.sites)

    def only(self) -> SiteShape:
        """The one site.

        Raises:
            GatescopeError: if there are several.
        """
        if len(self.sites) != 1:
            raise GatescopeError(f"Expected one site; this spans {', '.join(s.site for s in self.sites)}.")
        return self.sites[0]

    def start(self, name: str) -> tuple[int, SiteShape]:
        """Flat number of a site's first neuron, and the site.

        Raises:
            GatescopeError: if the layout has no such site.
        """
        start = 0
        for site in self.sites:
            if site.site == name:
                return start, site
            start += site.size
        raise GatescopeError(f"No site {name!r} here; there is {', '.join(repr(s.site) for s in self.sites)}.")

    def locate(self, number: int) -> tuple[str, int, int]:
        """Site, layer and index of a neuron by its flat number."""
        for site in self.sites:
            if number < site.size:
                return site.site, *site.locate(number)
            # Sites lie one after the other; what remains counts from the start of the next.
            number -= site.size
        raise GatescopeError(f"There are {self.size} neurons in {self}; there is no number {number + self.size}.")

    def plain(self) -> list[list[Any]]:
        """As lists, for JSON; `parse` reads it back."""
        # Lists, which JSON gives back unchanged; tuples would come back as lists. One width is a number, as in the first
        # release, whose files must stay readable.
        return [[s.site, s.layers, s.width if s.even else list(s.widths)] for s in self.sites]

    @classmethod
    def parse(cls, plain: Iterable[Sequence[Any]]) -> Layout:
        """The layout `plain` came from.

        Raises:
            GatescopeError: if it is none: other types, a site twice, a site without neurons, more neurons than models have.
        """
        what = "A layout is [[site, layers, width], ...], with a list of widths where layers differ"
        rows = foreign.check(list(plain), list[tuple[str, int, int | list[int]]], what)
        if len({site for site, _, _ in rows}) < len(rows) or not rows:
            raise GatescopeError(f"A layout has each site once, and at least one; this is {rows}.")
        layout = cls(tuple(_shape(*row) for row in rows if _sound(*row)))
        if len(layout.sites) < len(rows) or layout.size > _MOST:
            raise GatescopeError(f"A site has 1 layer and 1 neuron at least, and a layout at most {_MOST:,}; this is {rows}.")
        return layout

    def __str__(self) -> str:
        return ", ".join(_described(site) for site in self.sites)


def _sound(_site: str, layers: int, width: int | list[int]) -> bool:
    """Whether a row of a plain layout has layers and neurons, as many widths as layers, and no more than models have."""
    if not 1 <= layers <= _DEEPEST:
        return False
    return width >= 1 if isinstance(width, int) else len(width) == layers and min(width) >= 0 < max(width)


def _shape(site: str, layers: int, width: int | list[int]) -> SiteShape:
    return SiteShape(site, (width,) * layers if isinstance(width, int) else tuple(width))


def _described(site: SiteShape) -> str:
    """A site's layers and widths in a few words."""
    if site.even:
        return f"{site.site} [{site.layers} layers x {site.width}]"
    runs: list[str] = []
    for width, layers in itertools.groupby(range(site.layers), key=lambda layer: site.widths[layer]):
        numbers = list(layers)
        if width:
            which = f"layer {numbers[0]}" if len(numbers) == 1 else f"layers {numbers[0]}-{numbers[-1]}"
            runs.append(f"{which} x {width}")
    # Of a model that alternates, the first few say enough.
    more = f", ... {site.size} in all" if len(runs) > _RUNS else ""
    return f"{site.site} [{', '.join(runs[:_RUNS])}{more}]"
