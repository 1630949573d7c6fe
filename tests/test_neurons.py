"""Neuron sets are sets, with an order and a home."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gatescope as gs

LAYOUT = gs.Layout.parse([["gate", 2, 4], ["q", 2, 3]])
SPACE = [("gate", layer, i) for layer in range(2) for i in range(4)] + [("q", layer, i) for layer in range(2) for i in range(3)]
members = st.lists(st.sampled_from(SPACE), unique=True)


def build(neurons):
    return gs.NeuronSet.of(LAYOUT, neurons)


@given(members, members)
def test_algebra_is_that_of_python_sets(a, b):
    one, other = build(a), build(b)
    assert set(one | other) == set(a) | set(b)
    assert set(one & other) == set(a) & set(b)
    assert set(one - other) == set(a) - set(b)
    assert set(one.complement()) == set(SPACE) - set(a)
    assert one.complement().complement() == one
    assert (one == other) == (set(a) == set(b))
    assert one != other or hash(one) == hash(other)


@given(members)
def test_order_is_kept_and_masks_agree(a):
    one = build(a)
    assert list(one) == a and len(one) == len(a)
    for site in ("gate", "q"):
        expected = [(layer, i) for s, layer, i in sorted(a) if s == site]
        assert one.mask(site).nonzero().tolist() == [list(pair) for pair in expected]
        assert one.per_layer(site).tolist() == [sum(layer == x for x, _ in expected) for layer in range(2)]
        assert {x: i.tolist() for x, i in one.indices(site).items()} == {
            layer: [i for x, i in expected if x == layer] for layer in range(2) if any(x == layer for x, _ in expected)
        }


@given(a=members)
def test_saving_and_loading_keeps_members_order_and_provenance(tmp_path_factory, a):
    path = tmp_path_factory.mktemp("neurons") / "n.safetensors"
    gs.NeuronSet.of(LAYOUT, a, {"id": "m", "digest": "d"}, {"method": "CAS"}).save(path)
    again = gs.NeuronSet.load(path, {"id": "elsewhere", "digest": "d"})
    assert list(again) == a and again.layout == LAYOUT
    assert again.model == {"id": "m", "digest": "d"} and again.provenance == {"method": "CAS"}


@pytest.mark.parametrize(
    "flat",
    [
        pytest.param(torch.from_numpy(np.array([], dtype=np.int64)), id="none, stride 0"),
        pytest.param(torch.from_numpy(np.arange(9)[np.arange(9) > 8]), id="none, by a mask"),
        pytest.param(torch.arange(9)[4::5], id="one, stride 5"),
        pytest.param(torch.from_numpy(np.arange(9)[::-3].copy())[::2], id="two, stride 2"),
        pytest.param(torch.arange(4).expand(2, 4)[1], id="a row that shares its storage"),
    ],
)
def test_a_set_can_be_saved_wherever_its_numbers_came_from(tmp_path, flat):
    path = tmp_path / "n.safetensors"
    gs.NeuronSet(LAYOUT, flat).save(path)
    assert gs.NeuronSet.load(path).flat.tolist() == flat.tolist()
    gs.NeuronSet(LAYOUT, torch.tensor(flat.tolist(), dtype=torch.int64)).save(tmp_path / "plain.safetensors")
    assert path.read_bytes() == (tmp_path / "plain.safetensors").read_bytes()


def test_loading_against_another_model_names_both(tmp_path):
    path = tmp_path / "n.safetensors"
    gs.NeuronSet.of(LAYOUT, [], {"id": "org/one", "revision": "r1", "digest": "a" * 64}).save(path)
    with pytest.raises(gs.GatescopeError, match=r"one model is org/one revision r1 weights a{12}, the other org/two"):
        gs.NeuronSet.load(path, {"id": "org/two", "digest": "b" * 64})
    with pytest.raises(gs.GatescopeError, match=r"org/one.*the other org/two"):
        gs.NeuronSet.load(path, {"id": "org/two", "revision": "r1", "digest": ""})  # no weights: by id and revision


def test_bad_neurons_are_refused():
    with pytest.raises(gs.GatescopeError, match=r"No neuron \('gate', 2, 0\)"):
        build([("gate", 2, 0)])
    with pytest.raises(gs.GatescopeError, match="No site 'up' here; there is 'gate', 'q'"):
        build([("up", 0, 0)])
    with pytest.raises(gs.GatescopeError, match="listed twice"):
        build([("gate", 0, 0), ("gate", 0, 0)])
    with pytest.raises(gs.GatescopeError, match=r"0 \.\. 13"):
        gs.NeuronSet(LAYOUT, torch.tensor([14]))
    with pytest.raises(gs.GatescopeError, match="cannot be combined"):
        build([]) | gs.NeuronSet.of(gs.Layout.single("gate", 1, 1), [])
    with pytest.raises(gs.GatescopeError, match="combine neuron sets"):
        gs.NeuronSet.of(LAYOUT, [], {"digest": "a"}) & gs.NeuronSet.of(LAYOUT, [], {"digest": "b"})


@given(members, st.sets(st.sampled_from(["gate", "q"])), st.sets(st.integers(0, 1)))
def test_restriction_and_sampling(a, sites, layers):
    one = build(a)
    assert list(one.restrict(sites=sites)) == [n for n in a if n[0] in sites]
    assert list(one.restrict(layers=layers)) == [n for n in a if n[1] in layers]
    assert list(one.restrict(sites=sites, layers=layers)) == [n for n in a if n[0] in sites and n[1] in layers]
    half = one.sample(len(a) // 2, seed=1)
    assert len(half) == len(a) // 2 and set(half) <= set(a) and half == one.sample(len(a) // 2, seed=1)
    with pytest.raises(gs.GatescopeError, match="Cannot draw"):
        one.sample(len(a) + 1, seed=0)


@pytest.mark.parametrize("neuron", [("gate", 0, 4), ("gate", 2, 0), ("q", 1, 3), ("q", 2, 0), ("gate", 0, -1), ("q", -1, 0)])
def test_a_neuron_one_past_the_end_is_refused_not_counted_in_the_next_layer(neuron):
    with pytest.raises(gs.GatescopeError, match=r"No neuron \('\w', -?\d, -?\d\)|No neuron \('gate', -?\d, -?\d\)"):
        build([neuron])


def test_a_draw_is_another_with_another_seed_and_says_which_it_was():
    every = gs.NeuronSet(LAYOUT, torch.arange(LAYOUT.size), {"id": "m"}, {"method": "CAS"})
    drawn = {tuple(every.sample(7, seed=seed).flat.tolist()) for seed in range(20)}
    assert len(drawn) == 20
    one = every.sample(7, seed=3)
    assert one.provenance == {"method": "CAS", "sample": "7", "seed": "3"} and one.model == {"id": "m"}
    times = torch.zeros(LAYOUT.size)
    for seed in range(400):
        times[every.sample(7, seed=seed).flat] += 1
    assert (times - 200).abs().max() < 50  # five standard deviations of a fair draw of half


def test_models_without_weights_are_told_apart_by_revision():
    one, other = ({"id": "org/m", "revision": revision, "digest": ""} for revision in ("r1", "r2"))
    with pytest.raises(gs.GatescopeError, match=r"one model is org/m revision r1, the other org/m revision r2"):
        gs.NeuronSet.of(LAYOUT, [], one) | gs.NeuronSet.of(LAYOUT, [], other)
    assert len(gs.NeuronSet.of(LAYOUT, [], one) | gs.NeuronSet.of(LAYOUT, [], dict(one))) == 0


@given(members, members)
def test_operations_keep_the_first_sets_order_and_its_model(a, b):
    of = {"id": "m", "digest": "d"}
    one, other = gs.NeuronSet.of(LAYOUT, a, of, {"method": "CAS"}), gs.NeuronSet.of(LAYOUT, b, of)
    assert list(one | other) == a + [n for n in b if n not in a]
    assert list(one & other) == [n for n in a if n in b]
    assert list(one - other) == [n for n in a if n not in b]
    for found in (one | other, one & other, one - other, one.complement(), one.restrict(layers=[0]), one.sample(0, seed=0)):
        assert found.model == of and found.layout == LAYOUT
    assert one.restrict(sites=["q"]).provenance == {"method": "CAS"}


def test_sets_of_two_spaces_are_not_equal_and_one_without_a_model_goes_with_any():
    deep, wide = (gs.NeuronSet(gs.Layout.single("gate", *shape), torch.tensor([1])) for shape in ((4, 2), (2, 4)))
    assert deep != wide
    of = gs.NeuronSet.of(LAYOUT, [("q", 0, 0)], {"id": "m", "digest": "d"})
    nobodys = gs.NeuronSet.of(LAYOUT, [("q", 0, 1)])
    assert list(of | nobodys) == [("q", 0, 0), ("q", 0, 1)] and len(nobodys - of) == 1
