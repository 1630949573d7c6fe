"""Sets of a shape that luck decides: none, one, all, one layer, one site of two; in every place where a set may go.

What a place must give is computed on a plainly loaded model with plain hooks, or counted by hand.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math

import nnsight
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import gatescope as gs
from gatescope.cli import app
from gatescope.core.answers import Reading
from gatescope.core.neuron_tables import from_table, groups_from_table, to_table
from gatescope.interop import published
from gatescope.interventions.bake import baked
from gatescope.interventions.carry import carry, held
from gatescope.interventions.checkpoint import baked_from, save_baked
from gatescope.models.client import name_there
from gatescope.models.identity import identity
from gatescope.reports import compare, report
from gatescope.select.selection import Selection
from gatescope.statistics.table import Row, Table
from gatescope.steps.remote import Server, load_client, sweep_shards
from gatescope.studies.culnig import matched_random
from gatescope.studies.modules import choose, parts_of
from gatescope.traces.encoding import collate
from loopback import Loopback
from tiny import text_examples

pytestmark = pytest.mark.filterwarnings("ignore:.*has no chat template:UserWarning")

LAYERS, GATE, Q = 3, 48, 32  # of tests/tiny.py's Llama
ONE_SITE = gs.Layout.single("gate", LAYERS, GATE)
TWO_SITES = gs.Layout.parse([["gate", LAYERS, GATE], ["q", LAYERS, Q]])
EVERY = torch.arange(LAYERS * GATE)
SHAPES = {
    "none": (ONE_SITE, torch.zeros(0, dtype=torch.int64)),
    "none, of NumPy's": (ONE_SITE, torch.from_numpy(np.arange(4)[np.zeros(4, dtype=bool)])),  # its stride is 0
    "the first": (ONE_SITE, torch.tensor([0])),
    "the last": (ONE_SITE, torch.tensor([LAYERS * GATE - 1])),
    "one layer": (ONE_SITE, EVERY[GATE : 2 * GATE]),
    "all": (ONE_SITE, EVERY),
    "none of two sites": (TWO_SITES, torch.zeros(0, dtype=torch.int64)),
    "one, of the second site": (TWO_SITES, torch.tensor([LAYERS * GATE + 2 * Q + 5])),
    "all of the first site": (TWO_SITES, EVERY),
    "all of two sites": (TWO_SITES, torch.arange(TWO_SITES.size)),
}
KINDS = {
    "zero": (gs.ablate, lambda old: torch.zeros_like(old)),
    "scale": (lambda ns: gs.scale(ns, -2.0), lambda old: -2 * old),
    "set": (lambda ns: gs.set_to(ns, 0.5), lambda old: torch.full_like(old, 0.5)),
    "add": (lambda ns: gs.add(ns, 0.5), lambda old: old + 0.5),
}
GREEDY = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}


def neurons_of(shape, model=None):
    layout, flat = SHAPES[shape]
    return gs.NeuronSet(layout, flat, {} if model is None else identity(model), {"method": "luck"})


def inputs():
    ids = torch.randint(5, 40, (2, 7), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.fixture(scope="module")
def plain(llama_path):
    return AutoModelForCausalLM.from_pretrained(llama_path).eval()


@contextlib.contextmanager
def hooked(plain, shape, kind):
    """The same change by forward hooks: coordinates by division, of the gate's activation and of q's projection."""
    columns: dict[tuple[str, int], list[int]] = {}
    for number in SHAPES[shape][1].tolist():
        site, width, rest = ("gate", GATE, number) if number < LAYERS * GATE else ("q", Q, number - LAYERS * GATE)
        columns.setdefault((site, rest // width), []).append(rest % width)
    handles = []
    for (site, layer), which in columns.items():
        block = plain.model.layers[layer]
        part = block.mlp.act_fn if site == "gate" else block.self_attn.q_proj

        def edit(_module, _inputs, out, which=which):
            out = out.clone()
            out[..., which] = KINDS[kind][1](out[..., which])
            return out

        handles.append(part.register_forward_hook(edit))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def expected_logits(plain, shape, kind="zero"):
    with torch.no_grad(), hooked(plain, shape, kind):
        return plain(**inputs()).logits


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_kept_comes_back_whole(shape, tmp_path):
    neurons = neurons_of(shape)
    numbers = SHAPES[shape][1].tolist()
    neurons.save(tmp_path / "n.safetensors")
    again = gs.NeuronSet.load(tmp_path / "n.safetensors")
    assert again.flat.tolist() == numbers and again.flat.dtype == torch.int64
    assert again.layout == neurons.layout and again.provenance == {"method": "luck"} and again == neurons
    rest = [n for n in range(neurons.layout.size) if n not in set(numbers)]
    assert neurons.complement().flat.tolist() == rest
    chosen = Selection("LUCK", {"a": neurons, "b": neurons.complement()}, len(numbers))
    chosen.save(tmp_path / "s.safetensors")
    back = Selection.load(tmp_path / "s.safetensors")
    assert {g: s.flat.tolist() for g, s in back.items()} == {"a": numbers, "b": rest}
    assert back.shortfall == ({"b": len(numbers) - len(rest)} if len(rest) < len(numbers) else {})
    assert [line.split()[1] for line in back.report().splitlines()[1:3]] == [str(len(numbers)), str(len(rest))]
    assert back.jaccard().tolist() == [[float(bool(numbers)), 0.0], [0.0, float(bool(rest))]]


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_goes_through_a_data_frame(shape, library):
    neurons = neurons_of(shape)
    assert from_table(to_table(neurons, library), neurons.layout).flat.tolist() == neurons.flat.tolist()
    by_group = groups_from_table(to_table({"a": neurons, "b": neurons.complement()}, library), neurons.layout)
    assert {g: s.flat.tolist() for g, s in by_group.items()} == {
        g: s.flat.tolist() for g, s in (("a", neurons), ("b", neurons.complement())) if len(s)
    }


@pytest.mark.parametrize("shape", [name for name, (layout, _) in SHAPES.items() if layout == ONE_SITE])
def test_it_goes_through_the_papers_files(shape, tmp_path):
    neurons = neurons_of(shape)
    published.write_lape(tmp_path / "n.pth", {"a": neurons, "b": neurons.complement()})
    back = published.read_lape(tmp_path / "n.pth", ONE_SITE, ["a", "b"])
    assert (back["a"], back["b"]) == (neurons, neurons.complement())
    before = gs.NeuronSet(gs.Layout.single("gate_pre", LAYERS, GATE), neurons.flat)
    published.write_culnig(tmp_path / "n.json", before)
    assert list(published.read_culnig(tmp_path / "n.json", before.layout)) == list(before)
    assert len(json.loads((tmp_path / "n.json").read_text())["top_neurons"]) == len(neurons)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_in_a_trace_it_is_what_plain_hooks_do(llama, plain, shape, kind):
    intervention = KINDS[kind][0](neurons_of(shape, llama))
    expected = expected_logits(plain, shape, kind)
    with torch.no_grad(), llama.trace(**inputs()):
        intervention.apply(llama)
        applied = nnsight.save(llama.output.logits)
    edited = intervention.edit(llama)
    with torch.no_grad(), edited.trace(**inputs()):
        lasting = nnsight.save(edited.output.logits)
    same(applied, expected)
    same(lasting, expected)
    with hooked(plain, shape, kind):
        tokens = plain.generate(**inputs(), **GREEDY)
    with llama.generate(**inputs(), **GREEDY) as tracer:
        intervention.apply(llama)
        ids = tracer.result.save()
    assert torch.equal(ids, tokens)
    with edited.generate(**inputs(), **GREEDY) as tracer:
        ids = tracer.result.save()
    assert torch.equal(ids, tokens)
    with llama.generate(**GREEDY) as tracer:
        with tracer.invoke(**inputs()):
            ids = tracer.result.save()
        with tracer.invoke():
            for _ in tracer.iter[:]:
                intervention.apply(llama)
    assert torch.equal(ids, tokens)


@pytest.mark.parametrize("shape", SHAPES)
def test_baked_it_is_what_plain_hooks_do_and_can_be_loaded(llama, llama_path, plain, shape, tmp_path):
    for kind in ("zero", "scale"):
        with baked(KINDS[kind][0](neurons_of(shape, llama)), llama) as module, torch.no_grad():
            same(module(**inputs()).logits, expected_logits(plain, shape, kind))
    intervention = gs.ablate(neurons_of(shape, llama))
    path = save_baked(intervention, llama, tmp_path / "masked")
    with torch.no_grad():
        same(AutoModelForCausalLM.from_pretrained(path).eval()(**inputs()).logits, expected_logits(plain, shape))
    assert baked_from(path) == intervention
    neurons_of(shape, llama).save(tmp_path / "mask.safetensors")
    command = ["bake", "--model", str(llama_path), "--mask", str(tmp_path / "mask.safetensors"), "--out"]
    done = CliRunner().invoke(app, [*command, str(tmp_path / "by-command")])
    assert done.exit_code == 0 and f"{len(intervention.neurons)} neurons switched off" in done.output, done.output
    with torch.no_grad():
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "by-command").eval()(**inputs()).logits
    same(again, expected_logits(plain, shape))


@pytest.fixture(scope="module")
def questions():
    return text_examples(each=2)


def answers(model, plain, questions, shape=None):
    """Every question's answer alone, by plain Transformers, under plain hooks."""
    found = []
    for question in questions:
        asked = collate(model, [question]).inputs
        with hooked(plain, shape, "zero") if shape else contextlib.nullcontext():
            ids = plain.generate(**asked, max_new_tokens=4, do_sample=False)
        found.append(model.tokenizer.decode(ids[0, asked["input_ids"].shape[1] :], skip_special_tokens=True))
    return found


