"""NaN and infinity: an error where there is no mask, a hole under one; never an effect, and never an answer."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

import gatescope as gs
from commands import gatescope
from gatescope.core.answers import HOLE, Reading
from gatescope.statistics.significance import against_random
from gatescope.statistics.table import Row, Table
from gatescope.steps.perplexity import perplexity
from gatescope.traces.holes import no_number, with_holes
from gatescope.traces.readouts import generated
from tiny import text_examples

GROUPS = ("north", "south")
LETTERS = ("A", "B", "C", "D")
QUICK = {"progress": False, "batch_size": 2}
NUMBERS = ("1", "2", "3", "4")


@pytest.fixture(scope="module")
def examples():
    return [dataclasses.replace(e, labels=LETTERS) for e in text_examples(GROUPS, each=2)]


@pytest.fixture
def broken(llama_path):
    """A model with NaN at layer 1, from a neuron that reads one of the hidden dimensions."""
    model = gs.load_model(llama_path)
    with torch.no_grad():
        model._module.model.layers[1].mlp.gate_proj.weight[5] = torch.nan
    return model


def breaking(model):
    """A mask under which the model gives NaN: activations beyond what float32 holds."""
    layout = gs.sites_of(model)["gate"].layout
    return gs.scale(gs.NeuronSet.of(layout, [("gate", 1, index) for index in range(48)]), 3e38)


def harmless(model):
    return gs.ablate(gs.NeuronSet.of(gs.sites_of(model)["gate"].layout, [("gate", 1, 1)]))


@pytest.mark.parametrize("readout", ["generate", "label", "loglik", "loglik_mean", "argmax", "likert", "likert_label"])
@pytest.mark.parametrize("together", [1, 3])
def test_an_answer_under_a_mask_that_makes_nan_is_a_hole(llama, examples, readout, together):
    asked = examples
    if "likert" in readout:
        asked = [dataclasses.replace(e, choices=NUMBERS, answer="2", prompt="1, 2, 3 or 4?") for e in examples]
    how = {"readout": readout, "max_new_tokens": 3, **QUICK}
    masks = {"north": harmless(llama), "south": breaking(llama)}
    table = gs.sweep(llama, asked, masks, masks_per_batch=together, **how)
    assert table.holes("mask").tolist() == [[False] * 4, [True] * 4]
    assert all(row.text == "" and row.reading is not None and math.isnan(row.reading.value) for row in table.rows[8:])
    # What is beside it in a batch is what it was.
    alone = gs.sweep(llama, asked, {"north": masks["north"]}, **how)
    assert table.rows[:8] == alone.rows
    assert table.changes("mask")[1].isnan().all() and table.flips("mask")[1].isnan().all()
    effect, expected = table.self_cross()["mask"], alone.changes("mask")
    assert effect.holes == 4 and effect.accuracy.self_ == expected[0, 0] and effect.accuracy.cross == expected[0, 1]
    assert str(table.self_cross()).endswith("\nmask: 4 answers are left out: the model gave NaN")


def test_holes_are_kept_in_a_run_and_shown(llama, examples, tmp_path):
    masks = {"m": {"north": harmless(llama), "south": breaking(llama)}}
    table = gs.sweep(llama, examples, masks, run=tmp_path / "run", readout="label", **QUICK)
    rows = [json.loads(line) for line in (tmp_path / "run" / "answers.jsonl").read_text().splitlines()]
    assert [row.get("hole") for row in rows] == [None] * 8 + [True] * 4  # nothing is written of those that are none
    again = gs.open_run(tmp_path / "run").table
    assert again.rows == table.rows and [row.reading.hole for row in again.rows] == [False] * 8 + [True] * 4
    # Continued, nothing is asked again: the holes come from the shards.
    assert gs.sweep(llama, examples, masks, run=tmp_path / "run", readout="label", **QUICK).rows == table.rows
    page = gs.report(tmp_path / "run", figures=False).read_text(encoding="utf-8")
    assert "m: 4 answers under its masks are left out: the model gave NaN there." in page
    assert gatescope("report", tmp_path / "run", "--no-figures").returncode == 0


def test_the_full_models_nan_is_an_error_that_names_the_example(broken, examples):
    named = r"^The model gave NaN in example 'north0'. Load it in a wider dtype, such as dtype='float32', or leave"
    for readout in ("generate", "label", "loglik", "argmax"):
        with pytest.raises(gs.GatescopeError, match=named):
            gs.sweep(broken, examples, {"north": harmless(broken)}, readout=readout, max_new_tokens=2, **QUICK)


@pytest.mark.parametrize("only_correct", [True, False])
@pytest.mark.parametrize("readout", ["generate", "label", "argmax"])
def test_a_recording_of_nan_names_the_layer_and_is_no_recording_of_wrong_answers(broken, examples, only_correct, readout):
    with pytest.raises(gs.GatescopeError, match=r"^The model gave NaN at layer 1 in example 'north0'"):
        gs.record(broken, examples, only_correct=only_correct, readout=readout, max_new_tokens=2, **QUICK)


def test_nan_of_generated_tokens_and_of_other_sites_is_named_too(broken, examples):
    for options in ({"tokens": "generated"}, {"site": "q"}, {"site": "hidden"}):
        with pytest.raises(gs.GatescopeError, match=r"^The model gave NaN .*in example 'north0'"):
            gs.record(broken, examples, readout="generate", max_new_tokens=3, **options, **QUICK)


def test_infinity_is_no_number_either(llama_path, examples):
    model = gs.load_model(llama_path)
    with torch.no_grad():
        model._module.model.layers[2].mlp.gate_proj.weight.mul_(1e30)
        model._module.model.layers[2].post_attention_layernorm.weight.mul_(1e30)
        model._module.model.layers[2].mlp.down_proj.weight.zero_()
    passages = [gs.data.Example.passage(f"p{n}", "north", "A kite.") for n in range(2)]
    with pytest.raises(gs.GatescopeError, match=r"^The model gave (NaN|infinity) at layer 2 in example 'p0'"):
        gs.record(model, passages, readout="none", only_correct=False, **QUICK)
    with pytest.raises(gs.GatescopeError, match=r"^The model gave (NaN|infinity) at layer 2 in example 'north0'"):
        gs.record(model, examples, only_correct=False, readout="label", **QUICK)


def test_attributions_means_and_perplexities_of_nan_are_refused(broken, examples):
    with pytest.raises(gs.GatescopeError, match=r"^The model gave NaN at layer \d \(gate\) in example 'north0'"):
        gs.attribute(broken, examples, sites=("gate",), **QUICK)
    with pytest.raises(gs.GatescopeError, match=r"^The model gave NaN or infinity at layer 1 in one of the 4 examples"):
        gs.mean_activation(broken, examples, progress=False)
    with pytest.raises(gs.GatescopeError, match=r"^The model gave NaN in one of texts 0 to 1. Load it in a wider dtype"):
        perplexity(broken, ["The kite.", "A boat."], {}, progress=False)


def test_a_masks_perplexity_may_be_none_and_may_be_beyond_all_numbers(llama):
    off = breaking(llama)
    louder = gs.scale(off.neurons, 1e6)
    found = perplexity(llama, ["The kite is red."], {"nan": off, "loud": louder}, progress=False)
    assert math.isnan(found.masks["nan"]) and math.isfinite(found.full) and found.masks["loud"] > 1


# Which rows


def test_a_row_is_a_hole_from_its_first_failing_step_to_its_end():
    fine, second, both = torch.tensor([False, False]), torch.tensor([False, True]), torch.tensor([True, True])
    ids = torch.tensor([[5, 9, 9, 9], [5, 6, 7, 8]])  # the first answer has ended; 9 is its end, and the padding

    def holes(*failed, pad=9):
        return (with_holes(ids, list(failed), pad) == -1).all(1).tolist()

    assert holes(fine, fine, fine, fine) == [False, False] and holes() == [False, False]
    assert holes(fine, fine, fine, second) == [False, True]
    assert holes(fine, fine, both, both) == [False, True]  # what follows an answer's end is no part of it
    assert holes(fine, both, fine, fine) == [True, True]  # but its end is
    assert holes(both, fine, fine, fine) == [True, True]
    assert torch.equal(with_holes(ids, [fine] * 4, 9), ids)


def test_one_row_of_a_batch_may_be_a_hole(llama, examples, monkeypatch):
    whole = gs.sweep(llama, examples, {"north": harmless(llama)}, readout="generate", max_new_tokens=3, **QUICK)
    calls = []

    def third_row_of_the_second_batch(logits):
        calls.append(len(logits))
        # Two rows under two masks: the third is the mask's first.
        return (torch.arange(len(logits)) == 2) & (len(calls) > 3) | no_number(logits)

    monkeypatch.setattr(generated, "no_number", third_row_of_the_second_batch)
    table = gs.sweep(llama, examples, {"north": harmless(llama)}, readout="generate", max_new_tokens=3, **QUICK)
    assert table.holes("mask").tolist() == [[False, False, True, False]]
    assert [row for row in table.rows if not row.reading.hole] == [row for n, row in enumerate(whole.rows) if n != 6]


# Tables


def rows(selector, mask, read, right="xxxxxx"):
    readings = [HOLE if p == "?" else Reading(p, p == r, False) for p, r in zip(read, right, strict=True)]
    return [
        Row(str(i), g, selector, mask, reading.predicted, reading)
        for i, (g, reading) in enumerate(zip("aabbbb", readings, strict=True))
    ]


@pytest.fixture
def table():
    return Table(
        rows("", "", "xyxxyy")  # a: 50%, b: 50%
        + rows("CAS", "a", "y?xxyz")  # a: of the first, 100 to 0; b: as it was, flips 1/4
        + rows("CAS", "b", "??x?x?")  # a: nothing is known; b: of the 1st and the 3rd, 50 to 100, flips 1/2
    )


def test_effects_are_of_the_examples_that_were_answered(table):
    assert table.accuracy().tolist() == [50.0, 50.0]
    changes, flips = table.changes("CAS"), table.flips("CAS")
    assert changes[0].tolist() == [-100.0, 0.0] and changes[1].isnan().tolist() == [True, False] and changes[1, 1] == 50.0
    assert flips[0].tolist() == [100.0, 25.0] and flips[1].isnan().tolist() == [True, False] and flips[1, 1] == 50.0
    effect = table.self_cross()["CAS"]
    assert (effect.accuracy.self_, effect.accuracy.cross, effect.holes) == (-25.0, 0.0, 5)
    assert (effect.flips.self_, effect.flips.cross) == (75.0, 25.0)


def test_intervals_are_of_the_examples_that_were_answered(table):
    found = table.intervals("CAS", resamples=200)
    for interval in (found.accuracy, found.flips):
        assert interval.low.isnan().tolist() == interval.high.isnan().tolist() == [[False, False], [True, False]]
        assert not any(map(math.isnan, (*interval.self_, *interval.cross, *interval.gap)))
    assert found.accuracy.low[0].tolist() == [-100.0, 0.0] and found.accuracy.high[0, 0] == -100.0
    assert (found.accuracy.low[1, 1], found.accuracy.high[1, 1]) == (0.0, 100.0)


def test_a_test_counts_holes_with_what_did_not_change(table):
    answered = [row for row in table.rows if not row.reading.hole]
    assert table.mcnemar("CAS").tolist() == [[1.0, 1.0], [1.0, 1.0]] and len(answered) == 13


def test_without_holes_nothing_changes_by_a_bit(table):
    whole = Table([row for row in table.rows if row.selector == ""] + rows("CAS", "a", "yyxxyz"))
    again = whole.intervals("CAS", resamples=50)
    kept = torch.ones(1, 6, dtype=torch.bool)
    assert not whole.holes("CAS").any() and torch.equal(
        whole._means(whole._after("CAS"), kept), whole._means(whole._after("CAS"), None)
    )
    assert torch.equal(again.accuracy.low, whole.intervals("CAS", resamples=50).accuracy.low)
    assert "hole" not in whole.rows[0].plain() and Row.parse(rows("s", "m", "?yyyyy")[0].plain()).reading == HOLE


def test_a_comparison_with_random_sets_takes_no_hole_for_a_win():
    scores = torch.tensor([1.0, math.nan], dtype=torch.float64)
    with pytest.raises(gs.GatescopeError, match=r"Some answers are holes \(NaN\): leave out the examples"):
        against_random(scores, torch.ones(10, 2, dtype=torch.float64))
