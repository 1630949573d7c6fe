"""The whole job on the organism, on a text-only Llama and on LLaVA-NeXT; and how it fails."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest
from typer.testing import CliRunner

import gatescope as gs
from commands import gatescope
from gatescope.cli import app, main
from processes import python
from tiny import letter_examples, teach, text_examples, tiny_llava_next


@pytest.fixture(scope="module")
def result(studied):
    return studied


def test_cas_finds_the_known_neurons_and_switching_them_off_hits_their_culture_only(result):
    effects = result[1].table.self_cross()
    assert effects["CAS"].accuracy.self_ <= -50
    assert abs(effects["CAS"].accuracy.cross) <= 2
    assert abs(effects["RND"].accuracy.self_) <= 5
    assert result[1].precision["CAS"] >= 0.85 > 0.3 > result[1].precision["RND"]
    assert result[1].warnings == ()


def test_precision_is_the_share_of_selected_neurons_that_are_known(result, organism):
    for name, selection in result[1].selections.items():
        shares = [len(set(selection[g]) & set(organism.known[g])) / 9 for g in selection]
        assert result[1].precision[name] == pytest.approx(sum(shares) / 6)


def test_a_run_opened_again_is_complete_without_the_model(result):
    """In a fresh process, which loads no model."""
    path, first = result
    again = gs.open_result(path)
    assert str(again) == str(first)
    assert again.table.rows == first.table.rows
    code = f"import gatescope; r = gatescope.open_result({str(path)!r}); print(r); print(r.selections['CAS']['Arveni'])"
    done = python(code)
    assert done.stdout == f"{first}\n{first.selections['CAS']['Arveni']}\n", done.stderr
    manifest = json.loads((path / "manifest.json").read_text())
    assert {"format", "model", "record", "study", "sweep", "warnings", "precision"} <= set(manifest)
    assert {"site", "token_rule", "fingerprint", "versions", "shards"} <= set(manifest["record"])
    rows = [json.loads(line) for line in (path / "answers.jsonl").read_text().splitlines()]
    assert len(rows) == 240 * (1 + 1 + 6)  # the full model, one random mask, six culture masks


def test_a_run_of_another_model_is_refused_by_name(result, llama):
    with pytest.raises(gs.GatescopeError, match=r"Cannot continue the run .*organism: one model is .*the other .*llama"):
        gs.sweep(llama, text_examples(each=1), {}, run=result[0], progress=False)


def jsonl(path, examples, **more):
    """Write examples as a user would, pictures beside the file."""
    rows = []
    for e in examples:
        row = {"id": e.id, "group": e.group, "question": e.question, "choices": e.choices, "answer": e.answer}
        if e.image is not None:
            e.image.save(path.parent / f"{e.id}.png")
            row["image"] = f"{e.id}.png"
        rows.append(row | more)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("kind", ["llama, text only", "llava-next, pictures", "llava-next, no pictures"])
def test_the_command_runs_on_other_models(kind, letters, tmp_path):
    path, examples = letters
    if kind != "llama, text only":
        examples = letter_examples(("north", "south", "east"), 4, image=kind == "llava-next, pictures")
        path = teach(tiny_llava_next(tmp_path / "model"), examples)
    data = jsonl(tmp_path / "q.jsonl", examples)
    done = gatescope("study", "--model", path, "--data", data, "--rate", "0.05", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "accuracy change (points)" in done.stdout and "CAS" in done.stdout and "RND" in done.stdout
    page = (tmp_path / "run" / "report.html").read_text()
    assert gatescope("report", tmp_path / "run", "--no-figures").returncode == 0  # it knows which questions it was asked
    assert (tmp_path / "run" / "report.html").read_text() == page and "<!-- with questions -->" in page
    found = gs.open_result(tmp_path / "run")
    assert found.counters.counted.tolist() == [2, 2, 2] and (found.counters.T > 0).all()
    assert set(found.table.selectors) == {"RND", "LAP", "MAD", "CAS"}
    assert len([row for row in found.table.rows if row.selector in ("", "RND", "CAS")]) == 6 * (1 + 1 + 3)
    assert found.table.accuracy().tolist() == [100.0] * 3
    assert "accuracy change (points)" in str(found)


def test_a_group_with_nothing_right_is_named_and_the_others_kept(letters, tmp_path):
    path, examples = letters
    never = [dataclasses.replace(e, answer="b") if e.group == "east" else e for e in examples]
    data = jsonl(tmp_path / "q.jsonl", never)
    done = gatescope("study", "--model", path, "--data", data, "--rate", "0.05", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "'east' was left out: none of its 2 identification examples was answered correctly" in done.stdout
    found = gs.open_result(tmp_path / "run")
    assert list(found.selections["CAS"]) == ["north", "south"] and found.counters.empty == ("east",)
    assert found.table.groups == ("north", "south", "east")

    never = [dataclasses.replace(e, answer="b") if e.group != "north" else e for e in examples]
    done = gatescope("study", "--model", path, "--data", jsonl(data, never), "--out", tmp_path / "other", "--rate", "0.05")
    assert done.returncode == 2
    assert "answered no identification example correctly for 'south', 'east', so only ['north'] can be compared" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_selector_that_finds_nothing_for_a_group_does_not_end_the_study(letters, tmp_path):
    path, examples = letters
    model = gs.load_model(path)
    study = gs.data.Study("letters", tuple(examples[::2]), tuple(examples[1::2]))
    how = {"selectors": ("LAPE",), "options": {"LAPE": {"rho": 0.1}}, "out": tmp_path / "run"}
    first = gs.run_study(model, study, rate=0.05, **how)
    sizes = {group: len(neurons) for group, neurons in first.selections["LAPE"].items()}
    assert sorted(sizes.values()) == [0, 0, 1]  # one neuron is the 0.1% of lowest entropy, rounded up
    empty = min(sizes, key=sizes.__getitem__)
    assert len(gs.open_result(tmp_path / "run").selections["LAPE"][empty]) == 0
    again = gs.run_study(model, study, rate=0.05, **how)
    assert str(again) == str(first) == str(gs.open_result(tmp_path / "run"))
    assert f"LAPE found 0 of 7 neurons for '{empty}'" in str(first)


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    return jsonl(tmp_path_factory.mktemp("data") / "q.jsonl", text_examples())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--model": "/nowhere/at/all"}, "No model at '/nowhere/at/all': there is no such directory"),
        ({"--model": "EMPTY"}, "it has no config.json"),
        ({"--model": "BERT"}, "No text decoder was found in Bert"),
        ({"--data": "/nowhere.jsonl"}, "/nowhere.jsonl cannot be read"),
        ({"--rate": "0"}, "rate is 0.0; it is a share of all neurons, so it must lie in (0, 1]"),
        ({"--rate": "1.5"}, "rate is 1.5"),
        ({"--rate": "0.00001"}, "selects none; the smallest useful rate here is"),
        ({"--out": "USED"}, "exists and is not a run"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing_behind(
    llama_path, questions, tmp_path, change, message, capsys, monkeypatch
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("keep me")
    if "BERT" in change.values():
        from transformers import BertConfig, BertLMHeadModel

        config = BertConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
        config.is_decoder = True
        BertLMHeadModel(config).save_pretrained(tmp_path / "bert")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (tmp_path / "bert" / name).write_text((llama_path / name).read_text())
    places = {"EMPTY": tmp_path / "empty", "BERT": tmp_path / "bert", "USED": tmp_path / "used"}
    options = {"--model": llama_path, "--data": questions, "--rate": "0.05", "--out": tmp_path / "run"} | change
    arguments = [str(places.get(part, part)) for pair in options.items() for part in pair]
    monkeypatch.setattr(sys, "argv", ["gatescope", "study", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert said[-1].startswith("gatescope: ") and message in said[-1]
    assert not (tmp_path / "run").exists()
    assert [p.name for p in (tmp_path / "used").iterdir()] == ["mine.txt"]


def test_one_group_is_not_a_study(llama, tmp_path):
    alone = text_examples(groups=("north",))
    with pytest.raises(gs.GatescopeError, match=r"needs at least two; 'mine' has \['north'\] to identify on"):
        gs.run_study(llama, gs.data.Study("mine", alone[:3], alone[3:]), rate=0.1, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_rate_in_the_same_run_is_refused_before_anything_is_written(result, organism, organism_model):
    path, found = result
    before = {p.name: p.read_bytes() for p in (path / "selections").iterdir()}
    with pytest.raises(gs.GatescopeError, match=r"was started with rate 0.01, and this is rate 0.02"):
        gs.run_study(organism_model, organism.study, rate=0.02, out=path)
    with pytest.raises(
        gs.GatescopeError, match=r"was started with selectors \['RND', 'CAS'\], and this is selectors \['CAS'\]"
    ):
        gs.run_study(organism_model, organism.study, rate=0.01, out=path, selectors=["CAS"])
    run = gs.open_run(path)
    with pytest.raises(gs.GatescopeError, match="holds answers under other CAS neurons than these"):
        run.add_selection(gs.select.cas(found.counters, 0.02))
    run.add_selection(found.selections["CAS"])  # the same ones are no harm
    assert {p.name: p.read_bytes() for p in (path / "selections").iterdir()} == before


def test_what_is_easily_given_in_the_wrong_place_is_told_what_to_give(llama_path):
    """In a process of its own, without the type checker the tests have."""
    code = f"""
