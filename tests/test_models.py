"""What may be given as a model, and the sentence a mistake with one ends in."""

from __future__ import annotations

import importlib.util
import json
import shutil

import nnsight
import peft
import pytest
import torch
from transformers import (
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    LlavaNextForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    pipeline,
)
from typer.testing import CliRunner

import gatescope as gs
from gatescope.cli import app
from processes import python
from tiny import text_examples, with_adapter


@pytest.fixture(scope="module")
def tokenizer(llama_path):
    return AutoTokenizer.from_pretrained(llama_path)


@pytest.fixture
def plain(llama_path):
    return AutoModelForCausalLM.from_pretrained(llama_path)


def logits(module, tokenizer):
    with torch.no_grad():
        return module(**tokenizer(["The drums are heard at dusk."], return_tensors="pt")).logits


def firing(model):
    return gs.record(model, text_examples(), only_correct=False, progress=False).K


# --- what is taken


def test_a_peft_model_is_taken_as_a_merged_copy_and_stays_as_it_is(plain, tokenizer, llama):
    wrapped = with_adapter(plain)
    before = logits(wrapped, tokenizer)
    with pytest.warns(UserWarning, match=r"^A PeftModel was given: its adapter \(LORA\) is merged into a copy of the weights"):
        model = gs.load_model(wrapped, tokenizer=tokenizer)
    assert torch.allclose(logits(model._module, tokenizer), before, atol=1e-4)
    assert not torch.allclose(logits(llama._module, tokenizer), before, atol=1e-2)
    assert torch.equal(logits(wrapped, tokenizer), before)
    assert any("lora_A" in name for name, _ in wrapped.named_parameters())
    assert firing(model).shape == firing(llama).shape and not torch.equal(firing(model), firing(llama))


def test_a_compiled_model_is_used_without_compilation(plain, tokenizer, llama):
    with pytest.warns(UserWarning, match=r"^The LlamaForCausalLM was compiled \(torch.compile\), .* without compilation"):
        model = gs.load_model(torch.compile(plain, backend="eager"), tokenizer=tokenizer)
    assert model._module is plain
    assert torch.equal(firing(model), firing(llama))


def test_an_nnsight_model_is_used_as_it_is(llama_path, llama):
    given = nnsight.TransformersModel(str(llama_path), task="text-generation", dispatch=True)
    model = gs.load_model(given)
    assert model is given and gs.load_model(model) is model
    assert torch.equal(firing(model), firing(llama))
    assert not any(parameter.requires_grad for parameter in model._module.parameters())


def test_an_nnsight_model_round_a_plain_module_gets_its_tokenizer(plain, tokenizer, llama):
    model = gs.load_model(nnsight.NNsight(plain), tokenizer=tokenizer)
    assert model._module is plain and torch.equal(firing(model), firing(llama))


def test_a_vision_language_model_nnsight_took_for_a_language_model_gets_its_processor(llava_path, llava, examples):
    plain = LlavaNextForConditionalGeneration.from_pretrained(llava_path)
    processor = AutoProcessor.from_pretrained(llava_path)
    given = nnsight.TransformersModel(plain, task="text-generation", tokenizer=processor.tokenizer, dispatch=True)
    with pytest.raises(gs.GatescopeError, match=r"^The LlavaNextForConditionalGeneration was given without its processor"):
        gs.load_model(given)
    model = gs.load_model(given, processor=processor)
    found, wanted = (gs.record(m, examples, only_correct=False, progress=False).K for m in (model, llava))
    assert torch.equal(found, wanted)


def test_an_image_processor_serves_as_the_processor_if_a_tokenizer_comes_with_it(llava_path):
    plain = LlavaNextForConditionalGeneration.from_pretrained(llava_path)
    pictures = AutoImageProcessor.from_pretrained(llava_path)
    with pytest.raises(gs.GatescopeError, match=r"^processor is a LlavaNextImageProcessor\w*, which holds no tokenizer; give"):
        gs.load_model(plain, processor=pictures)
    model = gs.load_model(plain, processor=pictures, tokenizer=AutoTokenizer.from_pretrained(llava_path))
    assert model.processor is pictures and model.tokenizer.padding_side == "left"


# --- what is not


def prompt_tuned(plain):
    return peft.get_peft_model(plain, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))


