"""Tables: neuron sets as data frames of pandas or polars, one neuron a row, and back.

    site   layer   index   group    score
    gate   17      3051    Arveni   0.83

`group` is there for sets by group (a dict, or a Selection), `score` where a Selection has scores. Rows stand in the
order of the sets, best first. A frame holds coordinates alone: reading it back takes the space they are numbered in (a
Layout), which is the model's.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from gatescope.core.errors import GatescopeError, one_of
from gatescope.core.neurons import Layout, NeuronSet
from gatescope.select.selection import Selection

COLUMNS = ("site", "layer", "index")
LIBRARIES = ("pandas", "polars")


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
    one_of("library", library, LIBRARIES)
    sets = {"": neurons} if isinstance(neurons, NeuronSet) else neurons
    columns: dict[str, list] = {name: [] for name in COLUMNS}
    groups: list[str] = []
    for group, found in sets.items():
        for site, layer, index in found:
            for name, value in zip(COLUMNS, (site, layer, index), strict=True):
                columns[name].append(value)
        groups += [group] * len(found)
    if not isinstance(neurons, NeuronSet):
        columns["group"] = groups
    if isinstance(neurons, Selection) and neurons.scores is not None:
        rows = [neurons.scores[g].flatten()[found.flat] for g, found in enumerate(neurons.values())]
        columns["score"] = [score for row in rows for score in row.tolist()]
    if library == "polars":
        polars = _import("polars")
        kinds = {"site": polars.String, "layer": polars.Int64, "index": polars.Int64}
        kinds |= {"group": polars.String, "score": polars.Float64}
        return polars.DataFrame(columns, schema={name: kinds[name] for name in columns})
    kinds = {"site": "str", "layer": "int64", "index": "int64", "group": "str", "score": "float64"}
    return _import("pandas").DataFrame(columns).astype({name: kinds[name] for name in columns})


def from_table(
    table: Any,
    layout: Layout,
    *,
    model: Mapping[str, str] | None = None,
    origin: Mapping[str, str] | None = None,
) -> NeuronSet:
    """The neurons of a data frame, in the order of its rows.

    Args:
        table: a pandas or polars frame with the columns site, layer and index; others are left alone.
        layout: the space they are numbered in: `gs.sites_of(model)["gate"].layout`.
        model: identity of the model they belong to (`gatescope.models.load.identity(model)`).
        origin: how they were found.

    Raises:
        GatescopeError: for a frame of another kind, a column that is missing or holds something else, a neuron outside
            the layout (named by its row), or one listed twice; and for sets of several groups, which `groups_from_table`
            reads.
    """
    rows = _rows(table, layout, grouped=False)
    return NeuronSet.of(layout, [neuron for _, neuron in rows], model, origin)


def groups_from_table(
    table: Any,
    layout: Layout,
    *,
    model: Mapping[str, str] | None = None,
    origin: Mapping[str, str] | None = None,
) -> dict[str, NeuronSet]:
    """The sets of each group of a data frame, in the order in which the groups first appear.

    A group without neurons has no row and does not come back.

    Args:
        table: as for `from_table`, with a column group.
        layout, model, origin: as for `from_table`.

    Raises:
        GatescopeError: as `from_table`.
    """
    sets: dict[str, list[tuple[str, int, int]]] = {}
    for group, neuron in _rows(table, layout, grouped=True):
        sets.setdefault(group, []).append(neuron)
    return {g: NeuronSet.of(layout, ns, model, {**(origin or {}), "group": g}) for g, ns in sets.items()}


def _rows(table: Any, layout: Layout, *, grouped: bool) -> list[tuple[str, tuple[str, int, int]]]:
    wanted = (*COLUMNS, "group") if grouped else COLUMNS
    if not hasattr(table, "columns") or not hasattr(table, "__getitem__"):
        raise GatescopeError(f"A pandas or polars data frame is wanted; this is a {type(table).__name__}.")
    there = [str(name) for name in table.columns]
    missing = [name for name in wanted if name not in there]
    if missing:
        raise GatescopeError(f"The table has no column {missing[0]!r}; it has {there}, and {', '.join(wanted)} are needed.")
    if not grouped and "group" in there and len(groups := list(dict.fromkeys(table["group"]))) > 1:
        raise GatescopeError(
            f"The table holds neurons of {len(groups)} groups ({', '.join(map(str, groups[:3]))}, ...): read them with "
            f"groups_from_table, or choose the rows of one."
        )
    sites, layers, indices = _texts(table, "site"), _whole(table, "layer"), _whole(table, "index")
    owners = _texts(table, "group") if grouped else [""] * len(sites)
    shapes = {shape.site: shape for shape in layout.sites}
    seen: dict[tuple[str, tuple[str, int, int]], int] = {}
    for row, found in enumerate(zip(owners, zip(sites, layers, indices, strict=True), strict=True)):
        _, neuron = found
        shape = shapes.get(neuron[0])
        if shape is None or not (0 <= neuron[1] < shape.layers and 0 <= neuron[2] < shape.width):
            raise GatescopeError(f"Row {row} of the table: no neuron {neuron}; there is {layout}.")
        if seen.setdefault(found, row) != row:
            raise GatescopeError(f"Rows {seen[found]} and {row} of the table are the same neuron, {neuron}.")
    return list(seen)


def _texts(table: Any, name: str) -> list[str]:
    found = list(table[name])
    for row, value in enumerate(found):
        if not isinstance(value, str):
            raise GatescopeError(f"Row {row} of the table: {name} is {value!r}; it must be text.")
    return found


def _whole(table: Any, name: str) -> list[int]:
    """Whole numbers; as floats too, which pandas makes of a column with a gap."""
    found = []
    for row, value in enumerate(table[name]):
        try:
            if isinstance(value, bool):
                raise TypeError
            whole: Any = int(value) if isinstance(value, float) and value.is_integer() else value
            number = operator.index(whole)
        except TypeError:
            raise GatescopeError(f"Row {row} of the table: {name} is {value!r}; it must be a whole number.") from None
        found.append(number)
    return found


def _import(library: str):
    import importlib

    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise GatescopeError(f"{library} is not installed: pip install {library}.") from error
