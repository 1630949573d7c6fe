"""Sites are found by structure, in the decoder only, and what does not fit is refused by name."""

from __future__ import annotations

import copy

import nnsight
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MiniCPM3Config,
    MiniCPM3ForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    T5Gemma2Config,
)
from transformers.models.phi3.modeling_phi3 import Phi3Attention

import gatescope as gs
from families import MISLEADING
from gatescope.doctor import plain_tokenizer
from gatescope.models import sites

SMALL = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.mark.parametrize(
    ("build", "path"),
    [
        (lambda: GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4)), "transformer.h.1.mlp.act"),
        (
            lambda: OPTForCausalLM(OPTConfig(**SMALL, ffn_dim=128, word_embed_proj_dim=32, max_position_embeddings=64)),
            "model.decoder.layers.1.activation_fn",
        ),
        (
            lambda: Phi3ForCausalLM(Phi3Config(**SMALL, intermediate_size=128, num_key_value_heads=2, pad_token_id=0)),
            "model.layers.1.mlp.activation_fn",
        ),
    ],
    ids=["gpt2", "opt", "phi3"],
)
def test_plain_and_fused_mlps_are_found(build, path):
    site = gs.sites_of(build())["gate"]
    assert (len(site.paths), site.width, site.paths[1]) == (2, 128, path)


def test_the_vision_tower_is_never_counted(organism_model, llava):
    for model in (organism_model, llava):
        site = gs.sites_of(model)["gate"]
        assert all(path.startswith("model.language_model.layers.") for path in site.paths)
    assert gs.sites_of(organism_model)["gate"].layout.only().width == 300
    assert gs.sites_of(llava)["gate"].layout.size == 2 * 48


def test_a_mixture_of_experts_is_refused():
    moe = Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            **SMALL, num_key_value_heads=2, intermediate_size=64, moe_intermediate_size=32, num_experts=4,
            num_experts_per_tok=2, head_dim=8,
        )
    )  # fmt: skip
    with pytest.raises(gs.GatescopeError, match=r"model.layers.0 is a mixture of experts \(mlp.experts\)"):
        gs.sites_of(moe)


def test_a_model_without_the_expected_structure_says_what_was_looked_for():
    bert = BertLMHeadModel(BertConfig(**SMALL, intermediate_size=64, is_decoder=True))
    with pytest.raises(
        gs.GatescopeError, match=r"No text decoder was found in BertLMHeadModel: looked for a list of 2 blocks \(num_hidden"
    ):
        gs.sites_of(bert)


def llama(**more):
    return LlamaForCausalLM(LlamaConfig(**SMALL, intermediate_size=64, num_key_value_heads=2, **more)).eval()


def test_a_model_none_of_whose_layers_has_a_nonlinearity_is_refused():
    model = llama()
    for layer in model.model.layers:
        layer.mlp.act_fn = torch.nn.Identity()
    with pytest.raises(
        gs.GatescopeError,
        match=r"model.layers.0 \(LlamaDecoderLayer\) has no MLP that gatescope knows, nor has any other layer: looked for",
    ):
        gs.sites_of(model)


def test_widths_are_those_of_the_projections_whatever_the_config_says():
    model = llama()
    model.config.intermediate_size = 47
    mlp = model.model.layers[1].mlp
    mlp.gate_proj, mlp.up_proj, mlp.down_proj = (torch.nn.Linear(32, 40), torch.nn.Linear(32, 40), torch.nn.Linear(40, 32))
    sites = gs.sites_of(model)
    assert {sites[name].layout.only().widths for name in ("gate_pre", "gate", "up", "hidden")} == {(64, 40)}


