"""Sites are found by structure, in the decoder only, and what does not fit is refused by name."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    BertConfig,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

import gatescope as gs

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
