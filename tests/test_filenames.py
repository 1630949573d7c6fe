"""Names as names of files: whatever a name is, it is one file's, in its place, and comes back."""

from __future__ import annotations

import json
import unicodedata

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import gatescope as gs
from gatescope.cli import app
from gatescope.core.answers import read
from gatescope.core.filenames import LONGEST, decoded, distinct, encoded
from gatescope.select.selection import Selection
from gatescope.statistics.table import Row, Table
from gatescope.steps.batches import Plan
from gatescope.steps.places import directory
from gatescope.steps.shards import Shards

HOSTILE = [
    "../../evil",
    "..",
    ".",
    "",
    " ",
    "a/b",
    "a b",
    "a-b",
    "a\\b",
    "nul",
    "CON",
    "com1.x",
    "a\x00b",
    "a\nb",
    "*",
    "?",
    "~",
]
HOSTILE += [
    "Arveni",
    "arveni",
    "ARVENI",
    "x" * 300,
    "é" * 300,
    "e\u0301",
    "é",
    "50%",
    "%",
    "%2F",
    "-rf",
    ".hidden",
    "end.",
    "日本",
]
LAYOUT = gs.Layout.single("gate", 2, 3)
MODEL = {"id": "org/m", "digest": "d1", "dtype": "float32"}


@pytest.mark.parametrize("name", ["CAS", "LAPE", "JPN", "Arveni", "culture", "without exclusion", "CAS, gated", "हिन्दी"])
def test_an_ordinary_name_stays_what_it_is(name):
    assert encoded(name) == name
    assert directory(f"attribute of {name}", {}) == f"shards.attribute-of-{name}"


@given(st.text(alphabet=st.characters(codec=None, exclude_categories=[]), max_size=60))
def test_a_name_is_one_safe_files_and_comes_back(name):
    text = encoded(name)
    assert decoded(text) == name or "~" in text
    assert 0 < len(text.encode()) <= LONGEST and not set(text) & set('/\\:*?"<>|\x00\n') and text.isprintable()
    assert text[0] not in ". " and text[-1] not in ". " and unicodedata.normalize("NFC", text) == text
    assert encoded(name, but=".").count(".") == 0


@given(st.lists(st.text(alphabet="aAbB./ %é", max_size=5), unique=True, max_size=12))
def test_no_two_names_are_one_file_even_where_capitals_are_none(names):
    taken = []
    for name in names:
        taken.append(distinct(name, taken))
    assert len({text.casefold() for text in taken}) == len(names)
    assert [decoded(text) for text in taken] == names
    assert [distinct(name, taken) for name in names] == taken  # and is found again


def neurons(index):
    return gs.NeuronSet.of(LAYOUT, [("gate", 0, index % 3)], MODEL)


def test_selections_and_answers_of_any_name_are_kept_apart_inside_the_run(tmp_path):
    run = gs.Run.at(tmp_path / "deep" / "in" / "run", MODEL)
    answers = [name for name in HOSTILE if name]
    for number, name in enumerate(HOSTILE):
        run.add_selection(Selection(name, {"a": neurons(number)}, 1))
    for name in answers:
        run.note({f"sweep of {name}": {"masks": {}}})
        run.add_answers(Table([Row.full("1", "a", name, read(name, ("b", "c"), "b"))]), name)
    assert {name: selection["a"].flat.tolist() for name, selection in run.selections.items()} == {
        name: [number % 3] for number, name in enumerate(HOSTILE)
    }
    assert [run.table_of(name).rows[0].text for name in answers] == answers and list(run.sweeps) == answers
    assert run.verify() == []
    everything = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(everything) == len(HOSTILE) + len(answers) + 2  # with the manifest and its lock
    assert all(path.parent in (run.path, run.path / "selections") for path in everything)
    assert len({str(path).casefold() for path in everything}) == len(everything)


