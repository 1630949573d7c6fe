"""Attributions equal an independent plain-hook computation, one example at a time, on every family."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import gatescope as gs
from families import FAMILIES
from gatescope.kernels.eager import attribution
from gatescope.models.identity import identity
from gatescope.traces.encoding import collate
from gatescope.traces.labels import answer_tokens
from oracles.attribution import scores
from tiny import letter_examples, text_examples


@pytest.fixture(scope="session")
def family(request, tmp_path_factory):
    """(name, Family, path, loaded model)"""
    name = request.param
    path = tmp_path_factory.mktemp("families") / name
    FAMILIES[name].build(path)
    return name, FAMILIES[name], path, gs.load_model(path)


def questions(model, count=3):
    """Labelled questions of unequal length, with pictures of unequal size where the model takes them; a group each."""
    found = letter_examples(("north",), count, image=model.processor is not None and model.processor.chat_template is not None)
    return [
        dataclasses.replace(
            e, group=e.id, question=e.question + " Think." * i, labels=("k", "b", "d", "l"), answer=e.choices[i]
        )
        for i, e in enumerate(found)
    ]


def expected(family, examples, reduce="max"):
    _, spec, path, model = family
    plain = spec.auto.from_pretrained(path).eval()
    rows = []
    for example in examples:
        inputs = collate(model, [example]).inputs
        answer = answer_tokens(model, example)
        if len(answer) > 1:
            more = torch.tensor([answer[:-1]])
            inputs = {**inputs, "input_ids": torch.cat([inputs["input_ids"], more], 1)}
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        rows.append(scores(plain, spec.blocks, spec.where, inputs, answer, reduce)[1])
    return {site: torch.stack([row[site] for row in rows]) for site in spec.where}


def assert_same(found, wanted):
    for site, table in wanted.items():
        difference = (found.site(site) - table).abs().max().item()
        assert difference < 1e-8, (site, difference)
        assert difference < 1e-3 * table.abs().max().item(), (site, "scores are too small to tell")


@pytest.mark.parametrize("family", FAMILIES, indirect=True)
@pytest.mark.parametrize("reduce", ["max", "mean"])
def test_attributions_equal_plain_hooks_one_example_at_a_time(family, reduce):
    _, spec, _, model = family
    examples = questions(model)
    found = gs.attribute(model, examples, sites=tuple(spec.where), reduce=reduce, batch_size=3, progress=False)
    assert_same(found, expected(family, examples, reduce))
    assert found.groups == tuple(e.id for e in examples) and found.seen.tolist() == [1, 1, 1] and found.items == 3


@pytest.mark.parametrize("family", ["qwen3", "gpt2"], indirect=True)
def test_answers_of_several_tokens_are_forced_one_after_the_other(family):
    _, spec, _, model = family
    examples = [dataclasses.replace(e, group=e.id) for e in text_examples(groups=("north",), each=2)]
    assert {len(answer_tokens(model, e)) for e in examples} == {7}
    examples[0] = dataclasses.replace(examples[0], choices=("kite", "boat"), answer="kite")  # 4 tokens
    found = gs.attribute(model, examples, sites=tuple(spec.where), batch_size=2, progress=False)
    wanted = expected(family, examples)
    for site, table in wanted.items():
        torch.testing.assert_close(found.site(site).float(), table, rtol=2e-3, atol=1e-3 * table.abs().max().item())


@pytest.mark.parametrize("family", ["qwen3", "phi3"], indirect=True)
def test_scores_agree_with_finite_differences(family):
    """The sum over tokens of a * dP/da is how P changes as a neuron is scaled at every token."""
    _, spec, path, _ = family
    model = gs.load_model(path, dtype=torch.float64)
    example = questions(model, 1)[0]
    found = gs.attribute(model, [example], sites=tuple(spec.where), reduce="mean", progress=False)
    plain = spec.auto.from_pretrained(path).double().eval()
    inputs = collate(model, [example]).inputs
    token = answer_tokens(model, example)[0]
    length = inputs["input_ids"].shape[1]

    def probability(site, layer, index, factor):
        path_in_block, io, columns = spec.where[site]
        part = plain.get_submodule(spec.blocks)[layer].get_submodule(path_in_block)
        column = index if columns is None else columns[index]

        def scaled(tensor):
            change = torch.ones(tensor.shape[-1], dtype=tensor.dtype)
            change[column] = factor
            return tensor * change

        if io == "in":
            handle = part.register_forward_pre_hook(lambda _m, args: (scaled(args[0]), *args[1:]))
        else:
            handle = part.register_forward_hook(lambda _m, _i, out: scaled(out))
        with torch.no_grad():
            p = plain(**inputs).logits[0, -1].softmax(-1)[token].item()
        handle.remove()
        return p

    whole = probability("gate", 0, 0, 1.0)
    for site in spec.where:
        table = found.site(site)[0]
        strongest = table.abs().flatten().argsort(descending=True)[:3].tolist()
        for flat in strongest:
            layer, index = divmod(flat, table.shape[1])
            near, far = (probability(site, layer, index, 1 + h) - probability(site, layer, index, 1 - h) for h in (0.02, 0.04))
            slope = (8 * near - far) / 0.24  # central differences to fourth order: norms round to float32 inside
            assert found.site(site)[0, layer, index].item() * length == pytest.approx(whole * slope, rel=1e-3)


def with_biases(module):
    """The model with biases as training leaves them; those of a fresh one are all zero."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(0, 0.5, generator=generator)
    return module


