"""Accuracy changes, flip rates, self, cross and gap, worked out by hand."""

from __future__ import annotations

import json

import pytest
import torch

import gatescope as gs
from gatescope.core.answers import Reading
from gatescope.statistics.metrics import SelfCross, self_cross
from gatescope.statistics.table import Effect, Row, Table

GROUPS = ("a", "a", "b", "b", "b", "b")


def rows(selector, mask, predicted, right="xxxxxx"):
    return [
        Row(str(i), group, selector, mask, p, Reading(p, p == r, False))
        for i, (group, p, r) in enumerate(zip(GROUPS, predicted, right, strict=True))
    ]


@pytest.fixture
def table():
    return Table(
        rows("", "", "xyxxyy")  # a: 50%, b: 50%
        + rows("CAS", "a", "yyxxyz")  # a: 0% (-50), flips 1/2; b: 50% (0), flips 1/4
        + rows("CAS", "b", "xxyyyy")  # a: 100% (+50), flips 1/2; b: 0% (-50), flips 2/4
        + rows("RND", "*", "xyxxyx")  # a: 0 and 0; b: +25, 1/4
    )


def test_matrices(table):
    assert table.accuracy().tolist() == [50.0, 50.0]
    assert table.changes("CAS").tolist() == [[-50.0, 0.0], [50.0, -50.0]]
    assert table.flips("CAS").tolist() == [[50.0, 25.0], [50.0, 50.0]]
    assert table.changes("RND").tolist() == [[0.0, 25.0]]


def test_self_cross_and_gap(table):
    effects = table.self_cross()
    assert effects["CAS"] == Effect("CAS", SelfCross(-50.0, 25.0, -75.0), SelfCross(50.0, 37.5, 12.5))
    random = effects["RND"]
    assert (random.accuracy.self_, random.flips.self_) == (12.5, 12.5)
    assert torch.isnan(torch.tensor([random.accuracy.cross, random.accuracy.gap])).all()
    assert [line.split() for line in str(effects).splitlines()[2:]] == [
        ["CAS", "-50.0", "25.0", "-75.0", "50.0", "37.5", "12.5"],
        ["RND", "12.5", "-", "-", "12.5", "-", "-"],
    ]


def test_cells_weigh_the_same_and_masks_may_be_fewer_than_groups():
    effects = torch.tensor([[-6.0, 2.0, 1.0], [0.0, -4.0, 3.0]], dtype=torch.float64)
    own = torch.tensor([[True, False, False], [False, True, False]])
    assert self_cross(effects, own) == SelfCross(-5.0, 1.5, -6.5)


def test_rows_survive_json(table):
    assert Table(Row.parse(row.plain()) for row in table.rows).rows == table.rows


def test_a_table_needs_the_full_model_and_the_same_examples():
    with pytest.raises(gs.GatescopeError, match="answers of the full model"):
        Table(rows("CAS", "a", "xxxxxx"))
    with pytest.raises(gs.GatescopeError, match="to other examples"):
        Table(rows("", "", "xxxxxx") + rows("CAS", "a", "xxxxxx")[:3])
    with pytest.raises(gs.GatescopeError, match="No selector 'LAP' in this table; it has 'CAS'"):
        Table(rows("", "", "xxxxxx") + rows("CAS", "a", "xxxxxx")).changes("LAP")


# VLM paper, Table 2: self, cross, gap of accuracy change and of flip rate, as printed, for Qwen2.5-VL-7B.
PRINTED = {
    "LAP": ((0.96, 1.07, -0.08), (17.05, 17.21, -0.16)),
    "LAPE": ((0.56, 0.61, -0.05), (4.64, 4.12, 0.52)),
    "MAD": ((-4.64, -1.31, -3.33), (12.03, 5.96, 6.07)),
    "CAS": ((-5.52, -0.64, -4.88), (12.61, 4.25, 8.36)),
}


@pytest.mark.parametrize("selector", PRINTED)
@pytest.mark.parametrize("measure", [0, 1], ids=["accuracy", "flips"])
def test_the_papers_gaps_follow_from_its_self_and_cross(selector, measure):
    """From a 25 x 25 matrix with those means, the metrics give the printed gap to a rounding (one misprint apart)."""
    self_, cross, gap = PRINTED[selector][measure]
    rng = torch.Generator().manual_seed(0)
    matrix = torch.randn(25, 25, generator=rng, dtype=torch.float64)
    own = torch.eye(25, dtype=torch.bool)
    matrix[own] += self_ - matrix[own].mean()
    matrix[~own] += cross - matrix[~own].mean()
    found = self_cross(matrix, own)
    assert (found.self_, found.cross) == (pytest.approx(self_), pytest.approx(cross))
    misprint = 0.03 if (selector, measure) == ("LAP", 0) else 0.0  # printed -0.08; 0.96 - 1.07 is -0.11
    assert found.gap == pytest.approx(gap - misprint, abs=0.0101)


def test_a_flip_is_another_answer_not_another_wording_and_not_another_verdict():
    """Of four: told in other words, wrong in another way, right and then wrong, the same."""
    full = [("it is k", "k"), ("d", "d"), ("k", "k"), ("k", "k")]
    masked = [("surely k", "k"), ("b", "b"), ("k or d", "d"), ("k", "k")]
    table = Table(
        Row(f"{i}", "g", selector, selector and "g", text, Reading(read, read == "k", False))
        for selector, answers in (("", full), ("CAS", masked))
        for i, (text, read) in enumerate(answers)
    )
    assert table.flips("CAS").tolist() == [[50.0]] and table.changes("CAS").tolist() == [[-25.0]]


def scored(selector, mask, scores):
    return [
        Row(f"{i}", group, selector, mask, f"{score}", Reading(f"{score}", score == 1, False, score))
        for i, (group, score) in enumerate(zip("bba", scores, strict=True))
    ]


def test_scores_are_averaged_kept_and_of_groups_in_their_order_of_appearance():
    table = Table(scored("", "", [1.0, 0.5, 0.25]) + scored("CAS", "b", [0.5, 0.25, 0.75]))
    assert table.groups == ("b", "a")
    for found in (table, Table(Row.parse(json.loads(json.dumps(row.plain()))) for row in table.rows)):
        assert found.accuracy().tolist() == [75.0, 25.0]
        assert found.changes("CAS").tolist() == [[-37.5, 50.0]]
        assert found.self_cross()["CAS"].accuracy == SelfCross(-37.5, 50.0, -87.5)


def test_each_mask_has_its_own_mcnemar_p(table):
    """a: its mask loses one answer of two; b: its mask loses two of four; the other cells change nothing or win one."""
    assert table.mcnemar("CAS").tolist() == [[1.0, 1.0], [1.0, 0.5]]
    assert table.intervals("CAS", seed=3, level=0.9, resamples=50).seed == 3