import gatescope as gs
model = gs.load_model({str(llama_path)!r})
examples = [gs.data.Example(str(i), "north", "Which?", ("a", "b"), "a") for i in range(2)]
study = gs.data.Study("mine", examples, examples)
neurons = gs.NeuronSet.of(gs.sites_of(model)["gate"].layout, [("gate", 0, 1)])
chosen = gs.Selection("X", {{"north": neurons}}, 1)
for wrong in (
    lambda: gs.record(model, study), lambda: gs.attribute(model, study), lambda: gs.sweep(model, study, {{}}),
    lambda: gs.mean_activation(model, study), lambda: gs.sweep(model, examples, chosen), lambda: gs.scale(chosen, 0.5),
    lambda: chosen["North"], lambda: gs.NeuronSet.load("nothing.safetensors"),
):
    try:
        wrong()
    except (gs.GatescopeError, KeyError) as error:
        print(error)
"""
    done = python(code)
    said = done.stdout.splitlines()
    assert len(said) == 8, done.stderr
    assert all("'mine' is a study, of two halves; give one of them: study.identification" in line for line in said[:4])
    assert "under 'north' is a NeuronSet, not an intervention" in said[4] and "gs.ablate(selection)" in said[4]
    assert "An intervention is on one NeuronSet, and this is a Selection" in said[5]
    assert "'North' is none of the groups of this selection: 'north'" in said[6]
    assert "There is no file nothing.safetensors" in said[7]


def test_passages_are_not_a_study_and_the_message_says_what_is(llama, tmp_path):
    passages = [gs.data.Example.passage(f"{g}{i}", g, f"drums {i}") for g in ("north", "south") for i in range(2)]
    with pytest.raises(gs.GatescopeError, match=r"'texts' holds passages, .*compare perplexity: see recipes/language_neurons"):
        gs.run_study(llama, gs.data.Study("texts", passages, passages, readout="none"), rate=0.1, out=tmp_path / "run")


def test_a_place_without_a_run_is_named(tmp_path):
    with pytest.raises(gs.GatescopeError, match=r"No run at .*: there is no manifest.json"):
        gs.open_run(tmp_path)


def test_tokens_shows_what_counts(organism):
    done = CliRunner().invoke(app, ["tokens", str(organism.path), str(organism.path / "study.jsonl"), "--id", "evaluation-003"])
    lines = done.stdout.splitlines()
    assert lines[0].startswith("evaluation-003: 52 of 57 tokens count (text and image patches of the prompt; no padding")
    assert lines[1:5] == ["  -       <|im_start|>", "  counts  user", "  -       <|vision_start|>", "  counts  <|image_pad|>"]
    assert len(lines) == 58


def test_the_demo_prints_the_table(fewer_questions, tmp_path):
    done = gatescope("demo", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    result = gs.open_result(tmp_path / "run")
    assert str(result) in done.stdout and "precision at k against the known neurons: RND" in done.stdout
    assert f"report      {tmp_path / 'run' / 'report.html'}" in done.stdout and (tmp_path / "run" / "report.html").is_file()
    again = gatescope("demo", "--out", tmp_path / "run", "--json")  # nothing but JSON on stdout, and nothing is run again
    assert json.loads(again.stdout)["precision"] == result.precision


def test_neurons_are_listed_and_written_as_files(result, tmp_path):
    path, found = result
    cli = CliRunner()
    listed = cli.invoke(app, ["neurons", str(path), "--selector", "CAS"]).stdout.splitlines()
    first = ", ".join(f"{site} {layer}.{i}" for site, layer, i in list(found.selections["CAS"]["Arveni"])[:5]) + ", ..."
    assert len(listed) == 6 and listed[0] == "CAS: Arveni, 9 neurons: " + first
    told = json.loads(cli.invoke(app, ["neurons", str(path), "--group", "Arveni", "--selector", "CAS", "--json"]).stdout)
    assert [tuple(n) for n in told[0]["neurons"]] == list(found.selections["CAS"]["Arveni"])
    written = cli.invoke(app, ["neurons", str(path), "--selector", "CAS", "--out", str(tmp_path / "masks")])
    assert written.exit_code == 0 and len(list((tmp_path / "masks").iterdir())) == 6
    assert gs.NeuronSet.load(tmp_path / "masks" / "CAS.Belthar.safetensors") == found.selections["CAS"]["Belthar"]
    wrong = cli.invoke(app, ["neurons", str(path), "--selector", "MAD"])
    assert "selector is 'MAD'; it must be 'CAS' or 'RND'" in str(wrong.exception)
    wrong = cli.invoke(app, ["neurons", str(path), "--group", "Gondor"])
    assert "group is 'Gondor'; it must be" in str(wrong.exception)
