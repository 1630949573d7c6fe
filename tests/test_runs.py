"""Runs that survive: kills, several processes, damage, full disks; and what is refused, with both sides named."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner

import gatescope as gs
import steps
from commands import gatescope
from gatescope.cli import app
from gatescope.steps.shards import Shards
from processes import CONTEXT
from steps import do
from tiny import tiny_llama


@pytest.fixture(scope="module", name="questions")
def _questions():
    return steps.questions()


def result(step: str, run) -> bytes:
    """The merged result, as bytes."""
    opened = gs.open_run(run)
    if step == "sweep":
        return (run / "answers.jsonl").read_bytes()
    (opened.counters if step == "record" else opened.attributions_of()).save(run / "merged.safetensors")
    return (run / "merged.safetensors").read_bytes()


@pytest.mark.parametrize(("step", "kills"), [("record", 2), ("attribute", 1), ("sweep", 2)])
def test_killed_at_random_moments_it_ends_with_the_same_bytes(llama, llama_path, questions, tmp_path, step, kills):
    """kill -9 of a real process, again and again, each time somewhere else; what is done stays done."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        begun = time.perf_counter()
        do(step, llama, questions, tmp_path / "whole")
        length = time.perf_counter() - begun
    finally:
        torch.set_num_threads(threads)
    rng, done, killed = random.Random(step), 0, 0
    for _ in range(60):
        loaded = CONTEXT.Event()
        child = CONTEXT.Process(target=steps.child, args=(step, llama_path, tmp_path / "killed", loaded))
        child.start()
        assert loaded.wait(60)
        # After the last kill a child is left alone.
        child.join(None if killed >= kills else rng.uniform(0.01, 0.08) * length)
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            killed += 1
        elif child.exitcode == 0:
            break
        now = len(list((tmp_path / "killed").glob("shards*/*.safetensors")))
        assert now >= done  # nothing that was reported done is lost
        done = now
    else:
        pytest.fail("it never came to its end")
    assert killed == kills
    assert result(step, tmp_path / "killed") == result(step, tmp_path / "whole")
    assert gs.open_run(tmp_path / "killed").verify() == []


def test_two_commands_on_one_run_are_killed_again_and_again(llama, llama_path, questions, tmp_path):
    """Each by kill -9, in the middle of the other's work: neither loses or mixes anything."""
    run, rng, killed = tmp_path / "killed", random.Random("two"), 0
    left = {"record", "attribute"}
    while left:
        children = {}
        for step in sorted(left):
            loaded = CONTEXT.Event()
            children[step] = CONTEXT.Process(target=steps.child, args=(step, llama_path, run, loaded))
            children[step].start()
            assert loaded.wait(60)
        time.sleep(rng.uniform(0.02, 0.3))
        for step, child in children.items():
            if child.is_alive() and killed < 4:
                os.kill(child.pid, signal.SIGKILL)
                killed += 1
            child.join()
            if child.exitcode == 0:
                left.remove(step)
    assert killed == 4
    for step in ("record", "attribute"):
        do(step, llama, questions, tmp_path / "whole")
        assert result(step, run) == result(step, tmp_path / "whole")
    (run / "merged.safetensors").unlink()  # this test's
    assert gs.open_run(run).verify() == []


