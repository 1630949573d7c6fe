"""A Ray cluster computes the same shards: all bytes of a run are those of a run without it, though an actor was killed.

One local cluster and one crew of two actors for all tests: an actor imports torch for seconds.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from importlib.util import find_spec
from typing import ClassVar

import pytest
import torch

import gatescope as gs
from commands import gatescope
from gatescope.steps.claims import Claims
from gatescope.steps.cluster import Crew
from gatescope.steps.compute import compute
from gatescope.steps.run import Run
from gatescope.steps.shards import Shards
from tiny import text_examples

psutil = pytest.importorskip("psutil")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*has no chat template:UserWarning"),
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'gatescope[ray]'"),
]
HOW = {"batch_size": 2, "shard_size": 4, "progress": False}
LABELLED = [dataclasses.replace(e, labels=("A", "B", "C", "D")) for e in text_examples(each=8)]


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        with gs.Ray(actors=2, gpus=0) as cluster:
            yield cluster


def files(run):
    """Every file of a run that holds a result, with its bytes."""
    kept = (p for p in run.rglob("*") if p.is_file() and p.suffix not in (".lock",))
    return {str(p.relative_to(run)): p.read_bytes() for p in kept}


def computing():
    """The actors that this process's cluster has at work on a shard."""
    return [p for p in psutil.Process().children(recursive=True) if "Actor.compute" in " ".join(_command(p))]