@pytest.mark.parametrize("family", ["qwen2", "phi3", "gpt2"], indirect=True)
def test_norm_is_the_inner_product_of_weight_row_and_weight_gradient(family):
    """Against real weight gradients (CULNIG, appendix I); qwen2 and gpt2 have biases, which are no part of the row."""
    name, spec, path, model = family
    sites = ("gate_pre", "q", "k", "v")
    plain = with_biases(spec.auto.from_pretrained(path)).eval().requires_grad_(True)
    model = gs.load_model(with_biases(spec.auto.from_pretrained(path)), tokenizer=model.tokenizer)
    assert all(b.abs().min() > 0 for n, b in plain.named_parameters() if n.endswith("bias"))
    examples = questions(model)
    found = gs.attribute(model, examples, sites=sites, reduce="norm", batch_size=3, progress=False)
    projections = {
        "qwen2": {"gate_pre": "mlp.gate_proj", "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj"},
        "phi3": {"gate_pre": "mlp.gate_up_proj"} | dict.fromkeys("qkv", "self_attn.qkv_proj"),
        "gpt2": {"gate_pre": "mlp.c_fc"} | dict.fromkeys("qkv", "attn.c_attn"),
    }[name]
    for row, example in enumerate(examples):
        plain.zero_grad()
        inputs = collate(model, [example]).inputs
        p = plain(**inputs).logits[0, -1].softmax(-1)[answer_tokens(model, example)[0]]
        p.backward()
        for site, projection in projections.items():
            for layer, block in enumerate(plain.get_submodule(spec.blocks)):
                weight = block.get_submodule(projection).weight
                inner = weight.detach() * weight.grad
                inner = inner.sum(0) if name == "gpt2" else inner.sum(1)  # Conv1D keeps neurons in columns
                columns = spec.where[site][2] or range(found.site(site).shape[-1])
                wanted = p.item() * inner[list(columns)]
                given, scale = found.site(site)[row, layer].float(), wanted.abs().max().item()
                assert scale > 0
                torch.testing.assert_close(given, wanted, rtol=1e-3, atol=1e-3 * scale)


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory):
    path = tmp_path_factory.mktemp("qwen3")
    FAMILIES["qwen3"].build(path)
    return gs.load_model(path)


def test_groups_and_batches_only_add_up(qwen3):
    examples = [dataclasses.replace(e, group=g) for e, g in zip(questions(qwen3, 4), "abab", strict=True)]
    whole = gs.attribute(qwen3, examples, batch_size=4, progress=False)
    for size in (1, 3):
        again = gs.attribute(qwen3, examples, batch_size=size, progress=False)
        torch.testing.assert_close(again.sums, whole.sums, rtol=1e-4, atol=1e-9)
    alone = [gs.attribute(qwen3, [e], progress=False) for e in examples]
    torch.testing.assert_close(whole.sums[0], alone[0].sums[0] + alone[2].sums[0], rtol=1e-4, atol=1e-9)
    clamped = sum(a.sums[0].clamp(min=0) for a in (alone[1], alone[3]))
    torch.testing.assert_close(whole.clamped[1], clamped, rtol=1e-4, atol=1e-9)
    assert whole.seen.tolist() == [2, 2]


