"""Counters are sums: they merge like numbers, and say so when they cannot."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gatescope as gs

GROUPS = ("a", "b", "c")
LAYOUT = gs.Layout.single("gate", 2, 5)


@st.composite
def counters(draw):
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    t = torch.randint(0, 33, (3,), generator=rng)
    k = (torch.rand(3, 2, 5, generator=rng) * (t[:, None, None] + 1)).long()
    # eighths add exactly, so that the algebra can be tested with ==
    s = torch.randint(0, 800, (3, 2, 5), generator=rng).double() / 8
    seen = torch.randint(0, 9, (3,), generator=rng)
    return gs.Counters(GROUPS, LAYOUT, k, s, t, seen, seen // 2, {"id": "m"}, {"site": "gate"})


def same(one, other):
    return all(torch.equal(getattr(one, f), getattr(other, f)) for f in ("K", "S", "T", "seen", "counted"))


@given(counters(), counters(), counters())
def test_merging_is_commutative_and_associative_with_a_zero(a, b, c):
    assert same(a + b, b + a)
    assert same((a + b) + c, a + (b + c))
    assert same(a + gs.Counters.zeros(GROUPS, LAYOUT, {"id": "m"}), a)


@given(one=counters())
def test_saving_and_loading_keeps_every_bit(tmp_path_factory, one):
    path = tmp_path_factory.mktemp("counters") / "c.safetensors"
    one.save(path)
    again = gs.Counters.load(path)
    assert same(one, again) and again.groups == GROUPS and again.layout == LAYOUT
    assert again.model == {"id": "m"} and again.provenance == {"site": "gate"}


def test_p_and_m_are_per_valid_token():
    one = gs.Counters.zeros(["a"], gs.Layout.single("gate", 1, 2))
    one = dataclasses.replace(one, K=torch.tensor([[[2, 0]]]), S=torch.tensor([[[3.0, 0.0]]]).double(), T=torch.tensor([8]))
    assert one.P.tolist() == [[[0.25, 0.0]]]
    assert one.M.tolist() == [[[0.375, 0.0]]]  # over all 8 tokens, not the 2 that fired


def test_a_group_without_tokens_is_named_and_can_be_left_out():
    one = dataclasses.replace(gs.Counters.zeros(["a", "b"], LAYOUT), T=torch.tensor([4, 0]))
    assert one.empty == ("b",)
    with pytest.raises(gs.GatescopeError, match="No tokens were counted for 'b'"):
        _ = one.P
    assert one.with_tokens().groups == ("a",)


def test_counters_of_other_models_sites_and_groups_do_not_mix():
    one = gs.Counters.zeros(GROUPS, LAYOUT, {"id": "m"})
    with pytest.raises(gs.GatescopeError, match="two models"):
        one + gs.Counters.zeros(GROUPS, LAYOUT, {"id": "other"})
    with pytest.raises(gs.GatescopeError, match=r"gate \[2 layers x 5\] and gate \[2 layers x 6\]"):
        one + gs.Counters.zeros(GROUPS, gs.Layout.single("gate", 2, 6), {"id": "m"})
    with pytest.raises(gs.GatescopeError, match="groups"):
        one + gs.Counters.zeros(["a"], LAYOUT, {"id": "m"})
    with pytest.raises(gs.GatescopeError, match=r"No counters for \['z'\]"):
        one.of(["z"])


def test_a_file_of_something_else_is_refused(tmp_path):
    gs.NeuronSet.of(LAYOUT, [("gate", 0, 1)]).save(tmp_path / "n.safetensors")
    with pytest.raises(gs.GatescopeError, match=r"is gatescope.neurons/1; gatescope.counters/1 is expected"):
        gs.Counters.load(tmp_path / "n.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(gs.GatescopeError, match="cannot be read"):
        gs.Counters.load(tmp_path / "broken.safetensors")


def test_some_of_the_groups_are_taken_in_the_order_asked_for_with_their_provenance():
    numbers = torch.arange(30).view(3, 2, 5)
    t = torch.tensor([1, 2, 3])
    one = gs.Counters(GROUPS, LAYOUT, numbers, numbers.double(), t, t + 10, t + 20, {"id": "m"}, {"site": "gate"})
    found = one.of(["c", "a"])
    assert found.groups == ("c", "a") and found.T.tolist() == [3, 1]
    assert (found.seen.tolist(), found.counted.tolist()) == ([13, 11], [23, 21])
    assert torch.equal(found.K, numbers[[2, 0]]) and torch.equal(found.S, numbers[[2, 0]].double())
    assert (dict(found.model), dict(found.provenance)) == ({"id": "m"}, {"site": "gate"})
    assert one.empty == () and one.with_tokens().groups == GROUPS  # one token is enough


def test_a_sum_keeps_the_provenance_of_the_first():
    one, other = (gs.Counters.zeros(["a"], LAYOUT, {"id": "m"}, {"from": name}) for name in ("one", "other"))
    assert (one + other).provenance == {"from": "one"}


def test_a_mean_of_nan_names_group_layer_and_neuron():
    s = torch.zeros(3, 2, 5, dtype=torch.float64)
    s[1, 0, 4] = torch.nan
    one = dataclasses.replace(gs.Counters.zeros(GROUPS, LAYOUT), S=s, T=torch.tensor([1, 1, 1]))
    with pytest.raises(gs.GatescopeError, match="S is NaN for 'b', layer 0, neuron 4: the model gave NaN there"):
        _ = one.M


def test_counts_of_another_shape_are_refused_with_both():
    zeros = gs.Counters.zeros(["a", "b"], LAYOUT)
    with pytest.raises(gs.GatescopeError, match=r"K is \(2, 2, 5\); 2 groups of gate \[3 layers x 5\] need"):
        dataclasses.replace(zeros, layout=gs.Layout.single("gate", 3, 5))


def test_counters_of_nothing_share_no_memory():
    one = gs.Counters.zeros(["a"], LAYOUT)
    one.T.add_(1)
    assert (one.seen.tolist(), one.counted.tolist()) == ([0], [0])
    one.seen.add_(2)
    assert (one.T.tolist(), one.counted.tolist()) == ([1], [0])
