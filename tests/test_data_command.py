"""Datasets by name: the registry, `gatescope data`, and `gatescope study` with a control and an exclusion set."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import gatescope as gs
from gatescope.cli import app
from gatescope.data import registry
from gatescope.statistics.table import ALL
from test_data_cvqa import SHORT, row, write


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_every_dataset_is_listed_and_has_its_facts():
    listed = run("data", "list").output
    for name, card in gs.data.CARDS.items():
        assert f"\n{name} " in "\n" + listed
        assert all((card.what, card.licence, card.size, card.answered, card.home.startswith("http"), card.paper))
    assert set(gs.data.CARDS) >= {
        "cvqa", "blend", "culturalbench", "normad", "worldvaluesbench", "countryrc", "commonsenseqa", "qnli", "mrpc", "murel",
    }  # fmt: skip
    assert [row["name"] for row in json.loads(run("data", "list", "--json").stdout)] == list(gs.data.CARDS)


@SHORT
def test_show_prints_the_card_and_three_examples(tmp_path):
    copy = write(tmp_path / "c", [row(f"{n}_0", "('Korean', 'South Korea')") for n in range(9)])
    shown = run("data", "show", "cvqa", "--path", copy).output
    assert "licence" in shown and "4 examples to identify on, 5 to evaluate on" in shown
    assert shown.count("(KOR) with a picture") == 3 and "options: a | b | c | d" in shown and "answer: b" in shown


def test_a_hub_that_cannot_be_reached_says_so_and_names_path():
    """Really: in a process of its own, told to be offline."""
    done = subprocess.run(
        [sys.executable, "-m", "gatescope", "data", "show", "cvqa"],
        capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": "/nowhere/hf"},
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "cvqa: afaji/cvqa could not be downloaded" in done.stderr and "give path= with a local copy" in done.stderr
    assert "10,374 questions" in done.stdout  # the card is shown all the same


def test_an_unknown_name_is_answered_with_those_there_are():
    with pytest.raises(gs.GatescopeError, match=r"There is no dataset 'cvqq'; there are cvqa, blend.* a \.jsonl file"):
        registry.load("cvqq")
    with pytest.raises(gs.GatescopeError, match=r"path='x' is for datasets by name; mine\.jsonl is a file already"):
        registry.load("mine.jsonl", "x")


def test_an_option_that_would_change_nothing_is_refused():
    with pytest.raises(gs.GatescopeError, match=r"blend takes no seed \(3 was given\); it takes groups, cap, revision"):
        registry.load("blend", seed=3)
    with pytest.raises(gs.GatescopeError, match="qnli takes no groups"):
        registry.load("qnli", groups=["x"])


def test_seed_and_groups_reach_ones_own_file_and_its_control(tmp_path):
    lines = [
        {"id": f"{g}{i}", "group": g, "question": f"What is {g} {i}?", "choices": ["a", "b"], "answer": "a"}
        for g in ("north", "south", "east") for i in range(20)
    ]  # fmt: skip
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    ids = {seed: [e.id for e in registry.load(str(path), seed=seed, groups=["north", "east"]).evaluation] for seed in (0, 1)}
    assert ids[0] != ids[1] and all(len(each) == 20 and not any("south" in i for i in each) for each in ids.values())
    assert [e.id for e in registry.load_control(str(path), seed=1, groups=["north", "east"]).evaluation] == ids[1]
    with pytest.raises(gs.GatescopeError, match=r"q.jsonl has no group 'west'; it has 'east', 'north', 'south'"):
        registry.load(str(path), groups=["west"])


def test_a_control_has_everything_but_the_question(tmp_path):
    lines = [
        {"id": str(i), "group": g, "question": f"What is {g} {i}?", "choices": ["a", "b"], "answer": "a"}
        for g in ("north", "south") for i in (g + "1", g + "2")
    ]  # fmt: skip
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    study = gs.data.jsonl(path)
    control = gs.data.control(study)
    assert [e.id for e in control.evaluation] == [e.id for e in study.evaluation]
    left = ["Answer the following multiple-choice question.", "Question: ", "Options: a b"]
    assert control.evaluation[0].prompt.splitlines()[:3] == left
    lines[0] |= {"prompt": "Something else altogether"}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(gs.GatescopeError, match="its prompt does not contain its question 'What is north north1\\?'"):
        gs.data.control(gs.data.jsonl(path))


def test_culnig_runs_by_name_and_keeps_what_it_found(tmp_path):
    """gatescope study --control --exclude, on the text organism's own files, as the text organism's own study does."""
    organism = gs.organism.text.load()
    files = {task: tmp_path / f"{task}.jsonl" for task in organism.tasks}
    for file in files.values():  # half of them: what is found is not the point here
        file.write_text("".join((organism.path / file.name).read_text().splitlines(keepends=True)[::2]))
    out = tmp_path / "run"
    done = run(
        *("study", "--model", organism.path, "--data", files["culture"], "--control", "--exclude", files["reading"]),
        *("--neutral", files["copy"], "--out", out),
    )
    assert done.exit_code == 0, done.output + repr(done.exception)
    assert "CULNIG-general" in done.output and "random (mean of 10)" in done.output and "copy" in done.output
    assert f"report {out / 'report.html'}" in done.output and (out / "report.html").is_file()
    kept = gs.open_run(out)
    assert set(kept.selections) == {"CULNIG-general", "without exclusion", "CULNIG-specific"}
    general = kept.selections["CULNIG-general"][ALL]
    assert len(set(general) & set(organism.general)) / len(general) >= 0.5
    table = kept.table_of("culture")
    assert len({r.mask for r in table.rows if r.selector == "CULNIG-specific"}) == 6
    accuracy = [sum(r.reading.correct for r in table.rows if r.selector == s) / 120 for s in ("", "CULNIG-general")]
    assert accuracy[0] > 0.9 and accuracy[1] < 0.3

    page = (out / "report.html").read_text()
    change = f"{100 * (accuracy[1] - accuracy[0]):.1f}".replace("-", "\N{MINUS SIGN}")
    assert f"CULNIG-general neurons changes accuracy by {change} (" in page and "on reading by" in page
    assert "random, 10 sets" in page and "against their mean" in page
    by_steps(organism, files, tmp_path / "steps", kept.selections)


def by_steps(organism, files, out, expected):
    """attribute three times and select: the sets that `study --control` found."""
    common = ("attribute", "--model", organism.path, "--batch-size", 16, "--run", out)
    for rest in (
        ("--data", files["culture"], "--name", "culture"),
        ("--data", files["culture"], "--control"),
        ("--data", files["reading"], "--name", "reading"),
    ):
        done = run(*common, *rest)
        assert done.exit_code == 0, done.output + repr(done.exception)
    assert "has no selections yet; make some with `gatescope select" in str(run("neurons", out).exception)
    told = json.loads(run("select", out, "--selector", "CULNIG", "--json").stdout)["neurons"]
    found = gs.open_run(out).selections
    assert set(found) == set(expected) == set(told)
    for name, selection in found.items():
        assert dict(selection) == dict(expected[name])
        assert told[name] == {group: len(neurons) for group, neurons in selection.items()}
    (only,) = json.loads(run("neurons", out, "--group", "Arveni", "--json").stdout)  # the other sets are for all groups
    assert [only["selector"], only["group"]] == ["CULNIG-specific", "Arveni"]
    wrong = run("neurons", out, "--selector", "CULNIG-general", "--group", "Arveni")
    assert "group is 'Arveni'; it must be '*'" in str(wrong.exception)
    with pytest.raises(gs.GatescopeError, match="has no attributions without a name; it has 'culture', 'control', 'reading'"):
        app(["select", str(out), "--selector", "ATT"], standalone_mode=False)


def test_culnigs_own_rates_reach_the_selectors_and_the_run(tmp_path, monkeypatch):
    """On a few rows of the text organism's files: the neurons are those of the kept attributions at the given rates."""
    organism, files = gs.organism.text.load(), {}
    for task in ("culture", "reading"):
        rows = (organism.path / f"{task}.jsonl").read_text().splitlines(keepends=True)
        files[task] = tmp_path / f"{task}.jsonl"
        files[task].write_text("".join(rows[::12]))
    out, rates = tmp_path / "run", {"mlp_rate": 0.2, "attention_rate": 0.1, "exclude_rate": 0.05, "rate": 0.05, "z": 1.0}
    told = [part for name, value in rates.items() for part in (f"--{name.replace('_', '-')}", value)]
    command = ("--data", files["culture"], "--control", "--exclude", files["reading"], "--out", out, "--no-report", "--json")
    done = run("study", "--model", organism.path, *command, *told)
    assert done.exit_code == 0, done.output + repr(done.exception)
    kept = gs.open_run(out)
    assert kept.manifest["study"].items() >= rates.items() and kept.manifest["sweep of culture"]["readout"] == "argmax"
    scores = [kept.attributions[name] for name in ("culture", "control", "reading")]
    general = {name: rates[name] for name in ("mlp_rate", "attention_rate", "exclude_rate")}
    assert kept.selections["CULNIG-general"][ALL] == gs.select.culnig_general(*scores, **general)
    specific = {name: rates[name] for name in ("rate", "exclude_rate", "z")}
    assert dict(kept.selections["CULNIG-specific"]) == dict(gs.select.culnig_specific(*scores, **specific))
    found = {name: dict(selection) for name, selection in kept.selections.items()}
    for name in found:
        (out / "selections" / f"{name}.safetensors").unlink()
    read, added = [], gs.Run.attributions_of
    monkeypatch.setattr(gs.Run, "attributions_of", lambda self, step: read.append(step) or added(self, step))
    done = run("select", out, "--selector", "CULNIG", *told)
    assert done.exit_code == 0, done.output + repr(done.exception)
    assert sorted(read) == [f"attribute of {name}" for name in ("control", "culture", "reading")]  # each once
    assert {name: dict(selection) for name, selection in kept.selections.items()} == found
    for wrong, message in (
        (
            ("--selector", "ATT", "--z", 1),
            "--z: only CULNIG uses this, and it is not run here. Leave it out, or add --selector CULNIG",
        ),
        (("--selector", "CULNIG", "--rho", 20), "--rho belongs to LAPE, which is not among the selectors"),
    ):
        assert message in str(run("select", out, *wrong).exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--exclude", "countryrc"], "--exclude and --neutral are for attribution; add --control"),
        (["--control", "--selector", "CAS"], "--control runs CULNIG, which has its own selectors"),
        (["--selector", "CASS"], "selector is 'CASS'; it must be 'RND' or 'LAP'"),
        (["--selector", "LAPE"], "LAPE needs rho, the percentage of neurons of lowest entropy"),
        (["--readout", "label"], "has no labels, which readout='label' needs"),
        (["--control", "--site", "gate"], "--site is 'gate', and CULNIG (--control) always uses gate_pre, q, k and v"),
        (
            ["--control", "--exclude-rate", "0.1"],
            "--exclude-rate needs a reading set, and there is none: leave it out, or add --ex",
        ),
        (
            ["--mlp-rate", "0.1", "--z", "1"],
            "--mlp-rate, --z: only CULNIG uses this, and it is not run here. Leave it out, or add --con",
        ),
        (["--selector", "CAS", "--rho", "20"], "--rho belongs to LAPE, which is not among the selectors"),
        (["--control", "--z", "nan"], "z is nan; it is the least z-score over all countries, so it must be a number"),
        (["--control", "--mlp-rate", "nan"], "rate is nan; it is a share of a pool of neurons, so it must lie in [0, 1]"),
        (["--control", "--mlp-rate", "2"], "rate is 2.0; it is a share of a pool of neurons, so it must lie in [0, 1]"),
        (
            ["--control", "--readout", "loglik", "--max-new-tokens", "5"],
            "applies to generated answers, and these are read by log",
        ),
        (["--readout", "loglik", "--max-new-tokens", "5"], "--max-new-tokens applies to generated answers"),
        (["--control", "--neutral", "culture.jsonl"], "--neutral culture.jsonl: there is a task 'culture' already"),
    ],
)
def test_options_that_do_not_go_together_are_refused(llama_path, tmp_path, arguments, message):
    rows = [
        {"id": f"{g}{i}", "group": g, "question": f"Which {i}?", "choices": ["a", "b"], "answer": "a"}
        for g in ("north", "south") for i in range(2)
    ]  # fmt: skip
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    command = ["study", "--model", llama_path, "--data", path, "--out", tmp_path / "run", "--rate", "0.05", *arguments]
    done = run(*command)
    assert isinstance(done.exception, gs.GatescopeError) and message in str(done.exception)
    assert not (tmp_path / "run").exists()


def test_the_versions_that_matter_are_printed():
    from importlib.metadata import version

    said = dict(line.split() for line in run("--version").output.splitlines())
    assert said == {name: version(name) for name in ("gatescope", "nnsight", "torch", "transformers")}
