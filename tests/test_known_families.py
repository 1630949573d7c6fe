"""What `gatescope doctor --families` says of the families that transformers offers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from typer.testing import CliRunner

import gatescope as gs
from gatescope import doctor
from gatescope.cli import app
from gatescope.doctor.families import TESTED
from text_families import TEXT


def test_families_are_told_apart_by_what_is_known_of_them():
    names = ["llama", "lfm2", "mistral3", "gptj", "vicuna", "mamba", "bart", "mixtral", "xlnet", "git"]
    with pytest.raises(gs.GatescopeError, match="has no family 'vicuna' that writes text"):
        doctor.families(names, progress=False)
    names.remove("vicuna")
    found = {family.name: family for family in doctor.families([*names, "xglm", "olmoe", "deepseek_v3"], progress=False)}
    assert {name for name, family in found.items() if family.outcome == "tested"} == {
        "llama",
        "lfm2",
        "mistral3",
        "gptj",
        "xglm",
        "deepseek_v3",
    }
    assert {name for name, family in found.items() if family.outcome == "refused"} == {
        "mamba",
        "mixtral",
        "olmoe",
        "xlnet",
        "git",
    }
    assert found["bart"].outcome == "structure" and found["bart"].sites == ("gate_pre", "gate", "hidden", "q", "k", "v")
    assert found["deepseek_v3"].detail == "gate_pre gate up hidden in some layers only"
    assert found["mistral3"].pictures and found["mamba"].detail.startswith("backbone.layers.0 (MambaBlock) mixes tokens")
    assert "tokens on the first axis" in found["xlnet"].detail
    lines = doctor.table(found.values()).splitlines()
    assert lines[1].split() == ["llama", "text", "tested", "gate_pre", "gate", "up", "hidden", "q", "k", "v"]


def test_what_is_said_to_be_tested_is_what_the_suite_runs():
    """Those of pictures are in it where they are built (test_picture_families); each has its config in the suite."""
    assert {family.config().model_type for family in TEXT.values()} <= TESTED
    folder = Path(__file__).parent
    built = "".join(path.read_text(encoding="utf-8") for path in [*folder.glob("*families.py"), *folder.glob("picture_*.py")])
    built += Path(gs.organism.build.__file__).read_text(encoding="utf-8")
    for name in TESTED:
        parts = re.escape(CONFIG_MAPPING_NAMES[name].removesuffix("Config"))
        assert re.search(rf"\b{parts}(Config|For|\")", built), name
    readme = folder.parent.joinpath("README.md").read_text(encoding="utf-8")
    assert f"{len(TESTED)} families are tested" in readme
    documented = Path(__file__).parents[1].joinpath("docs/models-and-sites.md").read_text(encoding="utf-8")
    said = {line.split()[0] for line in documented.splitlines() if line.split()[2:3] == ["tested"]}
    assert said == set(TESTED)


def test_the_command_lists_families(monkeypatch):
    known = [doctor.Family("llama", False, "tested", ("gate",)), doctor.Family("mamba", False, "refused", (), "no MLP")]
    monkeypatch.setattr(doctor, "families", lambda: known)
    done = CliRunner().invoke(app, ["doctor", "--families", "--json"])
    assert [row["outcome"] for row in json.loads(done.output)] == ["tested", "refused"]
    both = CliRunner().invoke(app, ["doctor", "--families", "somewhere"])
    assert both.exit_code and "Give a model, or --random-weights with a config, or --families" in str(both.exception)