def encoder(plain):
    return BertForMaskedLM(
        BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    )


def both(plain):
    return T5ForConditionalGeneration(T5Config(vocab_size=8, d_model=8, num_layers=1, num_heads=1, d_ff=8))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (prompt_tuned, r"^The PeftModel has an adapter of the kind PROMPT_TUNING, .* Give the base model"),
        (
            lambda plain: with_adapter(plain).get_base_model(),
            r"^The LlamaForCausalLM has layers of a PEFT adapter in it \(model.layers.0.self_attn.q_proj\), .*merge_and_unload",
        ),
        (
            lambda plain: nnsight.NNsight(with_adapter(plain).get_base_model()),
            r"^The LlamaForCausalLM has layers of a PEFT adapter in it",
        ),
        (encoder, r"^The BertForMaskedLM is not supported \(no language model head to answer with\): gatescope takes causal"),
        (lambda plain: plain.model, r"^The LlamaModel is not supported \(no language model head"),
        (both, r"^The T5ForConditionalGeneration is not supported \(an encoder with a decoder\)"),
        (
            lambda plain: plain.to("meta"),
            r"^The LlamaForCausalLM has no weights \(they are on the device 'meta'\). .*gatescope.remote.load_client",
        ),
        (
            lambda plain: torch.nn.DataParallel(plain),
            r"^load_model takes a hub id, .*; a DataParallel was given. Give the model inside it, its .module.$",
        ),
        (lambda plain: None, r"^load_model takes a hub id, a directory, or a model of .*; a NoneType was given.$"),
        (lambda plain: type(plain), r"; a class, LlamaForCausalLM, was given.$"),
    ],
)
def test_what_cannot_be_traced_is_refused_with_what_to_give(plain, tokenizer, make, message):
    with pytest.raises(gs.GatescopeError, match=message):
        gs.load_model(make(plain), tokenizer=tokenizer)


def test_a_pipeline_is_refused_with_the_parts_to_give(plain, tokenizer):
    with pytest.raises(
        gs.GatescopeError, match=r"a TextGenerationPipeline was given. Give the pipeline's .model, and its .tokenizer"
    ):
        gs.load_model(pipeline("text-generation", model=plain, tokenizer=tokenizer))


def test_a_model_in_memory_without_its_tokenizer_is_told_to_bring_it(plain):
    message = (
        r"^The LlamaForCausalLM was given without its tokenizer, which a model in memory does not include. Give "
        r"tokenizer=AutoTokenizer.from_pretrained\(...\) with it.$"
    )
    with pytest.raises(gs.GatescopeError, match=message):
        gs.load_model(plain)


def test_a_tokenizer_is_no_name_and_can_pad(plain, llama_path):
    with pytest.raises(gs.GatescopeError, match=r"^tokenizer is a str; it must be a tokenizer of Transformers"):
        gs.load_model(plain, tokenizer=str(llama_path))
    bare = AutoTokenizer.from_pretrained(llama_path)
    bare.pad_token = bare.eos_token = None
    with pytest.raises(gs.GatescopeError, match=r"^The tokenizer has neither a pad nor an eos token, .*tokenizer.pad_token ="):
        gs.load_model(plain, tokenizer=bare)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"dtype": "bfloat16"}, "dtype=torch.bfloat16"),
        ({"revision": "main"}, "revision='main'"),
        ({"device_map": "auto"}, "device_map='auto'"),
    ],
)
def test_options_of_loading_are_refused_for_a_model_in_memory(plain, tokenizer, options, told):
    with pytest.raises(
        gs.GatescopeError, match=rf"^The LlamaForCausalLM is in memory already \(float32\), where {told} would change nothing"
    ):
        gs.load_model(plain, tokenizer=tokenizer, **options)
    assert gs.load_model(plain, tokenizer=tokenizer, dtype="float32")._module is plain


@pytest.mark.parametrize("dtype", ["float12", "int32", "complex64", "float8_e4m3fn", "Linear", torch.int8])
def test_a_dtype_that_is_none_is_refused_with_those_there_are(llama_path, dtype):
    with pytest.raises(gs.GatescopeError, match=rf"^dtype is '{dtype}'; it must be 'auto' .*'float32', 'bfloat16', 'float16'"):
        gs.load_model(llama_path, dtype=dtype)


