"""The same neurons on a relative of the model they were found on: refused, unless it is allowed in words; both are named."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch

import gatescope as gs
from commands import gatescope
from gatescope.models.identity import identity
from tiny import text_examples, tiny_llama

ALLOWED = "same layout"


@pytest.fixture(scope="module")
def tuned_path(llama_path, tmp_path_factory):
    """The same model, trained a little further: another checkpoint of the same layout."""
    path = shutil.copytree(llama_path, tmp_path_factory.mktemp("tuned") / "tuned")
    model = gs.load_model(path)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model._module.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    model._module.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def tuned(tuned_path):
    return gs.load_model(tuned_path)


@pytest.fixture(scope="module")
def chosen(llama):
    """What was found on the base."""
    return gs.select.lap(gs.record(llama, text_examples(each=2), only_correct=False, progress=False), 0.1)


def named(model):
    card = identity(model)
    return f"{card['id']} weights {card['digest'][:12]}"


def test_neurons_of_a_relative_are_refused_with_how_to_allow_it(llama, tuned, chosen, tmp_path):
    chosen["north"].save(tmp_path / "north.safetensors")
    refused = (
        f"one model is {named(llama)}, the other {named(tuned)}. Neurons of one model mean nothing in another; select them "
        f"again with the model you want to use. If the two are relatives, such as a model and its fine-tune, allow it: "
        f"NeuronSet.load(path, for_model=model, allow='same layout'), neurons.used_on(model, allow='same layout'), or --allow "
        f"same-layout."
    )
    mask = gs.ablate(chosen["north"])
    tries = {
        f"use {tmp_path / 'north.safetensors'}": lambda: gs.NeuronSet.load(tmp_path / "north.safetensors", for_model=tuned),
        "use these neurons": lambda: chosen.used_on(tuned),
        "apply an intervention": lambda: gs.sweep(tuned, text_examples(each=1), {"north": mask}, progress=False),
        "bake an intervention": lambda: mask.baked(tuned).__enter__(),
    }
    for what, attempt in tries.items():
        with pytest.raises(gs.GatescopeError) as error:
            attempt()
        assert str(error.value) == f"Cannot {what}: {refused}"


def test_neurons_that_are_allowed_are_the_relative_s_and_name_both(llama, tuned, chosen, tmp_path):
    chosen["north"].save(tmp_path / "north.safetensors")
    theirs = gs.NeuronSet.load(tmp_path / "north.safetensors", for_model=tuned, allow=ALLOWED)
    assert theirs == chosen["north"] and theirs.model == identity(tuned)
    assert theirs.provenance == {**chosen["north"].provenance, "found on": named(llama), "used on": named(tuned)}
    theirs.save(tmp_path / "theirs.safetensors")
    assert gs.NeuronSet.load(tmp_path / "theirs.safetensors", for_model=tuned).provenance == theirs.provenance
    # On the model they were found on, nothing is said of another; and a plain module will do.
    assert gs.NeuronSet.load(tmp_path / "north.safetensors", for_model=llama, allow=ALLOWED).provenance == (
        chosen["north"].provenance
    )
    assert chosen["north"].used_on(tuned._module, allow=ALLOWED).model == identity(tuned)


def test_masks_of_a_relative_do_what_a_hook_on_it_does(tuned, chosen):
    inputs = tuned.tokenizer("Which of these is north?", return_tensors="pt")
    mask = gs.ablate(chosen["north"]).used_on(tuned, allow=ALLOWED)
    hooks = []
    for layer, index in chosen["north"].indices("gate").items():

        def off(module, arguments, output, index=index):
            output[..., index] = 0

        hooks.append(tuned._module.get_submodule(f"model.layers.{layer}.mlp.act_fn").register_forward_hook(off))
    with torch.no_grad():
        wanted = tuned._module(**inputs).logits
        for hook in hooks:
            hook.remove()
        unmasked = tuned._module(**inputs).logits
        with tuned.trace(**inputs):
            mask.apply(tuned)
            masked = tuned.output.logits.save()
        with mask.baked(tuned) as module:
            baked = module(**inputs).logits
    assert torch.equal(masked, wanted) and not torch.equal(wanted, unmasked)
    assert torch.allclose(baked, wanted, atol=1e-5)


def test_what_may_be_allowed_is_one_thing_and_needs_a_model_of_the_same_layout(llama, tuned, chosen, tmp_path):
    path = tmp_path / "north.safetensors"
    chosen["north"].save(path)
    with pytest.raises(gs.GatescopeError, match=r"^allow is 'yes'; it must be 'same layout'\.$"):
        gs.NeuronSet.load(path, for_model=tuned, allow="yes")
    with pytest.raises(gs.GatescopeError, match=r"^allow is True; it must be 'same layout'\.$"):
        gs.sweep(tuned, text_examples(each=1), gs.ablate(chosen), allow=True, progress=False)
    with pytest.raises(gs.GatescopeError, match=r"^allow='same layout' says what may be done on another model; give that"):
        gs.NeuronSet.load(path, allow=ALLOWED)
    with pytest.raises(gs.GatescopeError, match=r"^Neurons are used on a model, from gs.load_model; this is a str\.$"):
        chosen.used_on("tuned", allow=ALLOWED)
    shallow = gs.load_model(tiny_llama(tmp_path / "shallow", layers=2))
    with pytest.raises(gs.GatescopeError) as refused:
        chosen.used_on(shallow, allow=ALLOWED)
    assert str(refused.value) == (
        f"allow='same layout' needs two models with the same layout: {named(llama)} has gate [3 layers x 48], and "
        f"{named(shallow)} has gate [2 layers x 48]."
    )
    elsewhere = dataclasses.replace(chosen["north"], layout=gs.Layout.single("nowhere", 3, 48))
    with pytest.raises(gs.GatescopeError, match=r"The model has no site 'nowhere'"):
        elsewhere.used_on(tuned, allow=ALLOWED)


@pytest.fixture(scope="module")
def runs(llama, tuned, chosen, tmp_path_factory):
    """A sweep of the base, and one of its relative under the same neurons."""
    folder, examples = tmp_path_factory.mktemp("runs"), text_examples(each=2)
    gs.sweep(llama, examples, gs.ablate({"LAP": chosen}), run=folder / "base", max_new_tokens=1, progress=False)
    gs.open_run(folder / "base").add_selection(chosen)
    how = {"allow": ALLOWED, "run": folder / "tuned", "max_new_tokens": 1, "progress": False}
    table = gs.sweep(tuned, examples, gs.ablate({"LAP": chosen}), **how)
    gs.open_run(folder / "tuned").add_selection(chosen.used_on(tuned, allow=ALLOWED))
    return folder, table


def test_a_sweep_says_in_its_manifest_and_its_report_where_neurons_were_found(runs, llama, tuned, chosen):
    folder, table = runs
    run = gs.open_run(folder / "tuned")
    assert run.manifest["sweep"]["neurons_found_on"] == [named(llama)] and not run.verify()
    assert "neurons_found_on" not in gs.open_run(folder / "base").manifest["sweep"]
    ours = gs.sweep(tuned, text_examples(each=2), gs.ablate({"LAP": chosen.used_on(tuned, allow=ALLOWED)}), max_new_tokens=1)
    assert [row.plain() for row in ours.rows] == [row.plain() for row in table.rows]
    page = gs.report(folder / "tuned", figures=False).read_text()
    assert f"<dt>neurons found on</dt><dd>{named(llama)}</dd>" in page
    assert f"neurons found on {named(llama).rpartition('/')[2]}" in page and identity(tuned)["digest"] in page
    assert "neurons found on" not in gs.report(folder / "base", figures=False).read_text()


def test_a_comparison_shows_the_overlap_of_relatives_where_it_is_allowed(runs, llama, tuned, tmp_path):
    folder, _ = runs
    both = [folder / "base", folder / "tuned"]
    before = gs.compare(both, tmp_path / "plain.html").read_text()
    assert "no group in common" in before and "as was allowed" not in before
    after = gs.compare(both, tmp_path / "allowed.html", allow=ALLOWED).read_text()
    assert "no group in common" not in after
    assert f"Neurons of different models are compared by their numbers, as was allowed (same layout): {named(llama)}" in after
    assert f", neurons found on {named(llama).rpartition('/')[2]}" in after
    with pytest.raises(gs.GatescopeError, match=r"^allow is 'no'; it must be 'same layout'"):
        gs.compare(both, tmp_path / "no.html", allow="no")


def test_the_command_line_uses_another_run_s_neurons_where_it_is_allowed(runs, tuned_path, llama, chosen, tmp_path):
    folder, _ = runs
    (tmp_path / "q.jsonl").write_text(
        "".join(
            f'{{"id": "{g}{n}", "group": "{g}", "question": "Q{n}", "choices": ["x", "y"], "answer": "x"}}\n'
            for g in ("north", "south")
            for n in range(2)
        )
    )
    asked = ("--model", tuned_path, "--data", tmp_path / "q.jsonl", "--max-new-tokens", 1)
    allowed = ("--neurons", folder / "base", "--allow", "same-layout")
    done = gatescope("sweep", *asked, "--run", tmp_path / "run", *allowed)
    assert done.returncode == 0, done.stderr
    run = gs.open_run(tmp_path / "run")
    assert run.manifest["sweep"]["neurons_found_on"] == [named(llama)]
    assert dict(run.selections["LAP"]) == dict(chosen) and "found on" in run.selections["LAP"]["north"].provenance
    chosen["north"].save(tmp_path / "north.safetensors")
    bake = ("bake", "--model", tuned_path, "--mask", tmp_path / "north.safetensors", "--out", tmp_path / "baked")
    for arguments, message in {
        ("sweep", *asked, "--run", tmp_path / "other", *allowed[:2]): "gatescope: Cannot use these neurons: one model is",
        ("sweep", *asked, "--run", tmp_path / "other", *allowed[2:]): "gatescope: --allow is for the neurons of another run",
        ("sweep", *asked, "--run", tmp_path / "other", *allowed[:3], "yes"): "gatescope: --allow is 'yes'; it must be 'same-",
        ("report", folder / "base", "--allow", "same-layout"): "gatescope: --allow is for a comparison of several runs",
        bake: f"gatescope: Cannot use {tmp_path / 'north.safetensors'}: one model is",
    }.items():
        done = gatescope(*arguments)
        assert done.returncode == 2 and message in done.stderr, done.stderr
    assert not (tmp_path / "other").exists()
    assert gatescope(*bake, "--allow", "same-layout").returncode == 0
    assert gs.baked_from(tmp_path / "baked").neurons.provenance["found on"] == named(llama)
