"""Tiny random decoders of many families, in memory, with where their neurons are in each layer, written by hand.

A place is a module's path in the block, "in" or "out", how many neurons there are, and the columns if these are not all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import transformers as hf

HIDDEN, WIDTH, HEADS, KEYS, HEAD = 32, 48, 4, 2, 8
SHAPE = {
    "vocab_size": 97, "hidden_size": HIDDEN, "intermediate_size": WIDTH, "num_attention_heads": HEADS,
    "initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 64,
}  # fmt: skip
OLD = {"vocab_size": 97, "n_embd": HIDDEN, "n_head": HEADS, "n_layer": 2, "initializer_range": 0.3}
Layer = dict[str, tuple]


@dataclass(frozen=True)
class Decoder:
    config: Callable[[], Any]
    layers: Sequence[Layer]
    blocks: str = "model.layers"


def act(path: str, down: str, width: int = WIDTH) -> Layer:
    """An MLP of one projection before its nonlinearity."""
    return {"gate_pre": (path, "in", width), "gate": (path, "out", width), "hidden": (down, "in", width)}


def glu(mlp: str = "mlp", act_fn: str = "act_fn", up: str = "up_proj", down: str = "down_proj", width: int = WIDTH) -> Layer:
    return act(f"{mlp}.{act_fn}", f"{mlp}.{down}", width) | {"up": (f"{mlp}.{up}", "out", width)}


def fused_glu(mlp: str, act_fn: str, both: str, down: str, width: int = WIDTH) -> Layer:
    """The gate first, then up."""
    up = (f"{mlp}.{both}", "out", width, range(width, 2 * width))
    return act(f"{mlp}.{act_fn}", f"{mlp}.{down}", width) | {"up": up}


def qkv(attention: str = "self_attn", keys: int = KEYS, head: int = HEAD) -> Layer:
    widths = {"q": HEADS * head, "k": keys * head, "v": keys * head}
    return {name: (f"{attention}.{name}_proj", "out", width) for name, width in widths.items()}


def fused(path: str, columns: int, **where: Callable[[int], bool]) -> Layer:
    found = {name: tuple(c for c in range(columns) if mine(c)) for name, mine in where.items()}
    return {name: (path, "out", len(mine), mine) for name, mine in found.items()}


def only(layer: Layer, *names: str) -> Layer:
    return {name: place for name, place in layer.items() if name in names}


def llama_like(config: Any, layers: int = 2, **more: Any) -> Callable[[], Any]:
    return lambda: config(**(SHAPE | {"num_key_value_heads": KEYS, "num_hidden_layers": layers} | more))


LLAMA = glu() | qkv()
PLAIN = act("mlp.act_fn", "mlp.down_proj") | qkv()
GLM = fused_glu("mlp", "activation_fn", "gate_up_proj", "down_proj") | qkv()
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_expand": 2, "mamba_n_groups": 1}
DELTA = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
ALTERNATING = ["linear_attention", "full_attention"]
GEMMA = {
    "head_dim": HEAD, "vocab_size_per_layer_input": 97, "hidden_size_per_layer_input": 8, "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}  # fmt: skip
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
# Within each head of q_proj's outputs, 8 are the query and 8 a gate on what the head gives.
GATED_Q = qkv() | fused("self_attn.q_proj", 64, q=lambda c: c % 16 < 8)
BY_HEAD = {"q": lambda c: c % 24 < 8, "k": lambda c: 8 <= c % 24 < 16, "v": lambda c: c % 24 >= 16}
IN_ORDER = {"q": lambda c: c < 32, "k": lambda c: 32 <= c < 64, "v": lambda c: c >= 64}
MULTI_QUERY = {"q": lambda c: c < 32, "k": lambda c: 32 <= c < 40, "v": lambda c: c >= 40}
# Two groups of two queries, a key and a value.
GROUPED = {"q": lambda c: c % 32 < 16, "k": lambda c: 16 <= c % 32 < 24, "v": lambda c: c % 32 >= 24}
FALCON = act("mlp.act", "mlp.dense_4h_to_h", 4 * HIDDEN)
OPT_LIKE = act("activation_fn", "fc2") | qkv(keys=HEADS)
# An expert's neurons are no sites yet, nor are those of the experts all tokens are sent to.
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}


def falcon(**more: Any) -> Callable[[], Any]:
    return lambda: hf.FalconConfig(
        vocab_size=97, hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=HEADS, initializer_range=0.3, **more
    )


def opt_like(config: Any) -> Callable[[], Any]:
    names = {"d_model": HIDDEN, "num_layers": 2, "attention_heads": HEADS, "ffn_dim": WIDTH, "init_std": 0.3}
    return lambda: config(vocab_size=97, max_position_embeddings=64, scale_embedding=False, **names)


# fmt: off
TEXT = {
    "gemma3n": Decoder(
        llama_like(
            hf.Gemma3nTextConfig, 4, num_kv_shared_layers=2, laurel_rank=4, intermediate_size=[48, 48, 64, 64],
            activation_sparsity_pattern=[0.95, 0.0, 0.0, 0.0], **GEMMA,
        ),
        [LLAMA, LLAMA, *[glu(width=64) | only(qkv(), "q")] * 2],
    ),
    "gemma4-e2b": Decoder(
        llama_like(hf.Gemma4TextConfig, 4, num_kv_shared_layers=2, use_double_wide_mlp=True, global_head_dim=16, **GEMMA),
        [
            LLAMA,
            glu() | qkv(head=16),
            glu(width=96) | only(qkv(), "q"),
            glu(width=96) | only(qkv(head=16), "q"),
        ],
    ),
    "gemma4-31b": Decoder(  # in full attention the keys are the values too
        llama_like(
            hf.Gemma4TextConfig, 4, attention_k_eq_v=True, global_head_dim=16, num_global_key_value_heads=1,
            **GEMMA | {"hidden_size_per_layer_input": 0},
        ),
        [LLAMA, glu() | only(qkv(head=16), "q")] * 2,
    ),
    "gemma4-unified": Decoder(
        llama_like(hf.Gemma4UnifiedTextConfig, 4, global_head_dim=16, **GEMMA),
        [LLAMA, glu() | qkv(head=16)] * 2,
    ),
    "qwen3.5": Decoder(
        llama_like(hf.Qwen3_5TextConfig, head_dim=HEAD, layer_types=ALTERNATING, **DELTA), [glu(), glu() | GATED_Q]
    ),
    "qwen3-next": Decoder(
        llama_like(
            hf.Qwen3NextConfig, 3, head_dim=HEAD, layer_types=[*ALTERNATING, "full_attention"], mlp_only_layers=[0, 1],
            num_experts=4, shared_expert_intermediate_size=16, **DELTA, **EXPERTS,
        ),
        [glu(), glu() | GATED_Q, GATED_Q],
    ),
    "lfm2": Decoder(
        llama_like(hf.Lfm2Config, layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False),
        [
            act("feed_forward.source.F_silu_0", "feed_forward.w2") | {"up": ("feed_forward.w3", "out", WIDTH)},
            act("feed_forward.source.F_silu_0", "feed_forward.w2") | {"up": ("feed_forward.w3", "out", WIDTH)} | qkv(),
        ],
    ),
    "granite-4-h": Decoder(
        llama_like(
            hf.GraniteMoeHybridConfig, num_local_experts=0, shared_intermediate_size=WIDTH, layer_types=["mamba", "attention"],
            **MAMBA,
        ),
        [
            fused_glu("shared_mlp", "activation", "input_linear", "output_linear"),
            fused_glu("shared_mlp", "activation", "input_linear", "output_linear") | qkv(),
        ],
    ),
    "falcon-7b": Decoder(
        falcon(multi_query=True), [FALCON | fused("self_attention.query_key_value", 48, **MULTI_QUERY)] * 2, "transformer.h"
    ),
    "falcon-40b": Decoder(
        falcon(new_decoder_architecture=True, num_kv_heads=2),
        [FALCON | fused("self_attention.query_key_value", 64, **GROUPED)] * 2,
        "transformer.h",
    ),
    "falcon-rw": Decoder(
        falcon(multi_query=False, alibi=True, parallel_attn=False, bias=True),
        [FALCON | fused("self_attention.query_key_value", 96, **BY_HEAD)] * 2,
        "transformer.h",
    ),
    "falcon-h1": Decoder(
        llama_like(hf.FalconH1Config, head_dim=HEAD, mamba_d_ssm=64, **MAMBA), [glu("feed_forward") | qkv()] * 2
    ),
    "bamba": Decoder(
        llama_like(hf.BambaConfig, attn_layer_indices=[1], **MAMBA), [glu("feed_forward"), glu("feed_forward") | qkv()]
    ),
    "recurrent-gemma": Decoder(  # its config's width is that of both halves
        llama_like(hf.RecurrentGemmaConfig, 3, intermediate_size=2 * WIDTH, attention_window_size=16, lru_width=32),
        [glu("mlp_block")] * 2 + [glu("mlp_block") | qkv("temporal_block")],
    ),
    "olmo-hybrid": Decoder(llama_like(hf.OlmoHybridConfig, layer_types=ALTERNATING, **DELTA), [glu(), LLAMA]),
    "nemotron-h": Decoder(  # a layer is an attention or an MLP
        llama_like(
            hf.NemotronHConfig, 3, layers_block_type=["mamba", "attention", "mlp"], head_dim=HEAD, mamba_num_heads=4,
            mamba_head_dim=16, ssm_state_size=8, n_groups=1,
        ),
        [{}, qkv("mixer"), act("mixer.act_fn", "mixer.down_proj")],
    ),
    "jamba": Decoder(
        llama_like(
            hf.JambaConfig, attn_layer_period=2, attn_layer_offset=1, expert_layer_period=4, expert_layer_offset=3,
            use_mamba_kernels=False, mamba_d_state=8,
        ),
        [glu("feed_forward"), glu("feed_forward") | qkv()],
    ),
    "llama4": Decoder(
        llama_like(
            hf.Llama4TextConfig, intermediate_size=16, intermediate_size_mlp=WIDTH, interleave_moe_layer_step=2, head_dim=HEAD,
            num_local_experts=4,
        ),
        [glu("feed_forward", "activation_fn") | qkv(), qkv()],
    ),
    "deepseek-v3": Decoder(
        llama_like(
            hf.DeepseekV3Config, first_k_dense_replace=1, n_routed_experts=4, n_group=1, topk_group=1,
            num_key_value_heads=HEADS, **LATENT, **EXPERTS,
        ),
        [glu() | {"q": ("self_attn.q_b_proj", "out", 32)}, {"q": ("self_attn.q_b_proj", "out", 32)}],
    ),
    "minicpm3": Decoder(
        llama_like(hf.MiniCPM3Config, num_key_value_heads=HEADS, **LATENT),
        [glu() | {"q": ("self_attn.q_b_proj", "out", 32)}] * 2,
    ),
    "bloom": Decoder(
        lambda: hf.BloomConfig(**OLD | {"hidden_size": HIDDEN}),
        [act("mlp.gelu_impl", "mlp.dense_4h_to_h", 128) | fused("self_attention.query_key_value", 96, **BY_HEAD)] * 2,
        "transformer.h",
    ),
    "openai-gpt": Decoder(  # all layers have the same nonlinearity, so its own module is no place to look
        lambda: hf.OpenAIGPTConfig(**OLD),
        [
            {"gate_pre": ("mlp.c_fc", "out", 128), "gate": ("mlp.c_proj", "in", 128), "hidden": ("mlp.c_proj", "in", 128)}
            | fused("attn.c_attn", 96, **IN_ORDER)
        ] * 2,
        "transformer.h",
    ),
    "gpt-j": Decoder(
        lambda: hf.GPTJConfig(**OLD, rotary_dim=4, n_inner=WIDTH, n_positions=64),
        [act("mlp.act", "mlp.fc_out") | qkv("attn", keys=HEADS)] * 2,
        "transformer.h",
    ),
    "gpt-neo": Decoder(
        lambda: hf.GPTNeoConfig(
            vocab_size=97, hidden_size=HIDDEN, num_layers=2, num_heads=HEADS, intermediate_size=WIDTH,
            attention_types=[[["global", "local"], 1]], max_position_embeddings=64, initializer_range=0.3,
        ),
        [act("mlp.act", "mlp.c_proj") | qkv("attn.attention", keys=HEADS)] * 2,
        "transformer.h",
    ),
    "bitnet": Decoder(  # a norm stands between the product and the down projection
        llama_like(hf.BitNetConfig), [glu(down="ffn_sub_norm") | qkv()] * 2
    ),
    "modernbert-decoder": Decoder(
        llama_like(hf.ModernBertDecoderConfig), [fused_glu("mlp", "act", "Wi", "Wo") | qkv("attn", keys=HEADS)] * 2
    ),
    "phi": Decoder(llama_like(hf.PhiConfig), [act("mlp.activation_fn", "mlp.fc2") | qkv()] * 2),
    "starcoder2": Decoder(llama_like(hf.Starcoder2Config), [act("mlp.act", "mlp.c_proj") | qkv()] * 2),
    "xglm": Decoder(opt_like(hf.XGLMConfig), [OPT_LIKE] * 2),
    "biogpt": Decoder(llama_like(hf.BioGptConfig), [OPT_LIKE] * 2, "biogpt.layers"),
    "glm4": Decoder(llama_like(hf.Glm4Config, head_dim=HEAD), [GLM] * 2),
} | {
    name: Decoder(llama_like(config, **more), [LLAMA] * 2)
    for name, config, more in [
        ("olmo", hf.OlmoConfig, {"clip_qkv": 0.5}),
        ("olmo2", hf.Olmo2Config, {}),
        ("olmo3", hf.Olmo3Config, {}),
        ("smollm3", hf.SmolLM3Config, {}),
        ("cohere2", hf.Cohere2Config, {"head_dim": HEAD}),
        ("ernie4.5", hf.Ernie4_5Config, {"head_dim": HEAD}),
        ("hunyuan", hf.HunYuanDenseV1Config, {"head_dim": HEAD}),
        ("seed-oss", hf.SeedOssConfig, {"head_dim": HEAD}),
        ("stablelm", hf.StableLmConfig, {}),
        ("diffllama", hf.DiffLlamaConfig, {}),
    ]
}
# fmt: on
