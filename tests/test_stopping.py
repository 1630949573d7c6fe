"""Ctrl-C and SIGTERM: one line that says what is kept, 130 or 143, and nothing left lying about."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

import gatescope as gs
from gatescope.cli import signals as cli_signals
from gatescope.cli.signals import Signals
from gatescope.core import artefacts
from gatescope.core.stopping import Stopped
from loopback.scripted import Scripted
from processes import CONTEXT, _run
from tiny import text_examples

pytestmark = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="Python hears signals in the main thread only"
)
COMMAND = "import os, sys; os.setpgrp(); open(os.environ['STARTED'], 'w').close(); from gatescope.cli import main; main()"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "questions.jsonl"
    fields = ("id", "group", "question", "choices", "answer")
    lines = [json.dumps({name: getattr(e, name) for name in fields}) for e in text_examples(each=40)]
    path.write_text("\n".join(lines))
    return path


class Command:
    """A command in a process of its own, and in a group of its own, as a shell starts it."""

    def __init__(self, folder: Path, *arguments) -> None:
        self.out, self.err, started = folder / "out", folder / "err", folder / "started"
        self.out.touch()
        self.err.touch()
        environment = {"STARTED": str(started), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        given = (COMMAND, list(map(str, arguments)), environment, str(self.out), str(self.err))
        self.process = CONTEXT.Process(target=_run, args=given)
        self.process.start()

    def stop_when(self, reached, number: int) -> list[str]:
        """What it writes to stderr, if a signal goes to its group at a certain point."""
        while not reached():
            assert self.process.is_alive(), self.err.read_text()
            time.sleep(0.01)
        os.killpg(self.process.pid, number)
        self.process.join()
        return self.err.read_text().splitlines()


def said(lines: list[str]) -> str:
    """The one line that a command that was stopped ends with."""
    assert not [line for line in lines if "Traceback" in line or "Error" in line or "ignored" in line], lines
    stopped = [line for line in lines if "stopped by" in line]
    assert len(stopped) == 1 and lines[-1] == stopped[0], lines
    return stopped[0]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_a_command_that_is_stopped_says_what_is_kept(llama_path, data, tmp_path, number, name, workers):
    run = tmp_path / "run"
    options = ["--batch-size", 1, "--shard-size", 1, "--max-new-tokens", 60, "--all-answers", "--workers", workers]
    command = Command(tmp_path, "record", "--model", llama_path, "--data", data, "--run", run, *options)
    line = said(command.stop_when(lambda: (run / "shards" / "00000.safetensors").exists(), number))
    done = len(list((run / "shards").glob("*.safetensors")))
    assert line == (
        f"gatescope: stopped by {name}. {run} keeps {done} of 40 shards (record). Run the same command again to go on."
    )
    assert command.process.exitcode == 128 + number
    assert not list(run.rglob("*.partial")) and gs.open_run(run).verify()[-1].startswith("record: ")


def test_a_run_on_a_server_that_is_stopped_keeps_its_ledger(llama_path, data, tmp_path):
    run = tmp_path / "run"
    with Scripted() as server:
        server.say("response", '{"id": "{job}", "status": "RUNNING"}')
        options = ["--shard-size", 4, "--remote", server.address]
        command = Command(tmp_path, "record", "--model", llama_path, "--data", data, "--run", run, *options)
        line = said(command.stop_when((run / "jobs.record.json").exists, signal.SIGINT))
    assert f"{run} keeps 0 of 10 shards (record); the jobs that were sent go on there, and are asked for. Run the same" in line
    held = json.loads((run / "jobs.record.json").read_text())
    assert command.process.exitcode == 130 and held["shards"]["0"]["pieces"][0]["job"]


# In this process


def test_a_signal_that_is_lost_comes_again(monkeypatch):
    monkeypatch.setattr(cli_signals, "AGAIN", 0.01)
    heard = Signals()
    with pytest.raises(Stopped), heard.heard():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except Stopped:
            pass  # as what is raised in a destructor is
        while True:
            time.sleep(0.01)
    assert heard.number == signal.SIGTERM and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_signals_do_afterwards_what_they_did_before():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]
    with Signals().heard():
        assert [signal.getsignal(number) for number in numbers] != before
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_library_users_run_that_is_interrupted_says_what_is_kept(llama, tmp_path, monkeypatch):
    from gatescope.steps.record import Recording

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Recording, "work", interrupted)
    for run, note in ((tmp_path / "run", f"{tmp_path / 'run'} keeps 0 of 1 shards (record)."), (None, "Nothing is kept")):
        with pytest.raises(KeyboardInterrupt) as stopped:
            gs.record(llama, text_examples(each=1), run=run, only_correct=False, progress=False)
        assert stopped.value.__notes__[0].startswith(note)


# Partial files


def partial(folder, name="00000.safetensors"):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".{name}.0123456789ab.partial"
    path.write_bytes(b"half")
    return path


def test_the_next_run_removes_what_the_dead_have_left_and_nothing_else(llama, tmp_path):
    run = tmp_path / "run"
    options = {"run": run, "only_correct": False, "max_new_tokens": 1, "progress": False}
    gs.record(llama, text_examples(each=1), **options)
    dead = [partial(run), partial(run / "shards"), partial(run / "selections", "CAS.safetensors")]
    live, own = partial(run / "shards", "00001.safetensors"), run / ".notes.partial"
    own.touch()
    with live.open("rb+") as writing:
        fcntl.flock(writing, fcntl.LOCK_EX)
        gs.record(llama, text_examples(each=1), **options)
        assert not any(path.exists() for path in dead) and live.exists() and own.exists()
    artefacts.clear_partials(run)
    assert not live.exists()


def test_a_file_that_is_cleared_as_it_is_begun_is_begun_again(tmp_path, monkeypatch):
    flock, cleared = fcntl.flock, []

    def cleared_first(file, how):
        if not cleared and how == fcntl.LOCK_EX:
            cleared.append(True)
            artefacts.clear_partials(tmp_path)
        return flock(file, how)

    monkeypatch.setattr(fcntl, "flock", cleared_first)
    artefacts.write_bytes(tmp_path / "file", b"whole")
    assert cleared and [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_bytes() == b"whole"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "stopped"])
def test_a_file_that_cannot_be_saved_leaves_nothing_beside_the_one_before(tmp_path, monkeypatch, error):
    layout = gs.Layout.single("gate", 1, 4)
    neurons, path = gs.NeuronSet.of(layout, [("gate", 0, 1)]), tmp_path / "mine" / "north.safetensors"
    neurons.save(path)

    def failing(_file):
        raise error

    monkeypatch.setattr("os.fsync", failing)
    with pytest.raises(gs.GatescopeError if isinstance(error, OSError) else KeyboardInterrupt, match=r"No space left|^$"):
        gs.NeuronSet.of(layout, [("gate", 0, 2)]).save(path)
    assert list(path.parent.iterdir()) == [path] and list(gs.NeuronSet.load(path)) == list(neurons)
