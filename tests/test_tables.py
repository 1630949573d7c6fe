"""Neuron sets as data frames: nothing is lost on the way there and back, and what cannot be read is named."""

from __future__ import annotations

import sys

import numpy
import pandas
import polars
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gatescope as gs
from gatescope.core.neuron_tables import from_table, groups_from_table, to_table

LAYOUT = gs.Layout((gs.Layout.single("gate", 3, 5).only(), gs.Layout.single("q", 3, 4).only()))
FRAMES = {"pandas": pandas.DataFrame, "polars": polars.DataFrame}
sets = st.lists(st.integers(0, LAYOUT.size - 1), unique=True).map(
    lambda f: gs.NeuronSet(LAYOUT, torch.tensor(f, dtype=torch.int64))
)
some = st.lists(st.integers(0, LAYOUT.size - 1), unique=True, min_size=1).map(lambda f: gs.NeuronSet(LAYOUT, torch.tensor(f)))


@given(sets, st.sampled_from(["pandas", "polars"]))
def test_a_set_comes_back_as_it_was_in_its_order(neurons, library):
    table = to_table(neurons, library)
    assert isinstance(table, FRAMES[library]) and list(table.columns) == ["site", "layer", "index"]
    assert list(from_table(table, LAYOUT)) == list(neurons)


@given(st.dictionaries(st.text(max_size=5), some), st.sampled_from(["pandas", "polars"]))
def test_sets_by_group_come_back_as_they_were(groups, library):
    table = to_table(groups, library)
    assert list(table.columns) == ["site", "layer", "index", "group"]
    back = groups_from_table(table, LAYOUT)
    assert {g: list(s) for g, s in back.items()} == {g: list(s) for g, s in groups.items()} and list(back) == list(groups)


@pytest.mark.parametrize("library", FRAMES)
def test_types_do_not_depend_on_what_is_in_the_table(library):
    empty = gs.NeuronSet.of(LAYOUT, [])
    full = gs.NeuronSet.of(LAYOUT, [("gate", 0, 1)])
    for one, other in ((empty, full), ({}, {"a": full})):
        assert list(to_table(one, library).dtypes) == list(to_table(other, library).dtypes)


@pytest.mark.parametrize("library", FRAMES)
def test_a_selection_brings_its_scores(library):
    counters = gs.Counters.zeros(["a", "b"], gs.Layout.single("gate", 1, 4))
    scores = torch.tensor([[[0.1, 0.9, 0.4, 0.2]], [[0.8, 0.3, 0.7, 0.6]]], dtype=torch.float64)
    chosen = gs.select.top("mine", counters, 0.5, scores)
    table = to_table(chosen, library)
    assert list(zip(table["group"], table["index"], table["score"], strict=True)) == [
        ("a", 1, 0.9),
        ("a", 2, 0.4),
        ("b", 0, 0.8),
        ("b", 2, 0.7),
    ]
    assert groups_from_table(table, counters.layout) == dict(chosen)


def test_what_the_frame_does_not_hold_is_given_again():
    back = from_table(
        to_table(gs.NeuronSet.of(LAYOUT, [("q", 0, 1)])), LAYOUT, model={"id": "m"}, provenance={"method": "by hand"}
    )
    assert back.model == {"id": "m"} and back.provenance == {"method": "by hand"}
    assert groups_from_table(to_table({"JPN": back}), LAYOUT, provenance={"method": "x"})["JPN"].provenance == {
        "method": "x",
        "group": "JPN",
    }


def test_a_frame_filtered_in_either_library_is_read():
    rows = {
        "site": ["gate", "gate", "q"],
        "layer": [0, 1, 2],
        "index": [4, 3, 2],
        "group": ["a", "b", "a"],
        "note": ["", "", ""],
    }
    a = [("gate", 0, 4), ("q", 2, 2)]
    frame = pandas.DataFrame(rows)
    assert list(from_table(frame[frame.group == "a"], LAYOUT)) == a
    assert list(from_table(polars.DataFrame(rows).filter(polars.col("group") == "a"), LAYOUT)) == a
    assert list(from_table(frame.astype({"layer": float}).query("group == 'a'"), LAYOUT)) == a


