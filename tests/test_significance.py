"""Intervals cover the truth as often as they say, tests reject a true null as seldom as they say."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

import gatescope as gs
from gatescope.core.answers import Reading
from gatescope.statistics import intervals
from gatescope.statistics.intervals import bootstrap
from gatescope.statistics.significance import against_random, benjamini_hochberg, holm, mcnemar
from gatescope.statistics.table import Row, Table

EACH, OWN = 150, torch.eye(2).bool()
GROUP = torch.arange(2).repeat_interleave(EACH)
# Of each mask on each group: how often a right answer is lost, a wrong one mended, a wrong one changed for another wrong one.
RIGHT = 0.7
LOST = torch.tensor([[0.5, 0.1], [0.2, 0.3]])
MENDED = torch.tensor([[0.1, 0.2], [0.1, 0.3]])
OTHER = torch.tensor([[0.3, 0.1], [0.2, 0.2]])


def simulate(generator):
    """One small study: what the full model and two masks got right, and what flipped."""
    before = torch.rand(2 * EACH, generator=generator) < RIGHT
    chance = torch.rand(2, 2 * EACH, generator=generator)
    lost = before & (chance < LOST[:, GROUP])
    mended = ~before & (chance < MENDED[:, GROUP])
    flipped = lost | (~before & (chance < (MENDED + OTHER)[:, GROUP]))
    return before, (before & ~lost) | mended, flipped


def truths():
    """Every true effect: cells, then self, cross and gap; of accuracy change and of flip rate."""
    change = 100 * (-RIGHT * LOST + (1 - RIGHT) * MENDED)
    flips = 100 * (RIGHT * LOST + (1 - RIGHT) * (MENDED + OTHER))
    means = [(m[OWN].mean(), m[~OWN].mean(), m[OWN].mean() - m[~OWN].mean()) for m in (change, flips)]
    return torch.stack([torch.cat([m.flatten(), torch.stack(mean)]) for m, mean in zip((change, flips), means, strict=True)])


def test_intervals_cover_the_truth_as_often_as_they_say():
    generator, truth = torch.Generator().manual_seed(0), truths()
    covered, runs = torch.zeros_like(truth), 300
    for run in range(runs):
        found = bootstrap(*simulate(generator), GROUP, OWN, resamples=400, seed=run)
        for row, effect in enumerate((found.accuracy, found.flips)):
            means = torch.tensor([effect.self_, effect.cross, effect.gap])
            low = torch.cat([effect.low.flatten(), means[:, 0]])
            high = torch.cat([effect.high.flatten(), means[:, 1]])
            covered[row] += (low <= truth[row]) & (truth[row] <= high)
    assert 0.90 <= covered.min() / runs <= covered.max() / runs <= 0.98, covered / runs


def test_the_same_draw_serves_the_full_model_and_every_mask():
    before, after, flipped = simulate(torch.Generator().manual_seed(1))
    found = bootstrap(before, torch.stack([before, after[0]]), flipped, GROUP, OWN, resamples=50)
    assert found.accuracy.low[0].tolist() == found.accuracy.high[0].tolist() == [0.0, 0.0]  # a mask that changed nothing
    twice = bootstrap(before, after[[0, 0]], flipped[[0, 0]], GROUP, OWN, resamples=50)
    assert torch.equal(twice.accuracy.low[0], twice.accuracy.low[1])


def test_a_groups_interval_does_not_depend_on_the_other_groups():
    before, after, flipped = simulate(torch.Generator().manual_seed(1))
    whole = bootstrap(before, after, flipped, GROUP, OWN, resamples=50)
    part = bootstrap(before[:EACH], after[:, :EACH], flipped[:, :EACH], GROUP[:EACH], OWN[:, :1], resamples=50)
    assert torch.equal(part.flips.high, whole.flips.high[:, :1])


def test_an_interval_is_the_percentiles_of_a_plain_bootstrap():
    before, after, flipped = simulate(torch.Generator().manual_seed(2))
    found = bootstrap(before, after, flipped, GROUP, OWN, level=0.8, resamples=4000)
    change = (after[0].double() - before.double())[:EACH]
    drawn = torch.randint(EACH, (4000, EACH), generator=torch.Generator().manual_seed(3))
    expected = (100 * change[drawn].mean(1)).quantile(torch.tensor([0.1, 0.9], dtype=torch.float64))
    assert [found.accuracy.low[0, 0].item(), found.accuracy.high[0, 0].item()] == pytest.approx(expected.tolist(), abs=0.7)
    assert found.accuracy.self_[0] < found.accuracy.cross[0]


def test_chunks_do_not_change_the_draws(monkeypatch):
    study = simulate(torch.Generator().manual_seed(1))
    whole = bootstrap(*study, GROUP, OWN, resamples=50)
    monkeypatch.setattr(intervals, "_DRAWN_AT_ONCE", 7 * EACH)
    assert str(bootstrap(*study, GROUP, OWN, resamples=50)) == str(whole)


def test_the_same_seed_gives_the_same_numbers_and_is_recorded():
    study = simulate(torch.Generator().manual_seed(1))
    first, again, other = (bootstrap(*study, GROUP, OWN, resamples=99, level=0.9, seed=seed) for seed in (5, 5, 6))
    assert (first.level, first.resamples, first.seed) == (0.9, 99, 5)
    assert torch.equal(first.accuracy.low, again.accuracy.low) and first.flips.gap == again.flips.gap
    assert not torch.equal(first.accuracy.low, other.accuracy.low) and first.flips.gap != other.flips.gap
    tested, random = torch.arange(60) % 3 > 0, torch.arange(300).reshape(5, 60) % 7 > 1
    first, again, other = (against_random(tested, random, resamples=99, seed=seed) for seed in (5, 5, 6))
    assert first == again != other and (first.resamples, first.seed) == (99, 5)
    assert (first.mean, first.single) != (other.mean, other.single)


def test_mcnemar_by_hand():
    # group 0: 5 lost, 1 won; group 1: 2 and 2; group 2: no discordant pair
    before = torch.tensor([1, 1, 1, 1, 1, 0, 1, 1, 0, 0, 1, 0]).bool()
    after = torch.tensor([[0, 0, 0, 0, 0, 1, 0, 0, 1, 1, 1, 0]]).bool()
    group = torch.tensor([0] * 6 + [1] * 4 + [2] * 2)
    both_tails = 2 * (math.comb(6, 0) + math.comb(6, 1)) / 2**6
    assert mcnemar(before, after, group, 3).tolist() == [pytest.approx([both_tails, 1.0, 1.0])]
    assert mcnemar(after[0], before[None], group, 3)[0, 0].item() == pytest.approx(both_tails)


def test_mcnemar_rejects_a_true_null_no_more_often_than_it_says():
    generator = torch.Generator().manual_seed(0)
    before = torch.rand(60, generator=generator) < 0.6
    after = before ^ (torch.rand(1000, 60, generator=generator) < 0.3)  # as many lost as won, given which were discordant
    swapped = torch.rand(1000, 60, generator=generator) < 0.5
    p = torch.cat([mcnemar(torch.where(s, b, before), torch.where(s, before, b)[None], torch.zeros(60).long(), 1)[0]
                   for b, s in zip(after, swapped, strict=True)])  # fmt: skip
    for level in (0.01, 0.05, 0.1, 0.2, 0.5):
        assert (p <= level).double().mean() <= level + 3 * math.sqrt(level * (1 - level) / 1000)
    assert (p <= 0.1).double().mean() > 0.03  # conservative, not dead


def null(studies, generator, examples=200, sets=10):
    """Tested and random masks that are equally good, on questions that are not equally hard."""
    for _ in range(studies):
        easy = torch.rand(examples, generator=generator)
        right = torch.rand(sets + 1, examples, generator=generator) < easy
        yield right[0], right[1:]


def significant(found):
    """The paper's rule for bold print in Table 2."""
    return max(found.mean, found.single) < 0.05


