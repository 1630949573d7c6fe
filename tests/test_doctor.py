"""The doctor passes every family, and would not pass a model that is read wrongly."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaMLP

import gatescope as gs
from families import FAMILIES, MISLEADING
from gatescope import doctor
from gatescope.cli import main
from gatescope.doctor.below import below
from gatescope.doctor.checks import examine_batch
from gatescope.doctor.inputs import Patient, picture_questions, random_text
from gatescope.doctor.pictures import rows_alone
from gatescope.doctor.references import apart
from gatescope.interventions import apply as intervene
from gatescope.interventions.intervention import Intervention
from gatescope.models import sites
from gatescope.traces import access, vision
from picture_families import PICTURES

TEXT = ["below", "counters", "attributions", "ablate", "scale", "set", "add", "side by side", "generation"]
PICTURED = TEXT[1:]  # of each site; and once "rows alone"
ALL = FAMILIES | MISLEADING


@pytest.fixture
def two_tokens(monkeypatch):
    """Generation of a token and the one after it: what holds there holds at the third."""
    monkeypatch.setattr(doctor.checks, "STEPS", 2)


@pytest.mark.usefixtures("two_tokens")
@pytest.mark.parametrize("name", ALL)
def test_every_family_is_read_and_edited_as_plain_hooks_do(name, tmp_path):
    ALL[name].build(tmp_path)
    model = gs.load_model(tmp_path)
    report = doctor.examine(model)
    assert report.healthy, str(report)
    assert set(report.sites) == set(ALL[name].where)
    checks = {(f.inputs, f.site, f.check) for f in report.findings}
    expected = {("text", site, check) for site in report.sites for check in TEXT}
    if model.processor is not None:
        expected |= {("pictures", site, check) for site in report.sites for check in PICTURED}
        expected.add(("pictures", "batch", "rows alone"))
    assert checks == expected and len(report.findings) == len(expected)


@pytest.mark.usefixtures("two_tokens")
@pytest.mark.parametrize("name", ["paligemma", "mllama", "qwen3-vl"])
def test_models_that_see_pictures_are_examined_with_them(name, tmp_path):
    """Here with one site of each kind; all of them in the families above."""
    PICTURES[name](tmp_path)
    model = gs.load_model(tmp_path)
    some = {name: site for name, site in gs.sites_of(model).items() if name in ("gate", "hidden", "k")}
    model._module.__dict__["_gatescope_sites"] = some
    report = doctor.examine(model)
    assert report.healthy, str(report)
    assert {(f.site, f.check) for f in report.findings if f.inputs == "pictures"} == {
        *((site, check) for site in some for check in PICTURED),
        ("batch", "rows alone"),
    }


@pytest.mark.parametrize("name", ["llama", "gemma3-multimodal"])
def test_a_list_of_ends_is_no_obstacle(name, tmp_path):
    """Llama 3 Instruct and Gemma 3 it end at any of several tokens."""
    FAMILIES[name].build(tmp_path)
    ends = [gs.load_model(tmp_path).tokenizer.eos_token_id, 7, 9]
    for file in ("config.json", "generation_config.json"):
        written = json.loads((tmp_path / file).read_text()) | {"eos_token_id": ends}
        (tmp_path / file).write_text(json.dumps(written))
    for inputs in ("text", *(["pictures"] if name != "llama" else [])):
        ward = patient(tmp_path, inputs)
        assert ward.module.generation_config.eos_token_id == ends
        assert failures(examine_batch(ward)) == set()
        assert inputs == "pictures" or not {7, 9} & set(ward.batch.inputs["input_ids"].flatten().tolist())


def test_half_precision_is_no_false_alarm(tmp_path):
    """Of text, nnsight numbers positions from each row's first token; in bfloat16 the reference must do so too."""
    FAMILIES["gemma3-multimodal"].build(tmp_path)
    for inputs in ("text", "pictures"):
        ward = patient(tmp_path, inputs, only=("gate", "k"), dtype="bfloat16")
        assert ward.logits.dtype == torch.bfloat16 and failures(examine_batch(ward)) == set()


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama")
    FAMILIES["llama"].build(path)
    return path


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    """Every picture takes four tokens, so that features can be given to the wrong row without an error."""
    path = tmp_path_factory.mktemp("gemma")
    FAMILIES["gemma3-multimodal"].build(path)
    return path


