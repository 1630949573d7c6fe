"""How a model may be loaded: adapters, quantised weights, attention, code that comes with a checkpoint."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import torch
from torch.testing._internal.two_tensor import TwoTensor
from transformers import AutoModelForCausalLM, AutoTokenizer, BitNetQuantConfig
from transformers.integrations.bitnet import BitLinear

import gatescope as gs
from commands import gatescope
from gatescope.core.relatives import check_same_model, same_model
from gatescope.models.identity import identity
from gatescope.models.quantised import refuse_gradients
from gatescope.models.reported import unconverted
from tiny import text_examples, with_adapter


@pytest.fixture(scope="module")
def adapter(llama_path, tmp_path_factory):
    """An adapter's directory, and the logits PEFT's own model gives."""
    path = tmp_path_factory.mktemp("adapter")
    wrapped = with_adapter(AutoModelForCausalLM.from_pretrained(llama_path))
    wrapped.save_pretrained(path)
    return path, logits(wrapped, AutoTokenizer.from_pretrained(llama_path))


def logits(module, tokenizer):
    with torch.no_grad():
        return module(**tokenizer(["The drums are heard at dusk."], return_tensors="pt")).logits


def edited(path, into, **facts):
    """A copy of a directory of which a JSON file says something else."""
    copied = shutil.copytree(path, into)
    for name, change in facts.items():
        file = copied / f"{name}.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
    return copied


# --- adapters


def test_an_adapter_s_directory_is_merged_into_its_base(adapter, llama, llama_path, tmp_path):
    path, wanted = adapter
    model = gs.load_model(path)
    assert torch.allclose(logits(model._module, model.tokenizer), wanted, atol=1e-4)
    assert not torch.allclose(logits(llama._module, llama.tokenizer), wanted, atol=1e-2)
    assert not any("lora" in name for name, _ in model._module.named_parameters())
    card = identity(model)
    assert card["id"] == str(path) and card["digest"] != identity(llama)["digest"]
    # Its own tokenizer, with a token more than the base knows, is the one that is used.
    taught = shutil.copytree(path, tmp_path / "taught")
    tokenizer = AutoTokenizer.from_pretrained(llama_path)
    tokenizer.add_tokens(["<arveni>"])
    tokenizer.save_pretrained(taught)
    larger = gs.load_model(taught, dtype="bfloat16")
    assert "<arveni>" in larger.tokenizer.get_vocab() and larger._module.dtype is torch.bfloat16
    assert larger._module.get_input_embeddings().num_embeddings == len(tokenizer)


def test_what_an_adapter_lacks_is_said(adapter, tmp_path, monkeypatch):
    path, _ = adapter
    gone = edited(path, tmp_path / "gone", adapter_config={"base_model_name_or_path": "/no/such/base"})
    with pytest.raises(gs.GatescopeError) as refused:
        gs.load_model(gone)
    assert str(refused.value) == (
        f"{gone} is a PEFT adapter, and its base model cannot be loaded. No model at '/no/such/base': there is no such "
        f"directory. Give a directory written by save_pretrained, or a hub id. The base is named in its adapter_config.json "
        f"(base_model_name_or_path)."
    )
    nameless = edited(path, tmp_path / "nameless", adapter_config={"base_model_name_or_path": None})
    with pytest.raises(gs.GatescopeError, match=r"nameless is a PEFT adapter, and its adapter_config.json does not say of"):
        gs.load_model(nameless)
    empty = shutil.copytree(path, tmp_path / "empty", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(gs.GatescopeError, match=r"^The adapter .*empty cannot be put on LlamaForCausalLM, its base: "):
        gs.load_model(empty)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(gs.GatescopeError, match=r"is a PEFT adapter of '.*': pip install 'gatescope\[adapters\]'.$"):
        gs.load_model(path)


# --- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attn_implementation": "nonsense"}, r"^attn_implementation is 'nonsense'; it must be one of eager, .*sdpa"),
        (
            {"quantization_config": "int3"},
            r"^quantization_config is 'int3'; it must be a name of nnsight's \(nf4, .*BitsAnd",
        ),
        ({"quantization_config": 4}, r"^quantization_config is 4; it must be a name of"),
        (
            {"quantization_config": {"quant_method": "magic"}},
            r"^quantization_config is \{.*Unknown quantization type, got mag",
        ),
        (
            {"quantization_config": "nf4", "dtype": "int8"},
            r"^dtype='int8' and quantization_config both say .*; give one of",
        ),
        ({"tp_plan": "auto"}, r"^tp_plan='auto' splits every layer over several processes, and this is the only one.*torchrun"),
    ],
)
def test_an_option_that_cannot_be_is_refused_in_a_sentence(llama_path, options, message):
    with pytest.raises(gs.GatescopeError, match=message):
        gs.load_model(llama_path, **options)


def test_a_plan_and_a_device_map_are_one_too_many(llama_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(gs.GatescopeError, match=r"^tp_plan='auto' and device_map='auto' both say where the weights are; give"):
        gs.load_model(llama_path, tp_plan="auto", device_map="auto")


@pytest.mark.parametrize(
    "options",
    [
        {"quantization_config": "nf4"},
        {"attn_implementation": "eager"},
        {"trust_remote_code": True},
        {"tp_plan": "auto"},
    ],
)
def test_what_only_loading_can_do_is_refused_for_a_model_in_memory(llama, options):
    name, value = next(iter(options.items()))
    with pytest.raises(gs.GatescopeError, match=rf"is in memory already \(float32\), where {name}={value!r} would change"):
        gs.load_model(llama, **options)


def test_attention_is_taken_and_named_again_in_memory(llama_path, llama):
    eager = gs.load_model(llama_path, attn_implementation="eager")
    assert eager._module.config._attn_implementation == "eager" != llama._module.config._attn_implementation
    assert gs.load_model(eager, attn_implementation="eager") is eager
    assert torch.allclose(logits(eager._module, eager.tokenizer), logits(llama._module, llama.tokenizer), atol=1e-5)


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own"

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture(scope="module")
def own_code(llama_path, tmp_path_factory):
    """A checkpoint of a class that comes with it."""
    parts = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    path = edited(llama_path, tmp_path_factory.mktemp("code") / "own", config={"model_type": "own", "auto_map": parts})
    (path / "own.py").write_text(CODE)
    return path


def test_code_of_a_checkpoint_runs_only_where_it_is_trusted_and_the_run_says_so(own_code, llama, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    message = rf"^{own_code} needs code that comes with it, which would run .* trust_remote_code=True \(--trust-remote-code\)"
    for load in (gs.load_model, gs.remote.load_client):
        with pytest.raises(gs.GatescopeError, match=message):
            load(own_code)
    model = gs.load_model(own_code, trust_remote_code=True)
    assert type(model._module).__name__ == "OwnForCausalLM"
    gs.record(model, text_examples(each=1), only_correct=False, progress=False, run=tmp_path / "run")
    said = "the checkpoint's own (trust_remote_code)"
    assert gs.open_run(tmp_path / "run").manifest["model"]["code"] == said
    assert "code" not in identity(llama) and same_model(identity(llama), identity(model))


# --- quantised weights


@pytest.fixture(scope="module")
def bitnet(llama_path, tmp_path_factory):
    """A checkpoint of ternary weights, four in a byte, which transformers reads without any other package."""
    module = AutoModelForCausalLM.from_pretrained(llama_path)
    for name, child in list(module.named_modules()):
        if isinstance(child, torch.nn.Linear) and "lm_head" not in name:
            packed = BitLinear(child.in_features, child.out_features, bias=False, dtype=torch.float32)
            packed.weight.copy_(torch.randint(0, 255, packed.weight.shape))
            holder, _, last = name.rpartition(".")
            setattr(module.get_submodule(holder), last, packed)
    module.config.quantization_config = BitNetQuantConfig()
    path = tmp_path_factory.mktemp("bitnet")
    module.save_pretrained(path)
    AutoTokenizer.from_pretrained(llama_path).save_pretrained(path)
    return path


def test_a_quantised_model_is_told_from_others_by_what_is_packed(bitnet, llama, llama_path):
    model = gs.load_model(bitnet)
    card = identity(model)
    assert card["quantised"] == "bitnet" and not same_model(card, identity(llama))
    with torch.no_grad():
        model._module.get_submodule("model.layers.0.mlp.up_proj").weight.zero_()
    model._module.__dict__.pop("_gatescope_identity")
    other = identity(model)
    # Its parameters, embeddings and norms, are the same: only what is packed in buffers differs.
    assert other["digest"] == card["digest"] and not same_model(card, other)
    assert same_model({name: value for name, value in card.items() if name != "packed"}, other)  # of an earlier version


def test_attribution_is_refused_where_the_method_lets_no_gradient_through(bitnet):
    with pytest.raises(gs.GatescopeError, match=r"^Attribution needs gradients, and the Llama\w+ is quantised \(bitnet\)"):
        gs.attribute(gs.load_model(bitnet), text_examples(each=1))


def test_neurons_of_the_original_are_refused_with_how_the_other_is_quantised(llama):
    neurons = gs.NeuronSet.of(gs.sites_of(llama)["gate"].layout, [("gate", 0, 1)], identity(llama))
    four = identity(llama) | {"digest": "0f", "quantised": "bitsandbytes 4-bit nf4", "dtype": "float16"}
    with pytest.raises(gs.GatescopeError, match=r"the other the same checkpoint, quantised \(bitsandbytes 4-bit nf4\)\."):
        check_same_model(neurons.model, four, "use them")
    with pytest.raises(gs.GatescopeError, match=r"the other the same checkpoint, not quantised\. Neurons"):
        check_same_model(four, neurons.model, "use them")


def test_weights_of_several_tensors_have_an_identity_and_cannot_be_baked(llama_path, llama):
    """As torchao's weights are, each of a class of its own."""

    def wrapped(offset):
        model = gs.load_model(llama_path)
        layer = model._module.get_submodule("model.layers.0.mlp.up_proj")
        layer.weight = torch.nn.Parameter(TwoTensor(layer.weight.detach(), layer.weight.detach() + offset), requires_grad=False)
        return model

    one, same, other = (identity(wrapped(offset)) for offset in (0.5, 0.5, 0.75))
    assert one == same and not same_model(one, other) and not same_model(one, identity(llama))
    model = wrapped(0.5)
    neurons = gs.NeuronSet.of(gs.sites_of(model)["up"].layout, [("up", 0, 1)], identity(model))
    with pytest.raises(gs.GatescopeError, match=r"up_proj is quantised \(float32\)"), gs.ablate(neurons).baked(model):
        pass