@pytest.fixture(scope="module")
def told(llama, plain, questions):
    return {shape: answers(llama, plain, questions, shape) for shape in SHAPES} | {"*": answers(llama, plain, questions)}


@pytest.mark.parametrize("together", [None, 1])
def test_swept_each_has_the_answers_it_has_alone(llama, questions, told, together):
    masks = {"LUCK": {shape: gs.ablate(neurons_of(shape, llama)) for shape in SHAPES}}
    table = gs.sweep(llama, questions, masks, masks_per_batch=together, max_new_tokens=4, readout="generate", progress=False)
    for shape in SHAPES:
        assert [row.text for row in table.rows if row.mask == shape] == told[shape], shape
        if "none" in shape:
            assert told[shape] == told["*"]
    assert told["all"] != told["*"], "the masks change nothing: the test says nothing"


def test_a_sweep_of_one_group_and_one_question_has_a_self_and_no_cross(llama, questions, tmp_path):
    masks = {"north": gs.ablate(neurons_of("all", llama))}
    table = gs.sweep(llama, questions[:1], masks, run=tmp_path / "run", max_new_tokens=2, progress=False)
    effect = table.self_cross()["mask"]
    assert effect.flips.self_ in (0.0, 100.0) and math.isnan(effect.flips.cross) and math.isnan(effect.flips.gap)
    assert str(table.self_cross()).split()[-2:] == ["-", "-"]
    drawn = table.intervals("mask", resamples=10)
    assert drawn.flips.self_ == (effect.flips.self_, effect.flips.self_) and math.isnan(drawn.flips.gap[0])
    page = report(tmp_path / "run", figures=True).read_text(encoding="utf-8")
    assert "Switching off the mask neurons changes accuracy by" in page and "(mean of the one group)" in page


