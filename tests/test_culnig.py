"""CULNIG's selectors equal a brute-force reference, list by list, with ties, unequal counts and several sets."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import gatescope as gs
from oracles import culnig

LAYOUT = gs.Layout.parse([["gate_pre", 3, 40], ["q", 3, 16], ["k", 3, 8], ["v", 3, 8]])
NEURONS = list(gs.NeuronSet(LAYOUT, torch.arange(LAYOUT.size)))
COUNTRIES = tuple("abcdef")
RATES = {"mlp_rate": 0.1, "attention_rate": 0.05, "exclude_rate": 0.1}


def attributions(seed, countries=COUNTRIES, items=40, ties=False, model=None):
    rng = torch.Generator().manual_seed(seed)
    raw = torch.randn(len(countries), LAYOUT.size, generator=rng, dtype=torch.float64)
    sums = (raw * 2).round() / 2 if ties else raw
    clamped = sums + (torch.rand(sums.shape, generator=rng) * 4).round().double() / 4
    seen = torch.randint(3, 30, (len(countries),), generator=rng)
    return gs.Attributions(tuple(countries), LAYOUT, sums, clamped, seen, items, model or {"id": "m", "digest": "d"})


def plain(found, clamped=False):
    table = found.clamped if clamped else found.sums
    return {c: dict(zip(NEURONS, table[g].tolist(), strict=True)) for g, c in enumerate(found.groups)}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("clamp", [True, False])
def test_general_equals_brute_force(seed, ties, clamp):
    scores, control = attributions(seed, items=64, ties=ties), attributions(seed + 50, COUNTRIES[::-1], items=32, ties=ties)
    reading = attributions(seed + 99, COUNTRIES[:4], ties=ties)
    found = gs.select.culnig_general(scores, control, reading, clamp_control=clamp, **RATES)
    wanted = culnig.general(plain(scores), plain(control, clamp), plain(reading), NEURONS, 64, 32, 0.1, 0.05, 0.1)
    assert list(found) == wanted and wanted
    without = gs.select.culnig_general(scores, control, None, clamp_control=clamp, **RATES)
    assert list(without) == culnig.general(plain(scores), plain(control, clamp), None, NEURONS, 64, 32, 0.1, 0.05, 0.1)
    assert len(without) == 12 + 4  # floor(120 x 0.1) + floor(96 x 0.05)
    sums = gs.select.culnig_general(scores, control, reading, clamp_control=clamp, per_item=False, **RATES)
    assert list(sums) == culnig.general(plain(scores), plain(control, clamp), plain(reading), NEURONS, 1, 1, 0.1, 0.05, 0.1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("options", [{}, {"ddof": 1}, {"country_mean": True}, {"clamp_control": False, "z": 1.0}])
def test_specific_equals_brute_force(seed, ties, options):
    scores, control = attributions(seed, items=64, ties=ties), attributions(seed + 50, COUNTRIES[::-1], items=32, ties=ties)
    reading = attributions(seed + 99, COUNTRIES[1:4], ties=ties)
    found = gs.select.culnig_specific(scores, control, reading, rate=0.1, exclude_rate=0.1, **options)
    mean = options.get("country_mean")
    divide = {c: scores.seen[g].item() if mean else 64 for g, c in enumerate(scores.groups)}
    control_divide = {c: control.seen[g].item() if mean else 32 for g, c in enumerate(control.groups)}
    wanted = culnig.specific(
        plain(scores), plain(control, options.get("clamp_control", True)), plain(reading), NEURONS, divide, control_divide,
        0.1, 0.1, options.get("z", 0.5), options.get("ddof", 0), COUNTRIES[1:4],
    )  # fmt: skip
    assert {c: list(s) for c, s in found.items()} == wanted and any(wanted.values())
    assert found.wanted == 21 and found["b"].provenance["group"] == "b"


@pytest.mark.parametrize("ties", [False, True])
def test_several_datasets_add_up_each_by_its_own_items(ties):
    asked = [attributions(1, items=64, ties=ties), attributions(2, COUNTRIES[::-1], items=16, ties=ties)]
    removed = [attributions(3, items=32, ties=ties), attributions(4, items=8, ties=ties)]
    reading = attributions(5, COUNTRIES[:4], ties=ties)
    tables = [
        {c: {n: plain(a)[c][n] / i + plain(b)[c][n] / j for n in NEURONS} for c in COUNTRIES}
        for a, i, b, j in ((asked[0], 64, asked[1], 16),)
    ]
    controls = {
        c: {n: plain(removed[0], True)[c][n] / 32 + plain(removed[1], True)[c][n] / 8 for n in NEURONS} for c in COUNTRIES
    }
    found = gs.select.culnig_general(asked, removed, reading, **RATES)
    assert list(found) == culnig.general(tables[0], controls, plain(reading), NEURONS, 1, 1, 0.1, 0.05, 0.1)
    one = dict.fromkeys(COUNTRIES, 1)
    specific = gs.select.culnig_specific(asked, removed, reading, rate=0.1, exclude_rate=0.1)
    wanted = culnig.specific(tables[0], controls, plain(reading), NEURONS, one, one, 0.1, 0.1, 0.5, 0, COUNTRIES[:4])
    assert {c: list(s) for c, s in specific.items()} == wanted
    with pytest.raises(gs.GatescopeError, match="There are 2 sets of questions and 1 control sets; each needs its own"):
        gs.select.culnig_general(asked, removed[:1], reading)


def test_without_a_control_set_nothing_is_taken_off():
    """The paper's Table 19: the same as a control whose every score is 0."""
    scores, reading = attributions(1, items=64), attributions(2, COUNTRIES[:4])
    zero = {c: dict.fromkeys(NEURONS, 0.0) for c in COUNTRIES}
    found = gs.select.culnig_general(scores, None, reading, **RATES)
    assert list(found) == culnig.general(plain(scores), zero, plain(reading), NEURONS, 64, 1, 0.1, 0.05, 0.1)
    assert list(found) != list(gs.select.culnig_general(scores, attributions(3), reading, **RATES))
    assert found.provenance["control"] == "none" and "clamp_control" not in found.provenance
    specific = gs.select.culnig_specific([scores, scores], None, reading, rate=0.1, exclude_rate=0.1)
    by, one = dict.fromkeys(COUNTRIES, 32), dict.fromkeys(COUNTRIES, 1)
    wanted = culnig.specific(plain(scores), zero, plain(reading), NEURONS, by, one, 0.1, 0.1, 0.5, 0, COUNTRIES[:4])
    assert {c: list(s) for c, s in specific.items()} == wanted and any(wanted.values())
    assert specific["b"].provenance["control"] == "none"


