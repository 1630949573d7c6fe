"""Selectors agree with brute force, member by member and in order, and say when they cannot."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gatescope as gs
from gatescope.select.selection import Selection, wanted_count
from oracles import selectors

GROUPS = ["a", "b", "c"]


def counters(k, t):
    layout = gs.Layout.single("gate", k.shape[1], k.shape[2])
    zeros = gs.Counters.zeros(GROUPS[: len(t)], layout, {"id": "m", "digest": "d"})
    return dataclasses.replace(zeros, K=k, T=torch.tensor(t))


@given(st.integers(0, 2**16), st.sampled_from([2, 4, 16, 1024]), st.sampled_from([0.05, 0.2, 0.5, 1.0]))
def test_cas_equals_brute_force_with_many_ties(seed, tokens, rate):
    rng = torch.Generator().manual_seed(seed)
    k = torch.randint(0, tokens + 1, (3, 2, 10), generator=rng)  # T = 2^k: margins are exact, ties real
    chosen = gs.select.cas(counters(k, [tokens] * 3), rate)
    expected = selectors.cas(k.tolist(), [tokens] * 3, GROUPS, round(rate * 20))
    assert {g: [(layer, i) for _, layer, i in s] for g, s in chosen.items()} == expected
    assert chosen.shortfall == {g: round(rate * 20) - len(m) for g, m in expected.items() if len(m) < round(rate * 20)}


def test_cas_equals_brute_force_with_unequal_token_counts():
    k = torch.randint(0, 50, (3, 4, 30), generator=torch.Generator().manual_seed(1))
    tokens = [50, 77, 133]
    chosen = gs.select.cas(counters(k, tokens), 0.1)
    expected = selectors.cas(k.tolist(), tokens, GROUPS, 12)
    assert {g: [(layer, i) for _, layer, i in s] for g, s in chosen.items()} == expected


def test_dead_neurons_and_shared_first_places_are_nobodys():
    k = torch.tensor([[[0, 8, 8, 5]], [[0, 8, 2, 6]]])
    chosen = gs.select.cas(counters(k, [8, 8]), 1.0)
    assert {g: list(s) for g, s in chosen.items()} == {"a": [("gate", 0, 2)], "b": [("gate", 0, 3)]}
    assert chosen.wanted == 4 and chosen.shortfall == {"a": 3, "b": 3}
    assert torch.isinf(chosen.scores[:, 0, :2]).all()


def test_random_is_one_distinct_seeded_draw_for_all_groups():
    zeros = gs.Counters.zeros(GROUPS, gs.Layout.single("gate", 10, 100))
    drawn = gs.select.random(zeros, 0.3, seed=1)
    assert len(drawn["a"]) == 300 and drawn["a"] == drawn["b"] == drawn["c"]
    assert drawn["a"] == gs.select.random(zeros, 0.3, seed=1)["a"] != gs.select.random(zeros, 0.3, seed=2)["a"]
    per_layer = sum(gs.select.random(zeros, 0.3, seed=seed)["a"].per_layer("gate") for seed in range(40))
    assert (per_layer - 1200).abs().max() < 120  # five standard deviations of a uniform draw


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.5, float("nan")])
def test_a_rate_outside_zero_to_one_is_refused(rate):
    with pytest.raises(gs.GatescopeError, match=r"rate is .*must lie in \(0, 1\]"):
        gs.select.random(gs.Counters.zeros(GROUPS, gs.Layout.single("gate", 1, 10)), rate)


def test_a_rate_that_selects_nothing_says_what_would():
    with pytest.raises(gs.GatescopeError, match=r"rate 0.01 of 10 neurons selects none; the smallest useful rate here is 0.1"):
        gs.select.random(gs.Counters.zeros(GROUPS, gs.Layout.single("gate", 1, 10)), 0.01)


def test_one_percent_is_rounded_to_the_nearest():
    assert wanted_count(gs.Layout.single("gate", 32, 14336), 0.01) == 4588  # LLaVA-Mistral; floor would be 4587


def test_one_group_cannot_be_compared():
    one = counters(torch.ones(1, 1, 4, dtype=torch.int64), [4])
    with pytest.raises(gs.GatescopeError, match=r"CAS compares groups and needs at least two; .*\['a'\] only"):
        gs.select.cas(one, 0.5)


def test_a_selection_survives_saving(tmp_path):
    k = torch.randint(0, 9, (3, 2, 10), generator=torch.Generator().manual_seed(3))
    for chosen in (gs.select.cas(counters(k, [8] * 3), 0.2), gs.select.random(counters(k, [8] * 3), 0.2)):
        chosen.save(tmp_path / "s.safetensors")
        again = Selection.load(tmp_path / "s.safetensors")
        assert {g: list(s) for g, s in again.items()} == {g: list(s) for g, s in chosen.items()}
        assert (again.method, again.wanted) == (chosen.method, chosen.wanted)
        assert again["a"].provenance == chosen["a"].provenance and again["a"].model == {"id": "m", "digest": "d"}
        assert (again.scores is None) if chosen.scores is None else torch.equal(again.scores, chosen.scores)