def test_a_sweep_without_a_mask_is_the_full_models_answers_and_no_effect(llama, questions, told, tmp_path):
    for none in ({}, {"LUCK": {}}):
        table = gs.sweep(llama, questions, none, max_new_tokens=4, readout="generate", progress=False)
        assert [row.text for row in table.rows] == told["*"] and table.selectors == ()
        assert len(str(table.self_cross()).splitlines()) == 2
    gs.sweep(llama, questions, {}, run=tmp_path / "run", max_new_tokens=4, progress=False)
    with pytest.raises(gs.GatescopeError, match="holds no sweep with a mask, so there is no effect to report"):
        report(tmp_path / "run", figures=False)


@pytest.fixture(scope="module")
def server(llama_path):
    with Loopback(llama_path) as running:
        yield running


@pytest.fixture
def client(llama_path, monkeypatch):
    monkeypatch.setattr(nnsight.CONFIG.APP, "REMOTE_LOGGING", False)
    found = load_client(llama_path)
    name_there(found)  # the hub is not asked what a directory is called
    return found


def test_sent_to_a_server_each_has_the_same_answers(server, client, llama, questions, told):
    masks = [None, *(gs.ablate(neurons_of(shape, llama)) for shape in SHAPES)]
    how = {"remote": Server(server.address, pause=0.02, patience=60), "max_new_tokens": 4, "readout": "generate"}
    ((_, found),) = sweep_shards(client, {0: [[q] for q in questions]}, masks, **how)
    for shape, answered in zip(("*", *SHAPES), found, strict=True):
        assert [text for text, _ in answered] == told[shape], shape


