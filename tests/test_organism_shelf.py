"""Organisms are shipped whole and used where they lie; others can be put in their place, and nothing altered is used."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

import gatescope as gs
from gatescope import organism as organisms
from gatescope.models.identity import identity
from gatescope.organism import KINDS, Recipe, prepare, shelf, text, world

QUICK = Recipe(layers=1, width=18, hidden=64, routed=1, images_per_fact=1, seed=7, accuracy=0.0, max_steps=1)


@pytest.fixture(autouse=True)
def shipped_only(monkeypatch):
    """Whatever the suite is pointed at, this file is about the shipped organisms and its own."""
    monkeypatch.delenv(shelf.VARIABLE, raising=False)


def test_what_is_shipped_was_made_by_todays_recipes():
    told = shelf.organisms(shelf.SHIPPED)
    assert set(told) == {"selective", "hidden", "decoys", "plain", "text"}
    for kind, recipe in KINDS.items():
        assert Recipe(**told[kind]["recipe"]) == recipe and told[kind]["edition"] == organisms.FORMAT
    assert text.TextRecipe(**told["text"]["recipe"]) == text.TextRecipe() and told["text"]["edition"] == text.FORMAT
    assert all(told[kind]["made_with"]["torch"] for kind in told)


def test_every_shipped_file_has_a_digest_and_all_are_small():
    told = {name for entry in shelf.organisms(shelf.SHIPPED).values() for name in entry["files"]}
    files = [path for path in shelf.SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10_000_000
    names = {path.relative_to(shelf.SHIPPED).as_posix() for path in files}
    pictures = {name for name in told if name.startswith("pictures-")}
    assert {name for name in names if name.split("/")[0] not in pictures} == (told - pictures) | {"manifest.json"}
    assert not any(str(Path.home()).encode() in path.read_bytes() for path in files if path.suffix in (".json", ".jsonl"))


@pytest.mark.parametrize("kind", ["selective", "hidden", "decoys", "text"])
def test_the_known_neurons_are_of_the_model_they_lie_beside(kind):
    model = identity(gs.load_model(shelf.find(kind)))
    known = sorted((shelf.find(kind) / "known").iterdir())
    assert len(known) == len(world.CULTURES) + (kind == "text")
    for path in known:
        assert gs.NeuronSet.load(path, model).model["digest"] == model["digest"]


def test_loading_writes_nothing_anywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("GATESCOPE_CACHE", str(tmp_path / "cache"))

    def state():
        return {path: path.stat().st_mtime_ns for path in shelf.SHIPPED.rglob("*")}

    before = state()
    gs.load_model(gs.organism.load().path)
    gs.load_model(text.load().path)
    assert state() == before and not (tmp_path / "cache").exists()


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A shelf of one's own: the shipped selective organism, copied."""
    told = shelf.organisms(shelf.SHIPPED)["selective"]
    for name in {name.split("/")[0] for name in told["files"]}:
        shutil.copytree(shelf.SHIPPED / name, tmp_path / name)
    manifest = {"format": shelf.FORMAT, "organisms": {"selective": told}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setenv(shelf.VARIABLE, str(tmp_path))
    return tmp_path


def test_a_shelf_of_ones_own_comes_first_and_the_shipped_one_after(own):
    assert gs.organism.load().path == own / "selective"
    assert gs.organism.load().study.identification[0].picture().size == (56, 56)
    assert gs.organism.load(KINDS["hidden"]).path == shelf.SHIPPED / "hidden"
    assert text.load().path == shelf.SHIPPED / "text"


def flip(path):
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["selective/model.safetensors", "selective/study.jsonl", "selective/known/Dolmi.safetensors"])
def test_an_altered_file_is_named(own, name):
    flip(own / name)
    with pytest.raises(gs.GatescopeError) as error:
        gs.organism.load()
    assert str(error.value) == (
        f"The organism 'selective' was altered: the SHA-256 of {own / name} is not the one in manifest.json. Install gatescope "
        f"again, or make it: `python -m gatescope.organism --train selective --out DIR`, GATESCOPE_ORGANISMS=DIR."
    )


