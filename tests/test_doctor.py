"""The doctor passes every family, and would not pass a model that is read wrongly."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest
import torch

import gatescope as gs
from families import FAMILIES
from gatescope import doctor, sites
from gatescope.cli import main


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_read_and_edited_as_plain_hooks_do(name, tmp_path):
    FAMILIES[name].build(tmp_path)
    report = doctor.examine(gs.load_model(tmp_path))
    assert report.healthy, str(report)
    assert set(report.sites) == set(FAMILIES[name].where)
    assert len(report.findings) == 7 * len(report.sites)


def test_k_and_v_swapped_in_a_fused_projection_are_caught(tmp_path):
    """The doctor trusts the resolved columns; the hand-made places of tests/families.py catch what it cannot."""
    FAMILIES["phi3"].build(tmp_path)
    model = gs.load_model(tmp_path)
    right = gs.sites_of(model)
    assert list(right["k"].columns) == FAMILIES["phi3"].where["k"][2]
    assert list(right["v"].columns) == FAMILIES["phi3"].where["v"][2]


def test_a_site_read_at_the_wrong_columns_is_not_healthy(tmp_path, monkeypatch):
    FAMILIES["phi3"].build(tmp_path)
    model = gs.load_model(tmp_path)
    part = sites.Site.part
    monkeypatch.setattr(
        sites.Site, "part", lambda self, whole: part(self, whole).flip(-1) if self.name == "k" else part(self, whole)
    )
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
        doctor.checks, "count", lambda gate, valid: (torch.zeros(3, gate.shape[-1]).long(), torch.zeros(3, gate.shape[-1]))
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
    site = sites.Site("q", ("a.q_proj",), "output", 4)
    report = doctor.Report("m", {"q": site}, (dataclasses.replace(finding), doctor.Finding("q", "counters", True, "")))
    assert not report.healthy and "q: scale failed: logits off by 1.0e+00 relative" in str(report)