def failures(findings):
    return {(f.site, f.check) for f in findings if not f.holds}


def patient(path, inputs="text", only=("gate",), **loading):
    """A model on the doctor's batch, with few of its sites, so that a planted fault is soon found."""
    model = gs.load_model(path, **loading)
    batch = random_text(model) if inputs == "text" else picture_questions(model)
    return Patient.of(model, {name: gs.sites_of(model)[name] for name in only}, inputs, batch)


def planted(model, **sites):
    """The model with its sites resolved otherwise."""
    model._module.__dict__["_gatescope_sites"] = gs.sites_of(model) | sites
    return model


@pytest.mark.parametrize("name", ["llama", "phi3", "codegen"])
def test_k_and_v_swapped_are_seen_below_the_modules(name, tmp_path):
    """Plain hooks at the same wrong place agree: only what attention is given tells."""
    ALL[name].build(tmp_path)
    model = gs.load_model(tmp_path)
    k, v = (gs.sites_of(model)[which] for which in "kv")
    swapped = planted(model, k=dataclasses.replace(v, name="k"), v=dataclasses.replace(k, name="v"))
    model._module.__dict__["_gatescope_sites"] = {name: gs.sites_of(swapped)[name] for name in ("gate", "hidden", "k", "v")}
    report = doctor.examine(swapped)
    assert failures(report.findings) == {("k", "below"), ("v", "below")}
    assert "v: below failed: in layer 0, k is made of " in str(report)


def test_a_projection_called_up_that_makes_the_gate_is_not_up(tmp_path):
    MISLEADING["nemotron"].build(tmp_path)
    model = gs.load_model(tmp_path)
    gate = gs.sites_of(model)["gate"]
    layers = tuple(dataclasses.replace(here, path=here.path.replace("act_fn", "up_proj")) for here in gate.layers)
    report = doctor.examine(planted(model, up=sites.Site("up", gate.depth, layers, rank=6)))
    assert ("up", "below") in failures(report.findings)
    assert "in layer 0, the gate is not multiplied with it" in str(report)


@pytest.mark.parametrize("first", [True, False])
def test_a_product_whose_factors_have_names_is_seen(llama, monkeypatch, first):
    def forward(mlp, x):
        gate = {"input": mlp.act_fn(mlp.gate_proj(x))}
        return mlp.down_proj(torch.mul(*(() if first else gate.values()), **(gate if first else {}), other=mlp.up_proj(x)))

    monkeypatch.setattr(LlamaMLP, "forward", forward)
    assert [finding.detail for finding in below(patient(llama, only=("gate", "up", "hidden")))] == [""] * 3


@pytest.mark.parametrize("order", [(1, 0), (1, 1), (0, 0)])
@pytest.mark.parametrize("site", ["gate", "q", "hidden"])
def test_a_site_of_a_neighbouring_layer_is_seen(llama, site, order):
    sick = patient(llama, only=("gate", "up", "hidden", "q", "k", "v"))
    right = sick.sites[site]
    layers = tuple(dataclasses.replace(here, path=right.paths[other]) for here, other in zip(right.layers, order, strict=True))
    wrong = dataclasses.replace(right, layers=layers)
    found = list(below(dataclasses.replace(sick, sites=dict(sick.sites) | {site: wrong})))
    assert (site, "below") in failures(found)


def test_counts_of_a_neighbouring_layer_are_seen(llama, monkeypatch):
    read = access.read
    monkeypatch.setattr(doctor.checks, "read", lambda model, path, io: read(model, path.replace("layers.0", "layers.1"), io))
    assert ("gate", "counters") in failures(examine_batch(patient(llama)))


def test_a_mask_that_reaches_the_first_layer_only_is_seen(llama, monkeypatch):
    targets = Intervention.targets
    monkeypatch.setattr(Intervention, "targets", lambda self, model: targets(self, model)[:1])
    edits = {"ablate", "scale", "set", "add", "side by side", "generation"}
    assert failures(examine_batch(patient(llama))) == {("gate", check) for check in edits}