@pytest.mark.parametrize("dtype", ["bfloat16", "torch.bfloat16", torch.bfloat16])
def test_a_dtype_is_taken_by_name_or_as_it_is(llama_path, dtype):
    assert gs.load_model(llama_path, dtype=dtype)._module.dtype is torch.bfloat16


def test_the_command_line_prints_the_sentence_about_a_dtype(llama_path, tmp_path):
    line = {"id": "1", "group": "a", "question": "Which?", "choices": ["x", "y"], "answer": "x"}
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line | {"id": n}) + "\n" for n in "1234"))
    given = ["record", "--model", str(llama_path), "--data", str(tmp_path / "q.jsonl"), "--run", str(tmp_path / "run")]
    done = CliRunner().invoke(app, [*given, "--dtype", "float12"])
    assert isinstance(done.exception, gs.GatescopeError), done.output  # `main` prints it, and exits with 2
    assert str(done.exception).startswith("dtype is 'float12'; it must be 'auto'")


# --- directories


@pytest.fixture
def copied(llama_path, tmp_path):
    return shutil.copytree(llama_path, tmp_path / "copy")


def test_an_adapter_on_the_hub_is_known_as_one(tmp_path):
    """A cache of the hub in which the repository has no config.json, read without the network."""
    where = tmp_path / "models--a--b"
    for folder in ("refs", "snapshots/abc", ".no_exist/abc"):
        (where / folder).mkdir(parents=True)
    (where / "refs/main").write_text("abc")
    for name in ("config.json", "tokenizer_config.json"):
        (where / ".no_exist/abc" / name).touch()
    (where / "snapshots/abc/adapter_config.json").write_text('{"base_model_name_or_path": "c/d", "peft_type": "LORA"}')
    code = f"""
import gatescope as gs
from huggingface_hub import constants
constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE = {str(tmp_path)!r}, True
try:
    gs.load_model("a/b")
except gs.GatescopeError as error:
    print(error)
"""
    done = python(code)
    known = "a/b is a PEFT adapter, and its base model cannot be loaded. No model 'c/d': it is not a local directory"
    assert done.stdout.startswith(known), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("method", "package"), [("gptq", "optimum"), ("awq", "gptqmodel"), ("compressed-tensors", "compressed-tensors")]
)
def test_a_package_that_reads_quantised_weights_is_named(copied, method, package):
    if importlib.util.find_spec(package.replace("-", "_")):
        pytest.skip(f"{package} is installed")
    file = copied / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": {"quant_method": method, "bits": 4}}))
    with pytest.raises(gs.GatescopeError) as refused:
        gs.load_model(copied)
    start = f"The weights of {copied} are quantised ({method} 4-bit), and a package they need is missing: "
    assert str(refused.value).startswith(start) and package in str(refused.value).removeprefix(start)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_a_package_for_a_quantised_dtype_is_named(llama_path):
    with pytest.raises(gs.GatescopeError, match=r"quantised \(dtype='nf4'\), and a package .* is missing.*bitsandbytes"):
        gs.load_model(llama_path, dtype="nf4")


def change(name, text):
    def do(path):
        (path / name).write_text(text(json.loads((path / name).read_text())))

    return do


def remove(pattern):
    def do(path):
        for file in path.glob(pattern):
            file.unlink()

    return do


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            change("config.json", lambda c: json.dumps(c | {"model_type": "grok99"})),
            r"^The config.json of .*copy cannot be read: The checkpoint you are trying to load has model type `grok99`",
        ),
        (change("config.json", lambda c: "{no"), r"^The config.json of .*copy cannot be read: It looks like"),
        (remove("tok*"), r"^The tokenizer of .*copy cannot be loaded: .*If it lies elsewhere, give it as tokenizer=.$"),
        (remove("*.safetensors"), r"^The weights of .*copy cannot be loaded: (?!Could not load).*no file named"),
    ],
)
def test_what_a_directory_lacks_is_said_without_a_traceback(copied, damage, message):
    damage(copied)
    with pytest.raises(gs.GatescopeError, match=f"(?s){message}") as refused:
        gs.load_model(copied)
    assert "Traceback" not in str(refused.value)