def _command(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_an_actor_killed_in_the_middle_changes_no_byte(cluster, llama, tmp_path, monkeypatch):
    killed = []

    def save(self, *arguments):
        if not killed and (working := computing()):
            os.kill(working[0].pid, signal.SIGKILL)
            killed.append(working[0].pid)
        return stored(self, *arguments)

    stored = Shards.save
    how = HOW | {"only_correct": False, "max_new_tokens": 12}
    here = gs.record(llama, text_examples(each=20), run=tmp_path / "here", **how)
    monkeypatch.setattr(Shards, "save", save)
    there = gs.record(llama, text_examples(each=20), run=tmp_path / "there", executor=cluster, **how)
    assert killed, "no actor was at work when a shard was stored"
    assert files(tmp_path / "there") == files(tmp_path / "here")
    assert torch.equal(there.K, here.K) and torch.equal(there.S, here.S)
    assert gs.open_run(tmp_path / "there").verify() == []


def test_attributions_and_sweeps_are_the_same_too(cluster, llama, tmp_path):
    layout = gs.sites_of(llama)["gate"].layout
    masks = {g: gs.ablate(gs.NeuronSet.of(layout, [("gate", 1, i)])) for i, g in enumerate(("north", "south"))}
    for where, executor in (("here", None), ("there", cluster)):
        gs.attribute(llama, LABELLED, run=tmp_path / where, executor=executor, **HOW)
        gs.sweep(llama, LABELLED, masks, run=tmp_path / where, executor=executor, readout="label", **HOW)
    assert files(tmp_path / "there") == files(tmp_path / "here")


def test_without_a_run_directory_shards_are_added_in_order(cluster, llama):
    here = gs.attribute(llama, LABELLED, **HOW)
    assert torch.equal(gs.attribute(llama, LABELLED, executor=cluster, **HOW).sums, here.sums)


def test_an_actor_refuses_a_model_that_is_not_the_one_here(cluster, llama_path):
    changed = gs.load_model(llama_path)
    changed._module.lm_head.weight.data.mul_(2)
    with pytest.raises(
        gs.GatescopeError, match=r"load from .* is not the one here: the digest of its weights is \w+ there and"
    ):
        gs.record(changed, text_examples(each=1), only_correct=False, executor=cluster, **HOW)


def test_a_model_that_cannot_be_loaded_again_is_refused_before_ray_is_started(llama, llama_path):
    examples, nowhere = text_examples(each=1), gs.Ray("127.0.0.1:1")
    edited = gs.ablate(gs.NeuronSet.of(gs.sites_of(llama)["gate"].layout, [("gate", 1, 1)])).edit(llama)
    with pytest.raises(gs.GatescopeError, match=r"The model is edited, .* Give the model without the edit \(gs.sweep"):
        gs.record(edited, examples, executor=nowhere, **HOW)
    with pytest.raises(gs.GatescopeError, match=r"The model has no weights here, .* Load it with load_model"):
        gs.record(gs.remote.load_client(llama_path), examples, executor=nowhere, **HOW)
    unnamed = gs.load_model(llama_path)
    unnamed._module.config._name_or_path = ""
    with pytest.raises(gs.GatescopeError, match=r"LlamaForCausalLM exists in memory alone, .* Save it with save_pretrained"):
        gs.record(unnamed, examples, executor=nowhere, **HOW)


def test_an_address_where_nobody_answers_is_said_at_once(llama, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", None)  # would take minutes
    with pytest.raises(
        gs.GatescopeError, match=r"No Ray cluster answers at '127.0.0.1:1' \(.*refused.\) Give the address that"
    ):
        gs.record(llama, text_examples(each=1), executor=gs.Ray("127.0.0.1:1"), **HOW)


def test_without_ray_the_error_says_how_to_install_it(llama, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(gs.GatescopeError, match=r"Ray is not installed: pip install 'gatescope\[ray\]'"):
        gs.record(llama, text_examples(each=1), executor=gs.Ray(), **HOW)


@pytest.mark.parametrize("options", [{"actors": 0}, {"gpus": -1}, {"gpus": float("nan")}, {"gpus": float("inf")}])
def test_a_cluster_of_nothing_is_refused(options):
    with pytest.raises(gs.GatescopeError, match="at least 1 and 0 are needed"):
        gs.Ray(**options)


def test_who_does_the_work_is_said_once(llama):
    with pytest.raises(gs.GatescopeError, match=r"remote= and executor= both say who does the work"):
        gs.record(llama, text_examples(each=1), remote=True, executor=gs.Ray(), **HOW)
    with pytest.raises(gs.GatescopeError, match=r"executor is 'ray'; it must be a gs.Ray\(...\), or None"):
        gs.record(llama, text_examples(each=1), executor="ray", **HOW)


def test_a_finished_run_starts_no_cluster(llama, tmp_path):
    before = gs.record(llama, text_examples(each=1), run=tmp_path / "run", only_correct=False, **HOW)
    nowhere = gs.Ray("127.0.0.1:1")
    after = gs.record(llama, text_examples(each=1), run=tmp_path / "run", only_correct=False, executor=nowhere, **HOW)
    assert torch.equal(before.K, after.K)


def test_a_shard_that_another_process_has_is_passed_over_until_it_is_free(tmp_path):
    run = Run.at(tmp_path / "run", {})
    run.note({"record": {"shards": [[["a"]], [["b"]]]}})
    shards = Shards.of(run, "record")
    mine, others = Claims([0, 1], shards), Claims([0, 1], shards)
    assert mine.take() == 0
    assert others.take() == 1
    assert others.take() is None and len(others) == 1  # the one that is mine
    shards.save(1, {}, {})
    others.release(1)
    assert mine.take() is None and not mine  # 1 is done
    mine.give_back(0)
    assert others.take() == 0


class Deadly:
    """A Ray whose actors load the model, and die of every shard."""

    class exceptions:
        class RayError(Exception): ...

        class RayTaskError(RayError): ...

    def put(self, value):
        return value

    def remote(self, **_options):
        return lambda _class: self

    def wait(self, calls, timeout):
        return calls[:1], calls[1:]

    def get(self, call):
        if call[0] == "compute":
            raise self.exceptions.RayError("The node ran out of memory.\nlong story")

    def kill(self, actor): ...


class Doomed:
    def __init__(self):
        self.load, self.compute = Called("load"), Called("compute")


class Called:
    def __init__(self, name):
        self.name = name

    def remote(self, *_arguments):
        return self.name, object()


def test_a_shard_that_actors_keep_dying_of_ends_the_run_in_a_sentence(monkeypatch):
    fake = Deadly()
    crew = Crew(fake, None, 0.0)
    crew._kind = type("Kind", (), {"remote": staticmethod(Doomed)})
    crew.hire()
    with pytest.raises(
        gs.GatescopeError, match=r"3 actors of Ray died computing shard 0, the last one so: The node ran out of"
    ):
        list(crew.work(("key", b""), Claims([0, 1], None), 0))
    assert crew.size == 0


class Nearby:
    """In place of a cluster: computes here, and remembers what it was asked to be."""

    made: ClassVar[list] = []

    def __init__(self, *arguments, **options):
        self.made.append((arguments, options))

    def __enter__(self):
        return self

    def __exit__(self, *_): ...

    def shards(self, step, planned, claims, workers, done):
        with step.running():
            while (index := claims.take()) is not None:
                yield index, compute(step, planned, index, workers, done)
                claims.release(index)


def test_the_commands_hand_their_options_on(organism, tmp_path, monkeypatch):
    monkeypatch.setattr("gatescope.steps.cluster.Ray", Nearby)
    Nearby.made.clear()
    data = tmp_path / "questions.jsonl"
    choices = {"choices": ["kite", "boat"], "answer": "kite", "question": "Which?"}
    data.write_text("".join(json.dumps({"id": f"{n}", "group": "ab"[n % 2], **choices}) + "\n" for n in range(8)))
    common = ("--model", organism.path, "--data", data, "--run", tmp_path / "run")
    ray = ("--executor", "ray", "--ray-address", "head:6379", "--actors", 3, "--gpus-per-actor", 0.5)
    done = gatescope("record", *common, *ray)
    assert (done.returncode, Nearby.made) == (0, [(("head:6379",), {"gpus": 0.5, "actors": 3})]), done.stderr
    refused = gatescope("record", *common, "--actors", 3)
    assert "--actors: only a Ray cluster uses this. Add --executor ray" in refused.stderr
    refused = gatescope("record", *common, "--executor", "slurm")
    assert "--executor is 'slurm'; it must be 'ray'." in refused.stderr
    refused = gatescope("record", *common, "--executor", "ray", "--device-map", "auto")
    assert "Ray's actors have their own: leave it out" in refused.stderr
    refused = gatescope("record", *common, "--executor", "ray", "--remote", "ndif")
    assert "--remote and --executor both say who does the work" in refused.stderr