@pytest.mark.parametrize("shape", ["none", "none, of NumPy's", "the last", "all", "none of two sites"])
def test_carried_to_a_server_it_generates_the_same(server, client, llama, plain, shape):
    intervention, asked = gs.ablate(neurons_of(shape, llama)), inputs()  # made here: the server has no tests
    with hooked(plain, shape, "zero"):
        expected = plain.generate(**asked, **GREEDY)
    with held(intervention, client).generate(**asked, **GREEDY, remote=server.address) as tracer:
        ids = tracer.result.save()
    assert torch.equal(ids, expected)
    off = carry(intervention, client)
    with client.generate(**GREEDY, remote=server.address) as tracer:
        with tracer.invoke():
            for _ in tracer.iter[:]:
                off(client)
        with tracer.invoke(**asked):
            ids = tracer.result.save()
    assert torch.equal(ids, expected)


def test_on_a_transformer_lens_bridge_it_is_what_plain_hooks_do(llama, llama_path, plain):
    sources = pytest.importorskip("transformer_lens.model_bridge.sources")
    from gatescope.interop.lens import lens_hooks

    module = AutoModelForCausalLM.from_pretrained(llama_path, attn_implementation="eager").eval()
    bridge = sources.build_bridge_from_module(
        module, type(module).__name__, hf_config=module.config, tokenizer=llama.tokenizer
    ).requires_grad_(False)
    for shape in SHAPES:
        for kind in KINDS:
            hooks = lens_hooks(KINDS[kind][0](neurons_of(shape, llama)), bridge)
            found = bridge.run_with_hooks(inputs()["input_ids"], fwd_hooks=hooks)
            same(found, expected_logits(plain, shape, kind))