def test_against_random_sets_rejects_a_true_null_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    found = [against_random(t, r, resamples=400, seed=i) for i, (t, r) in enumerate(null(800, generator))]
    p = torch.tensor([result.mean for result in found])
    assert 0.02 <= (p <= 0.05).double().mean() <= 0.09
    assert stats.kstest(p.numpy(), "uniform").pvalue > 0.01
    single = torch.tensor([result.single for result in found])
    assert (single <= 0.05).double().mean() <= (p <= 0.05).double().mean()  # it has the spread over seeds to bear too
    assert sum(significant(result) for result in found) <= 0.07 * len(found)


def test_one_random_set_needs_no_choice_between_the_two_ways():
    generator = torch.Generator().manual_seed(1)
    found = [against_random(t, r, resamples=400, seed=i) for i, (t, r) in enumerate(null(800, generator, sets=1))]
    assert all(result.mean == result.single for result in found)
    assert 0.02 <= sum(result.single <= 0.05 for result in found) / 800 <= 0.09


def test_where_random_sets_differ_much_only_the_single_seed_is_fair():
    """The tested set is one more random set; sets differ more than chance over examples does."""
    generator = torch.Generator().manual_seed(2)
    found = []
    for i in range(300):
        quality = 0.3 + 0.5 * torch.rand(11, 1, generator=generator)
        right = torch.rand(11, 300, generator=generator) < quality
        found.append(against_random(right[0], right[1:], resamples=300, seed=i))
    assert sum(result.mean <= 0.05 for result in found) > 0.3 * 300
    assert sum(significant(result) for result in found) <= 0.13 * 300  # below all ten: one in eleven


