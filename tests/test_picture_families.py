"""Families that see pictures: whatever their towers and processors do, rows of one batch with large pictures, small ones and
none, several masks side by side, give what plain Transformers gives of one question at a time, under plain hooks.

A question alone is encoded as a user of Transformers would, and its model is the one that was written to the directory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from types import SimpleNamespace

import nnsight
import pytest
import torch
from transformers import GenerationMixin, LogitsProcessor

import gatescope as gs
from gatescope.doctor.families import TESTED
from gatescope.interventions.apply import masks_of, side_by_side
from gatescope.traces import vision
from gatescope.traces.batch import READOUTS
from gatescope.traces.encoding import collate, placeholder_ids
from gatescope.traces.readouts.base import Asking
from picture_families import PICTURES
from picture_parts import questions

pytestmark = pytest.mark.filterwarnings("ignore:.*has no chat template:UserWarning")
QUIET = {"progress": False, "batch_size": 3}
GENERATED = {"only_correct": False, "readout": "generate", "max_new_tokens": 3, **QUIET}
GREEDY = {"max_new_tokens": 3, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
PICTURED_ONLY = ("paligemma", "paligemma2", "mllama")  # do not take a batch of pictures and none
BLOCKS = {"chameleon": "model.layers", **dict.fromkeys(("idefics2", "idefics3", "smolvlm"), "model.text_model.layers")}
NEEDS = {"gemma3n": "timm", "perception-lm": "timm", "smolvlm": "num2words"}  # beside transformers
# Gemma 4's last layers, which share keys and values, compute the last token alone if they are told a number, as generate does.
WHOLE = {"gemma4-e2b": {"logits_to_keep": [-1]}}
ACTIVATION = {"glm4v": "mlp.activation_fn"}


def built(name: str, path) -> SimpleNamespace:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    path.mkdir()
    plain = PICTURES[name](path)
    examples = [e for e in questions() if e.image is not None or name not in PICTURED_ONLY]
    case = SimpleNamespace(name=name, model=gs.load_model(path), plain=plain, examples=examples)
    case.blocks = plain.get_submodule(BLOCKS.get(name, "model.language_model.layers"))
    # A site, its module in a block, every how many neurons are off.
    case.sites = {"gate": (ACTIVATION.get(name, "mlp.act_fn"), "out", 2), "hidden": ("mlp.down_proj", "in", 3)}
    case.inputs = [alone(case, example) for example in examples]
    case.runs = {site: [generated(case, inputs, site) for inputs in case.inputs] for site in (None, "gate", "hidden")}
    return case


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Each family, built once for all its tests, when one asks for it."""
    path = tmp_path_factory.mktemp("pictures")
    return functools.cache(lambda name: built(name, path / name))


@pytest.fixture(params=list(PICTURES))
def case(request, cases):
    return cases(request.param)


def alone(case, example) -> dict:
    """One question, as a user of Transformers would encode it."""
    processor = case.model.processor
    given = [] if example.image is None else [{"type": "image", "image": example.picture()}]
    if processor.chat_template:
        turn = {"role": "user", "content": [*given, {"type": "text", "text": example.prompt}]}
        options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
        return dict(processor.apply_chat_template([turn], **options))
    text, images = (f"<image>\n{example.prompt}", [example.picture()]) if given else (example.prompt, None)
    inputs = dict(processor(text=[text], images=images, return_tensors="pt"))
    return {name: tensor for name, tensor in inputs.items() if name != "labels"}


