"""Families that see pictures: whatever their towers and processors do, a batch of pictures of several sizes, several masks
side by side, gives what plain Transformers gives of one question at a time, under plain hooks.
"""

from __future__ import annotations

import contextlib
import dataclasses
from types import SimpleNamespace

import nnsight
import pytest
import torch
from transformers import AutoModelForImageTextToText, LogitsProcessor

import gatescope as gs
from gatescope.interventions.apply import side_by_side
from gatescope.traces import vision
from gatescope.traces.encoding import collate, placeholder_ids
from gatescope.traces.forced import force
from gatescope.traces.likelihood import answer_logprobs
from picture_families import PICTURES
from tiny import text_examples, varied_examples

pytestmark = pytest.mark.filterwarnings("ignore:.*has no chat template:UserWarning")
QUIET = {"progress": False, "batch_size": 4}
TOKENS = 3
OFF = {"gate": ("mlp.act_fn", "out", 2), "hidden": ("mlp.down_proj", "in", 3)}  # a site, its module, every how many neurons


@pytest.fixture(scope="module", params=list(PICTURES))
def case(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / request.param
    path.mkdir()
    PICTURES[request.param](path)
    model = gs.load_model(path)
    examples = [dataclasses.replace(e, labels=("A", "B", "C", "D")) for e in varied_examples(4)]
    plain = AutoModelForImageTextToText.from_pretrained(path).eval()
    blocks = "model.layers" if request.param == "chameleon" else "model.language_model.layers"
    return SimpleNamespace(name=request.param, model=model, plain=plain, blocks=plain.get_submodule(blocks), examples=examples)


def alone(case, example) -> dict:
    """One question, encoded by itself, without what is for training."""
    return {name: tensor for name, tensor in collate(case.model, [example]).inputs.items() if name != "labels"}


def mask_of(case, site: str) -> gs.Intervention:
    layout = gs.sites_of(case.model)[site].layout
    return gs.ablate(gs.NeuronSet(layout, torch.arange(0, layout.size, OFF[site][2]), {}))


@contextlib.contextmanager
def off(case, site: str | None):
    """The same neurons off, by plain hooks. A layer's width is a multiple of 2 and of 3."""
    handles = []
    for block in case.blocks if site is not None else ():
        name, io, every = OFF[str(site)]

        def zeroed(tensor, every=every):
            changed = tensor.clone()
            changed[..., ::every] = 0
            return changed

        part = block.get_submodule(name)
        if io == "out":
            handles.append(part.register_forward_hook(lambda _m, _i, out, zeroed=zeroed: zeroed(out)))
        else:
            handles.append(part.register_forward_pre_hook(lambda _m, given, zeroed=zeroed: (zeroed(given[0]),)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def generated(case, example, site=None, **more):
    settings = {"max_new_tokens": TOKENS, "do_sample": False, "pad_token_id": case.model.tokenizer.pad_token_id} | more
    inputs = alone(case, example)
    with torch.no_grad(), off(case, site):
        made = case.plain.generate(**inputs, **settings)
    ids = made if isinstance(made, torch.Tensor) else made.sequences
    return ids[0, inputs["input_ids"].shape[1] :], made


class Say(LogitsProcessor):
    """Has the model generate given tokens."""

    def __init__(self, prompt: int, ids: list[int]) -> None:
        self.prompt, self.ids = prompt, ids

    def __call__(self, input_ids, scores):
        said = torch.full_like(scores, -torch.inf)
        said[:, self.ids[input_ids.shape[1] - self.prompt]] = 0
        return said


def log_likelihood(case, example, ids: list[int], site=None) -> float:
    """log P of an answer as the model generates it: its own loop, its own marks, one token after the other."""
    prompt = alone(case, example)["input_ids"].shape[1]
    more = {"logits_processor": [Say(prompt, ids)], "output_logits": True, "return_dict_in_generate": True}
    _, made = generated(case, example, site, max_new_tokens=len(ids), min_new_tokens=len(ids), eos_token_id=None, **more)
    logs = [step[0].double().log_softmax(-1) for step in made.logits]
    return sum(log[token].item() for log, token in zip(logs, ids, strict=True))


def test_pictures_of_several_sizes_matter(case):
    """Else nothing below would tell a picture of one row from another's."""
    ids = [collate(case.model, [e]).inputs["input_ids"][0] for e in case.examples]
    assert len({e.picture().size for e in case.examples}) == 4 and len({len(i) for i in ids}) > 1
    inputs = alone(case, case.examples[0])
    other = inputs | {"pixel_values": -inputs["pixel_values"]}
    with torch.no_grad():
        logits = [case.plain(**each).logits[0, -1] for each in (inputs, other)]
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_counts_of_a_batch_are_those_of_its_questions_alone(case):
    """Of the prompt's tokens and of the generated ones, step by step."""
    options = {"only_correct": False, "readout": "generate", "max_new_tokens": TOKENS, **QUIET}
    found = gs.record_classes(case.model, case.examples, tokens=("all", "generated"), **options)
    shape = len(found["all"].groups), len(case.blocks), 48
    k = {name: torch.zeros(shape, dtype=torch.int64) for name in found}
    t = {name: torch.zeros(shape[0], dtype=torch.int64) for name in found}
    for example in case.examples:
        steps = [[] for _ in case.blocks]
        handles = [
            block.mlp.act_fn.register_forward_hook(lambda _m, _i, out, mine=mine: mine.append(out[0].clone()))
            for block, mine in zip(case.blocks, steps, strict=True)
        ]
        try:
            ids, _ = generated(case, example)
        finally:
            for handle in handles:
                handle.remove()
        token_mask = collate(case.model, [example]).token_mask[0]
        g = found["all"].groups.index(example.group)
        special = {i for i, token in case.model.tokenizer.added_tokens_decoder.items() if token.special}
        content = [i not in special for i in ids.tolist()]
        t["all"][g] += token_mask.sum()
        t["generated"][g] += sum(content[: len(steps[0]) - 1])
        for layer, outs in enumerate(steps):
            k["all"][g, layer] += (outs[0][token_mask] > 0).sum(0)
            for out, counts in zip(outs[1:], content, strict=False):
                k["generated"][g, layer] += (out[-1] > 0) * counts
    for name, counters in found.items():
        assert torch.equal(counters.T, t[name]), name
        assert torch.equal(counters.K, k[name]), name
    assert t["generated"].sum() > 0


def test_answers_side_by_side_are_those_of_plain_hooks_one_at_a_time(case):
    masks = {"gate": mask_of(case, "gate"), "hidden": mask_of(case, "hidden")}
    table = gs.sweep(case.model, case.examples, masks, readout="generate", max_new_tokens=TOKENS, **QUIET)
    texts = {}
    for site in (None, "gate", "hidden"):
        new = [generated(case, example, site)[0] for example in case.examples]
        texts[site] = [case.model.tokenizer.decode(ids, skip_special_tokens=True) for ids in new]
        assert [row.text for row in table.rows if row.mask == (site or "")] == texts[site], site
    assert texts[None] != texts["gate"] != texts["hidden"]


def test_logits_side_by_side_are_those_of_plain_hooks_one_at_a_time(case):
    batch = collate(case.model, case.examples)
    rows = vision.repeated(batch, 3, vision.features(case.model, batch))
    with torch.no_grad(), case.model.trace(**rows.inputs):
        side_by_side(case.model, [mask_of(case, "hidden"), None, mask_of(case, "gate")])
        logits = nnsight.save(case.model.output.logits[:, -1])
    for site, found in zip(("hidden", None, "gate"), logits.split(4), strict=True):
        for example, row in zip(case.examples, found, strict=True):
            with torch.no_grad(), off(case, site):
                expected = case.plain(**alone(case, example)).logits[0, -1]
            torch.testing.assert_close(row, expected, rtol=1e-3, atol=1e-3)


def test_log_likelihoods_are_those_of_the_models_own_generation(case):
    """Answers of several tokens, of several lengths, in one batch."""
    answers = [case.model.tokenizer(e.choices[1], add_special_tokens=False).input_ids for e in case.examples]
    assert min(map(len, answers)) > 1 and len(set(map(len, answers))) > 1
    inputs = force(case.model, collate(case.model, case.examples), answers)
    with torch.no_grad():
        found = answer_logprobs(case.plain(**inputs).logits[:, -max(map(len, answers)) :], answers)
    expected = [log_likelihood(case, e, ids) for e, ids in zip(case.examples, answers, strict=True)]
    torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-3)


def test_options_side_by_side_are_those_of_the_models_own_generation(case, readout="loglik"):
    examples = case.examples[:2]
    masks = {"gate": mask_of(case, "gate"), "hidden": mask_of(case, "hidden")}
    table = gs.sweep(case.model, examples, masks, readout=readout, **QUIET)
    tokenizer = case.model.tokenizer
    for site in (None, "hidden"):
        found = [row.text for row in table.rows if row.mask == (site or "")]
        for example, text in zip(examples, found, strict=True):
            options = example.labels if readout == "label" else example.choices
            ids = [tokenizer(option, add_special_tokens=False).input_ids for option in options]
            logs = [log_likelihood(case, example, each, site) for each in ids]
            assert text == options[logs.index(max(logs))], (site, logs)


def test_a_generated_placeholder_is_not_counted(case):
    """It stands for no picture. The model is made to generate nothing else."""
    placeholder = min(placeholder_ids(case.model) & set(range(len(case.model.tokenizer))))
    vocabulary = case.model._module.get_output_embeddings().weight.shape[0]
    if placeholder >= vocabulary:
        pytest.skip("the model has no logit for it")
    settings = case.model._module.generation_config
    settings.suppress_tokens = [i for i in range(vocabulary) if i != placeholder]
    options = {"only_correct": False, "readout": "generate", "max_new_tokens": TOKENS, **QUIET}
    try:
        with case.model.generate(**collate(case.model, case.examples[:1]).inputs, max_new_tokens=2) as tracer:
            ids = nnsight.save(tracer.result)
        counters = gs.record(case.model, case.examples, tokens="generated", **options)
    finally:
        settings.suppress_tokens = None
    if case.name != "chameleon":  # it forbids itself the placeholder, and generates another that is suppressed
        assert ids[0, -2:].tolist() == [placeholder] * 2
        assert counters.T.sum() == 0 and counters.K.sum() == 0


def test_what_is_for_training_does_not_go_into_the_model(case):
    assert "labels" not in collate(case.model, case.examples).inputs


def test_a_batch_of_pictures_and_none_is_encoded_or_refused_with_a_sentence(case):
    mixed = [case.examples[0], text_examples(each=1)[0], case.examples[1]]
    if case.name == "mllama":
        with pytest.raises(gs.GatescopeError, match="Ask those with pictures and those without apart"):
            collate(case.model, mixed)
        return
    batch = collate(case.model, mixed)
    with torch.no_grad():
        logits = case.model._module(**batch.inputs).logits[:, -1]
    for row in (0, 2):
        with torch.no_grad():
            expected = case.plain(**alone(case, mixed[row])).logits[0, -1]
        torch.testing.assert_close(logits[row], expected, rtol=1e-3, atol=1e-3)
    if case.name == "paligemma":
        with pytest.raises(gs.GatescopeError, match="PaliGemmaProcessor cannot encode 1 questions, 0 of them with a picture"):
            collate(case.model, mixed[1:2])
        return
    with torch.no_grad():
        expected = case.plain(**alone(case, mixed[1])).logits[0, -1]
    torch.testing.assert_close(logits[1], expected, rtol=1e-3, atol=1e-3)


def test_line_breaks_of_llava_onevision_do_not_count(case):
    """56x28 picture: tiles of 2x2 patches, a base view of 4, then 2 rows of 4 patches each followed by a line break."""
    if case.name != "llava-onevision":
        pytest.skip("another family")
    wide = gs.data.Example("w", "g", "What?", ("a", "b"), "a", case.examples[0].picture().resize((56, 28)))
    batch = collate(case.model, [wide])
    image = batch.inputs["input_ids"][0] == case.model.tokenizer.convert_tokens_to_ids("<image>")
    assert batch.token_mask[0][image].tolist() == [True] * 4 + [True] * 4 + [False] + [True] * 4 + [False]


def test_an_edited_copys_pictures_are_not_made_outside_its_edits(case):
    batch = collate(case.model, case.examples[:1])
    assert vision.features(mask_of(case, "gate").edit(case.model), batch) is None
