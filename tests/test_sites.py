"""Sites are found by structure, in the decoder only, and what does not fit is refused by name."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertLMHeadModel,
    Gemma4TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    RecurrentGemmaConfig,
    T5Gemma2Config,
)

import gatescope as gs
from families import MISLEADING
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
        gs.GatescopeError, match=r"No text decoder was found in BertLMHeadModel: looked for a module that holds"
    ):
        gs.sites_of(bert)


def test_an_mlp_without_an_activation_module_is_refused(llama_path):
    model = gs.load_model(llama_path)
    model._module.model.layers[1].mlp.act_fn = torch.nn.Identity()
    with pytest.raises(gs.GatescopeError, match=r"model.layers.1 \(LlamaDecoderLayer\) has 0 activation modules"):
        gs.sites_of(model._module)


def test_a_width_the_config_does_not_name_is_refused(llama_path):
    model = gs.load_model(llama_path)
    model._module.config.intermediate_size = 47
    with pytest.raises(
        gs.GatescopeError, match=r"config says 47 neurons a layer, but no projection in model.layers.0.mlp takes 47"
    ):
        gs.sites_of(model._module)


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


def test_a_fused_attention_that_nobody_has_read_has_no_q_k_and_v_and_says_why():
    class Unread(torch.nn.Module):  # as code that comes with a checkpoint
        def __init__(self, attention):
            super().__init__()
            self.qkv_proj, self.o_proj = attention.qkv_proj, attention.o_proj

    phi = Phi3ForCausalLM(Phi3Config(**SMALL, intermediate_size=128, num_key_value_heads=2, pad_token_id=0))
    for layer in phi.model.layers:
        layer.self_attn = Unread(layer.self_attn)
    assert set(gs.sites_of(phi)) == {"gate_pre", "gate", "up", "hidden"}
    with pytest.raises(gs.GatescopeError) as problem:
        sites.site_of(phi, "k")
    assert (
        "The model has no site 'k'; it has 'gate_pre', 'gate', 'up', 'hidden'. Its attention, Unread, makes q, k and v in "
        in (str(problem.value))
    )
    assert "in one projection (qkv_proj), and the layout of its columns is known only for Phi3Attention, " in str(problem.value)


def test_layers_that_share_one_activation_are_refused():
    gpt = OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=50, n_embd=32, n_layer=2, n_head=4))
    with pytest.raises(
        gs.GatescopeError, match=r"transformer.h.0.mlp.act and transformer.h.1.mlp.act are one and the same module, so site"
    ):
        gs.sites_of(gpt)


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


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            MambaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2),
            r"backbone.layers.0 \(MambaBlock\) mixes tokens by a state space or a convolution \(mixer\), and gatescope knows",
        ),
        (
            RecurrentGemmaConfig(**SMALL, intermediate_size=64),
            r"RecurrentGemmaDecoderLayer\) mixes tokens by a state space or a convolution \(temporal_block\)",
        ),
        (
            Gemma4TextConfig(),
            r"has 2 activation modules \(mlp.act_fn, act_fn\), and exactly one was looked for, inside its MLP: its output is",
        ),
    ],
    ids=["mamba", "recurrent-gemma", "gemma4"],
)
def test_blocks_of_another_kind_are_refused_with_a_sentence(config, said):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(gs.GatescopeError, match=said):
        gs.sites_of(model)
