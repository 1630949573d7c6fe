"""Countries by the names CULNIG shows, and how each benchmark spells them.

A group of an example is the display name, whatever the benchmark writes: UK is `United Kingdom` in CulturalBench,
`united_kingdom` in NormAd and `Great Britain` in WorldValuesBench. A country without a display name keeps the
benchmark's own name, with spaces for underscores and its capitals as published (`north macedonia` in NormAd).
"""

from __future__ import annotations

from collections.abc import Iterable

from gatescope.data.source import spaced
from gatescope.data.split import chosen_groups

COMMON = ("China", "Indonesia", "Iran", "Mexico", "South Korea", "Spain", "UK", "USA")
"""The eight countries CULNIG compares; WorldValuesBench has them without Spain."""

TARGETS = (
    "USA", "China", "Germany", "Japan", "Mexico", "India", "Indonesia", "Russia", "Brazil", "Iran", "Zimbabwe", "Spain", "UK",
    "South Korea",
)  # fmt: skip
"""The 14 countries CULNIG names in NormAd and CulturalBench."""

BLEND = (
    "USA", "UK", "South Korea", "Algeria", "Indonesia", "Spain", "Iran", "Mexico", "Assam", "Greece", "Ethiopia", "Nigeria",
    "North Korea", "West Java", "China", "Azerbaijan",
)  # fmt: skip
"""The 16 places of BLEnD, and of CountryRC's options."""

_NAMES = {"blend": "BLEnD", "culturalbench": "CulturalBench", "normad": "NormAd", "worldvaluesbench": "WorldValuesBench"}
_SURVEYED = ("China", "Indonesia", "Iran", "Mexico", "Nigeria", "Russia", "South Korea", "UK", "USA")
# Only what differs from the display name by more than capitals and underscores.
_OWN = {
    "blend": {"USA": "US", "Nigeria": "Northern_Nigeria"},
    "culturalbench": {"USA": "United States", "UK": "United Kingdom"},
    "normad": {"USA": "united_states_of_america", "UK": "united_kingdom"},
    "worldvaluesbench": {"USA": "United States", "UK": "Great Britain"},
}
SPELLINGS: dict[str, dict[str, str]] = {
    "blend": {name: _OWN["blend"].get(name, name.replace(" ", "_")) for name in BLEND},
    "culturalbench": {name: _OWN["culturalbench"].get(name, name) for name in (*TARGETS, "Nigeria")},
    "normad": {name: _OWN["normad"].get(name, name.lower().replace(" ", "_")) for name in TARGETS},
    "worldvaluesbench": {name: _OWN["worldvaluesbench"].get(name, name) for name in _SURVEYED},
}
"""Display name to spelling, by benchmark."""

_DISPLAY = {name.casefold(): name for name in (*TARGETS, *BLEND)}


def chosen_countries(benchmark: str, groups: Iterable[str] | None, published: Iterable[str]) -> frozenset[str]:
    """The countries to load, by display name: those given, or all that the benchmark's rows have.

    Raises:
        GatescopeError: for a country the rows do not have, naming those they have.
    """
    return chosen_groups(_NAMES[benchmark], groups, dict.fromkeys(display(benchmark, name) for name in published))


def display(benchmark: str, published: str) -> str:
    """The display name of a country as a benchmark writes it; the published name, with spaces, if it has none.

    >>> display("worldvaluesbench", "Great Britain"), display("normad", "ethiopia"), display("normad", "hong_kong")
    ('UK', 'Ethiopia', 'hong kong')
    """
    for name, written in SPELLINGS[benchmark].items():
        if written == published.strip():
            return name
    # NormAd has countries that CULNIG shows for BLEnD only, such as Ethiopia: one group in both.
    return _DISPLAY.get(spaced(published).casefold(), spaced(published))