@pytest.mark.parametrize("how", [flip, Path.unlink, lambda path: path.rename(path.with_name("other.png"))])
def test_altered_missing_and_renamed_pictures_are_noticed(own, how):
    (pictures,) = own.glob("pictures-*")
    how(pictures / "evaluation-100.png")
    with pytest.raises(gs.GatescopeError, match=rf"was altered: the SHA-256 of {pictures} is not the one in manifest.json"):
        gs.organism.load()


def test_a_missing_file_is_named(own):
    (own / "selective" / "tokenizer.json").unlink()
    with pytest.raises(gs.GatescopeError, match=r"'selective' is incomplete: .*selective/tokenizer.json is missing. Install"):
        gs.organism.load()


def test_a_place_without_organisms_is_told_what_to_hold(tmp_path, monkeypatch):
    monkeypatch.setenv(shelf.VARIABLE, str(tmp_path / "nothing"))
    with pytest.raises(
        gs.GatescopeError, match=r"nothing holds no organisms: .*GATESCOPE_ORGANISMS must name a directory made"
    ):
        gs.organism.load()
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "manifest.json").write_text('{"format": "gatescope.organisms/0"}')
    with pytest.raises(gs.GatescopeError, match=r"organisms of format 'gatescope.organisms/0'; this version reads"):
        gs.organism.load()
    (tmp_path / "nothing" / "manifest.json").write_text("[]")
    with pytest.raises(gs.GatescopeError, match=r"organisms of format None; this version reads"):
        gs.organism.load()


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A shelf with an organism of another world, trained for one step."""
    out = tmp_path_factory.mktemp("shelf")
    made = out / "made"
    made.mkdir()
    organisms.make(made, QUICK, progress=False)
    before = gs.data.jsonl(made / "study.jsonl")
    pixels = [example.picture().tobytes() for example in before.evaluation]
    shelf.put(out, "selective", made, 1, dataclasses.asdict(QUICK))
    return out, before, pixels


def test_what_was_made_again_takes_the_place_of_the_shipped_one(quick, monkeypatch):
    out, before, pixels = quick
    monkeypatch.setenv(shelf.VARIABLE, str(out))
    loaded = gs.organism.load()
    assert loaded.path == out / "selective" and loaded.recipe == QUICK
    assert [e.picture().tobytes() for e in loaded.study.evaluation] == pixels
    assert [e.choices for e in loaded.study.evaluation] == [e.choices for e in before.evaluation]
    assert {len(neurons) for neurons in loaded.known.values()} == {1}
    assert type(gs.load_model(loaded.path)._module).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert sorted(path.name.split("-")[0] for path in out.iterdir()) == ["manifest.json", "pictures", "selective"]


def test_organisms_are_listed_where_they_are(quick, monkeypatch, capsys):
    monkeypatch.setenv(shelf.VARIABLE, str(quick[0]))
    assert prepare.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["selective", "hidden", "decoys", "plain", "text"]
    assert f"seed 7, made with torch {torch.__version__.split('+')[0]}" in lines[0] and str(quick[0]) in lines[0]
    assert "seed 0" in lines[1] and str(shelf.SHIPPED) in lines[1]


def test_listing_finds_what_was_altered(own, capsys):
    flip(own / "selective" / "model.safetensors")
    assert prepare.main([]) == 2
    assert "The organism 'selective' was altered" in capsys.readouterr().err


def test_a_recipe_that_is_not_shipped_is_trained_into_the_cache_once(tmp_path):
    state = torch.get_rng_state()
    first = gs.organism.load(QUICK, cache=tmp_path, progress=False)
    assert first.path.parent == tmp_path / "organisms" and first.recipe == QUICK
    made = (first.path / "model.safetensors").stat()
    again = gs.organism.load(QUICK, cache=tmp_path, progress=False)
    assert again.path == first.path and (again.path / "model.safetensors").stat() == made
    assert torch.equal(torch.get_rng_state(), state)


def test_training_by_name_says_what_names_there_are(capsys):
    with pytest.raises(SystemExit) as stopped:
        prepare.main(["--train", "selectiv"])
    assert stopped.value.code == 2
    assert "selective, hidden, decoys, plain, text" in capsys.readouterr().err.replace("'", "")
