"""What the report says of runs whose answers are chosen: which selector leads, what is corrected, which colour is a loss."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch
from scipy import stats

import gatescope as gs
from gatescope.core.answers import Reading
from gatescope.reports import compare, figures, found, maps, report, summary
from gatescope.reports.colours import DEEP, LIGHT
from gatescope.reports.effects import Effect, Matrix, cells, effects, intervals, lead, matrices
from gatescope.reports.examples import ablations
from gatescope.reports.words import Value, number
from gatescope.select.selection import Selection
from gatescope.statistics.table import Row, Table
from test_report import LAYOUT, MINUS, MODEL, Page, rows_of, synthetic

FULL = ("", "")


def answered(right: dict[tuple[str, str], dict[str, str]]) -> Table:
    """A table from strings: of each (selector, mask), of each group, one letter a question; k is right."""
    return Table(
        Row(f"{group}{n}", group, selector, mask, f"it is {said}", Reading(said, said == "k", False))
        for (selector, mask), groups in right.items()
        for group, text in groups.items()
        for n, said in enumerate(text)
    )


# Of 10 questions a group: STRONG loses nearly all of a group's own, WEAK half, RND one or two; one answer is won.
TABLE = answered(
    {
        FULL: {"a": "kkkkkkkkkb", "b": "kkkkkkkkkk", "c": "kkkkkkkkbb"},
        ("RND", "*"): {"a": "kkkkkkkkbb", "b": "kkkkkkkkkd", "c": "kkkkkkkkbk"},
        ("WEAK", "a"): {"a": "kkkkdddddb", "b": "kkkkkkkkkk", "c": "kkkkkkkkbb"},
        ("WEAK", "b"): {"a": "kkkkkkkkkd", "b": "kkkkkddddd", "c": "kkkkkkkkbb"},
        ("STRONG", "a"): {"a": "kddddddddb", "b": "kkkkkkkkkd", "c": "kkkkkkkkkk"},
        ("STRONG", "b"): {"a": "kkkkkkkkkb", "b": "dddddddddd", "c": "kkkkkkkbbb"},
    }
)


def kept(path, table=TABLE, selections=(), **facts):
    run = gs.Run.at(path, MODEL)
    run.note(facts)
    for selection in selections:
        run.add_selection(selection)
    run.add_answers(table)
    return run


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = report(kept(tmp_path_factory.mktemp("numbers") / "run"), figures=False)
    return Page(path), path.with_suffix("")


def test_the_selector_of_the_most_negative_gap_is_spoken_of_first(page):
    said = page[0].text
    found = TABLE.self_cross()["STRONG"].accuracy
    assert found.gap < TABLE.self_cross()["WEAK"].accuracy.gap < 0
    assert "Switching off a group's STRONG neurons changes its own accuracy by" in said
    own, others, gap = (number(v, signed=True) for v in (found.self_, found.cross, found.gap))
    line = next(line for line in said.splitlines() if "a group's STRONG neurons" in line)
    pattern = r"own accuracy by (\S+) \(.*?\) points and that of the other groups by (\S+) \(.*?\): a gap of (\S+) \("
    assert re.search(pattern, line).groups() == (own, others, gap)
    leading = [i for i, (tag, of) in enumerate(page[0].tags) if of.get("class") == "leading"]
    assert len(leading) == 2  # one row of accuracy, one of flips
    (row,) = [r for of, rows in page[0].tables if of.get("data-effects") == "accuracy" for r in rows if r[0][2] == ["STRONG"]]
    assert float(row[1][1]["data-v"]) == pytest.approx(found.self_, rel=1e-5)


def test_what_has_no_gap_never_leads_wherever_it_stands():
    def effect(name, gap):
        parts = {"self": Value(-50.0), "cross": Value(math.nan), "gap": Value(gap)}
        return Effect(name, parts, parts)

    listed = [effect("RND", math.nan), effect("A", -3.0), effect("B", -20.0), effect("C", 5.0), effect("ALL", math.nan)]
    for shift in range(len(listed)):
        assert lead(tuple(listed[shift:] + listed[:shift])).selector == "B"
    assert lead((listed[0], listed[4])) is None


def by_hand(corrected_over):
    """Holm (1979): reject in order of size, the i-th of k at (k - i + 1) times its p, never less than the one before."""
    k, adjusted, last = len(corrected_over), {}, 0.0
    for place, (key, p) in enumerate(sorted(corrected_over.items(), key=lambda item: item[1])):
        last = max(last, min(1.0, (k - place) * p))
        adjusted[key] = last
    return adjusted


def test_p_values_are_exact_and_corrected_over_all_cells_of_a_selector(page):
    answers = {(r.selector, r.mask, r.id): r.reading.correct for r in TABLE.rows}
    for selector in ("WEAK", "STRONG"):
        rows = [r for r in rows_of(page[1] / "cells.csv") if r["selector"] == selector]
        assert len(rows) == 6
        raw = {}
        for row in rows:
            pairs = [
                (answers["", "", f"{row['group']}{n}"], answers[selector, row["mask"], f"{row['group']}{n}"]) for n in range(10)
            ]
            lost, won = pairs.count((True, False)), pairs.count((False, True))
            raw[row["mask"], row["group"]] = stats.binomtest(lost, lost + won).pvalue if lost + won else 1.0
        adjusted = by_hand(raw)
        for row in rows:
            key = row["mask"], row["group"]
            assert float(row["McNemar p"]) == pytest.approx(raw[key]) and float(row["Holm p"]) == pytest.approx(adjusted[key])
        assert any(adjusted[key] > 1.5 * raw[key] for key in raw), "nothing is corrected here: the test says nothing"


def test_each_cells_intervals_are_its_own(page):
    rows = {(r["selector"], r["mask"], r["group"]): r for r in rows_of(page[1] / "cells.csv")}
    for selector in TABLE.selectors:
        drawn = TABLE.intervals(selector)
        for m, mask in enumerate(TABLE.masks(selector)):
            for g, group in enumerate(TABLE.groups):
                row = rows[selector, mask, group]
                for name, of in (("accuracy change (points)", drawn.accuracy), ("flip rate (%)", drawn.flips)):
                    low, value, high = (float(row[f"{name}{end}"]) for end in (" low", "", " high"))
                    assert (low, high) == pytest.approx((of.low[m, g].item(), of.high[m, g].item()))
                    assert low <= value <= high


def test_effects_are_filed_under_their_own_measure(page):
    for row in rows_of(page[1] / "effects.csv"):
        drawn, effect = TABLE.intervals(row["selector"]), TABLE.self_cross()[row["selector"]]
        accuracy = row["measure"].startswith("accuracy")
        bounds, of = (drawn.accuracy, effect.accuracy) if accuracy else (drawn.flips, effect.flips)
        for part, name in (("self", "self_"), ("cross", "cross"), ("gap", "gap")):
            wanted = [getattr(of, name), *getattr(bounds, name)]
            found = [float(row[f"{part}{end}"] or "nan") for end in ("", " low", " high")]
            assert found == pytest.approx(wanted, nan_ok=True)


def cells_of(page, kind):
    """Every cell of the maps of a kind: (map, row, column) -> classes, colour strength, number."""
    found = {}
    for of, rows in page.tables:
        if of.get("data-map") == kind:
            columns = ["".join(text) for _, _, text in rows[0]][1:]
            for row in rows[1:]:
                for column, (_, how, _) in zip(columns, row[1:], strict=True):
                    share = float(how["style"].removeprefix("--t:").rstrip("%")) / 100
                    value = float(how["data-v"] or "nan")
                    found[of["data-name"], "".join(row[0][2]), column] = set(how["class"].split()), share, value
    return found


def test_what_is_lost_is_coloured_as_lost_and_what_is_won_as_won(page):
    drawn = cells_of(page[0], "accuracy")
    assert any(value < 0 for _, _, value in drawn.values()) and any(value > 0 for _, _, value in drawn.values())
    for classes, _, value in drawn.values():
        if value < 0:
            assert "loss" in classes and "gain" not in classes
        if value > 0:
            assert "gain" in classes and "loss" not in classes
    assert all("count" in classes for classes, _, _ in cells_of(page[0], "flips").values())
    red, _, blue = (int(LIGHT["loss"][i : i + 2], 16) for i in (1, 3, 5))
    assert red > 2 * blue and "orange: lost, violet: won" in page[0].text  # and orange it is
    red, green, blue = (int(LIGHT["gain"][i : i + 2], 16) for i in (1, 3, 5))
    assert blue > red > green
    assert re.search(r"\.loss \{ --end: var\(--loss\)", page[0].source) and re.search(
        r"\.gain \{ --end: var\(--gain\)", page[0].source
    )
    legend = re.search(r'<p class="legend"><span>(.*?)</span><i class="bar change"></i><span>(.*?)</span>', page[0].source)
    assert legend.groups() == (f"{MINUS}100.0", "100.0")
    assert '<span>0</span><i class="bar share">' in page[0].source


def test_all_maps_of_a_kind_are_on_one_scale_and_dark_cells_have_light_numbers(page):
    for kind in ("accuracy", "flips"):
        drawn = cells_of(page[0], kind)
        top = max(abs(value) for _, _, value in drawn.values())
        assert top == 100 and len({name for name, _, _ in drawn}) == 3
        for classes, share, value in drawn.values():
            assert share == pytest.approx(abs(value) / top, abs=0.006)
            assert ("deep" in classes) == (abs(value) / top > DEEP)
    assert any("deep" in classes for classes, _, _ in drawn.values())


def test_a_masks_own_group_is_framed_and_one_mask_for_all_has_no_frame(page):
    for (name, row, column), (classes, _, _) in cells_of(page[0], "accuracy").items():
        assert ("own" in classes) == (row == column and name != "RND")


def test_in_figures_a_loss_is_orange_and_a_win_violet():
    plain = Matrix("x", ("m",), ("a", "b", "c"), ((-8.0, 0.0, 8.0),), (("", "", ""),), ((False,) * 3,))
    image = figures.heatmaps([plain], title="", kind="change").axes[0].images[0]
    drawn = image.cmap(image.norm(image.get_array()))[0, :, :3]
    for colour, name in zip(drawn, ("loss", "mid", "gain"), strict=True):
        wanted = [int(LIGHT[name][i : i + 2], 16) / 255 for i in (1, 3, 5)]
        assert colour.tolist() == pytest.approx(wanted, abs=0.01)


def test_a_strip_is_a_straight_line_and_its_interval_lies_round_the_dot():
    parts = {"self": Value(-40.0, -60.0, -20.0), "cross": Value(20.0, 10.0, 40.0), "gap": Value(math.nan)}
    placed, zero = maps.dots([Effect("X", parts, parts)], "accuracy")
    own, cross = placed["X"]
    assert [own.low, own.at, own.high, zero, cross.low, cross.at, cross.high] == pytest.approx(
        [3 + 94 * (v + 60) / 100 for v in (-60, -40, -20, 0, 10, 20, 40)], abs=0.01
    )


def test_a_ridge_shows_all_neurons_and_the_selected_ones_apart(tmp_path):
    histogram = found.Histogram("X", "a", (0.0, 1.0, 2.0, 3.0), (5, 0, 2), (0, 0, 2), 1)
    ((only,),) = (ridges.rows for ridges in maps.ridges([histogram]))
    bars = {name: [float(x) for x in re.findall(r"M([\d.]+) 24v", getattr(only, name))] for name in ("neurons", "selected")}
    assert bars == {"neurons": [0.0, 400.0], "selected": [400.0]}
    assert only.tip == "a: 7 neurons with a score; 1 never eligible; 2 selected, the lowest near 2"


def test_seen_and_counted_examples_are_not_mixed_up(tmp_path):
    """Eight were asked, seven of them right (as `synthetic` has it), of each group."""
    path = report(synthetic(tmp_path / "run"), figures=False)
    for row in rows_of(path.with_suffix("") / "groups.csv"):
        assert (row["identification examples"], row["counted examples"], row["counted tokens"]) == ("8", "7", "100")
    table = next(rows for of, rows in Page(path).tables if of.get("class") == "plain")
    heads, *rows = [["".join(text) for _, _, text in row] for row in table]
    assert heads[1:3] == ["identified on (right, of asked)", "tokens counted"]
    assert [row[:4] for row in rows] == [[group, "7 of 8", "100", "6"] for group in ("north", "south", "east")]
    assert "18 questions" in Page(path).text


def test_scores_that_were_never_eligible_are_counted_as_neurons_not_as_selected(tmp_path):
    run = synthetic(tmp_path / "run", selectors=("CAS",))
    rows = [r for r in rows_of(report(run, figures=False).with_suffix("") / "scores.csv") if r["from"] == "-inf"]
    scores = run.selections["CAS"].scores
    assert [(int(r["neurons"]), int(r["selected"])) for r in rows] == [(int(s.isinf().sum()), 0) for s in scores]
    assert all(0 < int(r["neurons"]) < LAYOUT.size for r in rows)


RANDOM = {
    "clearly less": ("kddddddddd", "kkkkkkkkkd", "the two intervals do not overlap"),
    "clearly more": ("kkkkkkkkkd", "kddddddddd", "the two intervals do not overlap"),
    "a little less": ("kkkkkkdddd", "kkkkkkkddd", "the two intervals overlap, so the difference may be chance"),
    "a little more": ("kkkkkkkddd", "kkkkkkdddd", "the two intervals overlap, so the difference may be chance"),
}


@pytest.mark.parametrize("what", RANDOM)
def test_random_neurons_are_told_apart_only_where_the_intervals_are(what):
    ours, theirs, told = RANDOM[what]
    full = {"a": "k" * 10, "b": "k" * 10}
    table = answered({
        FULL: full, ("CAS", "a"): {"a": ours, "b": "k" * 10}, ("CAS", "b"): {"a": "k" * 10, "b": ours},
        ("RND", "*"): {"a": theirs, "b": theirs},
    })  # fmt: skip
    said = summary.lines(table, {"": effects(table, intervals(table))}, {}, {})
    assert len(said) == 3 and f" points; {told}." in said[2]


def test_of_sets_that_are_one_for_all_the_one_that_changes_most_is_spoken_of():
    table = answered({
        FULL: {"a": "kkkk", "b": "kkkk"},
        ("mild", "*"): {"a": "kkkd", "b": "kkkk"}, ("general", "*"): {"a": "kddd", "b": "kkdd"},
    })  # fmt: skip
    said = summary.lines(table, {"": effects(table, intervals(table))}, {}, {})
    assert said[1].startswith(f"Switching off the general neurons changes accuracy by {MINUS}62.5")


def test_sweeps_stand_in_the_order_they_were_run(tmp_path):
    run = gs.Run.at(tmp_path / "run", MODEL)
    for name in ("zeta", "alpha"):
        run.note({f"sweep of {name}": {"masks": {}}})
        run.add_answers(TABLE, name)
    page = Page(report(run, figures=False))
    assert [of["data-sweep"] for of, _ in page.tables if of.get("data-effects") == "accuracy"] == ["zeta", "alpha"]


QUESTIONS = {
    # of group a: wrong to right, wrong to another wrong, right to wrong (random neurons too), right to wrong, unchanged
    FULL: {"a": "bbkkk", "b": "kk"},
    ("CAS", "a"): {"a": "kdddk", "b": "kk"},
    ("CAS", "b"): {"a": "bbkbk", "b": "kk"},
    ("CAS", "c"): {"a": "bbkkk", "b": "kk"},
    ("CAS", "d"): {"a": "kkkkd", "b": "kk"},
    ("RND", "*"): {"a": "bbdkk", "b": "kk"},
}


def test_the_question_shown_is_the_one_its_own_mask_alone_spoils():
    (shown,) = ablations(answered(QUESTIONS), "CAS")  # nothing of b changes, so nothing of b is shown
    assert shown.id == "a3"
    assert [(a.who, a.read, a.verdict) for a in shown.answers] == [
        ("full model", "k", "right"), ("CAS off", "d", "wrong"), ("RND off", "k", "right")
    ]  # fmt: skip
    assert shown.others == "CAS masks of other groups: 2 of 3 leave the answer as it was."


def chosen(name, sets, model=MODEL):
    members = {g: gs.NeuronSet.of(LAYOUT, [("gate", layer, i) for layer, i in ns], model) for g, ns in sets.items()}
    return Selection(name, members, None)


def test_neurons_in_common_are_counted_and_other_models_have_none():
    one = chosen("A", {"a": [(0, i) for i in range(6)], "b": [(0, i) for i in range(4, 10)]})
    (drawn,) = found.overlap_of_groups({"A": one})
    assert drawn.values == ((1.0, 0.2), (0.2, 1.0))
    assert drawn.tips[0][1].splitlines()[1] == "2 neurons in common; of 6 and 6"
    assert found.between(one, one) == {"a": 1.0, "b": 1.0}
    other = chosen("A", {"a": [(0, 1)]}, {"id": "another", "digest": "d2"})
    assert found.between(one, other) == {} and math.isnan(found.overlap_of_selectors({"A": one, "B": other}).values[0][1])


@pytest.fixture(scope="module")
def side_by_side(tmp_path_factory):
    """Three runs of one selector on the same questions: strong, nearly as strong, and weak; and where their neurons are."""
    path = tmp_path_factory.mktemp("compared")
    spoiled = {"strong": "ddddddddkk", "near": "dddddddkkk", "weak": "dkkkkkkkkk"}
    for layer, (name, own) in enumerate(spoiled.items()):
        full = {"a": "k" * 10, "b": "k" * 10}
        table = answered({FULL: full, ("CAS", "a"): {"a": own, "b": "k" * 9 + "d"}, ("CAS", "b"): {"a": "k" * 10, "b": own}})
        where = {"a": [(layer, 0), (layer, 1), (3, 0)], "b": [(layer, 2)]}
        kept(path / name, table, [chosen("CAS", where)], sweep={"fingerprint": "f1"})
    page = compare([path / name for name in spoiled], path / "compare.html")
    return path, Page(page)


def test_a_comparison_names_the_largest_gap_and_those_that_may_equal_it(side_by_side):
    _, page = side_by_side
    assert "The largest gap is that of strong, CAS" in page.text
    assert "The intervals of near, CAS overlap its own, so it may not be the largest." in page.text
    assert "were not asked the same questions" not in page.text


def test_a_comparison_shows_each_groups_own_mask(side_by_side):
    _, page = side_by_side
    own = page.maps("accuracy")["a group's own mask"]
    assert own == {
        (f"{name}, CAS", group): value for name, value in (("strong", -80), ("near", -70), ("weak", -10)) for group in "ab"
    }


def test_a_comparison_shows_in_which_layers_the_neurons_are(side_by_side):
    _, page = side_by_side
    shares = page.maps("depth")["share of neurons, by layer"]
    for layer, name in enumerate(("strong", "near", "weak")):
        assert [shares[f"{name}, CAS", str(n)] for n in range(4)] == [
            75.0 if n == layer else 25.0 if n == 3 else 0.0 for n in range(4)
        ]


def test_a_comparison_of_the_same_ids_on_other_questions_says_so(side_by_side):
    path, _ = side_by_side
    table = gs.open_run(path / "strong").table
    other = kept(path / "changed", table, sweep={"fingerprint": "f2"})
    assert "were not asked the same questions" in Page(compare([path / "strong", other], path / "other.html")).text


def test_maps_of_cells_hold_the_tables_numbers():
    made = cells(TABLE, intervals(TABLE))
    for panel in matrices(made, "flips"):
        wanted = TABLE.flips(panel.name)
        assert torch.tensor(panel.values, dtype=torch.float64).allclose(wanted)
    turned = tuple(replace(cell, own=False) for cell in made)
    assert not any(map(any, (row for panel in matrices(turned, "flips") for row in panel.own)))
