"""The report's page, figures and CSV say what the run says, whatever its groups, selectors and texts are."""

from __future__ import annotations

import csv
import html
import json
import math
import random
import re
import sys
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import gatescope as gs
from gatescope.cli import app
from gatescope.core.answers import Reading
from gatescope.data import Example
from gatescope.reports import compare, report
from gatescope.reports.colours import DARK, DEEP, LIGHT, linear, mix, oklab, ramp
from gatescope.reports.effects import Effect, together
from gatescope.reports.words import Value
from gatescope.statistics.table import Row, Table
from gatescope.steps.questions import keeping
from gatescope.steps.shards import Shards

MODEL = {"id": "acme/tiny", "revision": "", "class": "LlamaForCausalLM", "dtype": "float32", "digest": "d1"}
LAYOUT = gs.Layout.single("gate", 4, 50)
MINUS = "\N{MINUS SIGN}"
HOSTILE = """<script>alert("x")</script>'><img src=x onerror='alert(1)'>{{ 7*7 }} $a_1$"""


def counters(groups, seed=0):
    drawn = np.random.default_rng(seed)
    fired = torch.from_numpy(drawn.integers(0, 100, (len(groups), 4, 50)))
    sizes = [torch.full((len(groups),), n, dtype=torch.int64) for n in (100, 8, 7)]
    return gs.Counters(
        tuple(groups), LAYOUT, fired, fired.double() * 0.5, *sizes, model=MODEL, provenance={"token_rule": "all"}
    )


def synthetic(path, groups=("north", "south", "east"), selectors=("RND", "CAS"), each=6, seed=0, word="boat", question="What?"):
    """A run of which every file is real but the answers, which are drawn: a group's own mask mostly spoils them."""
    run, rng = gs.Run.at(path, MODEL), random.Random(seed)
    counts = counters(groups, seed)
    plan = {"layout": LAYOUT.plain(), "groups": list(groups), "tokens": ["all"], "shards": [[["i"]]]}
    run.note({"record": plan | {"site": "gate", "fingerprint": "f1", "versions": '{"torch": "2"}'}})
    asked = gs.data.fingerprint([example(f"{g}-{n}", g, question) for g in groups for n in range(each)])
    run.note({"sweep": {"fingerprint": asked, "readout": "generate", "examples": each * len(groups)}})
    sums = {f"all/{name}": getattr(counts, name) for name in ("K", "S", "T", "seen", "counted")}
    Shards.of(run, "record").save(0, sums, {})
    pick = {"RND": gs.select.random, "LAP": gs.select.lap, "MAD": gs.select.mad, "CAS": gs.select.cas}
    for name in selectors:
        run.add_selection(pick[name](counts, 0.05))
    keys = [("", "")] + [(s, g) for s in selectors for g in (("*",) if s == "RND" else groups)]
    rows = []
    for selector, mask in keys:
        for group in groups:
            for number in range(each):
                right = rng.random() < (0.2 if mask == group else 0.9)
                said = word if right else rng.choice(["kite", "drum"])
                rows.append(Row(f"{group}-{number}", group, selector, mask, said, Reading(said, right, False)))
    run.add_answers(Table(rows))
    return run


