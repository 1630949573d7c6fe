"""Data frames of pandas or polars: columns in, columns out.

    site   layer   index   group    score
    gate   17      3051    Arveni   0.83

A frame of neurons holds coordinates alone: reading it back takes the space they are numbered in (a Layout), which is the
model's. `group` is there for sets by group, `score` where a Selection has scores.
"""

from __future__ import annotations

import importlib
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gatescope.core.errors import GatescopeError, one_of
from gatescope.core.layout import Layout

Neuron = tuple[str, int, int]  # site, layer, index
COLUMNS = ("site", "layer", "index")
LIBRARIES = ("pandas", "polars")
KINDS = {"site": "text", "layer": "whole", "index": "whole", "group": "text", "score": "real"}
_PANDAS = {"text": "str", "whole": "int64", "real": "float64"}
_POLARS = {"text": "String", "whole": "Int64", "real": "Float64"}


def neuron_columns(neurons: Iterable[Neuron]) -> dict[str, list]:
    """The coordinates of neurons, a column each."""
    columns: dict[str, list] = {name: [] for name in COLUMNS}
    for neuron in neurons:
        for name, value in zip(COLUMNS, neuron, strict=True):
            columns[name].append(value)
    return columns


def frame(columns: Mapping[str, Sequence], library: str = "pandas") -> Any:
    """A data frame of named columns.

    Args:
        columns: those of `KINDS`, of one length.
        library: "pandas" or "polars".

    Raises:
        GatescopeError: for another library, or one that is not installed.
    """
    one_of("library", library, LIBRARIES)
    module = _import(library)
    if library == "polars":
        return module.DataFrame(columns, schema={name: getattr(module, _POLARS[KINDS[name]]) for name in columns})
    return module.DataFrame(columns).astype({name: _PANDAS[KINDS[name]] for name in columns})


def neuron_rows(table: Any, layout: Layout, *, grouped: bool = False) -> list[tuple[str, Neuron]]:
    """The neurons of a frame in the order of its rows, each with its group ("" where groups are not asked for).

    Raises:
        GatescopeError: for a frame of another kind, a column that is missing or holds something else, a neuron outside
            the layout (named by its row), or one listed twice; and, unless `grouped`, for sets of several groups.
    """
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
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise GatescopeError(f"{library} is not installed: pip install {library}.") from error