@contextlib.contextmanager
def hooked(case, change):
    """Call `change` with each site's name, layer, and tensor; what it returns takes the tensor's place."""
    handles = []
    for layer, block in enumerate(case.blocks):
        for site, (name, io, _) in case.sites.items():

            def hook(_module, given, *out, site=site, layer=layer):
                new = change(site, layer, out[0] if out else given[0])
                return new if new is None or out else (new,)

            part = block.get_submodule(name)
            handles.append(part.register_forward_hook(hook) if io == "out" else part.register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def generated(case, inputs, off=None, **more):
    """What one question's model generates with a site's neurons off; and what its gates did at each step."""
    gates = [[] for _ in case.blocks]

    def change(site, layer, tensor):
        if site == "gate":
            gates[layer].append(tensor[0].detach().clone())
        if site == off:
            tensor = tensor.clone()
            tensor[..., :: case.sites[site][2]] = 0
        return tensor

    settings = GREEDY | {"pad_token_id": case.model.tokenizer.pad_token_id} | WHOLE.get(case.name, {}) | more
    with torch.no_grad(), hooked(case, change):
        made = GenerationMixin.generate(case.plain, **inputs, **settings)  # Janus's own leaves logits processors out
    logits = torch.stack([step[0] for step in made.logits])
    return SimpleNamespace(ids=made.sequences[0, inputs["input_ids"].shape[1] :], logits=logits, gates=gates)


def ablated(case, site: str) -> gs.Intervention:
    """Every second or third neuron of each layer: the widths are multiples of both."""
    layout = gs.sites_of(case.model)[site].layout
    return gs.ablate(gs.NeuronSet(layout, torch.arange(0, layout.size, case.sites[site][2]), {}))


def test_pictures_of_several_sizes_matter(case):
    """Else nothing below would tell a picture of one row from another's."""
    assert case.plain.config.model_type in TESTED
    for inputs, run in zip(case.inputs, case.runs[None], strict=True):
        if "pixel_values" in inputs:
            other = inputs | {"pixel_values": -inputs["pixel_values"]}
            with torch.no_grad():
                assert (case.plain(**other).logits[0, -1] - run.logits[0]).abs().max() > 1e-3


def test_counts_of_a_batch_are_those_of_its_questions_alone(case):
    """Of the prompt's tokens and of the generated ones, step by step."""
    found = gs.record_classes(case.model, case.examples, tokens=("all", "generated"), **GENERATED)
    special = {i for i, token in case.model.tokenizer.added_tokens_decoder.items() if token.special}
    for row, (example, run) in enumerate(zip(case.examples, case.runs[None], strict=True)):
        content = torch.tensor([i not in special for i in run.ids.tolist()[: len(run.gates[0]) - 1]])
        counted = {"all": collate(case.model, [example]).token_mask[0], "generated": content}
        for name, counters in found.items():
            assert counters.T[row] == counted[name].sum(), name
            steps = [outs[:1] if name == "all" else [out[-1:] for out in outs[1:]] for outs in run.gates]
            acts = [torch.cat(outs)[counted[name]] if outs else torch.zeros(0, 48) for outs in steps]
            assert torch.equal(counters.K[row].flatten(), torch.cat([(a > 0).sum(0) for a in acts])), name
            expected = torch.cat([a.double().clamp(min=0).sum(0) for a in acts])
            torch.testing.assert_close(counters.S[row].flatten(), expected, rtol=1e-4, atol=1e-4)
    assert found["all"].T.min() > 5 and found["generated"].T.sum() > 0


def test_answers_side_by_side_are_those_of_plain_hooks_one_at_a_time(case):
    masks = {site: ablated(case, site) for site in case.sites}
    table = gs.sweep(case.model, case.examples, masks, readout="generate", max_new_tokens=3, **QUIET)
    texts = {
        site: [case.model.tokenizer.decode(run.ids, skip_special_tokens=True) for run in runs]
        for site, runs in case.runs.items()
    }
    assert texts[None] != texts["gate"] != texts["hidden"], "masks that change no answer prove nothing"
    for site, expected in texts.items():
        assert [row.text for row in table.rows if row.mask == (site or "")] == expected, site


def test_logits_side_by_side_are_those_of_plain_hooks_one_at_a_time(case):
    batch = collate(case.model, case.examples)
    rows = vision.repeated(batch, 3, vision.features(case.model, batch))
    with torch.no_grad(), case.model.trace(**rows.inputs):
        side_by_side(case.model, [ablated(case, "hidden"), None, ablated(case, "gate")])
        logits = nnsight.save(case.model.output.logits[:, -1])
    for site, found in zip(("hidden", None, "gate"), logits.split(len(case.examples)), strict=True):
        expected = torch.stack([run.logits[0] for run in case.runs[site]])
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


class Say(LogitsProcessor):
    """Has the model generate given tokens."""

    def __init__(self, prompt: int, ids: list[int]) -> None:
        self.prompt, self.ids = prompt, ids

    def __call__(self, input_ids, scores):
        said = torch.full_like(scores, -torch.inf)
        said[:, self.ids[input_ids.shape[1] - self.prompt]] = 0
        return said


def log_likelihood(case, inputs, ids: list[int], off) -> float:
    """log P of an answer as the model generates it: its own loop, its own marks, one token after the other."""
    length = {"max_new_tokens": len(ids), "min_new_tokens": len(ids), "eos_token_id": None}
    run = generated(case, inputs, off, logits_processor=[Say(inputs["input_ids"].shape[1], ids)], **length)
    return run.logits.double().log_softmax(-1).gather(-1, torch.tensor(ids)[:, None]).sum().item()


def test_log_likelihoods_of_options_are_those_of_the_models_own_generation(case):
    """Of several tokens, of several lengths, in one batch, with neurons off beside the model left alone."""
    batch = collate(case.model, case.examples)
    rows = vision.repeated(batch, 2, vision.features(case.model, batch))
    asking = Asking(masks_of(case.model, [None, ablated(case, "hidden")]), None, 3)
    free, masked = torch.stack(READOUTS["loglik"].put(case.model, rows, asking)[0]).double().chunk(2)
    expected = []
    for example, inputs in zip(case.examples, case.inputs, strict=True):
        ids = [case.model.tokenizer(choice, add_special_tokens=False).input_ids for choice in example.choices]
        assert 1 < len(ids[0]) < len(ids[1])
        expected.append([log_likelihood(case, inputs, each, "hidden") for each in ids])
    torch.testing.assert_close(masked, torch.tensor(expected).double(), rtol=1e-4, atol=1e-3)
    assert (free - masked).abs().max() > 0.01


def test_attributions_are_those_of_plain_gradients_one_at_a_time(case):
    """Of an answer of one token: the next."""
    examples = [dataclasses.replace(example, choices=("a", "b"), answer="a") for example in case.examples]
    found = gs.attribute(case.model, examples, sites=("gate", "hidden"), **QUIET)
    token = case.model.tokenizer("a", add_special_tokens=False).input_ids[0]
    for row, inputs in enumerate(case.inputs):
        acts: dict[tuple[str, int], torch.Tensor] = {}

        def keep(site, layer, tensor, acts=acts):
            acts[site, layer] = tensor

        with torch.enable_grad(), hooked(case, keep):
            probability = case.plain(**inputs).logits[0, -1].softmax(-1)[token]
        gradients = torch.autograd.grad(probability, list(acts.values()))
        scores = {at: (a[0] * g[0]).amax(0) for (at, a), g in zip(acts.items(), gradients, strict=True)}
        expected = probability * torch.cat([scores[site, layer] for site in case.sites for layer in range(len(case.blocks))])
        scale = expected.abs().max()
        assert scale > 0 and (found.sums[row] - expected).abs().max() < 1e-3 * scale


def test_a_generated_placeholder_is_not_counted(cases):
    """It stands for no picture. The model is made to generate nothing else."""
    model, examples = cases("llava").model, cases("llava").examples
    (placeholder,) = placeholder_ids(model)
    settings = model._module.generation_config
    settings.suppress_tokens = [i for i in range(len(model.tokenizer)) if i != placeholder]
    try:
        counters = gs.record_classes(model, examples[:1], tokens=("image", "generated"), **GENERATED)
    finally:
        settings.suppress_tokens = None
    assert counters["image"].T.tolist() == [4]  # four patches
    assert counters["generated"].T.sum() == 0 and counters["generated"].K.sum() == 0


def test_an_answer_made_of_nan_is_none_where_a_models_own_generation_leaves_processors_out(cases):
    """As Janus's does: a processor is how gatescope sees NaN."""
    model, examples = cases("janus").model, cases("janus").examples
    layer = model._module.model.language_model.layers[1].mlp.down_proj
    kept = layer.weight.data.clone()
    layer.weight.data[0, 1] = torch.nan  # neuron 1, which the mask leaves on
    try:
        with pytest.raises(gs.GatescopeError, match="NaN"):
            gs.sweep(model, examples, {"gate": ablated(cases("janus"), "gate")}, readout="generate", max_new_tokens=1, **QUIET)
    finally:
        layer.weight.data.copy_(kept)


@pytest.mark.parametrize("name", PICTURED_ONLY)
def test_what_is_for_training_does_not_go_into_the_model(cases, name):
    assert "labels" not in collate(cases(name).model, cases(name).examples).inputs


def test_a_batch_that_a_model_cannot_take_is_refused_with_a_sentence(cases):
    """Pictures and none together for one, no picture at all for another."""
    pictured, text, _ = questions()
    with pytest.raises(gs.GatescopeError, match="Ask those with pictures and those without apart"):
        collate(cases("mllama").model, [pictured, text])
    with pytest.raises(gs.GatescopeError, match="PaliGemmaProcessor cannot encode 1 questions, 0 of them with a picture"):
        collate(cases("paligemma").model, [text])


def test_line_breaks_of_llava_onevision_do_not_count(cases):
    """56x28 picture: tiles of 2x2 patches, a base view of 4, then 2 rows of 4 patches each followed by a line break."""
    case = cases("llava-onevision")
    wide = dataclasses.replace(case.examples[0], image=case.examples[0].picture().resize((56, 28)))
    batch = collate(case.model, [wide])
    image = batch.inputs["input_ids"][0] == case.model.tokenizer.convert_tokens_to_ids("<image>")
    assert batch.token_mask[0][image].tolist() == [True] * 4 + [True] * 4 + [False] + [True] * 4 + [False]


def test_an_edited_copys_pictures_are_not_made_outside_its_edits(cases):
    case = cases("llava")
    batch = collate(case.model, case.examples[:1])
    assert vision.features(case.model, batch) is not None
    assert vision.features(ablated(case, "gate").edit(case.model), batch) is None
