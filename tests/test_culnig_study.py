"""CULNIG on the text organism: what carries culture is found, and nothing else is hurt."""

from __future__ import annotations

import subprocess
import sys
from functools import reduce
from operator import or_

import pytest
import torch

import gatescope as gs
from gatescope.culnig import matched_random, run_culnig


@pytest.fixture(scope="module")
def text():
    return gs.organism.text.load()


@pytest.fixture(scope="module")
def model(text):
    return gs.load_model(text.path)


def test_general_neurons_drop_culture_far_more_than_neutral_tasks_and_random_sets(text, model):
    known = reduce(or_, text.specific.values(), text.general)
    result = run_culnig(model, text.tasks, known=known, progress=False)
    full, general = result.accuracy["full"], result.accuracy["CULNIG-general"]
    assert full["culture"] - general["culture"] >= 50
    assert all(abs(full[task] - general[task]) <= 5 for task in ("reading", "copy", "larger"))
    mean, spread = result.random("culture")
    assert full["culture"] - mean <= 10 and general["culture"] < mean - 5 * spread - 20
    culture, neutral = result.against_random["culture"], result.against_random["copy"]
    assert culture.mean < 0.01 and culture.single < 0.01 < neutral.mean
    assert len([name for name in result.accuracy if name.startswith("random")]) == 10
    assert len(result.general) <= 9 and result.precision >= 0.6
    assert result.precision == pytest.approx(len(set(result.general) & set(known)) / len(result.general))
    own = result.effects["CULNIG-specific"].accuracy
    assert own.self_ < own.cross - 15


def test_excluding_the_reading_neurons_keeps_reading_intact(text, model):
    """At a tenth of the neurons suppression reaches those that reading needs, unless they are excluded."""
    result = run_culnig(model, text.tasks, mlp_rate=0.1, attention_rate=0.02, exclude_rate=0.1, progress=False)
    kept, lost = result.accuracy["CULNIG-general"]["reading"], result.accuracy["without exclusion"]["reading"]
    assert kept >= 95 and kept >= lost
    assert len(result.general) < len(result.unfiltered)
    assert result.accuracy["CULNIG-general"]["culture"] < 50


def test_random_sets_match_in_size_and_module():
    layout = gs.Layout.parse([["gate_pre", 3, 40], ["q", 3, 16], ["k", 3, 8]])
    neurons = gs.NeuronSet(layout, torch.tensor([0, 5, 60, 119, 120, 170]))
    drawn = [matched_random(neurons, seed) for seed in range(20)]
    for one in drawn:
        assert [int(one.mask(site).sum()) for site in ("gate_pre", "q", "k")] == [4, 1, 1]
    assert drawn[0] == matched_random(neurons, 0) and len({tuple(one.flat.tolist()) for one in drawn}) == 20


def test_the_command_prints_tasks_masks_and_random_sets(text):
    done = subprocess.run([sys.executable, "-m", "gatescope", "culnig"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for word in ("culture", "reading", "copy", "larger", "CULNIG-general", "without exclusion", "random (mean of 10)"):
        assert word in done.stdout
