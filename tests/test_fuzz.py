"""Whatever a file, a server or a command line holds ends in a result or in a sentence; see `fuzzing` for a longer search."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gatescope as gs
from commands import gatescope
from fuzzing import VALUES, altered, damaged, ends_in_a_sentence, fuzzed, kept
from gatescope.core import artefacts
from gatescope.steps.remote import ledger_file
from gatescope.steps.remote.ledger import Ledger
from steps import questions
from tiny import tiny_llama

WRITTEN = Path(__file__).parent / "fixtures" / "first-release"
ROWS = [
    {"id": "1", "group": "Arveni", "question": "Which?", "choices": ["a", "b"], "answer": "a", "labels": ["A", "B"]},
    {"id": 2, "group": "Besk", "question": "What?", "accepted": ["c", "d"], "facts": {"city": "Tor"}, "prefix": "Yes"},
    {"id": "3", "group": "Besk", "question": "Who?", "choices": ["e", "f"], "answer": "f", "system": "Be brief.", "item": "i"},
]
LOADERS = {
    "counters": (gs.Counters.load, WRITTEN / "counts.safetensors", "gatescope.counters/1"),
    "neurons": (gs.NeuronSet.load, WRITTEN / "north.safetensors", "gatescope.neurons/1"),
    "selection": (gs.Selection.load, WRITTEN / "run" / "selections" / "CAS.safetensors", "gatescope.selection/1"),
}


@pytest.fixture
def folder(tmp_path):
    """One directory for all of a test's examples: hypothesis runs many."""
    return tmp_path


