"""A run is of one model in one dtype, one rate and one set of options, whoever works on it and when."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import AutoModelForCausalLM

import gatescope as gs
import steps
from gatescope.models.identity import identity
from gatescope.steps.batches import Plan
from gatescope.steps.shards import Shards
from gatescope.studies.begun import begun
from processes import python
from steps import do
from test_first_release import WRITTEN
from tiny import tiny_llama

STEPS = ("record", "attribute", "sweep")


@pytest.fixture(scope="module")
def questions():
    return steps.questions()[::5]


@pytest.fixture(scope="module")
def narrow(llama_path):
    return gs.load_model(llama_path, dtype="bfloat16")


@pytest.fixture(scope="module")
def another(tmp_path_factory):
    """Another model of the same shape."""
    torch.manual_seed(1)
    path = tiny_llama(tmp_path_factory.mktemp("another") / "llama")
    model = AutoModelForCausalLM.from_pretrained(path)
    with torch.no_grad():
        for weights in model.parameters():
            weights.neg_()
    model.save_pretrained(path)
    return gs.load_model(path)


@pytest.fixture(scope="module")
def done(llama, questions, tmp_path_factory):
    """Every step in a run of its own."""
    place = tmp_path_factory.mktemp("done")
    for step in STEPS:
        do(step, llama, questions, place / step)
    return place


@pytest.fixture
def left(done, tmp_path):
    """Every step in a run of its own, without its last shard."""
    for step in STEPS:
        shutil.copytree(done / step, tmp_path / step)
        Shards.of(gs.open_run(tmp_path / step), step).file(2).unlink()
    return tmp_path


@pytest.mark.parametrize("step", STEPS)
def test_a_step_is_not_continued_in_another_dtype(llama, narrow, questions, left, step):
    before = sorted(path.read_bytes() for path in (left / step).rglob("*") if path.is_file())
    with pytest.raises(
        gs.GatescopeError, match=rf'\({step}\) with dtype "float32", and this is dtype "bfloat16"\. Continue it'
    ):
        do(step, narrow, questions, left / step)
    # Refused before anything was done, so that it can still be continued as it was begun.
    assert sorted(path.read_bytes() for path in (left / step).rglob("*") if path.is_file()) == before
    do(step, llama, questions, left / step)
    assert gs.open_run(left / step).verify() == []


@pytest.mark.parametrize("step", STEPS)
def test_another_dtype_and_another_model_have_other_shards(narrow, another, questions, left, tmp_path, step):
    where = Shards.of(gs.open_run(left / step), step).file(2)
    for number, model in enumerate((narrow, another)):
        do(step, model, questions, tmp_path / str(number))
        other = gs.open_run(tmp_path / str(number))
        assert other.manifest[step]["dtype"] == identity(model)["dtype"]
        shutil.copy(Shards.of(other, step).file(2), where)
        (told,) = gs.open_run(left / step).verify()
        assert "00002.safetensors is shard 2 of" in told and "It came from another run: delete it" in told
        where.unlink()


def test_neurons_found_in_one_dtype_are_swept_in_another_and_the_run_says_both(llama, narrow, questions, done, tmp_path):
    """As the documentation says: it is steps that are not mixed."""
    run = shutil.copytree(done / "record", tmp_path / "run")
    opened = gs.open_run(run)
    opened.add_selection(gs.select.cas(opened.counters, 0.1))
    gs.sweep(narrow, questions, {"CAS": gs.ablate(opened.selections["CAS"])}, run=run, max_new_tokens=2, progress=False)
    manifest = opened.manifest
    assert (manifest["record"]["dtype"], manifest["sweep"]["dtype"], opened.verify()) == ("float32", "bfloat16", [])


@pytest.fixture
def first_release(tmp_path):
    return shutil.copytree(WRITTEN / "run", tmp_path / "first")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.filterwarnings("ignore:.*was started with")
def test_a_run_of_the_first_release_is_not_continued_in_another_dtype_either(first_release, step):
    model = gs.load_model(WRITTEN / "model", dtype="bfloat16")
    options = {"run": first_release, "shard_size": 10, "batch_size": 4, "progress": False}
    with pytest.raises(gs.GatescopeError, match=rf'\({step}\) with dtype "float32", and this is dtype "bfloat16"'):
        if step == "record":
            gs.record(model, steps.questions(), only_correct=False, readout="label", **options)
        elif step == "attribute":
            gs.attribute(model, steps.questions(), sites=("gate_pre", "q"), **options)
        else:
            masks = {"CAS": gs.ablate(gs.open_run(first_release).selections["CAS"])}
            gs.sweep(model, steps.questions(), masks, readout="label", **options)


def test_another_models_shard_is_refused_in_a_run_of_the_first_release(first_release):
    run = gs.open_run(first_release)
    shards = Shards.of(run, "record")
    tensors, metadata = shards.load(1)
    shards.save(1, tensors, metadata | {"model": metadata["model"] | {"digest": "d2"}})
    with pytest.raises(gs.GatescopeError, match=r"Cannot use .*00001\.safetensors: one model is tiny-llama .*weights d2"):
        _ = run.counters


@pytest.mark.filterwarnings("ignore:.*was started with")
def test_a_run_of_the_first_release_is_bound_from_when_it_is_changed(first_release):
    model = gs.load_model(WRITTEN / "model")
    masks = {"CAS": gs.ablate(gs.open_run(first_release).selections["CAS"])}
    how = {"readout": "label", "shard_size": 10, "batch_size": 4, "progress": False}
    gs.sweep(model, steps.questions(), masks, run=first_release, **how)
    run = gs.open_run(first_release)
    bound = {"identification.jsonl", "selections/CAS.safetensors", "answers.jsonl", "shards.sweep/00000.safetensors"}
    assert bound <= set(run.files) and run.verify() == []
    (first_release / "identification.jsonl").write_text("")
    assert len(run.verify()) == 1


def test_a_step_on_a_server_is_of_the_dtype_that_its_first_shard_says(done, tmp_path):
    """None is known when it begins; from the first shard on, it is as if it always had been."""
    run = gs.Run.at(tmp_path / "run", {"id": "m", "digest": "d"})
    facts = {"dtype": None, "weights": "d"}

    def start(dtype=None):
        return Shards.start(run, "sweep", facts | {"dtype": dtype}, ["1", "2"], lambda: Plan([[[0]], [[1]]]))[0]

    one, other = start(), start()
    assert one.dtype is None
    one.save(0, {}, {"model": {"dtype": "bfloat16"}})
    assert start().dtype == "bfloat16" and run.manifest["sweep"]["dtype"] == "bfloat16"
    with pytest.raises(gs.GatescopeError, match=r'with dtype "bfloat16", and this is dtype "float32"'):
        other.save(1, {}, {"model": {"dtype": "float32"}})  # by another client, which began at the same time
    with pytest.raises(gs.GatescopeError, match=r'with dtype "bfloat16", and this is dtype "float32"'):
        start("float32")
    other.save(1, {}, {"model": {"dtype": "bfloat16"}})
    assert run.verify() == [] and start("bfloat16").key == one.key == other.key


def test_a_moved_model_is_the_same_to_a_run(llama_path, questions, left, tmp_path):
    """Its name is its directory's, and the sums of both halves are one."""
    moved = gs.load_model(shutil.copytree(llama_path, tmp_path / "moved"))
    do("record", moved, questions, left / "record")
    assert gs.open_run(left / "record").counters.seen.sum() == 6