def test_a_mask_without_effect_is_seen_where_some_logits_are_forbidden(tmp_path, monkeypatch):
    """Chameleon gives the tokens of pictures the least number there is: next to it any difference is small."""
    PICTURES["chameleon"](tmp_path)
    sick = patient(tmp_path)
    assert (sick.logits == torch.finfo(sick.logits.dtype).min).any()
    monkeypatch.setattr(Intervention, "targets", lambda self, model: [])
    edits = {"ablate", "scale", "set", "add", "side by side", "generation"}
    assert failures(examine_batch(sick)) == {("gate", check) for check in edits}


def test_a_mask_that_is_gone_after_the_prompt_is_seen(llama, monkeypatch):
    monkeypatch.setattr(intervene, "every_step", lambda walk, start=0: walk())
    assert failures(examine_batch(patient(llama))) == {("gate", "generation")}


def test_an_intervention_that_moves_nothing_proves_nothing(llama):
    sick = patient(llama)
    for layer in sick.module.model.layers:
        layer.mlp.down_proj.weight.data.zero_()
    sick = Patient.of(sick.model, sick.sites, "text", sick.batch)
    found = [f for f in examine_batch(sick) if f.check in ("ablate", "scale", "set", "add", "side by side")]
    assert {f.detail for f in found} == {"the reference does not move the logits, so nothing is proved"}
    assert not any(f.holds for f in found)


def test_features_given_to_the_wrong_row_of_a_sweep_are_seen(gemma, monkeypatch):
    features = vision.features

    def wrong(model, batch):
        made = features(model, batch)
        made["pooler_output"] = made["pooler_output"].flip(0)
        return made

    monkeypatch.setattr(vision, "features", wrong)
    assert failures(examine_batch(patient(gemma, "pictures"))) == {("gate", "side by side")}


def test_pictures_given_to_the_wrong_row_of_a_batch_are_seen(gemma):
    healthy = patient(gemma, "pictures")
    assert failures(rows_alone(healthy)) == set()
    inputs = healthy.batch.inputs | {"pixel_values": healthy.batch.inputs["pixel_values"].flip(0)}
    sick = Patient.of(healthy.model, healthy.sites, "pictures", dataclasses.replace(healthy.batch, inputs=inputs))
    assert failures(rows_alone(sick)) == {("batch", "rows alone")}


def test_a_picture_that_changes_nothing_proves_nothing(gemma):
    blind = patient(gemma, "pictures")
    blind.module.model.multi_modal_projector.mm_input_projection_weight.data.zero_()
    blind = Patient.of(blind.model, blind.sites, "pictures", blind.batch)
    (finding,) = rows_alone(blind)
    assert not finding.holds and "another picture moves the gate by 0.0e+00" in finding.detail


def test_a_check_that_dies_is_a_finding_and_the_others_are_told(llama, monkeypatch):
    def dies(*_, **__):
        raise RuntimeError("no such kernel\nand a long story")

    monkeypatch.setattr(doctor.checks, "side_by_side", dies)
    found = list(examine_batch(patient(llama)))
    assert failures(found) == {("gate", "side by side")}
    (dead,) = [f for f in found if not f.holds]
    assert "RuntimeError" in dead.detail and "a long story" not in dead.detail


def test_forbidden_logits_and_nan_do_not_hide_a_difference():
    least = torch.finfo(torch.float32).min
    theirs = torch.tensor([1.0, -4.0, least, -torch.inf])
    assert apart(theirs, theirs) == 0
    assert apart(torch.tensor([3.0, -4.0, least, -torch.inf]), theirs) == 0.5
    assert apart(torch.tensor([1.0, -4.0, 0.0, -torch.inf]), theirs) == float("inf")
    assert apart(torch.tensor([torch.nan, -4.0, least, -torch.inf]), theirs) == float("inf")


def test_k_and_v_of_a_fused_projection_are_where_they_were_placed_by_hand(tmp_path):
    FAMILIES["phi3"].build(tmp_path)
    model = gs.load_model(tmp_path)
    right = gs.sites_of(model)
    assert list(right["k"].columns) == FAMILIES["phi3"].where["k"][2]
    assert list(right["v"].columns) == FAMILIES["phi3"].where["v"][2]