class Page(HTMLParser):
    """The page as a reader gets it: every table's attributes and cells, all tags, all text outside script and style."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tables, self.tags, self.text = [], [], ""
        self._open = []
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        of = dict(attrs)
        self.tags.append((tag, of))
        if tag not in ("meta", "link", "img", "br"):
            self._open.append(tag)
        if tag == "table":
            self.tables.append((of, []))
        if tag == "tr":
            self.tables[-1][1].append([])
        if tag in ("th", "td"):
            self.tables[-1][1][-1].append((tag, of, []))

    def handle_endtag(self, tag):
        if tag in self._open:
            del self._open[len(self._open) - 1 - self._open[::-1].index(tag) :]

    def handle_data(self, data):
        if not {"script", "style"} & set(self._open):
            self.text += data
        if {"th", "td"} & set(self._open):
            self.tables[-1][1][-1][-1][2].append(data)

    def maps(self, kind):
        """By name of the map: {(row, column): exact number}."""
        found = {}
        for of, rows in self.tables:
            if of.get("data-map") == kind:
                columns = ["".join(text) for _, _, text in rows[0]][1:]
                found[of["data-name"]] = {
                    ("".join(row[0][2]), column): float(cell[1]["data-v"] or "nan")
                    for row in rows[1:]
                    for column, cell in zip(columns, row[1:], strict=True)
                }
        return found

    def effects(self, kind):
        """By selector: the exact self, cross and gap."""
        rows = next(rows for of, rows in self.tables if of.get("data-effects") == kind)
        return {"".join(row[0][2]): [float(cell[1]["data-v"] or "nan") for cell in row[1:4]] for row in rows[1:]}


def rows_of(path):
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def same(a, b):
    return a == pytest.approx(b, rel=1e-5, abs=1e-9, nan_ok=True)


@pytest.fixture(scope="module")
def demo(studied):
    """A real study of the organism, reported with its own questions and pictures."""
    path, result = studied
    return result, report(path)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A synthetic run of three groups, reported."""
    run = synthetic(tmp_path_factory.mktemp("runs") / "small", selectors=("RND", "LAP", "CAS"))
    return run, report(run)


def check_numbers(table, selections, path):
    """Page and CSV hold the table's and selections' numbers."""
    page, beside = Page(path), path.with_suffix("")
    effects = rows_of(beside / "effects.csv")
    for kind, measure in (("accuracy", "accuracy change (points)"), ("flips", "flip rate (%)")):
        printed, maps = page.effects(kind), page.maps(kind)
        assert list(printed) == list(table.selectors)
        for selector in table.selectors:
            parts, bounds = getattr(table.self_cross()[selector], kind), getattr(table.intervals(selector), kind)
            assert same(printed[selector], [parts.self_, parts.cross, parts.gap])
            row = next(r for r in effects if (r["selector"], r["measure"]) == (selector, measure))
            values = [float(row[k] or "nan") for k in ("self", "self low", "self high", "gap", "gap low", "gap high")]
            assert same(values, [parts.self_, *bounds.self_, parts.gap, *bounds.gap])
            matrix = table.changes(selector) if kind == "accuracy" else table.flips(selector)
            masks = ["all groups" if mask == "*" else mask for mask in table.masks(selector)]
            wanted = {(m, g): matrix[i, j].item() for i, m in enumerate(masks) for j, g in enumerate(table.groups)}
            assert same(maps[selector], wanted)
    layers = page.maps("layers")
    for name, selection in selections.items():
        for group, neurons in selection.items():
            row = group if (group, "0") in layers[name] else "all groups"
            counts = neurons.per_layer("gate").tolist()
            assert [layers[name][row, str(layer)] for layer in range(len(counts))] == counts
    filed = {(r["selector"], r["group"], int(r["layer"])): int(r["neurons"]) for r in rows_of(beside / "layers.csv")}
    assert {(s, g): sum(n for (a, b, _), n in filed.items() if (a, b) == (s, g)) for s, g, _ in filed} == {
        (s, g): len(neurons) for s, selection in selections.items() for g, neurons in selection.items()
    }


def test_page_and_csv_hold_the_numbers_of_a_synthetic_run(small):
    run, path = small
    check_numbers(run.table, run.selections, path)


def test_page_and_csv_hold_the_numbers_of_a_real_study(demo):
    result, path = demo
    check_numbers(result.table, result.selections, path)
    again = gs.open_result(path.parent)
    check_numbers(again.table, again.selections, path)


def test_the_summary_says_the_drop_with_its_interval_and_that_random_neurons_do_less(demo):
    result, path = demo
    text = Page(path).text
    low, high = (f"{end:.1f}".replace("-", MINUS) for end in result.intervals["CAS"]["accuracy, self"])
    drop = f"{result.table.self_cross()['CAS'].accuracy.self_:+.1f}".replace("-", MINUS)
    assert f"Switching off a group's 9 CAS neurons changes its own accuracy by {drop} ({low} to {high}) points" in text
    assert "Neurons drawn at random (RND) change its own by" in text and "the two intervals do not overlap" in text


