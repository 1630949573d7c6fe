"""Neuron sets by group as data frames, and back; see `gatescope.core.frames` for the columns.

Rows stand in the order of the sets, best first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gatescope.core.frames import frame, neuron_columns, neuron_rows
from gatescope.core.layout import Layout
from gatescope.core.neurons import NeuronSet
from gatescope.core.renamed import renamed


def to_table(neurons: NeuronSet | Mapping[str, NeuronSet], library: str = "pandas") -> Any:
    """A data frame of a neuron set, of sets by group, or of a Selection.

    Args:
        neurons: what to write.
        library: "pandas" or "polars".

    Returns:
        A frame with the columns site, layer, index, and group and score where there are any.

    Raises:
        GatescopeError: for another library, or one that is not installed.
    """
    if isinstance(neurons, NeuronSet):
        return neurons.to_table(library)
    columns = neuron_columns(neuron for members in neurons.values() for neuron in members)
    columns["group"] = [group for group, members in neurons.items() for _ in range(len(members))]
    scores = getattr(neurons, "scores", None)  # [g, l, n], of a Selection
    if scores is not None:
        # Flat numbers run over [l, n] in this order, so they index the flattened scores.
        rows = [scores[g].flatten()[members.flat] for g, members in enumerate(neurons.values())]
        columns["score"] = [score for row in rows for score in row.tolist()]
    return frame(columns, library)


@renamed(origin="provenance")
def from_table(
    table: Any,
    layout: Layout,
    *,
    model: Mapping[str, str] | None = None,
    provenance: Mapping[str, str] | None = None,
) -> NeuronSet:
    """The neurons of a data frame, in the order of its rows.

    Args:
        table: a pandas or polars frame with the columns site, layer and index; others are left alone.
        layout: the space they are numbered in: `gs.sites_of(model)["gate"].layout`.
        model: identity of the model they belong to (`gatescope.models.identity.identity(model)`).
        provenance: how they were found.

    Raises:
        GatescopeError: for a frame of another kind, a column that is missing or holds something else, a neuron outside
            the layout (named by its row), or one listed twice; and for sets of several groups, which `groups_from_table`
            reads.
    """
    return NeuronSet.of(layout, [neuron for _, neuron in neuron_rows(table, layout)], model, provenance)


@renamed(origin="provenance")
def groups_from_table(
    table: Any,
    layout: Layout,
    *,
    model: Mapping[str, str] | None = None,
    provenance: Mapping[str, str] | None = None,
) -> dict[str, NeuronSet]:
    """The sets of each group of a data frame, in the order in which the groups first appear.

    A group without neurons has no row and does not come back.

    Args:
        table: as for `from_table`, with a column group.
        layout, model, provenance: as for `from_table`.

    Raises:
        GatescopeError: as `from_table`.
    """
    sets: dict[str, list[tuple[str, int, int]]] = {}
    for group, neuron in neuron_rows(table, layout, grouped=True):
        sets.setdefault(group, []).append(neuron)
    return {g: NeuronSet.of(layout, ns, model, {**(provenance or {}), "group": g}) for g, ns in sets.items()}