# Weights that float16 does not have: too small for it, too large, and between those that it has.
HARD = [1e-9, -1e-9, 3e-8, -4.1e-8, 6.05e-5, -7e-6, 70000.0, -1e6, 1.0009765, -0.33335]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A model with such weights everywhere, as it is stored in float32 and in bfloat16."""
    torch.manual_seed(0)
    path = tiny_llama(tmp_path_factory.mktemp("hard") / "float32")
    model = AutoModelForCausalLM.from_pretrained(path)
    with torch.no_grad():
        for weights in model.parameters():
            flat = weights.view(-1)
            flat[torch.randperm(flat.numel())[: flat.numel() // 3]] = torch.tensor(HARD)[: 1 + flat.numel() % 10].repeat(
                flat.numel()
            )[: flat.numel() // 3]
    model.save_pretrained(path)
    narrow = shutil.copytree(path, path.parent / "bfloat16")
    AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).save_pretrained(narrow)
    return path, narrow


@pytest.mark.parametrize("stored", [0, 1], ids=["float32", "bfloat16"])
def test_weights_are_the_same_in_whatever_dtype_they_are_loaded(checkpoints, stored, llama):
    loaded = {name: gs.load_model(checkpoints[stored], dtype=name) for name in ("float32", "bfloat16", "float16", "float64")}
    cards = {name: identity(model) for name, model in loaded.items()}
    assert len({card["signs"] for card in cards.values()}) == 1
    assert len({card["digest"] for name, card in cards.items() if name != "float16"}) == 1
    assert cards["float16"]["digest"] != cards["float32"]["digest"]
    layout = gs.sites_of(llama)["gate"].layout
    for found in cards.values():
        for model in loaded.values():
            gs.ablate(gs.NeuronSet.of(layout, [("gate", 0, 1)], found)).targets(model)


def test_other_weights_are_others_in_float16_too(checkpoints, another, llama):
    model = gs.load_model(checkpoints[0], dtype="float16")
    neurons = gs.NeuronSet.of(gs.sites_of(llama)["gate"].layout, [("gate", 0, 1)], identity(another))
    with pytest.raises(gs.GatescopeError, match="Cannot apply an intervention: one model is"):
        gs.ablate(neurons).targets(model)
    here = gs.NeuronSet.of(gs.sites_of(llama)["gate"].layout, [("gate", 0, 1)], identity(model))
    with torch.no_grad():
        model._module.lm_head.weight[0, 0] += 1  # in one dtype the values decide, not the signs alone
    with pytest.raises(gs.GatescopeError, match="Cannot apply an intervention: one model is"):
        gs.ablate(here).targets(model)


def test_neurons_of_the_first_release_say_why_they_do_not_fit_float16(checkpoints, llama):
    written, model = identity(gs.load_model(checkpoints[1])), gs.load_model(checkpoints[1], dtype="float16")
    neurons = gs.NeuronSet.of(gs.sites_of(llama)["gate"].layout, [("gate", 0, 1)], written | {"signs": ""})
    with pytest.raises(gs.GatescopeError, match="One is in float16, and the first release did not write down what dtypes"):
        gs.ablate(neurons).targets(model)


def test_an_identity_of_before_is_that_of_today(llama):
    before = {name: value for name, value in identity(llama).items() if name != "signs"}
    counters = gs.Counters.zeros(["a"], gs.sites_of(llama)["gate"].layout, before)
    assert (counters + gs.Counters.zeros(["a"], counters.layout, identity(llama))).model == before


def test_masks_under_the_name_of_a_selection_are_its_neurons(llama, questions, done, tmp_path):
    run = shutil.copytree(done / "record", tmp_path / "run")
    opened = gs.open_run(run)
    few, many = (gs.select.cas(opened.counters, rate) for rate in (0.1, 0.2))
    opened.add_selection(few)
    how = {"run": run, "max_new_tokens": 2, "progress": False}
    with pytest.raises(
        gs.GatescopeError, match=r"holds other CAS neurons than these masks are of \(another rate or another rec"
    ):
        gs.sweep(llama, questions, {"CAS": gs.ablate(many)}, **how)
    assert "sweep" not in opened.manifest
    gs.sweep(llama, questions, {"CAS": {g: gs.scale(s, 0.5) for g, s in few.items()}, "more": gs.ablate(many)}, **how)
    with pytest.raises(gs.GatescopeError, match="holds answers under other CAS neurons than these"):
        opened.add_selection(many)


def test_a_selection_of_another_model_is_not_kept(done, tmp_path):
    run = gs.open_run(shutil.copytree(done / "record", tmp_path / "run"))
    layout = run.counters.layout
    stranger = gs.Selection("CAS", {"north": gs.NeuronSet.of(layout, [("gate", 0, 1)], {"id": "m", "digest": "d"})}, 1)
    with pytest.raises(gs.GatescopeError, match=r"Cannot keep the selection CAS in .*: one model is .* the other m weights d"):
        run.add_selection(stranger)


def together(*codes):
    with ThreadPoolExecutor(len(codes)) as threads:
        return list(threads.map(python, codes))


def test_what_several_processes_note_is_all_there(tmp_path):
    gs.Run.at(tmp_path / "run", {"digest": "d"})
    code = """
