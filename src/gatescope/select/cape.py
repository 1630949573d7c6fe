"""CAPE: what is left of culture neurons when language neurons are taken away, or what the two share.

A selection per culture and a selection per language, found the same way on different text, are combined group by group.
(Namazifard and Galke, "Culture_Neurons"; pure = culture and not language, compound = culture and language.)
"""

from __future__ import annotations

from collections.abc import Mapping

from gatescope._typing import checked
from gatescope.core.errors import GatescopeError, one_of
from gatescope.core.neurons import NeuronSet
from gatescope.select.selection import Selection


@checked
def cape(
    culture: Selection,
    language: Selection,
    *,
    kind: str = "pure",
    languages: Mapping[str, str] | None = None,
) -> Selection:
    """Combine culture and language neurons.

    Args:
        culture, language: selections of one model, by any selector.
        kind: "pure" drops a culture's language neurons, "compound" keeps only those.
        languages: which language group belongs to which culture; the same name by default.

    Raises:
        GatescopeError: if a culture's language has no neurons here, or the two are of different models.
    """
    one_of("kind", kind, ("pure", "compound"))
    sets: dict[str, NeuronSet] = {}
    for group, neurons in culture.items():
        language_group = (languages or {}).get(group, group)
        if language_group not in language:
            raise GatescopeError(
                f"No language neurons for {language_group!r} (of {group!r}); there are some for {list(language)}."
            )
        language_neurons = language[language_group]
        # Either way in the culture's order, best first.
        sets[group] = neurons - language_neurons if kind == "pure" else neurons & language_neurons
    # No fixed number: how many are left depends on the overlap.
    return Selection(f"CAPE {kind}", sets, None)
