"""A site may be in some layers only, and wider in one than in another: numbers, sets, sums and files follow."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gatescope as gs
from gatescope.core.attributions import Attributions
from gatescope.core.layout import Layout, SiteShape
from gatescope.select import att, cas, mad, random

WIDTHS = (3, 0, 2, 4)
HYBRID = Layout((SiteShape("gate", WIDTHS), SiteShape("q", (0, 0, 2, 2))))
widths = st.lists(st.integers(0, 5), min_size=1, max_size=6).filter(any)


def by_hand(widths) -> list[tuple[int, int]]:
    """Every neuron's layer and index, in the order of the layers."""
    return [(layer, index) for layer, width in enumerate(widths) for index in range(width)]


@given(widths)
def test_numbers_run_through_the_layers_that_have_the_site(widths):
    shape, neurons = Layout.of("gate", widths).only(), by_hand(widths)
    assert [shape.locate(number) for number in range(shape.size)] == neurons
    table = shape.table(torch.arange(1, shape.size + 1))
    assert table.shape == (len(widths), max(widths))
    for number, (layer, index) in enumerate(neurons):
        assert table[layer, index] == number + 1
    assert int((table > 0).sum()) == shape.size
    assert shape.values(table).tolist() == list(range(1, shape.size + 1))


@given(widths, st.data())
def test_sets_keep_their_neurons_through_a_file_and_a_frame(tmp_path_factory, widths, data):
    layout, neurons = Layout.of("gate", widths), [("gate", *neuron) for neuron in by_hand(widths)]
    chosen = data.draw(st.lists(st.sampled_from(neurons), unique=True))
    found = gs.NeuronSet.of(layout, chosen)
    assert list(found) == chosen
    assert found.per_layer("gate").tolist() == [sum(layer == other for _, other, _ in chosen) for layer in range(len(widths))]
    assert set(found.complement()) == set(neurons) - set(chosen)
    assert set(found.restrict(layers=[0])) == {neuron for neuron in chosen if neuron[1] == 0}
    path = tmp_path_factory.getbasetemp() / "ragged.safetensors"
    found.save(path)
    assert gs.NeuronSet.load(path) == found
    assert list(gs.NeuronSet.from_table(found.to_table(), layout)) == chosen


def test_several_sites_lie_one_after_the_other():
    neurons = [("gate", *neuron) for neuron in by_hand(WIDTHS)] + [("q", *neuron) for neuron in by_hand((0, 0, 2, 2))]
    assert [HYBRID.locate(number) for number in range(HYBRID.size)] == neurons
    assert list(gs.NeuronSet.of(HYBRID, neurons).flat) == list(range(13))
    assert str(HYBRID) == "gate [layer 0 x 3, layer 2 x 2, layer 3 x 4], q [layers 2-3 x 2]"
    assert Layout.parse(HYBRID.plain()) == HYBRID


@pytest.mark.parametrize("neuron", [("gate", 1, 0), ("gate", 2, 2), ("q", 0, 0), ("gate", 4, 0)])
def test_a_layer_without_the_site_has_no_neuron_of_it(neuron):
    with pytest.raises(gs.GatescopeError, match=r"No neuron .*; there is gate \[layer 0 x 3, layer 2 x 2, layer 3 x 4\]"):
        gs.NeuronSet.of(HYBRID, [neuron])


def test_files_of_one_width_are_those_of_the_first_release():
    assert Layout.single("gate", 2, 4).plain() == [["gate", 2, 4]]
    assert Layout.parse([["gate", 2, 4]]) == Layout.of("gate", [4, 4])


@pytest.mark.parametrize(
    "row", [["gate", 2, [3]], ["gate", 2, [0, 0]], ["gate", 2, [3, -1]], ["gate", 0, []], ["gate", 2**17, 1]]
)
def test_widths_that_lie_are_refused(row):
    with pytest.raises(gs.GatescopeError, match="A site has 1 layer and 1 neuron at least"):
        Layout.parse([row])


def counters() -> gs.Counters:
    layout = Layout.of("gate", WIDTHS)
    generator = torch.Generator().manual_seed(0)
    fired = torch.randint(0, 9, (2, 1, 9), generator=generator)
    summed = fired * torch.rand(2, 1, 9, generator=generator, dtype=torch.float64)
    ten = torch.tensor([10, 10])
    return gs.Counters(("a", "b"), layout, fired, summed, ten, ten, ten)


def test_selectors_rank_the_neurons_there_are(tmp_path):
    made = counters()
    rates = made.K[:, 0].double() / 10
    best = sorted(range(9), key=lambda n: (-(rates[0] - rates[1])[n], -rates[0, n], n))
    expected = [n for n in best if rates[0, n] > rates[1, n]][:3]
    found = cas(made, rate=1 / 3)
    assert found["a"].flat.tolist() == expected
    assert all(layer != 1 for selection in (found, mad(made, rate=1)) for group in selection.values() for _, layer, _ in group)
    drawn = random(made, 1 / 3, like=found)
    assert [drawn[g].per_layer("gate").tolist() for g in "ab"] == [found[g].per_layer("gate").tolist() for g in "ab"]
    found.save(tmp_path / "s")
    assert gs.Selection.load(tmp_path / "s")["b"] == found["b"]
    made.save(tmp_path / "c")
    assert torch.equal(gs.Counters.load(tmp_path / "c").K, made.K)
    assert (made + made).K.tolist() == (2 * made.K).tolist()


def test_attributions_of_a_site_are_a_table():
    sums = torch.arange(26, dtype=torch.float64).view(2, 13)
    scores = Attributions(("a", "b"), HYBRID, sums, sums, torch.tensor([1, 1]), 1)
    assert scores.site("q").tolist() == [[[0, 0], [0, 0], [9, 10], [11, 12]], [[0, 0], [0, 0], [22, 23], [24, 25]]]
    one = Attributions(("a", "b"), Layout.of("gate", WIDTHS), sums[:, :9], sums[:, :9], torch.tensor([1, 1]), 1)
    assert att(one, rate=0.5).scores.shape == (2, 1, 9)


def test_values_of_a_table_reach_their_neurons():
    layout = Layout.of("gate", WIDTHS)
    table = torch.arange(16.0).view(4, 4)
    neurons = gs.NeuronSet.of(layout, [("gate", 2, 1), ("gate", 3, 3)])
    assert gs.set_to(neurons, table).values == (9.0, 15.0)
