"""lm-eval on a local task scores what `sweep` scores: the same log-likelihoods, the same answers, the same accuracy."""

from __future__ import annotations

import functools
import json
import random
import sys

import pytest
import torch
import yaml
from torch.utils import collect_env

import gatescope as gs
from gatescope.interop.lm_eval import evaluate
from gatescope.interventions.bake import baked
from gatescope.models.identity import identity
from gatescope.traces.encoding import prompt
from tiny import tiny_llama

pytest.importorskip("lm_eval")
QUIET = {"only_included": True, "bootstrap_iters": 0}


@pytest.fixture(scope="module", autouse=True)
def machine():
    """lm-eval describes the machine in every result: compilers, drivers, all that pip lists. Once is enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect_env, "get_pretty_env_info", functools.cache(collect_env.get_pretty_env_info))
        yield


@pytest.fixture(scope="module")
def model(request, tmp_path_factory):
    chat = getattr(request, "param", "base") == "chat"
    return gs.load_model(tiny_llama(tmp_path_factory.mktemp("asked"), chat=chat))


@pytest.fixture(scope="module")
def questions():
    """Choices of several tokens and of several lengths."""
    rng = random.Random("lm-eval")
    words = ["kite", "boat", "drum", "lamp", "rope", "a bell", "owl", "tent"]
    found = []
    for number in range(24):
        choices = tuple(rng.sample(words, 4))
        found.append(gs.data.Example(f"{number}", "north", f"Which is {number}?", choices, choices[number % 4]))
    return found


def write_task(model, questions, directory, **more):
    """The questions as a task file and its data: our prompts, and nothing between a prompt and a choice."""
    directory.mkdir()
    rows = [{"asked": prompt(model, q), "choices": list(q.choices), "right": q.choices.index(q.answer)} for q in questions]
    (directory / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = {
        "task": "mine",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": str(directory / "data.jsonl")},
        "test_split": "train",
        "output_type": "multiple_choice",
        "doc_to_text": "{{asked}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "right",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (directory / "mine.yaml").write_text(yaml.safe_dump(task | more))
    return directory


@pytest.fixture
def task(model, questions, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return write_task(model, questions, tmp_path / "tasks")


def interventions(model):
    layout = gs.sites_of(model)["gate"].layout
    gate = gs.NeuronSet(layout, torch.arange(0, layout.size, 2), identity(model))
    query = gs.NeuronSet(gs.sites_of(model)["q"].layout, torch.arange(20), identity(model))
    return {"gate": gs.ablate(gate), "q": gs.scale(query, 3.0)}


@pytest.mark.parametrize("model", ["base", "chat"], indirect=True)
def test_accuracy_and_every_answer_equal_those_of_sweep(model, questions, task):
    masks = interventions(model)
    table = gs.sweep(model, questions, masks, readout="loglik", progress=False)
    digest = identity(model)["digest"]
    accuracies = set()
    for group, mask in {"": None, **masks}.items():
        found = evaluate(model, mask, ["mine"], include_path=task, **QUIET)
        rows = [row for row in table.rows if row.mask == group]
        accuracy = sum(row.reading.correct for row in rows) / len(rows)
        assert found["results"]["mine"]["acc,none"] == pytest.approx(accuracy)
        for row, question, sample in zip(rows, questions, found["samples"]["mine"], strict=True):
            logs = [log for log, _ in sample["filtered_resps"]]
            assert question.choices[logs.index(max(logs))] == row.text
        accuracies.add(accuracy)
    assert len(accuracies) > 1, "the masks change nothing: the test says nothing"
    assert identity(model)["digest"] == digest


def test_a_delimiter_is_what_sets_the_two_apart(model, questions, tmp_path, monkeypatch):
    """lm-eval puts a space before each choice unless the task says otherwise; asked with that space, sweep agrees again."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    task = write_task(model, questions, tmp_path / "tasks", target_delimiter=" ")
    found = evaluate(model, None, ["mine"], include_path=task, **QUIET)
    spaced = [
        gs.data.Example(
            q.id, q.group, q.question, tuple(f" {c}" for c in q.choices), f" {q.answer}",
            prompt=gs.data.prompts.multiple_choice(q.question, q.choices, image=False),
        )
        for q in questions
    ]  # fmt: skip
    table = gs.sweep(model, spaced, interventions(model), readout="loglik", progress=False)
    full = [row for row in table.rows if row.mask == ""]
    for row, question, sample in zip(full, spaced, found["samples"]["mine"], strict=True):
        logs = [log for log, _ in sample["filtered_resps"]]
        assert question.choices[logs.index(max(logs))] == row.text


def test_the_result_says_which_model_and_which_neurons(model, task):
    mask = interventions(model)["gate"]
    note = evaluate(model, mask, ["mine"], include_path=task, limit=2, **QUIET)["gatescope"]
    assert note == {"model": identity(model), "kind": "zero", "neurons": len(mask.neurons), "origin": {}}
    assert evaluate(model, None, ["mine"], include_path=task, limit=2, **QUIET)["gatescope"] == {"model": identity(model)}


def test_the_tokenizer_and_the_weights_are_left_as_they_were(model, task):
    before = {name: tensor.clone() for name, tensor in model._module.state_dict().items()}
    side, pad = model.tokenizer.padding_side, model.tokenizer.pad_token
    evaluate(model, interventions(model)["gate"], ["mine"], include_path=task, limit=2, **QUIET)
    assert (model.tokenizer.padding_side, model.tokenizer.pad_token) == (side, pad)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model._module.state_dict().items())


def test_a_tokenizer_without_padding_is_left_without(model, task):
    """The harness gives it a padding token, and must give it to a copy."""
    before, model.tokenizer.pad_token = model.tokenizer.pad_token, None
    try:
        evaluate(model, None, ["mine"], include_path=task, limit=2, **QUIET)
        assert model.tokenizer.pad_token is None
    finally:
        model.tokenizer.pad_token = before


def test_what_cannot_be_baked_is_refused_and_nothing_is_left_baked(model, task):
    gate = interventions(model)["gate"].neurons
    with pytest.raises(gs.GatescopeError, match=r"'set' on site 'gate' cannot be baked"):
        evaluate(model, gs.set_to(gate, 1.0), ["mine"], include_path=task, **QUIET)
    with baked(gs.ablate(gate), model):
        pass


def test_tasks_that_are_not_there_are_named(model, task, tmp_path):
    with pytest.raises(gs.GatescopeError, match=r"lm-eval knows no task 'yours'. It knows mine\."):
        evaluate(model, None, ["mine", "yours"], include_path=task, **QUIET)
    with pytest.raises(gs.GatescopeError, match=r"No directory '.*nowhere' to read tasks from"):
        evaluate(model, None, ["mine"], include_path=tmp_path / "nowhere", **QUIET)
    with pytest.raises(gs.GatescopeError, match=r"No task was given"):
        evaluate(model, None, [])


def test_lm_eval_is_asked_for_by_name_where_it_is_missing(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)  # what makes an import fail
    with pytest.raises(gs.GatescopeError, match=r"lm-eval is not installed: pip install 'gatescope\[eval\]'"):
        evaluate(model, None, ["mine"])