@pytest.mark.parametrize("shape", ["none", "the last", "all"])
def test_under_lm_eval_it_is_scored_as_by_sweep(llama, questions, shape, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval")
    from gatescope.interop.lm_eval import evaluate
    from test_lm_eval import QUIET, write_task

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    task = write_task(llama, questions, tmp_path / "tasks")
    mask = gs.ablate(neurons_of(shape, llama))
    table = gs.sweep(llama, questions, {"x": mask}, readout="loglik", progress=False)
    found = evaluate(llama, mask, ["mine"], include_path=task, **QUIET)
    right = [row.reading.correct for row in table.rows if row.mask == "x"]
    assert found["results"]["mine"]["acc,none"] == pytest.approx(sum(right) / len(right))
    assert found["gatescope"]["neurons"] == len(mask.neurons)


GROUPS = ("a", "b")
SELECTIONS = {
    "a group without a neuron": {"a": "one layer", "b": "none, of NumPy's"},
    "nobody has a neuron": {"a": "none", "b": "none, of NumPy's"},
    "one neuron each": {"a": "the first", "b": "the last"},
    "everything": {"a": "all", "b": "all"},
    "one group left": {"a": "the last"},
    "one group, and it has none": {"a": "none"},
    "one set for all": {"*": "none"},
    "two sites, one of them empty": {"a": "all of the first site", "b": "none of two sites"},
}


def luckily(path, which, selector="LUCK"):
    """A run whose selection is of a shape of luck, with answers: each mask spoils its own group's second question."""
    run = gs.Run.at(path, {"id": "acme/tiny", "digest": "d1"})
    sets = {g: gs.NeuronSet(*SHAPES[shape], {"digest": "d1"}) for g, shape in SELECTIONS[which].items()}
    run.add_selection(Selection(selector, sets, 1, why_fewer="luck"))
    rows = [
        Row(f"{group}{n}", group, s, mask, "k", Reading("k" if n or mask in ("", group) else "b", bool(n), False))
        for s, mask in (("", ""), *((selector, mask) for mask in sets))
        for group in (GROUPS if len(sets) > 1 or "*" in sets else list(sets))
        for n in range(2)
    ]
    run.add_answers(Table(rows))
    return run, sets


@pytest.mark.parametrize("which", SELECTIONS)
def test_a_run_of_it_is_read_listed_and_reported(which, tmp_path):
    run, sets = luckily(tmp_path / "run", which)
    assert {g: s.flat.tolist() for g, s in run.selections["LUCK"].items()} == {g: s.flat.tolist() for g, s in sets.items()}
    cli = CliRunner()
    listed = cli.invoke(app, ["neurons", str(run.path)])
    assert listed.exit_code == 0, repr(listed.exception)
    assert [line.split(", ")[1].split()[0] for line in listed.output.splitlines()] == [str(len(s)) for s in sets.values()]
    told = json.loads(cli.invoke(app, ["neurons", str(run.path), "--json", "--out", str(tmp_path / "masks")]).stdout)
    for row, (group, neurons) in zip(told, sets.items(), strict=True):
        assert row["group"] == group and [tuple(n) for n in row["neurons"]] == list(neurons)
        assert gs.NeuronSet.load(row["file"]) == neurons
    page = report(run.path)
    assert page.read_text(encoding="utf-8").count("</html>") == 1
    beside = page.with_suffix("")
    rows = list(csv.DictReader((beside / "layers.csv").read_text().splitlines()))
    assert {g: sum(int(r["neurons"]) for r in rows if r["group"] == g) for g in sets} == {g: len(s) for g, s in sets.items()}
    assert (beside / "layers.png").exists() == any(map(len, sets.values()))
    other, _ = luckily(tmp_path / "other", which)
    assert compare([run, other], tmp_path / "compare.html").is_file()


def test_groups_whose_names_are_much_alike_have_files_of_their_own(tmp_path):
    run = gs.Run.at(tmp_path / "run", {"digest": "d"})
    sets = {"a b": neurons_of("the first"), "a-b": neurons_of("the last"), "c": neurons_of("none")}
    run.add_selection(Selection("LUCK", sets, 1))
    assert CliRunner().invoke(app, ["neurons", str(run.path), "--out", str(tmp_path / "masks")]).exit_code == 0
    assert {path.name: gs.NeuronSet.load(path) for path in (tmp_path / "masks").iterdir()} == {
        f"LUCK.{group}.safetensors": neurons for group, neurons in sets.items()
    }


def test_a_selection_of_no_group_is_told_when_it_is_saved_and_prints(tmp_path):
    nobody = Selection("LUCK", {}, 3)
    with pytest.raises(gs.GatescopeError, match="LUCK has no group, so there is nothing to save"):
        nobody.save(tmp_path / "s.safetensors")
    assert nobody.report() == "LUCK: 3 wanted for each group" and nobody.shortfall == {}
    assert list(to_table(nobody)["group"]) == [] and list(tmp_path.iterdir()) == []


def counters(fired, seed=0):
    """Counters of groups whose neurons fired so often, of 8 tokens each."""
    fired = torch.as_tensor(fired)
    zeros = gs.Counters.zeros([f"g{i}" for i in range(len(fired))], gs.Layout.single("gate", *fired.shape[1:]), {"digest": "d"})
    full = torch.full((len(fired),), 8)
    kept = zeros.__class__(zeros.groups, zeros.layout, fired, fired.double(), full, full, full, zeros.model)
    return kept


PICK = {
    "RND": gs.select.random,
    "LAP": lambda c, r: gs.select.lap(c, r, alpha=None),
    "LAPE": lambda c, r: gs.select.lape(c, r, rho=100, alpha=0),
    "MAD": lambda c, r: gs.select.mad(c, r, alpha=None),
    "CAS": gs.select.cas,
}


@pytest.mark.parametrize("selector", PICK)
@pytest.mark.parametrize("shape", [(2, 1, 1), (2, 1, 6), (3, 4, 1), (2, 2, 3)])
def test_selectors_take_one_neuron_one_layer_and_everything(selector, shape, tmp_path):
    fired = torch.arange(math.prod(shape)).reshape(shape).flip(0) % 8 + 1
    size = shape[1] * shape[2]
    for rate, wanted in ((1 / size, 1), (1.0, size)):
        chosen = PICK[selector](counters(fired), rate)
        assert chosen.wanted == wanted
        assert all(len(s) + chosen.shortfall.get(g, 0) == wanted for g, s in chosen.items())
        chosen.save(tmp_path / "s.safetensors")
        assert dict(Selection.load(tmp_path / "s.safetensors")) == dict(chosen)
    if selector in ("RND", "LAP", "MAD"):  # these never run out
        assert chosen.shortfall == {}


def test_a_group_nobody_chose_a_neuron_for_is_kept_saved_and_listed(tmp_path):
    """CAS where one group fires most everywhere: the other has none; where all are alike, nobody has any."""
    for fired, sizes in (([[[8, 7]], [[1, 2]]], [2, 0]), ([[[3, 3]], [[3, 3]]], [0, 0])):
        chosen = gs.select.cas(counters(fired), 1.0)
        run = gs.Run.at(tmp_path / f"{sizes}", {"digest": "d"})
        run.add_selection(chosen)
        kept = run.selections["CAS"]
        assert [len(s) for s in kept.values()] == sizes and kept.shortfall == {
            f"g{i}": 2 - n for i, n in enumerate(sizes) if n < 2
        }
        assert CliRunner().invoke(app, ["neurons", str(run.path), "--out", str(tmp_path / "masks")]).exit_code == 0
        matched = gs.select.random(counters(fired), 1.0, like=chosen)
        assert [len(s) for s in matched.values()] == sizes
        for kind in ("pure", "compound"):
            gs.select.cape(chosen, chosen, kind=kind).save(tmp_path / "cape.safetensors")
            left = Selection.load(tmp_path / "cape.safetensors")
            assert [len(s) for s in left.values()] == (sizes if kind == "compound" else [0, 0])


def attributed(sums):
    sums = torch.tensor(sums, dtype=torch.float64)
    layout = gs.Layout.parse([["gate_pre", 1, 4], ["q", 1, 2]])
    zeros = gs.Attributions.zeros(["g0", "g1"], layout, 2)
    return zeros.__class__(zeros.groups, layout, sums, sums.clamp(min=0), torch.tensor([1, 1]), 2)


def test_culnigs_rates_may_ask_for_nobody_for_one_and_for_all(tmp_path):
    asked, removed = attributed([[5, 1, 0, 2, 7, 3], [4, 9, 0, 1, 2, 8]]), attributed([[0.0] * 6, [0.0] * 6])
    for mlp, attention, expected in ((0.1, 0.1, []), (0.25, 0.0, [1]), (0.25, 0.5, [1, 5]), (1.0, 1.0, [1, 0, 3, 2, 5, 4])):
        general = gs.select.culnig_general(asked, removed, None, mlp_rate=mlp, attention_rate=attention)
        assert general.flat.tolist() == expected
        general.save(tmp_path / "n.safetensors")
        assert gs.NeuronSet.load(tmp_path / "n.safetensors") == general
        drawn = matched_random(general, seed=1)
        assert [int(drawn.mask(site).sum()) for site in ("gate_pre", "q")] == [
            sum(n < 4 for n in expected), sum(n >= 4 for n in expected)
        ]  # fmt: skip
    specific = gs.select.culnig_specific(asked, removed, None, rate=0.1)
    assert [len(s) for s in specific.values()] == [0, 0] and specific.shortfall == {}
    specific.save(tmp_path / "s.safetensors")
    assert dict(Selection.load(tmp_path / "s.safetensors")) == dict(specific)


def test_no_neurons_and_all_neurons_choose_parts_of_a_model(llama):
    nothing, everything = (parts_of(llama, neurons_of(shape, llama)) for shape in ("none, of NumPy's", "all of two sites"))
    assert [part.neurons for part in nothing] == [0] * LAYERS
    assert [(part.kind, part.neurons) for part in everything] == [("attention", Q), ("MLP", GATE)] * LAYERS
    with pytest.raises(gs.GatescopeError, match="None of the 3 parts holds one of the neurons, so none can be chosen"):
        choose(nothing, 10)
    with pytest.raises(gs.GatescopeError, match="None of the 6 parts is without one of the neurons"):
        choose(everything, 10, which="none")
    assert len(choose(nothing, 10**9, which="none")) == LAYERS and len(choose(everything, 10**9)) == 2 * LAYERS