def test_two_processes_on_one_run_do_every_shard_once(llama, llama_path, questions, tmp_path):
    given = ("record", llama_path, tmp_path / "both", CONTEXT.Event())
    children = [CONTEXT.Process(target=steps.child, args=given) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    do("record", llama, questions, tmp_path / "one")
    assert result("record", tmp_path / "both") == result("record", tmp_path / "one")


def jsonl(path, questions):
    rows = [
        {
            "id": e.id,
            "group": e.group,
            "question": e.question,
            "choices": e.choices,
            "answer": e.answer,
            "split": "identification",
        }
        for e in questions
    ]
    path.write_text(
        "".join(json.dumps(r | {"split": "evaluation" if i == 29 else r["split"]}) + "\n" for i, r in enumerate(rows))
    )
    return path


def test_one_and_two_processes_give_the_same_bytes(llama_path, questions, tmp_path):
    """Two by accelerate launch -m gatescope record, as the documentation says it; they share fifteen shards."""
    data = jsonl(tmp_path / "q.jsonl", questions)
    command = [
        *("record", "--model", llama_path, "--data", data, "--all-answers"),
        *("--batch-size", 2, "--shard-size", 2, "--max-new-tokens", 4, "--run"),
    ]
    found = [gatescope(*command, tmp_path / "run1"), two(command, tmp_path / "run2")]
    assert all(done.returncode == 0 for done in found), [done.stderr[-3000:] for done in found]
    # Said once, by one of them.
    assert [done.stdout.count("shards done") for done in found] == [1, 1]
    assert result("record", tmp_path / "run1") == result("record", tmp_path / "run2")


def two(command, run):
    launch = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_machines", 1, "--mixed_precision", "no"),
        *("--dynamo_backend", "no", "--num_processes", 2, "--main_process_port", 29513, "-m", "gatescope"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run([str(c) for c in (*launch, *command, run)], capture_output=True, text=True, env=environment)


def test_parts_are_done_apart_and_the_last_one_has_it_all(llama_path, questions, tmp_path):
    data, run = jsonl(tmp_path / "q.jsonl", questions), tmp_path / "run"
    said = []
    for part in ("0/3", "1/3", "2/3"):
        done = CliRunner().invoke(
            app,
            [
                *("record", "--model", str(llama_path), "--data", str(data), "--run", str(run), "--all-answers"),
                *("--part", part, "--batch-size", "2", "--shard-size", "2", "--max-new-tokens", "2"),
            ],
        )  # fmt: skip
        assert done.exit_code == 0, done.output + repr(done.exception)
        said.append(done.output.strip().splitlines()[-1].rpartition(": ")[2])
    assert said == [
        "5 of 15 shards done; the others are not",
        "10 of 15 shards done; the others are not",
        "15 of 15 shards done",
    ]
    assert gs.open_run(run).counters.seen.sum() == 29
    with pytest.raises(gs.GatescopeError, match="--part is '3/3'; it must be K/N with K from 0 to N - 1"):
        CliRunner().invoke(
            app, ["record", "--model", str(llama_path), "--data", str(data), "--run", str(run), "--part", "3/3"],
            catch_exceptions=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def _finished(llama, questions, tmp_path_factory):
    do("record", llama, questions, run := tmp_path_factory.mktemp("finished") / "run")
    return run


@pytest.fixture
def finished(_finished, tmp_path):
    return shutil.copytree(_finished, tmp_path / "run")


def test_a_finished_run_is_not_run_again(llama, questions, finished):
    runs = []
    handle = llama._module.register_forward_pre_hook(lambda *_: runs.append(1))
    try:
        again = do("record", llama, questions, finished)
    finally:
        handle.remove()
    assert not runs and torch.equal(again.K, gs.open_run(finished).counters.K)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("truncated", r"00003\.safetensors cannot be read as gatescope\.shard/1: .* It may be truncated: delete it"),
        ("altered", r"00003\.safetensors was altered after it was written: its checksum does not match"),
        (
            "misplaced",
            r"00003\.safetensors is shard 4 of \w+; shard 3 of \w+ belongs here\. It came from another run: delete it",
        ),
        ("foreign", r"00003\.safetensors is shard 3 of \w+; shard 3 of \w+ belongs here\. It came from another run: delete it"),
    ],
)
def test_a_damaged_shard_is_refused_by_name_and_never_merged(llama, questions, finished, tmp_path, damage, message):
    file = finished / "shards" / "00003.safetensors"
    content = file.read_bytes()
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "altered":
        file.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    elif damage == "misplaced":
        file.write_bytes((finished / "shards" / "00004.safetensors").read_bytes())
    else:
        do("record", llama, questions[:8], tmp_path / "other")
        file.write_bytes((tmp_path / "other" / "shards" / "00003.safetensors").read_bytes())
    with pytest.raises(gs.GatescopeError, match=message):
        _ = gs.open_run(finished).counters
    with pytest.raises(gs.GatescopeError, match=message):
        do("record", llama, questions, finished)
    told = CliRunner().invoke(app, ["runs", "verify", str(finished)])
    assert told.exit_code == 1 and "00003.safetensors" in told.output
    file.unlink()
    assert "1 of 15 shards are not done: 3." in CliRunner().invoke(app, ["runs", "verify", str(finished)]).output
    do("record", llama, questions, finished)
    assert CliRunner().invoke(app, ["runs", "verify", str(finished)]).exit_code == 0


def test_another_model_is_refused(questions, finished, tmp_path):
    other = gs.load_model(tiny_llama(tmp_path / "other", layers=2))
    with pytest.raises(gs.GatescopeError, match=r"Cannot continue the run .*: one model is .*llama.*, the other .*other"):
        do("record", other, questions, finished)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"site": "up"}, r'was started \(record\) with site "gate", and this is site "up"'),
        ({"readout": "label"}, r'with readout "generate", and this is readout "label"'),
        ({"only_correct": True}, r'with only_correct "False", and this is only_correct "True"'),
        ({"tokens": "text"}, r'with tokens \["all"\], and this is tokens \["text"\]'),
        ({"max_new_tokens": 3}, "with max_new_tokens 6, and this is max_new_tokens 3"),
    ],
)
def test_other_options_are_refused_with_both_sides(llama, questions, finished, change, message):
    options = {"only_correct": False, "readout": "generate", "max_new_tokens": 6, "run": finished, "progress": False} | change
    with pytest.raises(gs.GatescopeError, match=message):
        gs.record(llama, questions, **options)


def test_other_data_and_another_token_rule_are_refused(llama, questions, finished, monkeypatch):
    with pytest.raises(gs.GatescopeError, match=r'with other examples.*fingerprint: "\w{64}", and this is "\w{64}"'):
        do("record", llama, [dataclasses.replace(questions[0], question="Else?"), *questions[1:]], finished)
    monkeypatch.setattr(sys.modules["gatescope.steps.record"], "TOKEN_RULE", "every token there is")
    with pytest.raises(
        gs.GatescopeError, match=r'with token_rule "text and image.*and this is token_rule "every token there is"'
    ):
        do("record", llama, questions, finished)