def test_shards_of_steps_of_any_name_are_kept_apart_inside_the_run(tmp_path):
    run = gs.Run.at(tmp_path / "run", MODEL)
    metadata = {"dtype": "float32", "weights": "d1", "groups": ["a"], "layout": LAYOUT.plain(), "items": 1}
    names = [name for name in HOSTILE if name]
    for number, name in enumerate(names):
        shards, _ = Shards.start(run, f"attribute of {name}", metadata, ["1"], lambda: Plan([[[0]]]))
        sums = torch.full((1, 6), number).double()
        shards.save(0, {"sums": sums, "clamped": sums.clone(), "seen": torch.ones(1, dtype=torch.int64)}, {"model": MODEL})
        shards.bind()
    assert {name: int(scores.sums[0, 0]) for name, scores in run.attributions.items()} == {n: i for i, n in enumerate(names)}
    assert run.verify() == []
    folders = [path.name for path in run.path.iterdir() if path.is_dir()]
    assert len({folder.casefold() for folder in folders}) == len(names) and [path.name for path in tmp_path.iterdir()] == [
        "run"
    ]


def test_spaces_in_the_names_of_steps_of_the_first_release_are_where_it_put_them():
    begun = {"sweep of a b": {"shards": []}, "sweep of a c": {"dtype": "float32", "shards": []}}
    assert directory("sweep of a b", begun) == "shards.sweep-of-a-b"
    assert directory("sweep of a c", begun) == "shards.sweep-of-a c"


def test_every_set_of_neurons_has_a_file_of_its_own(tmp_path):
    run = gs.Run.at(tmp_path / "run", MODEL)
    groups = ["a/b", "a b", "a-b", "A-B", "..", "n" * 300]
    for number, method in enumerate(("CAS", "CAS.a", "cas", "m" * 300)):
        run.add_selection(Selection(method, {group: neurons(number + i) for i, group in enumerate(groups)}, 1))
    run.add_selection(Selection("ALL", {"*": neurons(0)}, 1))
    done = CliRunner().invoke(app, ["neurons", str(run.path), "--out", str(tmp_path / "masks"), "--json"])
    assert done.exit_code == 0, repr(done.exception)
    files = [path.name for path in (tmp_path / "masks").iterdir()]
    assert len({file.casefold() for file in files}) == 4 * 6 + 1
    assert "ALL.safetensors" in files
    for row in json.loads(done.stdout):
        assert [tuple(neuron) for neuron in row["neurons"]] == list(gs.NeuronSet.load(row["file"]))


def test_no_group_is_called_what_stands_for_all_of_them():
    with pytest.raises(gs.GatescopeError, match=r"Example '1': its group is '\*', which stands for all groups together\. Give"):
        gs.data.Example("1", "*", "Which?", ("a", "b"), "a")
    with pytest.raises(gs.GatescopeError, match=r"A group is called '\*', which stands for all groups\. Give it another name"):
        Table([Row.full("1", "*", "a", read("a", ("a", "b"), "a"))])


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"CAS": {"*": 0, "a": 1}}, r"Selector 'CAS' has masks for '\*', 'a'\. .*a mask for '\*', which is one for all groups"),
        ({"": {"a": 1}}, r"Selector '' has masks for 'a'\. A selector needs a name"),
    ],
)
def test_a_mask_for_all_groups_stands_alone_and_a_selector_has_a_name(llama, masks, message):
    layout = gs.sites_of(llama)["gate"].layout
    made = {s: {g: gs.ablate(gs.NeuronSet.of(layout, [("gate", 0, i)])) for g, i in of.items()} for s, of in masks.items()}
    example = gs.data.Example("1", "a", "Which?", ("a", "b"), "a")
    with pytest.raises(gs.GatescopeError, match=message):
        gs.sweep(llama, [example], made, progress=False)


def test_masks_have_names_of_their_own_whatever_slashes_are_in_them(llama, tmp_path):
    layout = gs.sites_of(llama)["gate"].layout
    first, second = (gs.ablate(gs.NeuronSet.of(layout, [("gate", 0, i)])) for i in (1, 2))
    example = gs.data.Example("1", "a", "Which?", ("a", "b"), "a")
    how = {"run": tmp_path / "run", "max_new_tokens": 1, "progress": False}
    gs.sweep(llama, [example], {"x/y": {"z": first}, "x": {"y/z": second}}, **how)
    assert gs.open_run(tmp_path / "run").manifest["sweep"]["masks"] == {"x%2Fy/z": first.digest(), "x/y/z": second.digest()}
    with pytest.raises(gs.GatescopeError, match="with other interventions"):
        gs.sweep(llama, [example], {"x/y": {"z": second}, "x": {"y/z": first}}, **how)