def test_counts_in_cells_csv_are_those_of_the_answers(small):
    run, path = small
    rows = run.table.rows
    full = {row.id: row.reading for row in rows if not row.selector}
    for cell in rows_of(path.with_suffix("") / "cells.csv"):
        under = [r for r in rows if (r.selector, r.mask, r.group) == (cell["selector"], cell["mask"], cell["group"])]
        before = sum(full[r.id].correct for r in under)
        after = sum(r.reading.correct for r in under)
        changed = sum(r.reading.predicted != full[r.id].predicted for r in under)
        assert [float(cell[k]) for k in ("examples", "right before", "right after", "answers changed")] == [
            len(under), before, after, changed
        ]  # fmt: skip
        assert float(cell["accuracy change (points)"]) == pytest.approx(100 * (after - before) / len(under))
        assert float(cell["accuracy change (points) low"]) <= float(cell["accuracy change (points) high"])
        assert cell["own"] == str(int(cell["mask"] in ("*", cell["group"])))


def test_a_cell_tells_counts_interval_and_p_value(small):
    _, path = small
    told = [of["title"] for tag, of in Page(path).tags if tag == "td" and "asked about east (its own)" in of.get("title", "")]
    cell = next(
        r for r in rows_of(path.with_suffix("") / "cells.csv") if r["selector"] == "LAP" and r["group"] == r["mask"] == "east"
    )
    assert told[0].splitlines()[0] == "Mask of east, asked about east (its own)"
    assert re.fullmatch(r"[+-]\d+\.\d points, 95% interval -?\d+\.\d to -?\d+\.\d", told[0].splitlines()[1].replace(MINUS, "-"))
    right = f"right: {float(cell['right before']):.0f} before, {float(cell['right after']):.0f} after, of 6"
    assert told[0].splitlines()[2] == f"{right}; {float(cell['answers changed']):.0f} answers changed"
    assert f"McNemar p {float(cell['McNemar p']):.3f}, Holm {float(cell['Holm p']):.3f}" == told[0].splitlines()[3]


def test_overlap_is_jaccard_between_groups_and_between_selectors(small):
    run, path = small
    selections = run.selections
    filed = {
        (r["selector"], r["group"], r["other selector"], r["other group"]): float(r["jaccard"])
        for r in rows_of(path.with_suffix("") / "overlap.csv")
    }
    shown = Page(path).maps("overlap")
    for (a, g, b, h), value in filed.items():
        one, two = set(selections[a][g]), set(selections[b][h])
        assert value == pytest.approx(len(one & two) / len(one | two))
        if a == b and a != "RND":
            assert shown[a][g, h] == pytest.approx(value, rel=1e-5)
    assert "RND" not in shown and "RND has the same neurons for all groups." in Page(path).text
    across = Page(path).maps("across")["mean over groups"]
    groups = list(selections["CAS"])
    assert same(across["LAP", "CAS"], sum(filed["LAP", g, "CAS", g] for g in groups) / len(groups))


def test_score_distributions_count_every_neuron_once(small):
    run, path = small
    rows = rows_of(path.with_suffix("") / "scores.csv")
    for name in ("LAP", "CAS"):
        for group, neurons in run.selections[name].items():
            mine = [r for r in rows if (r["selector"], r["group"]) == (name, group)]
            assert sum(int(r["neurons"]) for r in mine) == LAYOUT.size
            assert sum(int(r["selected"]) for r in mine) == len(neurons)
    assert "RND" not in {r["selector"] for r in rows}


def test_figures_are_written_as_png_and_svg(small, demo):
    for path in (small[1], demo[1]):
        beside = path.with_suffix("")
        for name in ("self-cross", "accuracy-change", "flip-rate", "layers", "scores", "overlap"):
            with Image.open(beside / f"{name}.png") as picture:
                assert min(picture.size) > 100
            assert "</svg>" in (beside / f"{name}.svg").read_text(encoding="utf-8")
        links = {of["href"] for tag, of in Page(path).tags if tag == "a" and not of["href"].startswith("#")}
        assert links == {f"report/{file.name}" for file in beside.iterdir()}