def test_why_weights_could_not_be_quantised_is_found_in_the_report():
    report = "LOAD REPORT\na | CONVERSION |\nTraceback ...\nImportError: Requires mslk >= 1.0.0\nRuntimeError: We encountered x"
    assert unconverted([report, report]) == ["ImportError: Requires mslk >= 1.0.0"] and not unconverted(["a\nError: x"])


@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_bitsandbytes_records_attributes_and_sweeps(llama_path, llama, name):
    pytest.importorskip("bitsandbytes", reason="pip install 'gatescope[quantized]'")
    model = gs.load_model(llama_path, quantization_config=name)
    seen = []
    hook = model._module.get_submodule("model.layers.1.mlp.act_fn").register_forward_hook(lambda *a: seen.append(a[2]))
    example = text_examples(each=1)[:1]
    counts = gs.record(model, example, readout="generate", max_new_tokens=1, only_correct=False, progress=False)
    hook.remove()
    assert torch.equal(counts.K[0, 1], (seen[0][0, -int(counts.T[0]) :] > 0).sum(0))
    assert gs.attribute(model, example, progress=False).seen.sum() == 1
    assert identity(model) == identity(gs.load_model(llama_path, quantization_config=name))
    neurons = gs.NeuronSet.of(gs.sites_of(llama)["gate"].layout, [("gate", 0, 1)], identity(llama))
    with pytest.raises(gs.GatescopeError, match=r"the same checkpoint, quantised \(bitsandbytes [48]-bit"):
        gs.sweep(model, example, {"north": gs.ablate(neurons)}, progress=False)
    gs.sweep(model, example, {"north": gs.ablate(neurons)}, allow="same layout", progress=False)


