"""LAP, LAPE (both), MAD, gated CAS, CAPE and matched draws equal brute force, member by member and in order."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gatescope as gs
from gatescope.select.selection import Selection
from oracles import selectors
from test_select import GROUPS, counters

SEEDS, TOKENS = st.integers(0, 2**16), st.sampled_from([2, 4, 16, 1024])  # T = 2^k: rates and margins are exact
RATES, ALPHAS = st.sampled_from([0.05, 0.2, 0.5, 1.0]), st.sampled_from([0, 50, 90, 95])


def random_counters(seed, tokens, quiet=0.0):
    rng = torch.Generator().manual_seed(seed)
    k = torch.randint(0, tokens + 1, (3, 2, 10), generator=rng)
    k = k * (torch.rand(2, 10, generator=rng) >= quiet)
    s = torch.randint(0, 64, k.shape, generator=rng).double() / 8 * (k > 0)
    return dataclasses.replace(counters(k, [tokens] * 3), S=s)


def members(selection):
    return {g: [(layer, i) for _, layer, i in s] for g, s in selection.items()}


def wanted(rate):
    return round(rate * 20)


@given(SEEDS, TOKENS, RATES, ALPHAS, st.sampled_from(["linear", "kth"]))
def test_lap_mad_and_gated_cas(seed, tokens, rate, alpha, interpolation):
    c = random_counters(seed, tokens, quiet=0.3)
    p, m = c.P.tolist(), c.M.tolist()
    if interpolation == "kth" and alpha == 0:
        alpha = 5
    kth = interpolation == "kth"
    options = {"alpha": alpha, "interpolation": interpolation}
    assert members(gs.select.lap(c, rate, **options)) == selectors.lap(p, GROUPS, wanted(rate), alpha, kth)
    assert members(gs.select.lap(c, rate, alpha=None)) == selectors.lap(p, GROUPS, wanted(rate), None)
    found, expected = members(gs.select.mad(c, rate, **options)), selectors.mad(p, m, GROUPS, wanted(rate), alpha, kth)
    assert {g: len(s) for g, s in found.items()} == {g: len(s) for g, s in expected.items()}
    for group in GROUPS:  # means of two others may round apart in the last bit: compare the scores in order
        score = gs.select.mad(c, rate, **options).scores[GROUPS.index(group)]
        values = [[score[n].item() for n in rows[group]] for rows in (found, expected)]
        assert values[0] == pytest.approx(values[1], abs=1e-12)
    bar = selectors.percentile([v for g in p for row in g for v in row], alpha, kth)
    gated = {
        g: [n for n in rows if p[GROUPS.index(g)][n[0]][n[1]] >= bar]
        for g, rows in selectors.cas(c.K.tolist(), [tokens] * 3, GROUPS, 20).items()
    }
    assert members(gs.select.cas(c, rate, **options)) == {g: rows[: wanted(rate)] for g, rows in gated.items()}


@given(SEEDS, TOKENS, RATES, st.sampled_from([0, 50, 90, 95]), st.sampled_from([1, 7, 20, 100]))
def test_lape(seed, tokens, rate, alpha, rho):
    c = random_counters(seed, tokens, quiet=0.3)
    p = c.P.tolist()
    found = gs.select.lape(c, rate, rho=rho, alpha=alpha)
    expected = selectors.lape(p, GROUPS, wanted(rate), rho, alpha, 90)
    assert members(found) == expected
    assert found.shortfall == {g: wanted(rate) - len(r) for g, r in expected.items() if len(r) < wanted(rate)}


@given(SEEDS, TOKENS, RATES)
def test_the_original_lape(seed, tokens, rate):
    c = random_counters(seed, tokens, quiet=0.3)
    found = gs.select.lape(c, rate, variant="tang2024")
    expected = selectors.lape_tang2024(c.P.tolist(), GROUPS, wanted(rate))
    assert members(found) == expected
    assert found.wanted is None and found.shortfall == {}


def test_the_two_lapes_by_hand():
    """Rates over two groups: neuron 0 fires for a only, 1 for both alike, 2 mostly for b, 3 never."""
    c = counters(torch.tensor([[[16, 16, 4, 0]], [[0, 16, 16, 0]]]), [16, 16])
    found = gs.select.lape(c, 0.5, rho=50, alpha=50)
    assert members(found) == {"a": [(0, 0)], "b": [(0, 2)]}  # 3 survive the gate, ceil(1.5) = 2 of lowest entropy
    assert members(gs.select.lape(c, 0.5, rho=100, alpha=50)) == {"a": [(0, 0), (0, 1)], "b": [(0, 2)]}
    # kth value: the 8th of 8 rates is 1.0, and nothing is strictly above it
    assert members(gs.select.lape(c, 0.5, variant="tang2024")) == {"a": [], "b": []}


def test_lape_drops_neurons_that_never_fire_even_where_the_gate_is_at_zero():
    """Neurons 1 and 3 never fire. Of the other two, neuron 0 has the lower entropy: it is the half that is kept."""
    c = counters(torch.tensor([[[16, 0, 4, 0]], [[0, 0, 16, 0]]]), [16, 16])
    assert members(gs.select.lape(c, 1.0, rho=100, alpha=0)) == {"a": [(0, 0)], "b": [(0, 2)]}
    assert members(gs.select.lape(c, 1.0, rho=50, alpha=0)) == {"a": [(0, 0)], "b": []}
    dead = counters(torch.zeros(2, 1, 4, dtype=torch.int64), [16, 16])
    for options in ({"rho": 100, "alpha": 0}, {"variant": "tang2024"}):
        assert members(gs.select.lape(dead, 1.0, **options)) == {"a": [], "b": []}


@pytest.mark.parametrize("rho", [7, 7.0, 14, 28, 55, 56, 57, 0.5])
def test_lape_keeps_the_ceiling_of_rho_percent_in_exact_arithmetic(rho):
    """7 percent of 100 neurons are 7; in float64 0.07 x 100 is a little more, and its ceiling 8."""
    k = torch.randint(1, 16, (3, 1, 100), generator=torch.Generator().manual_seed(0))
    found = gs.select.lape(counters(k, [16] * 3), 1.0, rho=rho, alpha=0, beta=0)
    assert sum(len(s) for s in found.values()) == (rho if rho >= 1 else 1)


@pytest.mark.parametrize("rates", [((1, 2, 6), (1, 6, 2)), ((1, 6, 2), (1, 2, 6)), ((1, 2, 3), (2, 3, 1))])
def test_entropies_that_only_rounding_tells_apart_are_ties(rates):
    """Two neurons with the same rates in another order of the groups have the same entropy: the first numbered is kept,
    whichever comes out lower in the last bit."""
    k = torch.zeros(3, 1, 40, dtype=torch.int64)
    k[:, 0, 5], k[:, 0, 9] = (torch.tensor(rate) for rate in rates)
    for tokens in (10, 13):
        c = counters(k, [tokens] * 3)
        kept = gs.select.lape(c, 1.0, rho=50, alpha=0)
        assert {n for rows in members(kept).values() for n in rows} == {(0, 5)}
        assert members(gs.select.lape(c, 1 / 40, variant="tang2024")) == {g: [(0, 5)] for g in GROUPS}


def test_the_original_lape_compares_rates_in_float32():
    """40 rates, so the bar is the 38th: 2^25 of 2^26. 2^25 + 1 is over it, but float32 has no such number."""
    half = 2**25
    k = torch.arange(40).view(2, 1, 20)
    k[0, 0, 7], k[0, 0, 3], k[1, 0, 5] = half, half + 1, half + 64
    c = counters(k, [2 * half, 2 * half])
    assert members(gs.select.lape(c, 0.1, variant="tang2024")) == {"a": [], "b": [(0, 5)]}


@pytest.mark.parametrize(("neurons", "kept"), [(250, 2), (350, 4), (450, 4)])
def test_the_original_lape_rounds_half_a_neuron_to_the_even_number(neurons, kept):
    k = torch.randint(0, 1024, (3, 1, neurons), generator=torch.Generator().manual_seed(0))
    found = gs.select.lape(counters(k, [1024] * 3), 0.01, variant="tang2024")
    assert len({n for rows in members(found).values() for n in rows}) == kept


def test_cas_can_give_ties_to_the_first_as_printed():
    c = counters(torch.tensor([[[0, 8, 8, 5]], [[0, 8, 2, 6]]]), [8, 8])
    literal = gs.select.cas(c, 1.0, ties="first")
    assert members(literal) == {"a": [(0, 2), (0, 1), (0, 0)], "b": [(0, 3)]}
    assert gs.select.conact is gs.select.cas


def test_matched_draws_have_as_many_neurons_in_each_layer():
    c = random_counters(1, 16)
    chosen = gs.select.cas(c, 0.2)
    drawn = gs.select.random(c, 0.2, seed=3, like=chosen)
    for group in chosen:
        assert drawn[group].per_layer("gate").tolist() == chosen[group].per_layer("gate").tolist()
    assert members(drawn) == members(gs.select.random(c, 0.2, seed=3, like=chosen))
    assert members(drawn) != members(gs.select.random(c, 0.2, seed=4, like=chosen))


def test_cape_subtracts_or_intersects():
    layout = gs.Layout.single("gate", 1, 6)

    def selection(**sets):
        return Selection(
            "x", {g: gs.NeuronSet.of(layout, [("gate", 0, i) for i in s], {"id": "m"}) for g, s in sets.items()}, 3
        )

    culture, language = selection(a=[3, 1, 2], b=[4, 5]), selection(a=[1, 0], tongue=[5])
    tongues = {"b": "tongue"}
    assert members(gs.select.cape(culture, language, languages=tongues)) == {"a": [(0, 3), (0, 2)], "b": [(0, 4)]}
    assert members(gs.select.cape(culture, language, kind="compound", languages=tongues)) == {"a": [(0, 1)], "b": [(0, 5)]}
    with pytest.raises(
        gs.GatescopeError, match=r"No language neurons for 'b' \(of 'b'\); there are some for \['a', 'tongue'\]"
    ):
        gs.select.cape(culture, language)
    with pytest.raises(gs.GatescopeError, match="combine neuron sets"):
        gs.select.cape(culture, Selection("y", {"a": gs.NeuronSet.of(layout, [], {"id": "other"})}, 1), languages={"b": "a"})


def test_att_is_the_difference_of_mean_attributions():
    layout = gs.Layout.single("gate", 1, 3)
    sums = torch.tensor([[4.0, 0.0, 2.0], [0.0, 9.0, 3.0]], dtype=torch.float64)
    zeros = gs.Attributions.zeros(["a", "b"], layout, 3)
    found = gs.select.att(dataclasses.replace(zeros, sums=sums, seen=torch.tensor([2, 3])), 1.0)
    assert found.scores[:, 0].tolist() == [[2.0, -3.0, 0.0], [-2.0, 3.0, 0.0]]
    assert members(found) == {"a": [(0, 0), (0, 2), (0, 1)], "b": [(0, 1), (0, 2), (0, 0)]}


def test_a_selection_reports_layers_shortfall_and_overlap(tmp_path):
    c = counters(torch.tensor([[[0, 8, 8, 5]], [[0, 8, 2, 6]]]), [8, 8])
    chosen = gs.select.cas(c, 0.75)
    assert chosen.report().splitlines() == [
        "CAS: 3 wanted for each group",
        "  a      1  by layer [1]",
        "  b      1  by layer [1]",
        "  fewer than wanted for 'a', 'b': a neuron is only its top group's",
    ]
    both = gs.select.lap(c, 0.5, alpha=None)
    assert both.jaccard().tolist() == [[1.0, pytest.approx(1 / 3)], [pytest.approx(1 / 3), 1.0]]
    assert chosen.jaccard(both).tolist() == [[0.5, 0.0], [0.0, 0.5]]
    chosen.save(tmp_path / "s.safetensors")
    assert Selection.load(tmp_path / "s.safetensors").report() == chosen.report()


def test_a_selector_of_ones_own_is_a_table_of_scores():
    c = random_counters(5, 16)
    mine = gs.select.top("MAX", c, 0.1, c.M - c.M.mean(0))
    best = (c.M - c.M.mean(0)).flatten(1).argsort(dim=1, descending=True, stable=True)[:, :2]
    assert [s.flat.tolist() for s in mine.values()] == best.tolist() and mine.method == "MAX"


def test_mistakes_are_sentences():
    c = random_counters(1, 16)
    one = c.of(["a"])
    for name in ("cas", "lap", "mad", "lape"):
        with pytest.raises(gs.GatescopeError, match=rf"{name.upper()} compares groups and needs at least two"):
            getattr(gs.select, name)(one, 0.5)
    with pytest.raises(gs.GatescopeError, match=r"rho is None; .* give a percentage in \(0, 100\]"):
        gs.select.lape(c, 0.5)
    with pytest.raises(gs.GatescopeError, match="rho is 120"):
        gs.select.lape(c, 0.5, rho=120)
    with pytest.raises(gs.GatescopeError, match=r"alpha is 101; .*\[0, 100\]"):
        gs.select.lap(c, 0.5, alpha=101)
    broken = c.S.clone()
    broken[1, 0, 3] = torch.nan
    with pytest.raises(gs.GatescopeError, match="S is NaN for 'b', layer 0, neuron 3"):
        gs.select.mad(dataclasses.replace(c, S=broken), 0.5)
    with pytest.raises(gs.GatescopeError, match="MINE scored NaN for 'b', layer 0, neuron 3"):
        gs.select.top("MINE", c, 0.5, broken)
    empty = dataclasses.replace(c, T=torch.tensor([16, 0, 16]))
    with pytest.raises(gs.GatescopeError, match="No tokens were counted for 'b'"):
        gs.select.lap(empty, 0.5)
    with pytest.raises(gs.GatescopeError, match="rate is 2"):
        gs.select.lap(c, 2.0)
    with pytest.raises(gs.GatescopeError, match=r"variant is 'lape2'; it must be 'vlm' or 'tang2024'"):
        gs.select.lape(c, 0.5, variant="lape2")


def test_a_z_score_that_is_just_reached_is_enough():
    """Of two countries one is a standard deviation above their mean and the other as far below: z is 1 and -1, exactly."""
    layout = gs.Layout.parse([["gate_pre", 1, 2]])
    sums = torch.tensor([[4.0, 1.0], [0.0, 5.0]], dtype=torch.float64)
    zeros = gs.Attributions.zeros(["a", "b"], layout, 1)
    asked = dataclasses.replace(zeros, sums=sums, clamped=sums, seen=torch.tensor([1, 1]))
    removed = dataclasses.replace(zeros, seen=torch.tensor([1, 1]))
    for z, expected in ((1.0, {"a": [0], "b": [1]}), (1.0001, {"a": [], "b": []}), (-1.0, {"a": [0, 1], "b": [1, 0]})):
        found = gs.select.culnig_specific(asked, removed, None, rate=1.0, z=z)
        assert {group: s.flat.tolist() for group, s in found.items()} == expected