def test_a_mask_that_hurts_is_found_and_one_that_equals_the_random_sets_is_not():
    generator = torch.Generator().manual_seed(3)
    random = torch.rand(10, 300, generator=generator) < 0.7
    worse = random[0] & (torch.rand(300, generator=generator) < 0.7)
    assert significant(against_random(worse, random))
    assert not significant(against_random(~worse, ~random))  # higher, not lower
    same = torch.rand(300, generator=generator).double()  # scores, not only right or wrong; ties count against
    assert (against_random(same, same.expand(10, 300)).mean, against_random(same, same.expand(10, 300)).single) == (1.0, 1.0)


def test_holm_and_benjamini_hochberg_by_hand():
    p = torch.tensor([[0.01, 0.04], [0.03, 0.005]], dtype=torch.float64)
    # sorted .005 .01 .03 .04; Holm: x4 x3 x2 x1 = .02 .03 .06 .04, made to rise; BH: x4/1 x4/2 x4/3 x4/4 = .02 .02 .04 .04
    assert holm(p).flatten().tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert benjamini_hochberg(p).flatten().tolist() == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert holm(p).shape == benjamini_hochberg(p).shape == (2, 2)
    high = torch.tensor([0.9, 0.8, 0.9], dtype=torch.float64)
    assert holm(high).tolist() == [1.0, 1.0, 1.0]
    assert benjamini_hochberg(high).tolist() == pytest.approx([0.9, 0.9, 0.9])
    assert holm(p[:0]).shape == benjamini_hochberg(p[:0]).shape == (0, 2)


def rows(selector, mask, right, group=("a",) * 4 + ("b",) * 4):
    return [
        Row(str(i), g, selector, mask, r, Reading(r, r == "x", False))
        for i, (g, r) in enumerate(zip(group, right, strict=True))
    ]


def test_a_tables_intervals_hold_its_effects():
    table = Table(
        rows("", "", "xxxyxxyy") + rows("CAS", "a", "yyyyxxyz") + rows("CAS", "b", "xxyyyyyy") + rows("RND", "*", "xxyyxxyx")
    )
    found, effect = table.intervals("CAS", seed=3), table.self_cross()["CAS"]
    assert (found.level, found.resamples, found.seed) == (0.95, 2000, 3)
    assert (found.accuracy.low <= table.changes("CAS")).all() and (table.changes("CAS") <= found.accuracy.high).all()
    assert (found.flips.low <= table.flips("CAS")).all() and (table.flips("CAS") <= found.flips.high).all()
    for interval, point in ((found.accuracy, effect.accuracy), (found.flips, effect.flips)):
        for name in ("self_", "cross", "gap"):
            low, high = getattr(interval, name)
            assert low <= getattr(point, name) <= high and low < high
    random = table.intervals("RND").accuracy
    assert random.self_[0] < random.self_[1] and math.isnan(random.cross[0]) and math.isnan(random.gap[1])
    assert table.mcnemar("CAS").tolist() == [pytest.approx([0.25, 1.0]), pytest.approx([1.0, 0.5])]
    assert table.mcnemar("RND").shape == (1, 2)
    with pytest.raises(gs.GatescopeError, match="No selector 'LAP' in this table"):
        table.intervals("LAP")