def test_another_format_is_refused_with_both(finished):
    manifest = json.loads((finished / "manifest.json").read_text())
    (finished / "manifest.json").write_text(json.dumps(manifest | {"format": "gatescope.run/9"}))
    with pytest.raises(gs.GatescopeError, match=r"is gatescope\.run/9; this version reads gatescope\.run/2"):
        gs.open_run(finished)


def test_other_versions_are_told_not_refused(llama, questions, finished):
    run = gs.open_run(finished)
    before = run.manifest["record"]
    run.note({"record": before | {"versions": before["versions"].replace("torch", "tensors")}})
    with pytest.warns(UserWarning, match="was started with .* and is continued with .*: sums may differ in their last bit"):
        do("record", llama, questions, finished)


def test_a_run_keeps_the_batches_it_was_begun_with(llama, questions, finished):
    (finished / "shards" / "00002.safetensors").unlink()
    how = {"only_correct": False, "readout": "generate", "max_new_tokens": 6, "progress": False}
    again = gs.record(llama, questions, run=finished, batch_size=8, shard_size=16, **how)
    assert len(Shards.of(gs.open_run(finished), "record")) == 15 and again.seen.sum() == 30


def test_two_examples_of_one_id_are_refused(llama, questions, tmp_path):
    with pytest.raises(gs.GatescopeError, match="Two examples have the id 'north0'; a run needs ids that are unique"):
        do("record", llama, [*questions, questions[0]], tmp_path / "run")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_is_told_and_what_was_done_is_kept(llama, questions, finished, monkeypatch):
    """Writes of a fifth shard go to a device that is full; the error is the kernel's own."""
    for index in range(4, 15):
        (finished / "shards" / f"{index:05d}.safetensors").unlink()
    import builtins

    real = builtins.open
    monkeypatch.setattr(
        builtins, "open", lambda file, *a, **k: real("/dev/full" if "00004.safetensors" in str(file) else file, *a, **k)
    )
    with pytest.raises(
        gs.GatescopeError, match=r"00004\.safetensors cannot be written: No space left on device\. What was written"
    ):
        do("record", llama, questions, finished)
    monkeypatch.undo()
    assert len(list((finished / "shards").glob("*.safetensors"))) == 4
    do("record", llama, questions, finished)
    assert gs.open_run(finished).verify() == []


def test_a_directory_that_cannot_be_written_to_is_told(llama, questions, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(gs.GatescopeError, match=r"file/run cannot be written to: Not a directory"):
        do("record", llama, questions, tmp_path / "file" / "run")
    with pytest.raises(gs.GatescopeError, match="file exists and is not a run"):
        do("record", llama, questions, tmp_path / "file")


def test_show_and_merge_say_what_there_is(llama, questions, finished):
    do("attribute", llama, questions, finished)
    shown = CliRunner().invoke(app, ["runs", "show", str(finished)]).output
    assert "record     done: 30 examples; site gate, tokens ['all'], readout generate" in shown
    assert "attribute  done: 30 examples; sites gate_pre,q,k,v, reduce max" in shown
    merged = CliRunner().invoke(app, ["runs", "merge", str(finished)]).output.split()
    assert [m.rpartition("/")[2] for m in merged] == ["counters.all.safetensors", "attributions.safetensors"]
    assert torch.equal(gs.Counters.load(merged[0]).K, gs.open_run(finished).counters.K)
    with safe_open(merged[0], framework="pt") as file:
        assert "fingerprint" in file.metadata()["about"]


def test_steps_run_one_after_the_other_from_the_command_line(organism, tmp_path):
    """record, select, sweep: what `study` does at once."""
    rows = [json.loads(line) for line in (organism.path / "study.jsonl").read_text().splitlines()][::4]
    data, run = tmp_path / "study.jsonl", tmp_path / "run"
    data.write_text("".join(json.dumps(r | {"image": str(organism.path / r["image"])}) + "\n" for r in rows))
    common = ["--model", str(organism.path), "--data", str(data), "--run", str(run)]
    for command in (["record", *common], ["select", str(run), "--selector", "CAS"], ["sweep", *common]):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output + repr(done.exception)
    told = json.loads(CliRunner().invoke(app, ["sweep", *common, "--json"]).stdout)  # nothing is run again
    effect = gs.open_run(run).table.self_cross()["CAS"]
    assert told["effects"]["CAS"]["accuracy"] == {
        "self": effect.accuracy.self_, "cross": effect.accuracy.cross, "gap": effect.accuracy.gap,
    }  # fmt: skip
    shown = json.loads(CliRunner().invoke(app, ["runs", "show", str(run), "--json"]).stdout)
    assert shown["steps"]["sweep"]["missing"] == [] and shown["model"]["class"] == "Qwen2_5_VLForConditionalGeneration"
    assert "CAS" in done.output and gs.open_run(run).table.self_cross()["CAS"].accuracy.self_ <= -50
