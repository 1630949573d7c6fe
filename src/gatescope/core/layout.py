"""The space of a model's neurons: one (site, layers, width) after the other.

A neuron's flat number is its place in that space, read site by site, layer by layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gatescope.core import foreign
from gatescope.core.errors import GatescopeError

_MOST = 2**32  # a mask of more would not fit into memory


@dataclass(frozen=True)
class SiteShape:
    """One site's place in the space: its name, number of layers and neurons a layer."""

    site: str
    layers: int
    width: int

    @property
    def size(self) -> int:
        """How many neurons it has."""
        return self.layers * self.width


@dataclass(frozen=True)
class Layout:
    """The sites a neuron may be in, in order.

    >>> Layout.single("gate", layers=3, width=300).size
    900
    """

    sites: tuple[SiteShape, ...]

    @classmethod
    def single(cls, site: str, layers: int, width: int) -> Layout:
        """A layout of one site."""
        return cls((SiteShape(site, layers, width),))

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

    def plain(self) -> list[list[Any]]:
        """As lists, for JSON; `parse` reads it back."""
        # Lists, which JSON gives back unchanged; tuples would come back as lists.
        return [[s.site, s.layers, s.width] for s in self.sites]

    @classmethod
    def parse(cls, plain: Iterable[Sequence[Any]]) -> Layout:
        """The layout `plain` came from.

        Raises:
            GatescopeError: if it is none: other types, a site twice, a site without neurons, more neurons than models have.
        """
        rows = foreign.check(list(plain), list[tuple[str, int, int]], "A layout is [[site, layers, width], ...]")
        layout = cls(tuple(SiteShape(*row) for row in rows))
        if len({site.site for site in layout.sites}) < len(rows) or not rows:
            raise GatescopeError(f"A layout has each site once, and at least one; this is {rows}.")
        if any(site.layers < 1 or site.width < 1 for site in layout.sites) or layout.size > _MOST:
            raise GatescopeError(f"A site has 1 layer and 1 neuron at least, and a layout at most {_MOST:,}; this is {rows}.")
        return layout

    def __str__(self) -> str:
        return ", ".join(f"{s.site} [{s.layers} layers x {s.width}]" for s in self.sites)
