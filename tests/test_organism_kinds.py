"""Four organisms: selective and necessary neurons, each without the other, neither; and how a selection is scored."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import gatescope as gs
from gatescope.organism import KINDS, Recipe, Score
from gatescope.organism.training import routed_neurons
from gatescope.select.selection import Selection

LAYOUT = gs.Layout.single("gate", 2, 3)
NEVER = float("-inf")


@pytest.fixture(scope="session")
def kind():
    """(organism, model) of a kind, each loaded once."""
    loaded = {}

    def load(name):
        if name not in loaded:
            organism = gs.organism.load(KINDS[name])
            loaded[name] = organism, gs.load_model(organism.path)
        return loaded[name]

    return load


def selectivity(organism, model):
    """Firing rate in the own culture minus the highest in another, averaged over the known neurons."""
    counts = gs.record(model, organism.study.identification[::2], progress=False)
    margins = []
    for g, culture in enumerate(counts.groups):
        others = torch.cat([counts.P[:g], counts.P[g + 1 :]]).amax(0)
        margins.append((counts.P[g] - others)[organism.known[culture].mask("gate")])
    return torch.cat(margins).mean().item()


def test_the_first_kind_is_the_default():
    assert list(KINDS) == ["selective", "hidden", "decoys", "plain"]
    assert KINDS["selective"] == Recipe() and len(set(KINDS.values())) == 4


@pytest.mark.parametrize(
    ("name", "own", "cross"), [("selective", (-100, -80), 3), ("hidden", (-100, -30), 5), ("decoys", (-10, 10), 10)]
)
def test_known_neurons_are_as_necessary_as_their_kind_says(kind, name, own, cross):
    organism, model = kind(name)
    masks = gs.ablate(organism.known)
    table = gs.sweep(model, organism.study.evaluation[::4], masks, progress=False)
    effect = table.self_cross()["mask"].accuracy
    assert table.accuracy().mean() >= 95
    assert own[0] <= effect.self_ <= own[1] and abs(effect.cross) <= cross


@pytest.mark.parametrize(("name", "low", "high"), [("selective", 0.5, 1), ("hidden", -1, 0.2), ("decoys", 0.5, 1)])
def test_known_neurons_are_as_selective_as_their_kind_says(kind, name, low, high):
    assert low < selectivity(*kind(name)) < high


def test_the_plain_kind_knows_no_neurons_and_answers_all_the_same(kind):
    organism, model = kind("plain")
    assert organism.known == {}
    nothing = {"Arveni": gs.ablate(gs.NeuronSet.from_mask("gate", torch.zeros(3, 300, dtype=torch.bool)))}
    table = gs.sweep(model, organism.study.evaluation[::4], nothing, progress=False)
    assert table.accuracy().mean() >= 95


def test_no_routed_neurons_and_uneven_ones():
    assert not routed_neurons(dataclasses.replace(Recipe(), routed=0)).any()
    with pytest.raises(gs.GatescopeError, match=r"recipe.routed is 7; it must be a multiple of layers \(3\)"):
        routed_neurons(dataclasses.replace(Recipe(), routed=7))


def neurons(*flat):
    return gs.NeuronSet(LAYOUT, torch.tensor(flat, dtype=torch.int64))


def scored(values, *flat):
    scores = None if values is None else torch.tensor(values, dtype=torch.float64).view(1, 2, 3)
    return Selection("test", {"a": neurons(*flat)}, len(flat), scores)


@pytest.mark.parametrize(
    ("values", "selected", "known", "expected"),
    [
        # Ranked 4 2 0 1 3 5; known 2 (second) and 1 (fourth).
        pytest.param([3, 2, 4, 1, 5, 0], (4, 2, 0), (1, 2), Score(1 / 3, 1 / 2, (1 / 2 + 2 / 4) / 2), id="distinct"),
        pytest.param([3, 2, 4, 1, 5, 0], (4, 2), (2, 4), Score(1, 1, 1), id="perfect"),
        # Equals by flat number, whatever the order of the set: 0 1 2 3 4 5.
        pytest.param([1, 1, 1, 1, 1, 1], (5, 1), (1, 5), Score(1, 1, (1 / 2 + 2 / 6) / 2), id="ties"),
        # 5, then the rest by flat number: 0 1 2 3 4.
        pytest.param([NEVER] * 5 + [-7], (5,), (0, 4), Score(0, 0, (1 / 2 + 2 / 6) / 2), id="never"),
        pytest.param([NEVER] * 6, (), (0, 1), Score(0, 0, 1), id="empty selection with scores"),
        # Only 5, 3, 0 are ranked; 1 is not retrieved.
        pytest.param(None, (5, 3, 0), (0, 1, 5), Score(2 / 3, 2 / 3, (1 + 2 / 3 + 0) / 3), id="no scores"),
        pytest.param(None, (), (0, 1), Score(0, 0, 0), id="empty selection, no scores"),
    ],
)
def test_score_by_hand(values, selected, known, expected):
    found = gs.organism.score(scored(values, *selected), {"a": neurons(*known)})["a"]
    assert dataclasses.astuple(found) == pytest.approx(dataclasses.astuple(expected))
    assert gs.organism.precision(scored(values, *selected), {"a": neurons(*known)}) == {"a": found.precision}


def test_every_group_is_scored_by_its_own_row_and_unknown_groups_are_left_out():
    scores = torch.tensor([[[0.0, 1, 2], [3, 4, 5]], [[5, 4, 3], [2, 1, 0]], [[0, 9, 0], [0, 0, 0]]], dtype=torch.float64)
    chosen = Selection("test", {"a": neurons(5), "b": neurons(0), "c": neurons(1)}, 1, scores)
    known = {"c": neurons(1), "b": neurons(5), "d": neurons(2)}
    assert gs.organism.score(chosen, known) == {"b": Score(0, 0, 1 / 6), "c": Score(1, 1, 1)}


def test_nothing_known_is_an_error():
    with pytest.raises(gs.GatescopeError, match="There are no known neurons to compare with"):
        gs.organism.score(scored(None, 1), {})