def test_nothing_is_asked_of_the_network(demo):
    page = Page(demo[1])
    policy = next(of["content"] for tag, of in page.tags if of.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe-eval" not in policy
    for tag, of in page.tags:
        assert tag not in ("iframe", "object", "embed", "base", "form")
        assert of.get("src", "data:").startswith("data:")
        assert not re.match(r"\w+://|//", of.get("href", ""))
    assert not re.search(r"@import|url\(", page.source) and "http" not in page.source.replace("http-equiv", "")


def test_pictures_and_questions_are_shown_when_examples_are_given(demo, organism):
    page = Page(demo[1])
    images = [of for tag, of in page.tags if tag == "img"]
    assert len(images) == 6 and all(of["src"].startswith("data:image/") and of["alt"] for of in images)
    assert "What is this dish called?" in page.text and "CAS masks of other groups: 5 of 5 leave the answer" in page.text
    for of, rows in page.tables:
        if of.get("class") == "answers":
            who = {"".join(row[0][2]): "".join(row[2][2]) for row in rows}
            assert who == {"full model": "✓ right", "RND off": "✓ right", "CAS off": "✗ wrong"}


def test_a_page_made_of_the_run_alone_is_the_one_made_with_the_examples(demo, organism, tmp_path):
    given = report(demo[1].parent, tmp_path / "report.html", examples=organism.study.evaluation, figures=False)
    alone = report(demo[1].parent, tmp_path / "alone" / "report.html", figures=False)
    assert given.read_bytes() == alone.read_bytes() and "data:image/" in alone.read_text()


def test_a_page_with_questions_is_not_replaced_by_one_without(small, tmp_path):
    own = [example(f"{g}-{n}", g) for g in ("north", "south", "east") for n in range(6)]
    page = report(small[0], tmp_path / "report.html", examples=own, figures=False)
    before = page.read_bytes()
    with pytest.raises(gs.GatescopeError, match=r"shows questions and pictures.*\(examples=study.evaluation; --data"):
        report(small[0], page, figures=False)  # a run that does not hold its questions
    assert page.read_bytes() == before and report(small[0], tmp_path / "other.html", figures=False).is_file()


def asking(path, picture):
    """A run whose questions are kept, on pictures that `picture` makes."""
    run = synthetic(path)
    asked = [example(f"{g}-{n}", g, image=picture(f"{g}-{n}")) for g in ("north", "south", "east") for n in range(6)]
    digest = gs.data.fingerprint(asked)
    run.note({"sweep": {"fingerprint": digest}})
    with keeping(run, "sweep", digest, asked):
        pass
    return run, asked


def test_a_picture_whose_file_is_gone_or_changed_is_called_missing_and_no_other_is_shown(tmp_path):
    def picture(name):
        Image.new("RGB", (8, 8), "teal").save(tmp_path / f"{name}.png")
        return tmp_path / f"{name}.png"

    run, asked = asking(tmp_path / "run", picture)
    page = report(run, figures=False)
    assert gs.data.fingerprint(run.questions()) == gs.data.fingerprint(asked)
    assert len([tag for tag, _ in Page(page).tags if tag == "img"]) == 3  # one a group
    for number, example in enumerate(asked):
        if number % 2:
            example.image.unlink()
        else:
            Image.new("RGB", (8, 8), "red").save(example.image)
    with pytest.raises(gs.GatescopeError, match="shows questions and pictures"):
        report(run, figures=False)
    other = Page(report(run, tmp_path / "other.html", figures=False))
    assert other.text.count("The picture is not shown. Example '") == 3 and "img" not in {tag for tag, _ in other.tags}
    reasons = "No such file", "the file has changed since it was asked about"
    assert sum(map(other.text.count, reasons)) == 3


def test_a_picture_that_was_in_memory_is_shown_where_the_examples_are_given(tmp_path):
    run, asked = asking(tmp_path / "run", lambda name: Image.new("RGB", (8, 8), "teal"))
    alone = Page(report(run, figures=False))
    assert "img" not in {tag for tag, _ in alone.tags} and "What?" in alone.text
    assert alone.text.count("it was in memory when it was asked about, and a run keeps no pictures") == 3
    given = Page(report(run, examples=asked, figures=False))
    assert len([tag for tag, _ in given.tags if tag == "img"]) == 3
    with pytest.raises(gs.GatescopeError, match="shows questions and pictures"):
        report(run, figures=False)


def test_a_run_without_examples_shows_answers_and_says_how_to_see_more(small):
    page = Page(small[1])
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert "examples=study.evaluation" in page.text and "full model" in page.text


def example(id, group, question="What?", **more):
    return Example(id, group, question, ("boat", "kite", "drum"), "boat", **more)


def test_examples_of_another_study_are_refused(small, tmp_path):
    with pytest.raises(gs.GatescopeError, match=r"None of the 1 examples given was asked in this run's sweep; give the ones"):
        report(small[0], tmp_path / "r.html", examples=[example("other", "north")], figures=False)
    with pytest.raises(
        gs.GatescopeError, match=r"Example 'north-0' is of group 'south', and the run asked it as one of 'north'"
    ):
        report(small[0], tmp_path / "r.html", examples=[example("north-0", "south")], figures=False)
    assert not list(tmp_path.iterdir())


def test_examples_that_are_not_all_the_runs_own_are_refused(small, tmp_path):
    """Some that it did not ask, some that it asked and are not there, the same ids with another text or picture."""
    own = [example(f"{g}-{n}", g) for g in ("north", "south", "east") for n in range(6)]
    page = tmp_path / "r.html"

    def refused(examples, message):
        with pytest.raises(gs.GatescopeError, match=message + ".*the --data, --path, --group and --seed that it was run with"):
            report(small[0], page, examples=examples, figures=False)
        assert not page.exists()

    refused(
        [*own[:9], *(example(f"new-{n}", "north") for n in range(4))], r"4 of the 13 examples given are not part of .*'new-0'"
    )
    refused(own[:-2], r"2 of the 18 examples this run asked are not among those given, such as 'east-4'")
    refused(
        [example("north-0", "north", "Which?"), *own[1:]],
        "The 18 examples given have the same ids as this run's, but other",
    )
    refused(
        [example("north-0", "north", image=Image.new("RGB", (2, 2))), *own[1:]], "other texts, prompts, options or pictures"
    )
    assert report(small[0], page, examples=own[::-1], figures=False).is_file()  # in whatever order


def test_the_command_refuses_the_examples_of_another_seed(tmp_path):
    rows = [
        {"id": f"{g}{n}", "group": g, "question": f"What is {g} {n}?", "choices": ["boat", "kite"], "answer": "boat"}
        for g in ("north", "south") for n in range(20)
    ]  # fmt: skip
    data = tmp_path / "q.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluation = gs.data.jsonl(data, seed=3).evaluation
    run = gs.Run.at(tmp_path / "run", MODEL)
    said = [("", "", "boat"), ("RND", "*", "kite")]
    answers = [
        Row(e.id, e.group, selector, mask, word, Reading(word, word == e.answer, False))
        for selector, mask, word in said
        for e in evaluation
    ]
    run.add_answers(Table(answers))
    digest = gs.data.fingerprint(evaluation)
    run.note({"sweep": {"fingerprint": digest}})
    with keeping(run, "sweep", digest, evaluation):
        pass
    foreign = len({e.id for e in gs.data.jsonl(data, seed=1).evaluation} - {e.id for e in evaluation})

    def told(*arguments):
        return CliRunner().invoke(app, ["report", str(run.path), "--no-figures", *map(str, arguments)])

    page = run.path / "report.html"
    assert 0 < foreign < 20
    wrong = told("--data", data, "--seed", 1)
    assert f"{foreign} of the 20 examples given are not part of this run's sweep" in str(wrong.exception)
    assert "--path, --group and --seed go with --data, which was not given" in str(told("--seed", 3).exception)
    assert not page.exists()
    for arguments in ((), ("--data", data, "--seed", 3)):  # those the run holds, or those it is given
        done = told(*arguments)
        assert done.exit_code == 0 and "What is north" in page.read_text()
        page.unlink()
    data.write_text(data.read_text().replace("What is", "Who is"))
    done = told()
    assert done.exit_code == 0 and "What is north" in page.read_text()  # as they were asked
    assert "Who is" not in page.read_text()
    two = CliRunner().invoke(
        app, ["report", str(run.path), str(run.path), "--out", str(tmp_path / "c.html"), "--data", str(data)]
    )
    assert "A comparison of several runs shows no questions" in str(two.exception)


def test_a_picture_that_cannot_be_opened_is_left_out(small, tmp_path):
    broken = [example(f"{g}-{n}", g, image=tmp_path / "gone.png") for g in ("north", "south", "east") for n in range(6)]
    with pytest.warns(UserWarning, match="The examples could not be compared with those the run asked: .*gone.png"):
        page = Page(report(small[0], tmp_path / "r.html", examples=broken, figures=False))
    assert "What?" in page.text and not [tag for tag, _ in page.tags if tag == "img"]


def test_texts_from_the_data_are_escaped(tmp_path):
    groups = (f"a{HOSTILE}", 'b"</td>', "c")
    run = synthetic(tmp_path / "run", groups=groups, selectors=("RND", "CAS"), word=HOSTILE, question=HOSTILE)
    run.note({"model": MODEL | {"id": HOSTILE}, "study": {"name": HOSTILE, HOSTILE: HOSTILE}, "warnings": [HOSTILE]})
    asked = [example(f"{g}-{n}", g, HOSTILE) for g in groups for n in range(6)]
    path = report(run, examples=asked)
    page = Page(path)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not any(of.keys() & {"onerror", "onload", "onclick"} for _, of in page.tags)
    assert page.source.count("<script>alert") == 0 and "49" not in html.unescape(page.source.split("<article>")[1])
    assert page.text.count(HOSTILE) >= 8
    check_numbers(run.table, run.selections, path)
    compared = compare([run, synthetic(tmp_path / "<b>run'\"", groups=groups)], tmp_path / "compare.html")
    assert [tag for tag, _ in Page(compared).tags].count("script") == 1 and "<b>run" not in compared.read_text()


def test_twenty_five_groups_are_all_there(tmp_path):
    groups = [f"Country {i}-Language {chr(97 + i)}" for i in range(25)]
    run = synthetic(tmp_path / "run", groups=groups, each=3)
    path = report(run, figures=False)
    check_numbers(run.table, run.selections, path)
    assert len(Page(path).maps("accuracy")["CAS"]) == 625
    assert path.stat().st_size < 4e6


def test_one_selector_is_enough(tmp_path):
    run = synthetic(tmp_path / "run", selectors=("CAS",))
    path = report(run, figures=False)
    check_numbers(run.table, run.selections, path)
    assert "drawn at random" not in Page(path).text and not Page(path).maps("across")


def test_one_mask_for_all_groups_has_one_row_and_no_gap(tmp_path):
    path = report(synthetic(tmp_path / "run", selectors=("RND",)), figures=False)
    page = Page(path)
    assert {row for row, _ in page.maps("accuracy")["RND"]} == {"all groups"}
    assert all(math.isnan(value) for value in page.effects("accuracy")["RND"][1:])
    assert "Switching off RND neurons changes accuracy by" in page.text
    assert "framed" not in "".join(of.get("class", "") for tag, of in page.tags if tag == "td")


def test_several_sweeps_and_several_masks_for_all_share_a_page(tmp_path):
    """As a CULNIG run leaves them: tasks by name, masks that are the same for all groups."""
    other = synthetic(tmp_path / "other", selectors=("CAS",))
    rows = list(other.table.rows)
    run = gs.Run.at(tmp_path / "run", MODEL)
    run.add_selections(other.selections.values())
    shared = [
        Row(r.id, r.group, name, "*", r.text, r.reading) for r in rows if not r.selector for name in ("general", "random 0")
    ]
    run.add_answers(Table([*rows, *shared]), name="culture")
    run.add_answers(Table([r for r in rows if not r.selector] + shared), name="reading")
    page = Page(report(run))
    assert {row for row, _ in page.maps("accuracy culture")["One mask for all groups"]} == {"general", "random 0"}
    assert set(page.maps("accuracy culture")) == {"CAS", "One mask for all groups"}
    assert set(page.maps("flips reading")) == {"One mask for all groups"}
    assert (run.path / "report" / "flip-rate.1.svg").is_file()


def test_answers_with_scores_are_reported_by_their_means(tmp_path):
    run = gs.Run.at(tmp_path / "run", MODEL)
    read = {"": 1.0, "a": 0.25, "b": 0.75}
    run.add_answers(
        Table(
            Row(f"{g}{n}", g, m and "CAS", m, "3", Reading(f"{value}", value == 1, False, value))
            for m, value in read.items()
            for g in ("a", "b")
            for n in range(2)
        )
    )
    page = Page(report(run, figures=False))
    assert page.maps("accuracy")["CAS"]["a", "b"] == -75 and "score 0.25" in page.text


def test_a_run_that_holds_answers_only_is_reported_without_neurons(tmp_path):
    run = synthetic(tmp_path / "run")
    bare = gs.Run.at(tmp_path / "bare", MODEL)
    bare.add_answers(run.table)
    page, whole = (Page(report(of, figures=False)) for of in (bare, run))
    assert not page.maps("layers") and same(page.effects("accuracy")["CAS"], whole.effects("accuracy")["CAS"])


def test_shortfalls_and_groups_left_out_are_told(tmp_path):
    run = synthetic(tmp_path / "run")
    set_ = run.selections["CAS"].sets | {"north": gs.NeuronSet.of(LAYOUT, [("gate", 0, 1)], MODEL)}
    run.add_selection(gs.Selection("CAS", set_, 10, None, "the rest score -inf"))
    text = Page(report(run, figures=False)).text
    assert "CAS found 1 of 10 for 'north': the rest score -inf." in text and "1 to 10 CAS neurons" in text
    run.note({"warnings": ["'west' was left out: nothing of it was right."]})
    assert "'west' was left out" in Page(report(run, figures=False)).text


def test_a_run_without_a_sweep_is_refused_with_what_to_do(tmp_path):
    run = gs.Run.at(tmp_path / "run", MODEL)
    with pytest.raises(gs.GatescopeError, match=r"holds no sweep with a mask.*Run one first: gs\.sweep\(model"):
        report(run)
    with pytest.raises(gs.GatescopeError, match=r"No run at .*: there is no manifest.json"):
        report(tmp_path)
    assert [p.name for p in run.path.iterdir() if p.suffix != ".lock"] == ["manifest.json"]


def test_without_matplotlib_the_error_says_what_to_install_and_the_page_can_be_had(small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(gs.GatescopeError, match=r"pip install gatescope\[report\]"):
        report(small[0], tmp_path / "r.html")
    assert not list(tmp_path.iterdir())
    path = report(small[0], tmp_path / "r.html", figures=False)
    assert {p.suffix for p in (tmp_path / "r").iterdir()} == {".csv"} and Page(path).maps("flips")


def test_reporting_twice_gives_the_same_page_and_numbers(small, tmp_path):
    def written():
        page = report(small[0], tmp_path / "page.html", figures=False)
        return {path.name: path.read_bytes() for path in (page, *page.with_suffix("").iterdir())}

    first, again = written(), written()
    assert first == again and len(first) == 7


def test_provenance_names_model_data_rule_and_seeds(demo):
    _, path = demo
    text, manifest = Page(path).text, json.loads((path.parent / "manifest.json").read_text())
    for key in ("id", "class", "dtype", "digest"):
        assert manifest["model"][key] in text
    for fact in (manifest["record"]["fingerprint"], manifest["sweep"]["fingerprint"], manifest["record"]["token_rule"]):
        assert fact in text
    assert "2,000 resamples, seed 0" in text and "wanted for each group; rate 0.01; seed 0" in text
    assert all(version in text for version in json.loads(manifest["record"]["versions"]).values())


def test_two_runs_are_compared_with_their_own_numbers(small, tmp_path):
    other = synthetic(tmp_path / "other", seed=5, each=7)
    page = Page(compare([small[0].path, other], tmp_path / "compare.html"))
    for name, run in (("small", small[0]), ("other", other)):
        for selector in run.table.selectors:
            parts = run.table.self_cross()[selector].accuracy
            assert same(page.effects("accuracy")[f"{name}, {selector}"], [parts.self_, parts.cross, parts.gap])
        own = page.maps("flips")["a group's own mask"]
        assert same([own[f"{name}, CAS", g] for g in run.table.groups], run.table.flips("CAS").diagonal().tolist())
    one, two = small[0].selections["CAS"], other.selections["CAS"]
    shared = [len(set(one[g]) & set(two[g])) / len(set(one[g]) | set(two[g])) for g in one]
    assert same(page.maps("overlap")["mean over groups"]["small, CAS", "other, CAS"], sum(shared) / 3)
    assert "were not asked the same questions" in page.text
    assert next(of["href"] for tag, of in page.tags if tag == "a").endswith("small/report.html")
    assert len(rows_of(tmp_path / "compare.csv")) == 2 * (3 + 2)


def test_runs_on_the_same_questions_are_compared_without_a_note(small, tmp_path):
    again = synthetic(tmp_path / "again", seed=9)
    assert "were not asked" not in Page(compare([small[0], again], tmp_path / "compare.html")).text
    with pytest.raises(gs.GatescopeError, match=r"at least two runs; 1 was given"):
        compare([again], tmp_path / "compare.html")


def contrast(a, b):
    """Contrast ratio of two colours, 1 to 21 (WCAG 2)."""
    dark, bright = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) + 0.05 for c in (a, b))
    return bright / dark