def test_a_site_read_at_the_wrong_columns_is_not_healthy(tmp_path, monkeypatch):
    FAMILIES["phi3"].build(tmp_path)
    model = gs.load_model(tmp_path)
    part, keys = sites.SiteLayer.part, gs.sites_of(model)["k"].layers

    def flipped(here, whole):
        return part(here, whole).flip(-1) if here in keys else part(here, whole)

    monkeypatch.setattr(sites.SiteLayer, "part", flipped)
    report = doctor.examine(model)
    assert not report.healthy
    assert {(f.site, f.check) for f in report.findings if not f.holds} == {("k", "counters"), ("k", "attributions")}
    assert "NOT as plain hooks do" in str(report) and "k: counters failed: K equal: False" in str(report)


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["gatescope", "doctor", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code, capsys.readouterr()


def test_the_command_prints_the_sites_and_exits_0_only_if_all_hold(tmp_path, monkeypatch, capsys):
    FAMILIES["phi3"].build(tmp_path)
    code, said = run(monkeypatch, capsys, tmp_path)
    lines = said.out.splitlines()
    assert code == 0 and lines[-1] == "gatescope reads and edits this model as plain hooks do, on every site."
    assert "k               2      16  model.layers.0.self_attn.qkv_proj (output) columns 32..47" in lines
    monkeypatch.setattr(
        doctor.checks, "count", lambda gate, token_mask: (torch.zeros(3, gate.shape[-1]).long(), torch.zeros(3, gate.shape[-1]))
    )
    code, said = run(monkeypatch, capsys, tmp_path)
    assert code == 1 and "NOT as plain hooks do" in said.out


SHAPES = {
    "qwen2.5-vl-7b": {
        "model_type": "qwen2_5_vl", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 1000, "image_token_id": 7,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "vision_config": {"depth": 32, "hidden_size": 1280},
    },
    "phi-4": {
        "model_type": "phi3", "hidden_size": 5120, "intermediate_size": 17920, "num_hidden_layers": 40,
        "num_attention_heads": 40, "num_key_value_heads": 10, "vocab_size": 1000, "pad_token_id": 0,
    },
    "gemma-3-12b": {
        "model_type": "gemma3",
        "text_config": {"model_type": "gemma3_text", "hidden_size": 3840, "intermediate_size": 15360, "num_hidden_layers": 48,
                        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256, "vocab_size": 1000},
        "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 64, "num_hidden_layers": 27,
                          "num_attention_heads": 4, "image_size": 28, "patch_size": 14, "intermediate_size": 64},
    },
    "qwen3-14b": {
        "model_type": "qwen3", "hidden_size": 5120, "intermediate_size": 17408, "num_hidden_layers": 40,
        "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 1000,
    },
}  # fmt: skip


@pytest.mark.usefixtures("two_tokens")
@pytest.mark.parametrize("name", SHAPES)
def test_a_large_architecture_is_checked_shrunk_without_its_weights(name, tmp_path, monkeypatch, capsys):
    (tmp_path / "config.json").write_text(json.dumps(SHAPES[name]))
    code, said = run(monkeypatch, capsys, "--random-weights", tmp_path)
    assert code == 0, said
    assert "gate            2      96" in said.out and said.out.count("FAILED") == 0


def test_no_config_is_a_sentence(tmp_path, monkeypatch, capsys):
    code, said = run(monkeypatch, capsys, "--random-weights", tmp_path / "none")
    assert code == 2 and "No model config at" in said.err
    code, said = run(monkeypatch, capsys)
    assert code == 2 and "Give a model, or --random-weights with a config" in said.err


def test_a_report_says_which_check_of_which_site_failed():
    finding = doctor.Finding("q", "scale", False, "logits off by 1.0e+00 relative")
    site = sites.Site("q", 1, (sites.SiteLayer(0, "a.q_proj", "output", 4),))
    report = doctor.Report("m", {"q": site}, (dataclasses.replace(finding), doctor.Finding("q", "counters", True, "")))
    assert not report.healthy and "q: scale failed: logits off by 1.0e+00 relative" in str(report)
