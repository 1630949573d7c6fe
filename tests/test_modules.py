"""Parts of a model by the neurons in them: every projection once, partners together, budgets as the paper counts them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gatescope as gs
from families import FAMILIES
from gatescope.models.identity import identity
from gatescope.models.sites import layout_of
from gatescope.studies.modules import Part, choose, parts_of


def some(model, *names):
    layout = layout_of([gs.sites_of(model)[name] for name in names])
    return gs.NeuronSet(layout, torch.arange(0, layout.size, 3), identity(model))


@pytest.mark.parametrize("name", FAMILIES)
def test_parts_hold_the_projections_of_their_layer_and_no_others(name, tmp_path):
    FAMILIES[name].build(tmp_path / name)
    model = gs.load_model(tmp_path / name)
    neurons = some(model, "gate_pre", "q", "k", "v")
    parts = parts_of(model, neurons)
    layers = neurons.layout.sites[0].layers
    assert [(part.layer, part.kind) for part in parts] == [(i, kind) for i in range(layers) for kind in ("attention", "MLP")]
    named = [path for part in parts for path in part.modules]
    assert len(set(named)) == len(named)
    for part in parts:
        weights = [p for path in part.modules for p in model._module.get_submodule(path).parameters()]
        assert part.parameters == sum(p.numel() for p in weights) and len(weights) >= 2
    assert sum(part.neurons for part in parts) == len(neurons)
    assert not any("vision" in path or "visual" in path for path in named)


def test_a_llama_has_its_partners(llama):
    attention, mlp, *_ = parts_of(llama, some(llama, "gate_pre", "q"))
    assert [path.rsplit(".", 1)[1] for path in attention.modules] == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert [path.rsplit(".", 1)[1] for path in mlp.modules] == ["gate_proj", "up_proj", "down_proj"]


def test_where_no_neuron_was_looked_for_no_part_is_offered(llama):
    assert {part.kind for part in parts_of(llama, some(llama, "gate"))} == {"MLP"}
    assert {part.kind for part in parts_of(llama, some(llama, "v"))} == {"attention"}


def test_neurons_of_another_model_or_shape_are_refused(llama):
    neurons = some(llama, "gate")
    with pytest.raises(gs.GatescopeError, match="one model is"):
        parts_of(llama, gs.NeuronSet(neurons.layout, neurons.flat, {"digest": "of another"}))
    with pytest.raises(gs.GatescopeError, match="which this model does not have"):
        parts_of(llama, gs.NeuronSet(gs.Layout.single("gate", 1, 3), torch.tensor([0])))


PARTS = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 4)), min_size=1, max_size=12).map(
    lambda rows: [Part(i, "MLP", (str(i),), size, count) for i, (size, count) in enumerate(rows)]
)


@given(parts=PARTS, budget=st.integers(1, 200), which=st.sampled_from(["most", "none"]), seed=st.integers(0, 3))
def test_parts_are_taken_until_they_exceed_the_budget_and_no_further(parts, budget, which, seed):
    pool = [part for part in parts if (part.neurons > 0) == (which == "most")]
    if not pool:
        with pytest.raises(gs.GatescopeError, match="none can be chosen"):
            choose(parts, budget, which=which, seed=seed)
        return
    chosen = choose(parts, budget, which=which, seed=seed)
    assert set(chosen) <= set(pool) and len(set(chosen)) == len(chosen)
    assert sum(part.parameters for part in chosen[:-1]) <= budget
    assert sum(part.parameters for part in chosen) > budget or len(chosen) == len(pool)
    if which == "most":
        left = [part.neurons for part in pool if part not in chosen]
        assert max(left, default=0) <= min(part.neurons for part in chosen)
    assert chosen == choose(parts, budget, which=which, seed=seed)


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(gs.GatescopeError, match="must be 1 or more"):
        choose([Part(0, "MLP", ("a",), 1, 1)], 0)


def test_parts_come_in_the_order_of_their_neurons_and_a_budget_is_met_to_the_last_parameter():
    parts = [Part(0, "MLP", ("a",), 10, 2), Part(1, "MLP", ("b",), 10, 9), Part(2, "MLP", ("c",), 10, 5)]
    assert [part.layer for part in choose(parts, 20)] == [1, 2, 0]  # 20 do not exceed 20: one more is taken
    assert [part.layer for part in choose(parts, 19)] == [1, 2]


def test_parts_without_neurons_are_taken_in_an_order_that_the_seed_decides():
    parts = [Part(i, "MLP", (str(i),), 1, 0) for i in range(6)]
    orders = {tuple(part.layer for part in choose(parts, 99, which="none", seed=seed)) for seed in range(10)}
    assert len(orders) > 5 and all(sorted(order) == list(range(6)) for order in orders)