@pytest.mark.parametrize("theme", [LIGHT, DARK])
@pytest.mark.parametrize("end", ["loss", "gain", "count"])
def test_colour_maps_step_evenly_in_lightness_and_numbers_on_them_can_be_read(theme, end):
    lightness = [oklab(colour)[0] for colour in ramp(theme["mid"], theme[end], steps=21)]
    steps = [b - a for a, b in pairwise(lightness)]
    assert max(steps) - min(steps) < 0.012 and abs(lightness[-1] - lightness[0]) > 0.45
    ink, deep = ("#000000", "#ffffff") if theme is LIGHT else ("#ffffff", "#000000")
    for share in np.linspace(0, 1, 101):
        assert contrast(mix(theme["mid"], theme[end], share), deep if share > DEEP else ink) > 4


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_loss_and_gain_differ_to_colour_blind_eyes(theme):
    """Simulated after Machado, Oliveira and Fernandes (2009), severity 1."""
    blind = {
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    }
    for matrix in blind.values():
        seen = [np.clip(np.array(matrix) @ linear(theme[end]), 0, 1) for end in ("loss", "gain")]
        assert np.abs(np.cbrt(seen[0]) - np.cbrt(seen[1])).max() > 0.15


def test_random_sets_are_one_row_their_mean_and_their_ends():
    def effect(name, self_, flips):
        nothing = {"cross": Value(float("nan")), "gap": Value(float("nan"))}
        return Effect(name, {"self": Value(self_)} | nothing, {"self": Value(flips)} | nothing)

    found = (effect("A", -50, 60), effect("random 0", -3, 5), effect("random 1", 0, 1), effect("RND", -1, 1))
    first, drawn, last = together(found)
    assert (first, last) == (found[0], found[3])
    assert drawn.selector == "random, 2 sets" and drawn.accuracy["self"] == Value(-1.5, -3.0, 0.0)
    assert drawn.flips["self"] == Value(3.0, 1.0, 5.0) and math.isnan(drawn.accuracy["gap"].value)
    assert together(found[:2]) == found[:2]