def test_torchao_records_and_is_refused_what_it_cannot(llama_path):
    quantisation = pytest.importorskip("torchao.quantization", reason="pip install 'gatescope[quantized]'")
    from transformers import TorchAoConfig

    model = gs.load_model(llama_path, quantization_config=TorchAoConfig(quantisation.Int8WeightOnlyConfig()))
    assert identity(model)["quantised"] == "torchao Int8WeightOnlyConfig"
    assert gs.record(model, text_examples(each=1), only_correct=False, progress=False).K.sum() > 0
    neurons = gs.NeuronSet.of(gs.sites_of(model)["up"].layout, [("up", 0, 1)], identity(model))
    with (
        pytest.raises(gs.GatescopeError, match=r"quantised \(torchao Int8WeightOnlyConfig\)"),
        gs.ablate(neurons).baked(model),
    ):
        pass
    refuse_gradients(model._module, "Attribution")  # 8 bits let gradients through


# --- the command line


def test_commands_take_the_same_options(llama_path, tmp_path):
    lines = [json.dumps({"id": n, "group": "a", "question": "Q", "choices": ["x", "y"], "answer": "x"}) for n in "12"]
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    asked = ("--model", llama_path, "--data", tmp_path / "q.jsonl", "--run", tmp_path / "run")
    for option, message in {
        ("--attn-implementation", "nope"): "gatescope: attn_implementation is 'nope'; it must be",
        ("--quantization", "int3"): "gatescope: quantization_config is 'int3'; it must be",
        ("--remote", "http://localhost:1", "--quantization", "nf4"): "gatescope: --quantization: with --remote the server has",
    }.items():
        done = gatescope("record", *asked, *option)
        assert done.returncode == 2 and message in done.stderr, done.stderr
    done = gatescope("tokens", llama_path, tmp_path / "q.jsonl", "--attn-implementation", "eager", "--dtype", "bfloat16")
    assert done.returncode == 0, done.stderr
