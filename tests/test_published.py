"""Neuron files of the papers' code are read in their order, written back, and refused when they are something else."""

from __future__ import annotations

import json
import pickle

import pytest
import torch

import gatescope as gs
from gatescope import published

LAYOUT = gs.Layout.parse([["gate_pre", 2, 6], ["q", 2, 4]])
GATE = gs.Layout.single("gate", 2, 6)


def test_culnigs_json(tmp_path):
    rows = [("self_attn.q_proj", 1, 3), ("mlp.gate_proj", 0, 5)]
    top = [{"module_name": m, "layer_idx": x, "neuron_idx": i, "attribute_score": 0.1} for m, x, i in rows]
    path = tmp_path / "all_neurons.json"
    path.write_text(json.dumps({"model_name": "m", "dataset_ids": {"blend": []}, "top_neurons": top}))
    found = published.read_culnig(path, LAYOUT, {"id": "m"})
    assert list(found) == [("q", 1, 3), ("gate_pre", 0, 5)] and found.model == {"id": "m"}
    published.write_culnig(tmp_path / "again.json", found)
    assert list(published.read_culnig(tmp_path / "again.json", LAYOUT)) == list(found)


def test_what_is_not_culnigs_json_is_named(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("{}")
    with pytest.raises(gs.GatescopeError, match="is not a neuron list of CULNIG's code: KeyError"):
        published.read_culnig(path, LAYOUT)
    path.write_text(json.dumps({"top_neurons": [{"module_name": "mlp.moe", "layer_idx": 0, "neuron_idx": 0}]}))
    with pytest.raises(gs.GatescopeError, match=r"names the module 'mlp.moe'; known are mlp.gate_proj"):
        published.read_culnig(path, LAYOUT)
    path.write_text(json.dumps({"top_neurons": [{"module_name": "mlp.gate_proj", "layer_idx": 2, "neuron_idx": 0}]}))
    with pytest.raises(gs.GatescopeError, match=r"No neuron \('gate_pre', 2, 0\)"):
        published.read_culnig(path, LAYOUT)
    with pytest.raises(gs.GatescopeError, match=r"no module for \['gate'\]"):
        published.write_culnig(path, gs.NeuronSet.of(GATE, [("gate", 0, 0)]))


def test_lapes_nested_lists(tmp_path):
    path = tmp_path / "lape.neuron.pth"
    torch.save([[torch.tensor([4, 1]), torch.tensor([], dtype=torch.long)], [torch.tensor([0]), torch.tensor([5, 2])]], path)
    found = published.read_lape(path, GATE, ["en", "zh"])
    assert list(found["en"]) == [("gate", 0, 4), ("gate", 0, 1)]
    assert list(found["zh"]) == [("gate", 0, 0), ("gate", 1, 5), ("gate", 1, 2)]
    published.write_lape(tmp_path / "again.pth", found)
    again = published.read_lape(tmp_path / "again.pth", GATE, ["en", "zh"])
    assert again == found


class Payload:
    def __reduce__(self):
        return (print, ("unpickled freely",))


def test_a_pth_is_never_unpickled_freely(tmp_path, capsys):
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps([Payload()]))
    with pytest.raises(gs.GatescopeError, match="cannot be read as LAPE's lists"):
        published.read_lape(path, GATE, ["en"])
    torch.save([Payload()], path)
    with pytest.raises(gs.GatescopeError, match="cannot be read as LAPE's lists"):
        published.read_lape(path, GATE, ["en"])
    assert "unpickled freely" not in capsys.readouterr().out


def test_lists_of_another_shape_are_refused(tmp_path):
    path = tmp_path / "lape.pth"
    torch.save([[torch.tensor([1])] * 3], path)
    with pytest.raises(
        gs.GatescopeError, match=r"holds 1 languages of \[3\] layers; 2 groups \(en, zh\) of 2 layers are wanted"
    ):
        published.read_lape(path, GATE, ["en", "zh"])
