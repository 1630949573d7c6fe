"""A sweep's table, and its run: whose answers they are, in which order, and what a run is not continued with."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import gatescope as gs
from gatescope.models.identity import identity
from tiny import text_examples, tiny_llama

QUICK = {"max_new_tokens": 3, "batch_size": 3, "progress": False}


def neurons(model, *members, site="gate"):
    return gs.NeuronSet.of(gs.sites_of(model)[site].layout, [(site, layer, index) for layer, index in members])


@pytest.fixture(scope="module")
def questions():
    """Six of unequal length, the longest in the middle, in two groups."""
    more = (0, 3, 7, 5, 1, 2)
    return [
        dataclasses.replace(e, question=e.question + " And again?" * n)
        for e, n in zip(text_examples(each=3), more, strict=True)
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"members": [(0, 1), (2, 4)]}, r"was started \(sweep\) with other interventions: their neurons, rate or kind differ"),
        ({"factor": 3.0}, "with other interventions: their neurons, rate or kind differ"),
        ({"readout": "loglik"}, 'with readout "generate", and this is readout "loglik"'),
        ({"max_new_tokens": 2}, "with max_new_tokens 3, and this is max_new_tokens 2"),
        ({"question": "Else?"}, "with other examples: their texts"),
    ],
)
def test_a_run_is_continued_with_what_it_was_begun_with_only(llama, questions, tmp_path, change, message):
    """One that is not finished: its last shard is taken away."""

    def run(members=((0, 1), (2, 3)), factor=2.0, question=None, readout="generate", **options):
        asked = [dataclasses.replace(e, question=question or e.question) for e in questions]
        masks = {"north": gs.scale(neurons(llama, *members), factor)}
        options = QUICK | {"shard_size": 3, "readout": readout, "run": tmp_path / "run"} | options
        return gs.sweep(llama, asked, masks, **options)

    run()
    (tmp_path / "run" / "shards.sweep" / "00001.safetensors").unlink()
    with pytest.raises(gs.GatescopeError, match=message):
        run(**change)
    assert len(run().rows) == 12


def test_rows_stand_in_the_order_of_the_examples_however_they_were_batched(llama, questions):
    """Batches of "auto" begin with the longest; the answer beside each question is the one it gets alone."""
    masks = {"north": gs.ablate(neurons(llama, *((1, i) for i in range(0, 48, 2))))}
    options = {"max_new_tokens": 5, "progress": False}
    found = gs.sweep(llama, questions, masks, batch_size="auto", shard_size=4, **options)
    assert [(row.mask, row.id) for row in found.rows] == [(mask, e.id) for mask in ("", "north") for e in questions]
    alone = {e.id: gs.sweep(llama, [e], masks, **options).rows for e in questions}
    assert [row.text for row in found.rows] == [alone[e.id][which].text for which in (0, 1) for e in questions]
    assert len({row.text for row in found.rows}) > 3, "the answers are too much alike to tell"


def test_a_selector_has_one_mask_only_if_all_of_its_masks_are_one(llama, questions):
    one, other = gs.ablate(neurons(llama, (0, 1))), gs.ablate(neurons(llama, (0, 2)))
    masks = {"RND": {"a": one, "b": one}, "CAS": {"a": one, "b": other, "c": one}, "ONE": {"a": one}}
    table = gs.sweep(llama, questions[:1], masks, **QUICK)
    keys = [(row.selector, row.mask) for row in table.rows]
    assert keys == [("", ""), ("RND", "*"), ("CAS", "a"), ("CAS", "b"), ("CAS", "c"), ("ONE", "a")]


def test_the_same_values_for_the_same_neurons_in_another_order_are_another_intervention(llama):
    one, other = (neurons(llama, *members) for members in (((0, 1), (0, 2)), ((0, 2), (0, 1))))
    values = torch.tensor([1.0, 5.0])
    assert one == other and gs.set_to(one, values) != gs.set_to(other, values)
    assert gs.set_to(one, values) == gs.set_to(one, values) and len({gs.set_to(one, values), gs.set_to(one, values)}) == 1
    assert gs.scale(one, 2.0) == gs.scale(other, 2.0) and gs.ablate(one) == gs.ablate(other)


def test_scores_survive_a_run(llama, tmp_path):
    """Of answers on a scale; the run's table is read back from its files."""
    choices = ("1", "2", "3", "4")
    scale = [gs.data.Example(f"w{i}", "north", "How much?", choices, answer, labels=choices) for i, answer in enumerate("1234")]
    options = {"readout": "likert_label", "progress": False}
    plain = gs.sweep(llama, scale, {}, **options)
    kept = gs.sweep(llama, scale, {}, run=tmp_path / "run", **options)
    assert [row.reading.score for row in kept.rows] == [row.reading.score for row in plain.rows]
    assert len({row.reading.score for row in plain.rows}) > 1
    assert gs.open_run(tmp_path / "run").table.rows == plain.rows


def test_another_models_neurons_are_refused_before_anything_is_asked(llama, questions, tmp_path):
    other = gs.load_model(tiny_llama(tmp_path / "other"))
    layout = gs.sites_of(other)["gate"].layout
    foreign = gs.ablate(gs.NeuronSet(layout, torch.tensor([3]), identity(other) | {"id": "elsewhere", "digest": "0"}))
    asked = []
    handle = llama._module.register_forward_pre_hook(lambda *_: asked.append(1))
    try:
        with pytest.raises(gs.GatescopeError, match="Cannot apply an intervention: one model is elsewhere"):
            gs.sweep(llama, questions, {"a": foreign}, masks_per_batch=1, **QUICK)
    finally:
        handle.remove()
    assert not asked


def test_a_run_is_continued_with_its_masks_in_another_order(llama, questions, tmp_path):
    """As `gatescope sweep` continues what a study began: every answer stays with its own mask."""
    every = [(layer, index) for layer in range(3) for index in range(0, 48, 2)]
    masks = {"MAD": {"a": gs.ablate(neurons(llama, *every))}, "CAS": {"a": gs.ablate(neurons(llama, (0, 1)))}}
    turned = dict(reversed(masks.items()))
    first = gs.sweep(llama, questions, masks, run=tmp_path / "run", shard_size=3, **QUICK)
    mad, cas = ([row.text for row in first.rows if row.selector == name] for name in ("MAD", "CAS"))
    assert mad != cas, "the masks are too much alike to tell"
    again = gs.sweep(llama, questions, turned, run=tmp_path / "run", shard_size=3, **QUICK)
    assert set(again.rows) == set(first.rows) == set(gs.open_run(tmp_path / "run").table.rows)
    (tmp_path / "run" / "shards.sweep" / "00001.safetensors").unlink()  # and what is left is stored in the same order
    gs.sweep(llama, questions, turned, run=tmp_path / "run", shard_size=3, **QUICK)
    assert set(gs.sweep(llama, questions, masks, run=tmp_path / "run", shard_size=3, **QUICK).rows) == set(first.rows)


def test_a_run_keeps_several_sweeps_by_their_names(llama, questions, tmp_path):
    first = gs.sweep(llama, questions, {}, run=tmp_path / "run", **QUICK)
    second = gs.sweep(llama, questions[:2], {}, run=tmp_path / "run", name="again", **QUICK)
    run = gs.open_run(tmp_path / "run")
    assert run.table.rows == first.rows and run.table_of("again").rows == second.rows
    assert len(second.rows) == 2
