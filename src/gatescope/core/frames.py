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


def neuron_columns(neurons: Iterable[Neuron]) -> dict[str, list[Any]]:
    """The coordinates of neurons, a column each."""
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for neuron in neurons:
        for name, value in zip(COLUMNS, neuron, strict=True):
            columns[name].append(value)
    return columns


def frame(columns: Mapping[str, Sequence[Any]], library: str = "pandas") -> Any:
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
    """The neurons of a frame in the order of its rows, each with its group ("" where groups are not read).

    Raises:
        GatescopeError: for a frame of another kind, a column that is missing or holds something else, a neuron outside
            the layout (named by its row), or one listed twice; and, unless `grouped`, for sets of several groups.
    """
    _check_columns(table, (*COLUMNS, "group") if grouped else COLUMNS)
    if not grouped:
        _check_one_group(table)
    sites, layers, indices = _texts(table, "site"), _integers(table, "layer"), _integers(table, "index")
    owners = _texts(table, "group") if grouped else [""] * len(sites)
    shapes = {shape.site: shape for shape in layout.sites}
    seen: dict[tuple[str, Neuron], int] = {}
    for row, (owner, site, layer, index) in enumerate(zip(owners, sites, layers, indices, strict=True)):
        shape = shapes.get(site)
        if shape is None or not shape.has(layer, index):
            raise GatescopeError(f"Row {row} of the table: no neuron {(site, layer, index)}; there is {layout}.")
        first = seen.setdefault((owner, (site, layer, index)), row)
        if first != row:
            raise GatescopeError(f"Rows {first} and {row} of the table are the same neuron, {(site, layer, index)}.")
    return list(seen)


def _check_columns(table: Any, required: Sequence[str]) -> None:
    if not hasattr(table, "columns") or not hasattr(table, "__getitem__"):
        raise GatescopeError(f"Expected a pandas or polars data frame, not a {type(table).__name__}.")
    present = [str(name) for name in table.columns]
    for name in required:
        if name not in present:
            raise GatescopeError(f"The table has no column {name!r}; it has {present}, and {', '.join(required)} are needed.")


def _check_one_group(table: Any) -> None:
    groups = list(dict.fromkeys(table["group"])) if "group" in list(table.columns) else []
    if len(groups) > 1:
        raise GatescopeError(
            f"The table holds neurons of {len(groups)} groups ({', '.join(map(str, groups[:3]))}, ...): read them with "
            f"groups_from_table, or choose the rows of one."
        )


def _texts(table: Any, name: str) -> list[str]:
    texts: list[Any] = list(table[name])
    for row, value in enumerate(texts):
        if not isinstance(value, str):
            raise GatescopeError(f"Row {row} of the table: {name} is {value!r}; it must be text.")
    return texts


def _integers(table: Any, name: str) -> list[int]:
    """Whole numbers; as floats too, which pandas makes of a column with a gap."""
    numbers: list[int] = []
    for row, value in enumerate(table[name]):
        number: Any = int(value) if isinstance(value, float) and value.is_integer() else value
        try:
            if isinstance(value, bool):  # an index to Python, but no layer
                raise TypeError
            # Not int(), which would cut 1.5; index() takes NumPy's whole numbers too.
            numbers.append(operator.index(number))
        except TypeError:
            raise GatescopeError(f"Row {row} of the table: {name} is {value!r}; it must be a whole number.") from None
    return numbers


def _import(library: str) -> Any:
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise GatescopeError(f"{library} is not installed: pip install {library}.") from error