@pytest.mark.parametrize("clamp", [True, False])
def test_the_scores_of_a_file_are_those_the_selectors_rank_by(clamp):
    scores, control = attributions(1, items=64), attributions(51, COUNTRIES[::-1], items=32)
    asked, removed = plain(scores), plain(control, clamp)
    everywhere = gs.select.culnig_scores(scores, control, clamp_control=clamp).tolist()
    own = gs.select.culnig_scores(scores, control, country="c", clamp_control=clamp).tolist()
    for n, total, country in zip(NEURONS, everywhere, own, strict=True):
        assert country == pytest.approx(asked["c"][n] / 64 - removed["c"][n] / 32, abs=1e-12)
        assert total == pytest.approx(sum(asked[c][n] / 64 - removed[c][n] / 32 for c in COUNTRIES), abs=1e-12)
    chosen = gs.select.culnig_general(scores, control, None, clamp_control=clamp, attention_rate=0.0, mlp_rate=0.1)
    ranked = [everywhere[i] for i in chosen.flat.tolist()]
    assert ranked == sorted(everywhere[:120], reverse=True)[:12]


def test_a_neuron_that_is_the_same_in_every_country_is_nobodys():
    flat = attributions(0)
    same = dataclasses.replace(flat, sums=torch.ones_like(flat.sums), clamped=torch.zeros_like(flat.sums))
    found = gs.select.culnig_specific(same, same, None, rate=0.1)
    assert all(len(s) == 0 for s in found.values())


def test_rates_at_the_defaults_are_rounded_down():
    layout = gs.Layout.parse([["gate_pre", 3, 300], ["q", 3, 64], ["k", 3, 32], ["v", 3, 32]])
    empty = gs.Attributions.zeros(["a", "b"], layout, 1)
    some = dataclasses.replace(empty, seen=torch.tensor([1, 1]))
    found = gs.select.culnig_general(some, some, None)
    assert [site for site, _, _ in found] == ["gate_pre"] * 9  # floor(9.0) and floor(0.768)


def test_mistakes_are_sentences():
    scores, control, reading = attributions(0), attributions(1), attributions(2, COUNTRIES[:3])
    other = attributions(1, model={"id": "other", "digest": "e"})
    with pytest.raises(gs.GatescopeError, match=r"Cannot compare attributions: one model is m weights d, the other other"):
        gs.select.culnig_general(scores, other, reading)
    with pytest.raises(gs.GatescopeError, match="The control set is empty"):
        gs.select.culnig_general(scores, gs.Attributions.zeros(COUNTRIES, LAYOUT, 0), reading)
    with pytest.raises(gs.GatescopeError, match=r"'f' is missing from the control set, which has \['a', 'b'"):
        gs.select.culnig_general(scores, attributions(1, COUNTRIES[:5]), reading)
    with pytest.raises(gs.GatescopeError, match=r"'e' is missing from the reading set, which has \['a', 'b', 'c'\]"):
        gs.select.culnig_specific(scores, control, reading, countries=("a", "e"))
    narrow = gs.Attributions.zeros(COUNTRIES, gs.Layout.single("gate_pre", 3, 40), 1, {"id": "m", "digest": "d"})
    narrow = dataclasses.replace(narrow, seen=torch.ones(6, dtype=torch.int64))
    with pytest.raises(gs.GatescopeError, match="cannot be compared"):
        gs.select.culnig_general(scores, narrow, reading)
    with pytest.raises(gs.GatescopeError, match=r"rate is 1.2; .*\[0, 1\]"):
        gs.select.culnig_general(scores, control, reading, mlp_rate=1.2)
    with pytest.raises(gs.GatescopeError, match="No attributions for 'z'"):
        scores.row("z")


@pytest.mark.parametrize("z", [float("nan"), float("inf"), -float("inf")])
def test_a_z_that_is_no_number_is_refused(z):
    with pytest.raises(gs.GatescopeError, match=f"z is {z}; it is the least z-score over all countries, so it must be"):
        gs.select.culnig_specific(attributions(0), None, None, z=z)