def test_mistakes_are_named():
    before, after, group = torch.ones(4).bool(), torch.zeros(2, 4).bool(), torch.tensor([0, 0, 1, 1])
    own = torch.eye(2).bool()
    wrong = [
        (lambda: bootstrap(before, after, after, group, torch.ones(2, 3).bool()), "Group 2 of 3 has no examples"),
        (lambda: bootstrap(before, after, after, group, own, resamples=1), "resamples is 1; a bootstrap needs at least 2"),
        (lambda: bootstrap(before, after, after, group, own, level=0.0), r"level is 0.0; .* in \(0, 1\)"),
        (lambda: bootstrap(before, after, after, group, own, level=1.0), r"level is 1.0; .* in \(0, 1\)"),
        (lambda: bootstrap(before[1:], after, after, group, own), "answered 3 examples, the masks 4, and 4 have a group"),
        (lambda: bootstrap(before, after, after, group[1:], own), "answered 4 examples, the masks 4, and 3 have a group"),
        (lambda: bootstrap(before, after, after[:1], group, own), r"shape \(2, 4\) .* flips of shape \(1, 4\)"),
        (lambda: bootstrap(before, after, after, group, own[:1]), "own groups of 1 masks"),
        (lambda: bootstrap(before, after, after, group + 1, own), "numbered 0 to 1; there is a 1 and a 2"),
        (lambda: mcnemar(before, after, group, 3), "Group 2 of 3 has no examples"),
        (lambda: mcnemar(before, after[:, 1:], group, 2), "the masks 3"),
        (lambda: against_random(before, after[:, 1:]), "answered 4 examples and the random sets 3"),
        (lambda: against_random(before[:0], after[:, :0]), "there are 0 and 2"),
        (lambda: against_random(before, after[:0]), "there are 4 and 0"),
        (lambda: against_random(before, after, resamples=0), "resamples is 0"),
        (lambda: holm(torch.tensor([0.5, 1.5]).double()), r"A p-value lies in \[0, 1\]"),
        (lambda: benjamini_hochberg(torch.tensor([0.5, math.nan]).double()), "or NaN"),
    ]
    for call, message in wrong:
        with pytest.raises(gs.GatescopeError, match=message):
            call()


def test_groups_are_drawn_apart():
    """Two groups with the same answers: were they drawn alike, self and cross would be equal in every resample."""
    right = torch.tensor([True] * 20 + [False] * 20)
    before, group = torch.ones(80).bool(), torch.tensor([0] * 40 + [1] * 40)
    after = torch.cat([right, right])[None]
    found = bootstrap(before, after, ~after, group, torch.tensor([[True, False]]), resamples=200)
    assert found.accuracy.gap[0] < -5 and found.accuracy.gap[1] > 5


def test_the_single_random_set_is_each_of_them_in_its_turn():
    """Of four random sets the first is as bad as the tested one, the others are perfect: p is a quarter, whichever is first."""
    for first in range(4):
        random = torch.ones(4, 30).bool()
        random[first] = False
        found = against_random(torch.zeros(30).bool(), random)
        assert found.single == pytest.approx(0.25, abs=0.05) and found.mean == 0.0
        assert not significant(found)


def test_an_effect_on_ones_own_group_alone_has_a_gap_as_large_as_itself():
    before, group = torch.ones(40).bool(), torch.tensor([0] * 20 + [1] * 20)
    after = torch.tensor([[False] * 15 + [True] * 25])
    found = bootstrap(before, after, ~after, group, torch.tensor([[True, False]]), resamples=200)
    assert found.accuracy.gap == found.accuracy.self_ and found.accuracy.gap[1] < 0 and found.accuracy.cross == (0.0, 0.0)
    assert found.flips.gap == found.flips.self_ and found.flips.gap[0] > 0
