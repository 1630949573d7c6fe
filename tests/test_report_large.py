"""The page of a run too large for one file: maps as pictures, each mask's numbers on a page beside it."""

from __future__ import annotations

import base64
import csv
import html
import io
import random
from urllib.parse import unquote

import pytest
import torch
from PIL import Image

import gatescope as gs
from gatescope.reports import large, report
from gatescope.reports.colours import LIGHT
from gatescope.reports.effects import Matrix
from gatescope.reports.maps import pictured
from gatescope.statistics.intervals import bootstrap
from test_report import HOSTILE, Page, synthetic

GROUPS = (HOSTILE, "../../up", "a/b?c#d%41", "plain")


@pytest.fixture
def few(monkeypatch):
    """Limits that four groups reach."""
    monkeypatch.setattr(large, "CELLS", 10)
    monkeypatch.setattr(large, "TABLE", 12)


@pytest.fixture
def pages(few, tmp_path):
    """The page, and by mask the page of its numbers, as the links lead there."""
    run = synthetic(tmp_path / "my run?", groups=GROUPS)
    page = Page(report(run, figures=False))
    links = {}
    for tag, attributes in page.tags:
        if tag == "a" and "/masks/" in attributes["href"]:
            links[attributes["href"]] = Page(run.path / unquote(attributes["href"]))
    return run, page, links


def test_a_map_too_large_is_a_picture_and_its_masks_have_pages(pages):
    run, _, links = pages
    assert len(links) == len(GROUPS)  # of CAS; RND is one mask for all, a small table
    assert sorted(p.name for p in (run.path / "report" / "masks").iterdir()) == [f"0-1-{n}.html" for n in range(4)]
    with open(run.path / "report" / "cells.csv", newline="") as file:
        cells = [row for row in csv.DictReader(file) if row["selector"] == "CAS"]
    for mask, beside in zip(GROUPS, links.values(), strict=True):
        ((_, rows),) = beside.tables
        shown = [["".join(text) for _, _, text in row] for row in rows[1:]]
        assert [row[0] for row in shown] == [f"{g} (its own)" if g == mask else g for g in GROUPS]
        counts = [
            (c["right before"], c["right after"], c["examples"], c["answers changed"]) for c in cells if c["mask"] == mask
        ]
        assert [(*row[5:8], row[8]) for row in shown] == [tuple(str(int(float(n))) for n in count) for count in counts]


def test_hostile_names_stay_text_in_the_files_beside_it_too(pages):
    _, page, links = pages
    for each in (page, *links.values()):
        assert each.source.count("<script>alert") == 0
        assert sum(tag == "script" for tag, _ in each.tags) == 1 and "onerror" not in str(
            [of for _, of in each.tags if of.get("src")]
        )
        assert "49" not in html.unescape(each.source.split("<h1>")[1].split("</h1>")[0])
    assert HOSTILE in next(iter(links.values())).text


def test_a_page_beside_leads_back(pages):
    _, _, links = pages
    for beside in links.values():
        back = [of["href"] for tag, of in beside.tags if tag == "a"]
        assert back == ["../../report.html#masks"]


def test_a_small_run_stays_one_page(tmp_path):
    run = synthetic(tmp_path / "run")
    page = Page(report(run, figures=False))
    assert not (run.path / "report" / "masks").exists()
    assert page.maps("accuracy") and "as a picture" not in page.source


def test_a_picture_has_the_colours_of_the_table():
    matrix = Matrix("m", ("r",), tuple("abcd"), ((-10.0, 0.0, 10.0, float("nan")),), (("",) * 4,), ((False,) * 4,))
    drawn = pictured(matrix, "change", 10.0)
    image = Image.open(io.BytesIO(base64.b64decode(drawn.picture.partition(",")[2]))).convert("RGB")
    colours = ["#{:02x}{:02x}{:02x}".format(*image.getpixel((x, 0))) for x in range(4)]
    assert colours == [LIGHT["loss"], LIGHT["mid"], LIGHT["gain"], "#ffffff"]


def test_overlaps_of_many_sets_are_those_of_pairs():
    layout, draw = gs.Layout.single("gate", 2, 30), random.Random(0)
    sizes = (0, 1, 7, 60, 0)
    sets = {
        f"{i}": gs.NeuronSet(layout, torch.tensor(draw.sample(range(60), n), dtype=torch.int64), {})
        for i, n in enumerate(sizes)
    }
    selection = gs.Selection("X", sets, None)
    expected = [[len(a & b) / max(len(a | b), 1) for b in sets.values()] for a in sets.values()]
    assert selection.jaccard().tolist() == expected
    other = gs.Selection("Y", {"o": gs.NeuronSet(layout, torch.tensor([1]), {"digest": "another"})}, None)
    with pytest.raises(gs.GatescopeError):
        gs.Selection("Z", {"z": gs.NeuronSet(layout, torch.tensor([1]), {"digest": "one"})}, None).jaccard(other)


def test_intervals_do_not_depend_on_how_many_resamples_are_drawn_at_a_time(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    group = torch.arange(40) % 3
    before = torch.rand(40, generator=draw) > 0.3
    after, flipped = (torch.rand(4, 40, generator=draw) > share for share in (0.4, 0.6))
    own = torch.tensor([[m == g for g in range(3)] for m in range(4)])
    whole = bootstrap(before, after, flipped, group, own, resamples=200)
    monkeypatch.setattr("gatescope.statistics.intervals._CELLS_AT_ONCE", 1)
    parts = bootstrap(before, after, flipped, group, own, resamples=200)
    assert (whole.accuracy.self_, whole.flips.cross) == (parts.accuracy.self_, parts.flips.cross)
    assert torch.equal(whole.accuracy.low, parts.accuracy.low) and torch.equal(whole.flips.high, parts.flips.high)
