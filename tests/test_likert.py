"""CULNIG's score for Likert scales, against its formula written out in plain Python."""

from __future__ import annotations

import pytest
import torch

import gatescope as gs
from gatescope.traces.readouts.likert import UNREADABLE, likert_scores, majority, rating, score_c


def ends(low, high, count):
    return torch.full((count,), low), torch.full((count,), high)


def test_every_answer_on_every_small_scale():
    for low, high in ((0, 1), (1, 4), (0, 10)):
        options = range(low, high + 1)
        for right in options:
            expected = [100 * (1 - abs(right - p) / max(abs(o - right) for o in options)) for p in options]
            found = likert_scores(torch.tensor(options), torch.full((len(options),), right), *ends(low, high, len(options)))
            assert found.tolist() == pytest.approx(expected)
            assert (found.min(), found.max()) == (0.0, 100.0)


def test_an_answer_off_the_scale_or_no_number_scores_nothing():
    read = torch.tensor([rating(text) for text in ("2", " 2\n", "5", "0", "two", "", "²", "-1", "22")])
    assert likert_scores(read, torch.full((9,), 2), *ends(1, 4, 9)).tolist() == [100.0, 100.0] + [0.0] * 7
    assert rating("²") == rating("-1") == UNREADABLE


def test_score_c_is_the_mean_over_questions():
    predicted, right = torch.tensor([1, 3, 7]), torch.tensor([4, 3, 10])
    low, high = torch.tensor([1, 1, 0]), torch.tensor([4, 5, 10])
    assert score_c(predicted, right, low, high) == pytest.approx((0 + 100 + 70) / 3)


def test_mistakes_are_named():
    one = torch.ones(1).long()
    wrong = [
        (lambda: score_c(one, one, one, one), "Question 0: 1 to 1 is no scale"),
        (lambda: score_c(one, one, -one, one), "Question 0: -1 to 1 is no scale: .* none of them negative"),
        (lambda: score_c(one, 5 * one, one, 4 * one), r"Question 0: 1 to 4 does not have the majority answer \(5\)"),
        (lambda: score_c(one[:0], one[:0], one[:0], one[:0]), "a mean over questions; there are none"),
        (lambda: majority(one[:0]), "needs answers; there are none"),
    ]
    for call, message in wrong:
        with pytest.raises(gs.GatescopeError, match=message):
            call()