def test_shards_only_add_up(qwen3):
    """Three shards, the last one shorter, against every example alone; of means, which are negative as often as not."""
    examples = [dataclasses.replace(e, group=g) for e, g in zip(questions(qwen3, 4) * 2, "babaabab", strict=True)][:5]
    found = gs.attribute(qwen3, examples, reduce="mean", batch_size=1, shard_size=2, progress=False)
    alone = [gs.attribute(qwen3, [e], reduce="mean", progress=False).sums[0] for e in examples]
    assert found.groups == ("b", "a") and found.seen.tolist() == [2, 3]
    assert all(0.2 < (one < 0).double().mean() < 0.8 for one in alone)
    for part, each in (("sums", alone), ("clamped", [one.clamp(min=0) for one in alone])):
        wanted = torch.stack([each[0] + each[2], each[1] + each[3] + each[4]])
        torch.testing.assert_close(getattr(found, part), wanted, rtol=1e-9, atol=1e-9 * wanted.abs().max().item())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pad_zero": True}, r'was started \(attribute\) with pad_zero "False", and this is pad_zero "True"'),
        ({"reduce": "mean"}, 'with reduce "max", and this is reduce "mean"'),
        ({"sites": ("gate",)}, 'with sites "gate_pre,q,k,v", and this is sites "gate"'),
        ({"attention": "eager"}, 'with attention "sdpa", and this is attention "eager"'),
        ({"question": "Else?"}, "with other examples"),
    ],
)
def test_a_run_is_continued_with_what_it_was_begun_with_only(qwen3, tmp_path, change, message):
    def run(question="Which?", attention="sdpa", **options):
        examples = [dataclasses.replace(e, question=question) for e in questions(qwen3, 2)]
        qwen3._module.set_attn_implementation(attention)
        try:
            return gs.attribute(qwen3, examples, run=tmp_path / "run", progress=False, **options)
        finally:
            qwen3._module.set_attn_implementation("sdpa")

    before = run()
    assert (before.provenance["pad_zero"], before.provenance["reduce"], before.provenance["attention"]) == (
        "False",
        "max",
        "sdpa",
    )
    with pytest.raises(gs.GatescopeError, match=message):
        run(**change)


def test_a_run_keeps_several_attributions_by_their_names(qwen3, tmp_path):
    examples = questions(qwen3, 3)
    whole = gs.attribute(qwen3, examples, run=tmp_path / "run", progress=False)
    control = gs.attribute(qwen3, examples[1:], run=tmp_path / "run", name="control", progress=False)
    found = gs.open_run(tmp_path / "run").attributions
    assert set(found) == {"", "control"}
    assert torch.equal(found[""].sums, whole.sums) and torch.equal(found["control"].sums, control.sums)
    assert found["control"].groups == tuple(e.id for e in examples[1:])


def test_variants_of_one_item_count_once(qwen3):
    examples = [dataclasses.replace(e, item=f"item{i // 2}") for i, e in enumerate(questions(qwen3, 3))]
    assert gs.attribute(qwen3, examples, progress=False).items == 2


def test_the_reductions_by_hand():
    activation = torch.tensor([[[9.0, 9.0], [2.0, -1.0], [1.0, -3.0]]])
    gradient = torch.tensor([[[9.0, 9.0], [3.0, 1.0], [-5.0, 2.0]]])
    real = torch.tensor([[False, True, True]])  # products of real tokens: 6 and -5; -1 and -6
    assert attribution(activation, gradient, real, "max").tolist() == [[6.0, -1.0]]
    assert attribution(activation, gradient, real, "max", pad_zero=True).tolist() == [[6.0, 0.0]]
    assert attribution(activation, gradient, real, "mean").tolist() == [[0.5, -3.5]]
    assert attribution(activation, gradient, real, "sum").tolist() == [[1.0, -7.0]]


def test_padding_counts_as_zero_only_if_asked(qwen3):
    asked = zip(questions(qwen3, 2), ("A?", "And which letter is it?"), strict=True)
    examples = [dataclasses.replace(e, prompt=prompt) for e, prompt in asked]  # short: of many tokens one is above 0 anyway
    real = gs.attribute(qwen3, examples, batch_size=2, progress=False)
    code = gs.attribute(qwen3, examples, batch_size=2, pad_zero=True, progress=False)
    shorter = 0  # padded
    assert (real.sums[shorter] < 0).any()
    assert torch.equal(code.sums[shorter], real.sums[shorter].clamp(min=0))
    assert torch.equal(code.sums[1], real.sums[1])


def test_bf16_weights_are_scored_in_float32(tmp_path):
    FAMILIES["qwen3"].build(tmp_path)
    half = gs.load_model(tmp_path, dtype=torch.bfloat16)
    found = gs.attribute(half, questions(half), progress=False)
    full = gs.attribute(gs.load_model(tmp_path), questions(half), progress=False)
    correlation = torch.corrcoef(torch.stack([found.sums.flatten(), full.sums.flatten()]))[0, 1]
    assert found.model["dtype"] == "bfloat16" and correlation > 0.98
    assert found.model["digest"] == full.model["digest"]


def test_no_weight_gradient_is_left_and_the_graph_starts_at_the_embeddings(qwen3):
    gs.attribute(qwen3, questions(qwen3), progress=False)
    assert all(p.grad is None and not p.requires_grad for p in qwen3._module.parameters())