import gatescope as gs
run = gs.Run.at({run!r}, {{"digest": "d"}})
for number in range(6):
    run.note({{f"{name} {{number}}": number}})
    run.write_rows(f"answers.{name}{{number}}.jsonl", [{{"id": number}}])
"""
    found = together(*(code.format(run=str(tmp_path / "run"), name=name) for name in "abc"))
    assert all(done.returncode == 0 for done in found), [done.stderr[-2000:] for done in found]
    run = gs.open_run(tmp_path / "run")
    assert {f"{name} {number}" for name in "abc" for number in range(6)} <= set(run.manifest) and len(run.files) == 18
    assert run.verify() == []


STUDY = """
import sys
sys.path.insert(0, {tests!r})
import gatescope as gs
from tiny import letter_examples
examples = letter_examples(("north", "south", "east"), 4, image=False)
study = gs.data.Study("letters", tuple(examples[::2]), tuple(examples[1::2]))
model = gs.load_model({model!r})
try:
    gs.run_study(model, study, rate=0.05, selectors=["CAS"], out={run!r}, {more})
except gs.GatescopeError as error:
    print("said:", error, file=sys.stderr)
    sys.exit(2)
"""


@pytest.mark.parametrize("kind", ["the same", "rates", "a mistake"])
def test_two_studies_begun_together_in_a_new_directory_do_not_mix(letters, tmp_path, kind):
    """In processes of their own: each works to its end, or is refused in a sentence, and none takes the other's run away."""
    more = {
        "the same": ["", ""],
        "rates": ["", "rate=0.1"],
        "a mistake": ["", 'readout="label"'],  # which these examples cannot be read by
    }[kind]
    about = {"tests": str(WRITTEN.parents[1]), "model": str(letters[0]), "run": str(tmp_path / "run")}
    codes = [STUDY.format(**about, more=part).replace("rate=0.05, ", "" if "rate=" in part else "rate=0.05, ") for part in more]
    found = together(*codes)
    ended = [done for done in found if done.returncode == 0]
    refused = [done.stderr for done in found if done.returncode != 0]
    assert len(ended) == (2 if kind == "the same" else 1), refused
    assert all("said: " in said and "Traceback" not in said for said in refused)
    if kind == "rates":
        assert "was started with rate " in refused[0]
    run = gs.open_run(tmp_path / "run")
    assert run.verify() == [] and "alone" not in run.manifest and json.dumps(run.manifest["study"])
    gs.report(run, figures=False)


def test_a_mistake_in_a_run_that_another_has_come_to_leaves_it_there(tmp_path):
    study, place = {"name": "s", "rate": 0.1}, tmp_path / "run"
    with pytest.raises(gs.GatescopeError, match="a mistake"), begun(place, {"digest": "d"}, study, study):
        assert place.is_dir()
        raise gs.GatescopeError("a mistake")
    assert not place.exists()
    with pytest.raises(gs.GatescopeError, match="a mistake"), begun(place, {"digest": "d"}, study, study):
        gs.Run.at(place, {"digest": "d"})
        raise gs.GatescopeError("a mistake")
    assert gs.open_run(place).verify() == []
    with pytest.raises(gs.GatescopeError, match=r"was started with rate 0\.1, and this is rate 0\.2\. Continue it with what"):
        begun(place, {"digest": "d"}, study, study | {"rate": 0.2}).__enter__()