def read_questions(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    ends_in_a_sentence(lambda: gs.data.jsonl(path))


@fuzzed
@given(data=st.data())
def test_questions(folder, data):
    row = data.draw(st.sampled_from(ROWS))
    lines = [data.draw(altered(row)), json.dumps(ROWS[0] | {"id": "9"})]
    read_questions(folder / "questions.jsonl", "\n".join(lines).encode("utf-8", "surrogatepass"))


@fuzzed
@given(data=st.data())
def test_damaged_questions(folder, data):
    content = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    read_questions(folder / "questions.jsonl", data.draw(damaged(content)))


@pytest.mark.parametrize("kind", LOADERS)
@fuzzed
@given(data=st.data())
def test_damaged_files(kind, folder, data):
    load, file, _ = LOADERS[kind]
    path = folder / "file.safetensors"
    path.write_bytes(data.draw(damaged(file.read_bytes())))
    ends_in_a_sentence(lambda: load(path))


@pytest.mark.parametrize("kind", LOADERS)
@fuzzed
@given(data=st.data())
def test_files_whose_metadata_is_strange_but_signed(kind, folder, data):
    load, file, form = LOADERS[kind]
    tensors, metadata = artefacts.read(file, form)
    path = folder / "file.safetensors"
    try:
        metadata = json.loads(data.draw(altered(metadata)))
        artefacts.write(path, form, tensors, metadata)
    except (ValueError, TypeError, RecursionError):
        return  # nothing that can be written
    ends_in_a_sentence(lambda: load(path))


def read_run(run: Path) -> None:
    """Everything that reads a run, each on its own."""
    reads = [
        lambda: gs.open_run(run).verify(),
        lambda: gs.open_run(run).counters,
        lambda: gs.open_run(run).attributions,
        lambda: gs.open_run(run).selections,
        lambda: gs.open_run(run).sweeps,
        lambda: gs.open_run(run).questions(),
        lambda: gs.report(run, figures=False),
    ]
    for read in reads:
        ends_in_a_sentence(read)


RUN_FILES = ["manifest.json", "identification.jsonl", "answers.jsonl"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The first release's run, with its answers: its files have no digests, so that what is changed in them is read."""
    run = shutil.copytree(WRITTEN / "run", tmp_path_factory.mktemp("finished") / "run")
    shutil.copy(WRITTEN / "answers.finished.jsonl", run / "answers.jsonl")
    return run


@pytest.mark.parametrize("name", RUN_FILES)
@fuzzed
@given(data=st.data())
def test_a_run_of_which_a_file_is_damaged(name, finished, folder, data):
    run = shutil.copytree(finished, folder / "run", dirs_exist_ok=True)
    (run / name).write_bytes(data.draw(damaged((run / name).read_bytes())))
    read_run(run)


@pytest.mark.parametrize("name", RUN_FILES)
@fuzzed
@given(data=st.data())
def test_a_run_of_which_a_file_holds_strange_values(name, finished, folder, data):
    run = shutil.copytree(finished, folder / "run", dirs_exist_ok=True)
    first, *rest = (
        (run / name).read_text(encoding="utf-8").split("\n") if name != "manifest.json" else [(run / name).read_text()]
    )
    text = "\n".join([data.draw(altered(json.loads(first))), *rest])
    (run / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    read_run(run)


@pytest.fixture(scope="module")
def model():
    return gs.load_model(WRITTEN / "model")


@pytest.mark.filterwarnings("ignore:.*was started with")
@fuzzed
@given(data=st.data())
def test_a_run_that_is_continued_with_a_strange_manifest(model, finished, folder, data):
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(finished, run)
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_bytes(data.draw(altered(manifest)).encode("utf-8", "surrogatepass"))
    ends_in_a_sentence(lambda: gs.record(model, questions(), run=run, shard_size=10, batch_size=4, progress=False))


PIECE = {"start": 0, "stop": 2, "job": "j", "attempts": 1, "inquiry": "", "request": "d", "inquired": "", "cut": 0}
LEDGER = {
    "format": "gatescope.jobs/2",
    "run": "r",
    "work": "w",
    "shards": {"0": {"examples": "k", "pieces": [PIECE]}},
    "checksum": "",
}


@fuzzed
@given(data=st.data())
def test_ledgers(folder, data):
    path = folder / "jobs.json"
    text = data.draw(altered(LEDGER))
    # Signed, where it has the shape of a ledger: what is in it has to be looked at all the same.
    with contextlib.suppress(msgspec.DecodeError, UnicodeError, RecursionError):
        held = msgspec.json.decode(text, type=ledger_file.File)
        text = text.replace('"checksum": ""', f'"checksum": "{held.sum()}"')
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    ends_in_a_sentence(lambda: Ledger.at(path, "w", lambda shard: "k").expect([0]))


OPTIONS = [
    *("--batch-size", "--shard-size", "--max-new-tokens", "--part", "--workers", "--site", "--tokens", "--readout", "--seed"),
    *("--dtype", "--device-map", "--group", "--half", "--remote", "--run", "--data", "--model", "--name", "--reduce"),
]
WORDS = [
    *(
        "0",
        "-1",
        "²",
        "1/2",
        "²/³",
        "2/2",
        "1e9",
        "nan",
        "auto",
        "",
        " ",
        "x",
        "..",
        "../../x",
        "float12",
        "bfloat16",
        "cuda:7",
    ),
    *("gate", "up", "generate", "label", "argmax", "identification", "evaluation", "http://", "http://localhost:1", "ftp://x"),
    *("n" * 300, "a\x00b", "\u2028", "\ud800", "9" * 400, "--", "-", "*", "٣", "/dev/null", "/proc/self/mem"),
]


@pytest.fixture(scope="module")
def somewhere(tmp_path_factory):
    folder = tmp_path_factory.mktemp("somewhere")
    tiny_llama(folder / "model")
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[::2]), encoding="utf-8")
    return folder


@fuzzed
@given(data=st.data())
def test_command_lines(somewhere, monkeypatch, data):
    monkeypatch.chdir(somewhere)
    shutil.rmtree(somewhere / "run", ignore_errors=True)
    command = data.draw(st.sampled_from(["record", "attribute", "study"]))
    arguments = {"--model": "model", "--data": "questions.jsonl", "--out" if command == "study" else "--run": "run"}
    for option in data.draw(st.lists(st.sampled_from(OPTIONS), min_size=1, max_size=2)):
        arguments[option] = data.draw(st.sampled_from(WORDS))
    done = gatescope(command, *(word for pair in arguments.items() for word in pair))
    # A usage error is typer's own sentence; anything else would have been raised, and is a traceback.
    assert done.returncode in (0, 2), done


@fuzzed
@given(words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=3), data=st.data())
def test_commands_on_runs(finished, words, data):
    command = data.draw(
        st.sampled_from([["runs", "show"], ["runs", "verify"], ["report", "--no-figures"], ["neurons"], ["bake"]])
    )
    options = data.draw(
        st.lists(st.sampled_from(["--out", "--group", "--selector", "--factor", "--mask", "--seed"]), max_size=1)
    )
    assert gatescope(*command, str(finished), *options, *words).returncode in (0, 1, 2)


@pytest.mark.parametrize("value", VALUES)
def test_every_strange_value_as_a_whole_file(value, tmp_path):
    content = value.encode("utf-8", "surrogatepass")
    read_questions(tmp_path / "questions.jsonl", content)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_bytes(content)
    ends_in_a_sentence(lambda: gs.open_run(tmp_path / "run").verify())
    (tmp_path / "jobs.json").write_bytes(content)
    ends_in_a_sentence(lambda: Ledger.at(tmp_path / "jobs.json", "w", str))


@pytest.mark.parametrize("file", kept("questions"), ids=lambda file: file.stem)
def test_questions_that_were_found(file):
    ends_in_a_sentence(lambda: gs.data.jsonl(file))


@pytest.mark.parametrize("kind, name", [("answers", "answers.jsonl"), ("manifest", "manifest.json")])
def test_runs_that_were_found(kind, name, finished, tmp_path):
    for file in kept(kind):
        run = shutil.copytree(finished, tmp_path / file.stem)
        shutil.copy(file, run / name)
        read_run(run)
