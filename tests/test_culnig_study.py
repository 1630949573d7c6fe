"""CULNIG on the text organism: what carries culture is found, and nothing else is hurt."""

from __future__ import annotations

import dataclasses
from functools import reduce
from operator import or_

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import gatescope as gs
from commands import gatescope
from gatescope.studies.culnig import matched_random, published_readout, run_culnig


@pytest.fixture(scope="module")
def text():
    return gs.organism.text.load()


@pytest.fixture(scope="module")
def model(text):
    return gs.load_model(text.path)


def test_general_neurons_drop_culture_far_more_than_neutral_tasks_and_random_sets(text, model):
    known = reduce(or_, text.specific.values(), text.general)
    result = run_culnig(model, text.tasks, known=known, progress=False)
    full, general = result.accuracy["full"], result.accuracy["CULNIG-general"]
    assert full["culture"] - general["culture"] >= 50
    assert all(abs(full[task] - general[task]) <= 5 for task in ("reading", "copy", "larger"))
    mean, spread = result.random("culture")
    assert full["culture"] - mean <= 10 and general["culture"] < mean - 5 * spread - 20
    culture, neutral = result.against_random["culture"], result.against_random["copy"]
    assert culture.mean < 0.01 and culture.single < 0.01 < neutral.mean
    assert len([name for name in result.accuracy if name.startswith("random")]) == 10
    assert len(result.general) <= 9 and result.precision >= 0.6
    assert result.precision == pytest.approx(len(set(result.general) & set(known)) / len(result.general))
    own = result.effects["CULNIG-specific"].accuracy
    assert own.self_ < own.cross  # by how much differs from one organism to the next: 6 points, or 20


def test_excluding_the_reading_neurons_keeps_reading_intact(text, model):
    """At a tenth of the neurons suppression reaches those that reading needs, unless they are excluded."""
    tasks = {name: dataclasses.replace(of, evaluation=of.evaluation[::3]) for name, of in text.tasks.items()}
    del tasks["copy"], tasks["larger"]
    result = run_culnig(model, tasks, mlp_rate=0.1, attention_rate=0.02, exclude_rate=0.1, progress=False)
    kept, lost = result.accuracy["CULNIG-general"]["reading"], result.accuracy["without exclusion"]["reading"]
    assert kept >= 95 and kept >= lost
    assert len(result.general) < len(result.unfiltered)
    assert result.accuracy["CULNIG-general"]["culture"] < 50


def test_the_figures_are_those_of_the_published_evaluation(text, model, tmp_path):
    """In plain Transformers, one question at a time: the most probable of all tokens, and whether it is the right letter's.
    A neuron is switched off by its row of a projection."""
    tasks = {
        name: dataclasses.replace(of, identification=of.identification[::8], evaluation=of.evaluation[::12])
        for name, of in text.tasks.items()
        if name in ("culture", "control", "reading", "copy")
    }
    rates = {"mlp_rate": 0.2, "attention_rate": 0.05, "exclude_rate": 0.02}
    result = run_culnig(model, tasks, **rates, out=tmp_path / "run", progress=False)
    tokenizer = AutoTokenizer.from_pretrained(text.path)
    letters = set(tokenizer.convert_tokens_to_ids(["A", "B", "C", "D"]))
    paths = {"gate_pre": "mlp.gate_proj", "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj"}
    for mask, neurons in {"full": (), "CULNIG-general": result.general, "without exclusion": result.unfiltered}.items():
        plain = AutoModelForCausalLM.from_pretrained(text.path).eval()
        for site, layer, index in neurons:
            plain.model.layers[layer].get_submodule(paths[site]).weight.data[index] = 0
        for task in ("culture", "reading", "copy"):
            right, letterless = [], []
            for example in tasks[task].evaluation:
                turn = [{"role": "user", "content": example.prompt}]
                prompt = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) + example.prefix
                ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
                with torch.no_grad():
                    best = plain(ids).logits[0, -1].argmax().item()
                right.append(best == tokenizer.convert_tokens_to_ids(example.label))
                letterless.append(best not in letters)
            assert result.accuracy[mask][task] == pytest.approx(100 * sum(right) / len(right))
            assert result.no_label[mask][task] == pytest.approx(100 * sum(letterless) / len(letterless))
    run = gs.open_run(tmp_path / "run")
    assert {run.manifest[f"sweep of {task}"]["readout"] for task in ("culture", "reading", "copy")} == {"argmax"}
    if result.no_label["CULNIG-general"]["culture"]:
        assert "no label (%), CULNIG-general" in str(result)


def test_tasks_that_are_not_answered_by_a_label_keep_their_own_read_out():
    read = {how: published_readout(gs.data.Study("x", [], [], readout=how)) for how in ("label", "likert", "short", "generate")}
    assert read == {"label": "argmax", "likert": "likert", "short": "short", "generate": "generate"}


def test_what_cannot_be_read_is_refused_before_anything_is_run(text, model, tmp_path):
    one, number = text.tasks["culture"], gs.data.Example("n", "north", "?", ("a", "b"), "a", labels=("1", "23"), prompt="?")
    with pytest.raises(gs.GatescopeError, match="CULNIG needs the tasks 'culture' and 'control'; these were given: culture"):
        run_culnig(model, {"culture": one}, out=tmp_path / "run")
    with pytest.raises(gs.GatescopeError, match="Example 'n' has no choices that are numbers on a scale"):
        odd = gs.data.Study("odd", [], [number], readout="likert")
        run_culnig(model, text.tasks | {"odd": odd}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_random_sets_match_in_size_and_module():
    layout = gs.Layout.parse([["gate_pre", 3, 40], ["q", 3, 16], ["k", 3, 8]])
    neurons = gs.NeuronSet(layout, torch.tensor([0, 5, 60, 119, 120, 170]))
    drawn = [matched_random(neurons, seed) for seed in range(20)]
    for one in drawn:
        assert [int(one.mask(site).sum()) for site in ("gate_pre", "q", "k")] == [4, 1, 1]
    assert drawn[0] == matched_random(neurons, 0) and len({tuple(one.flat.tolist()) for one in drawn}) == 20


def test_the_command_prints_tasks_masks_and_random_sets(fewer_questions):
    done = gatescope("culnig")
    assert done.returncode == 0, done.stderr
    for word in ("culture", "reading", "copy", "larger", "CULNIG-general", "without exclusion", "random (mean of 10)"):
        assert word in done.stdout