def test_train_mode_is_put_in_eval_and_back_with_a_note(qwen3):
    before = gs.attribute(qwen3, questions(qwen3), progress=False)
    qwen3._module.train()
    try:
        with pytest.warns(UserWarning, match="was in train mode; it is scored in eval mode and put back"):
            again = gs.attribute(qwen3, questions(qwen3), progress=False)
        assert qwen3._module.training and qwen3._module.model.layers[0].training
    finally:
        qwen3._module.eval()
    assert torch.equal(before.sums, again.sums)


@pytest.mark.parametrize("family", ["gpt2"], indirect=True)
def test_dropout_plays_no_part_and_every_module_keeps_its_own_mode(family):
    """GPT-2 drops a tenth of its activations in train mode; here one block of it is in train mode, and stays so."""
    model = family[3]
    examples = questions(model)
    before = gs.attribute(model, examples, progress=False)
    block = model._module.transformer.h[1].train()
    assert any(part.p > 0 for part in block.modules() if isinstance(part, torch.nn.Dropout))
    training = {name for name, part in model._module.named_modules() if part.training}
    try:
        with pytest.warns(UserWarning, match="scored in eval mode"):
            again = gs.attribute(model, examples, progress=False)
        assert {name for name, part in model._module.named_modules() if part.training} == training
    finally:
        model._module.eval()
    assert torch.equal(before.sums, again.sums)


def test_labels_are_looked_up_without_a_copy_of_the_vocabulary(llama, monkeypatch):
    """A copy of 151,000 entries takes tenths of a second; there may be one label, or four, for each of 25,000 examples."""
    named = [dataclasses.replace(e, labels=("A", "B", "C", "D")) for e in text_examples(each=1)]

    def copied(*_):
        raise AssertionError("the vocabulary was copied")

    monkeypatch.setattr(type(llama.tokenizer), "get_vocab", copied)
    assert gs.attribute(llama, named, progress=False).seen.sum() == len(named)
    assert len(gs.sweep(llama, named, {}, readout="label", progress=False).rows) == len(named)


def test_labels_that_are_not_one_token_are_named(qwen3, organism_model):
    split = dataclasses.replace(questions(qwen3, 1)[0], labels=("k", "bee", "d", "l"))
    split = dataclasses.replace(split, answer=split.choices[1])
    with pytest.raises(
        gs.GatescopeError, match=r"label 'bee' is not one token of this tokenizer: it becomes \['b', 'e', 'e'\]"
    ):
        gs.attribute(qwen3, [split], progress=False)
    unknown = gs.data.Example("u", "g", "What?", ("x", "y"), "x", labels=("A", "B"))
    with pytest.raises(gs.GatescopeError, match=r"label 'A' is not one token of this tokenizer: it becomes \['<unk>'\]"):
        gs.attribute(organism_model, [unknown], progress=False)
    text = gs.data.Example("u", "g", "What?", ("zebra", "y"), "zebra")
    with pytest.raises(gs.GatescopeError, match=r"Example 'u': the answer 'zebra' is unknown to the tokenizer: \['<unk>'\]"):
        gs.attribute(organism_model, [text], progress=False)


def test_other_mistakes_are_sentences(qwen3):
    with pytest.raises(gs.GatescopeError, match="needs examples"):
        gs.attribute(qwen3, [], progress=False)
    with pytest.raises(gs.GatescopeError, match="no site 'qq'; it has 'gate_pre'"):
        gs.attribute(qwen3, questions(qwen3), sites=("qq",), progress=False)
    with pytest.raises(gs.GatescopeError, match=r"reduce='norm' is defined for .*; not for \['gate'\]"):
        gs.attribute(qwen3, questions(qwen3), sites=("gate",), reduce="norm", progress=False)


def test_attributions_survive_saving_and_refuse_strangers(qwen3, tmp_path):
    found = gs.attribute(qwen3, questions(qwen3), progress=False)
    found.save(tmp_path / "a.safetensors")
    again = gs.Attributions.load(tmp_path / "a.safetensors")
    assert torch.equal(again.sums, found.sums) and torch.equal(again.clamped, found.clamped)
    assert (again.groups, again.layout, again.items) == (found.groups, found.layout, found.items)
    assert again.model == identity(qwen3) and again.provenance["reduce"] == "max"
    both = found + again
    assert torch.equal(both.sums, 2 * found.sums) and both.seen.tolist() == [2, 2, 2]
    with pytest.raises(gs.GatescopeError, match="cannot be added"):
        found + dataclasses.replace(again, items=7)