def test_finding_sites_leaves_the_model_alone():
    """Its weights, mode, hooks, caches and the random numbers that are drawn; its weights need not be there."""
    model = llama(torch_dtype=torch.bfloat16).train()
    calls = []
    model.model.layers[0].mlp.register_forward_hook(lambda *_: calls.append(1))
    before, state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    with torch.inference_mode():
        found = gs.sites_of(model)
    assert torch.equal(torch.random.get_rng_state(), state) and not calls and model.training
    assert all(part.training for part in model.modules()) and model.model.layers[0].mlp._forward_hooks
    assert all(torch.equal(now, before[name]) for name, now in model.state_dict().items())
    with torch.device("meta"):
        elsewhere = llama()
    assert gs.sites_of(elsewhere) == found


def test_sites_are_found_inside_a_trace():
    model = gs.load_model(llama(), tokenizer=plain_tokenizer())
    expected = gs.sites_of(model)
    del model._module.__dict__["_gatescope_sites"]
    with model.trace(torch.tensor([[1, 2, 3]])):
        found = nnsight.save(gs.sites_of(model))
        gate = nnsight.save(model.get(expected["gate"].paths[1]).output)
    assert found == expected and gate.shape == (1, 3, 64)


@pytest.mark.parametrize("name", MISLEADING)
def test_families_whose_names_mislead_are_resolved_to_the_places_written_by_hand(name, tmp_path):
    family = MISLEADING[name]
    family.build(tmp_path)
    found = gs.sites_of(gs.load_model(tmp_path))
    assert set(found) == set(family.where)
    for site, (path, io, columns) in family.where.items():
        assert found[site].paths == tuple(f"{family.blocks}.{layer}.{path}" for layer in range(2))
        assert found[site].io == {"in": "input", "out": "output"}[io]
        assert (found[site].columns if columns is None else list(found[site].columns)) == columns


def test_a_fused_attention_of_a_class_that_nobody_has_read_is_found():
    class Unread(Phi3Attention):  # as code that comes with a checkpoint
        pass

    phi = Phi3ForCausalLM(Phi3Config(**SMALL, intermediate_size=128, num_key_value_heads=2, pad_token_id=0))
    for number, layer in enumerate(phi.model.layers):
        layer.self_attn = Unread(phi.config, number)
    assert gs.sites_of(phi)["k"].columns == range(32, 48)


def test_what_attention_makes_of_two_projections_is_no_site_and_the_message_says_why():
    shape = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
    model = MiniCPM3ForCausalLM(MiniCPM3Config(**SMALL, intermediate_size=64, num_key_value_heads=4, **shape))
    with pytest.raises(gs.GatescopeError) as problem:
        sites.site_of(model, "k")
    assert "The model has no site 'k'; it has 'gate_pre', 'gate', 'up', 'hidden', 'q'. model.layers.0 makes q of" in str(
        problem.value
    )
    assert "k of self_attn.kv_a_proj_with_mqa and self_attn.kv_b_proj, v of self_attn.kv_b_proj; a site is what one" in str(
        problem.value
    )


def test_an_encoder_is_not_taken_for_the_decoder():
    shape = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    bart = BartForConditionalGeneration(
        BartConfig(vocab_size=50, d_model=32, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64, **shape)
    )
    with torch.device("meta"):
        gemma = AutoModelForImageTextToText.from_config(T5Gemma2Config())
    for model in (bart, gemma):
        with pytest.raises(
            gs.GatescopeError,
            match=f"{type(model).__name__} has an encoder and a decoder, and gatescope reads decoder-only models",
        ):
            gs.sites_of(model)


def test_a_state_space_without_mlps_is_refused():
    with torch.device("meta"):
        mamba = AutoModelForCausalLM.from_config(MambaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2))
    with pytest.raises(
        gs.GatescopeError,
        match=r"backbone.layers.0 \(MambaBlock\) mixes tokens by a state space or a convolution \(mixer\), and no layer has an",
    ):
        gs.sites_of(mamba)


def test_a_model_that_does_not_run_is_refused_with_the_reason():
    model = llama()
    model.model.layers[1].mlp.up_proj = torch.nn.Linear(32, 63)
    with pytest.raises(gs.GatescopeError, match=r"LlamaModel cannot be run on one token of text, by which .* \(RuntimeError: "):
        gs.sites_of(model)
