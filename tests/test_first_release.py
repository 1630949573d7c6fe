"""What the first release wrote is opened, verified, continued and reported.

tests/fixtures/first-release was written by version 0.1.0: a tiny random Llama, a run over thirty questions (recorded,
attributed, one selection, a sweep of which the last shard is missing), a neuron set, counters, and the answers that the
finished sweep had.
"""

from __future__ import annotations

import json
import pathlib
import shutil

import pytest
import torch

import gatescope as gs
from steps import questions

WRITTEN = pathlib.Path(__file__).parent / "fixtures" / "first-release"


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(WRITTEN / "run", tmp_path / "run")


@pytest.fixture(scope="module")
def model():
    return gs.load_model(WRITTEN / "model")


def test_files_are_loaded():
    counters = gs.Counters.load(WRITTEN / "counts.safetensors")
    neurons = gs.NeuronSet.load(WRITTEN / "north.safetensors")
    assert counters.groups == ("north", "south", "east") and len(neurons) == 10
    assert neurons == gs.select.cas(counters, 0.1)["north"]


def test_a_run_is_opened_and_verified(run):
    opened = gs.open_run(run)
    counters = gs.Counters.load(WRITTEN / "counts.safetensors")
    assert torch.equal(opened.counters.K, counters.K) and torch.equal(opened.counters.S, counters.S)
    assert opened.attributions[""].seen.tolist() == [10, 10, 10]
    assert dict(opened.selections["CAS"]) == dict(gs.select.cas(counters, 0.1))
    assert opened.verify() == ["sweep: 1 of 3 shards are not done: 2."]


@pytest.mark.filterwarnings("ignore:.*was started with")
def test_a_run_is_continued_to_the_same_answers_and_reported(run, model):
    masks = {"CAS": gs.ablate(gs.open_run(run).selections["CAS"])}
    table = gs.sweep(model, questions(), masks, run=run, readout="label", shard_size=10, batch_size=4, progress=False)
    finished = [json.loads(line) for line in (WRITTEN / "answers.finished.jsonl").read_text().splitlines()]
    assert [row.plain() for row in table.rows] == finished
    assert not gs.open_run(run).verify()
    page = gs.report(run, figures=False)
    assert "CAS" in page.read_text()


@pytest.mark.filterwarnings("ignore:.*was started with")
def test_a_finished_step_is_not_done_again(run, model):
    options = {"run": run, "shard_size": 10, "batch_size": 4, "progress": False}
    counters = gs.record(model, questions(), only_correct=False, readout="label", **options)
    assert torch.equal(counters.K, gs.Counters.load(WRITTEN / "counts.safetensors").K)
    assert gs.attribute(model, questions(), sites=("gate_pre", "q"), **options).seen.sum() == 30
