"""What has happened to a finished run is said: a file that was altered, exchanged, lost or put there, whichever it is."""

from __future__ import annotations

import json
import random
import shutil

import pytest
from typer.testing import CliRunner

import gatescope as gs
from gatescope.cli import app

EACH = 6  # cases of each kind of damage


def wrong(run):
    """Everything that is said to be wrong with it; of a manifest that is refused, the refusal."""
    try:
        return "\n".join(gs.open_run(run).verify())
    except gs.GatescopeError as error:
        return str(error)


@pytest.fixture(scope="module")
def finished(studied):
    """A finished study with its report."""
    path, _ = studied
    gs.report(path, figures=False)
    assert gs.open_run(path).verify() == []
    return path


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def flipped(content, rng):
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ rng.randrange(1, 256)]) + content[place + 1 :]


def inserted(content, rng):
    place = rng.randrange(len(content))
    return content[:place] + rng.randbytes(1) + content[place:]


DAMAGE = {
    "a byte changed": flipped,
    "a byte too many": inserted,
    "a line more": lambda content, rng: content + b"\n",
    "cut off": lambda content, rng: content[: rng.randrange(len(content))],
    "emptied": lambda content, rng: b"",
    "the first letter of a word in capitals": lambda content, rng: content.replace(b"a", b"A", 1),
    "exchanged": None,
    "lost": None,
}


@pytest.mark.parametrize("what", DAMAGE)
def test_whatever_happens_to_whichever_file_is_said_of_that_file(run, what):
    rng = random.Random(what)
    files = sorted(path for path in run.rglob("*") if path.is_file() and path.stat().st_size)
    assert {path.suffix for path in files} == {".json", ".jsonl", ".safetensors", ".html", ".csv"}
    for path in rng.sample(files, EACH):
        before, other = path.read_bytes(), rng.choice([file for file in files if file != path])
        other_before = other.read_bytes()
        if what == "lost":
            path.unlink()
        elif what == "exchanged":
            path.write_bytes(other_before)
            other.write_bytes(before)
        else:
            path.write_bytes(DAMAGE[what](before, rng))
        told = wrong(run)
        if "manifest.json" in (path.name, *([other.name] if what == "exchanged" else [])):
            assert "manifest.json" in told or "this version reads" in told, (what, path, told)
        elif what == "lost" and "shards" in path.parent.name:
            assert "1 of 1 shards are not done: 0." in told
        else:
            assert str(path) in told and (what != "exchanged" or str(other) in told), (what, path, told)
        path.write_bytes(before)
        other.write_bytes(other_before)
    assert wrong(run) == ""


def test_files_that_were_put_there_are_named_and_a_users_own_are_not(run):
    for name in ("notes.txt", "mine/cas.safetensors", "selections/.DS_Store", "shards/.00000.safetensors.1f.partial"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_bytes(b"mine")
    assert wrong(run) == ""
    (run / "manifest.lock").write_bytes(b"x")
    assert "manifest.lock is a lock, and should be empty" in wrong(run)
    (run / "manifest.lock").write_bytes(b"")
    strangers = ["selections/MAD.safetensors", "answers.other.jsonl", "shards/00001.safetensors", "shards.x/00000.safetensors"]
    for name in strangers:
        (run / name).parent.mkdir(exist_ok=True)
        shutil.copy(run / "selections" / "CAS.safetensors", run / name)
    told = wrong(run).splitlines()
    named = {line.partition(" is no file of this run, which did not write it. Move it to another place.")[0] for line in told}
    assert named == {str(run / name) for name in strangers}
    opened = gs.open_run(run)
    assert set(opened.selections) == {"RND", "CAS"} and list(opened.sweeps) == [""]  # and they are not read


def test_selections_that_were_exchanged_and_answers_that_were_altered_are_not_reported(run):
    cas, rnd = run / "selections" / "CAS.safetensors", run / "selections" / "RND.safetensors"
    before = cas.read_bytes()
    cas.write_bytes(rnd.read_bytes())
    with pytest.raises(gs.GatescopeError, match=r"CAS\.safetensors was altered after it was written: its checksum is not"):
        gs.report(run, figures=False)
    cas.unlink()
    with pytest.raises(gs.GatescopeError, match=r"CAS\.safetensors is missing\. Run the command that made it again"):
        gs.report(run, figures=False)
    cas.write_bytes(before)
    answers = run / "answers.jsonl"
    answers.write_text(answers.read_text().replace('"correct": false', '"correct": true', 1))
    with pytest.raises(gs.GatescopeError, match=r"answers\.jsonl was altered .*Delete it, and run the command that"):
        gs.report(run, figures=False)


def test_a_file_under_anothers_name_is_refused_in_a_run_of_the_first_release_too(run):
    """There the manifest has no table of files, and what a file says of itself is all there is."""
    manifest = (run / "manifest.json").read_text()
    opened = gs.open_run(run)
    without = {name: value for name, value in opened.manifest.items() if name != "files"}
    (run / "manifest.json").write_text(json.dumps(without))
    opened = gs.open_run(run)
    assert opened.files is None and opened.verify() == []
    told = CliRunner().invoke(app, ["runs", "verify", str(run)]).output
    assert "its other files cannot be checked, as the first release bound none" in told
    shutil.copy(run / "selections" / "RND.safetensors", run / "selections" / "CAS.safetensors")
    with pytest.raises(gs.GatescopeError, match=r"CAS\.safetensors holds the neurons of RND: it was put in the place of"):
        _ = opened.selections
    (run / "manifest.json").write_text(manifest)
    assert "CAS.safetensors was altered" in CliRunner().invoke(app, ["runs", "verify", str(run)]).output


def test_a_record_shard_that_was_damaged_is_said_in_the_report(run):
    shard = run / "shards" / "00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-9])
    page = gs.report(run, figures=False).read_text()
    assert "What was recorded is not shown:" in page and "00000.safetensors cannot be read as gatescope.shard/1" in page


def test_what_was_damaged_is_made_again_and_the_run_is_whole(run, organism, organism_model):
    for name in ("selections/CAS.safetensors", "answers.jsonl", "identification.jsonl", "questions"):
        path = run / name if (run / name).is_file() else next((run / name).iterdir())
        path.unlink()
    assert wrong(run).count("is missing") == 4
    gs.run_study(organism_model, organism.study, rate=0.01, out=run, known=organism.known)
    assert wrong(run) == ""


def test_a_selection_that_was_swept_and_lost_comes_back_as_it_was_or_not_at_all(run, studied):
    (run / "selections" / "CAS.safetensors").unlink()
    opened, counters = gs.open_run(run), studied[1].counters
    with pytest.raises(gs.GatescopeError, match="holds answers under other CAS neurons than these"):
        opened.add_selection(gs.select.cas(counters, 0.02))
    opened.add_selection(gs.select.cas(counters, 0.01))
    assert wrong(run) == ""


def test_a_study_is_at_one_rate(run, studied):
    counters = studied[1].counters
    with pytest.raises(
        gs.GatescopeError, match=r"is a study with rate 0\.01, and MAD was selected at rate 0\.02\. Select at the"
    ):
        gs.open_run(run).add_selection(gs.select.mad(counters, 0.02))
    gs.open_run(run).add_selection(gs.select.mad(counters, 0.01))