GOOD = {"site": ["gate", "q"], "layer": [0, 1], "index": [4, 3]}
BAD = {
    "a missing column": ({"site": ["gate"], "layer": [0]}, r"no column 'index'; it has \['site', 'layer'\]"),
    "an index too large": (
        GOOD | {"index": [4, 4]},
        r"Row 1 of the table: no neuron \('q', 1, 4\); there is gate \[3 layers x 5",
    ),
    "a layer below 0": (GOOD | {"layer": [-1, 1]}, r"Row 0 of the table: no neuron \('gate', -1, 4\)"),
    "an unknown site": (GOOD | {"site": ["gate", "up"]}, r"Row 1 of the table: no neuron \('up', 1, 3\)"),
    "half a layer": (GOOD | {"layer": [0.5, 1.0]}, r"Row 0 of the table: layer is 0.5; it must be a whole number"),
    "an index in words": (GOOD | {"index": ["four", "3"]}, r"Row 0 of the table: index is 'four'; it must be a whole number"),
    "a truth for a number": (GOOD | {"layer": [True, False]}, r"layer is .*True.*; it must be a whole number"),
    "a site that is a number": (GOOD | {"site": [1, 2]}, r"Row 0 of the table: site is 1; it must be text"),
    "a neuron twice": (
        {"site": ["q", "q"], "layer": [1, 1], "index": [3, 3]},
        r"Rows 0 and 1 of the table are the same neuron",
    ),
    "two groups": (GOOD | {"group": ["a", "b"]}, r"neurons of 2 groups \(a, b, ...\): read them with groups_from_table"),
}


@pytest.mark.parametrize("library", FRAMES)
@pytest.mark.parametrize("what", BAD)
def test_it_says_what_is_wrong_with(what, library):
    rows, message = BAD[what]
    with pytest.raises(gs.GatescopeError, match=message):
        from_table(FRAMES[library](rows), LAYOUT)


def test_a_gap_is_named():
    with pytest.raises(gs.GatescopeError, match=r"Row 1 of the table: layer is nan; it must be a whole number"):
        from_table(pandas.DataFrame(GOOD | {"layer": [0, None]}), LAYOUT)
    with pytest.raises(gs.GatescopeError, match=r"Row 1 of the table: layer is None; it must be a whole number"):
        from_table(polars.DataFrame(GOOD | {"layer": [0, None]}), LAYOUT)


@pytest.mark.parametrize("cell", [numpy.array([0, 1]), numpy.True_, numpy.float32(0.5), "0"])
def test_a_cell_that_is_no_number_is_named(cell):
    layers = pandas.Series([0, cell], dtype=object)
    with pytest.raises(gs.GatescopeError, match=r"Row 1 of the table: layer is .*; it must be a whole number"):
        from_table(pandas.DataFrame(GOOD).assign(layer=layers), LAYOUT)


def test_groups_need_their_column_and_a_frame_is_a_frame():
    with pytest.raises(gs.GatescopeError, match=r"no column 'group'; .* site, layer, index, group are needed"):
        groups_from_table(pandas.DataFrame(GOOD), LAYOUT)
    with pytest.raises(gs.GatescopeError, match=r"Expected a pandas or polars data frame, not a list"):
        from_table([("gate", 0, 1)], LAYOUT)
    with pytest.raises(gs.GatescopeError, match=r"library is 'duckdb'; it must be 'pandas' or 'polars'"):
        to_table(gs.NeuronSet.of(LAYOUT, []), "duckdb")


def test_polars_is_asked_for_by_name_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "polars", None)  # what makes an import fail
    with pytest.raises(gs.GatescopeError, match=r"polars is not installed: pip install polars"):
        to_table(gs.NeuronSet.of(LAYOUT, []), "polars")


@pytest.mark.parametrize("library", FRAMES)
def test_one_neuron_may_be_in_two_groups_and_not_twice_in_one(library):
    both = FRAMES[library]({"site": ["q", "q"], "layer": [1, 1], "index": [3, 3], "group": ["a", "b"]})
    assert {g: list(s) for g, s in groups_from_table(both, LAYOUT).items()} == {"a": [("q", 1, 3)], "b": [("q", 1, 3)]}
    rows = {"site": ["q", "gate", "q"], "layer": [1, 0, 1], "index": [3, 0, 3], "group": ["a", "a", "a"]}
    with pytest.raises(gs.GatescopeError, match=r"Rows 0 and 2 of the table are the same neuron, \('q', 1, 3\)"):
        groups_from_table(FRAMES[library](rows), LAYOUT)
