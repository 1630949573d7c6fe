"""A tiny random model of every family both papers use, with where its neurons are, written by hand.

`where` gives, for each site: module path within a block, "in" or "out", and the columns of the fused tensor if any.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import (
    ApertusConfig,
    ArceeConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    CodeGenConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GPT2Config,
    GPTBigCodeConfig,
    GPTNeoXConfig,
    Jais2Config,
    LlamaConfig,
    MistralConfig,
    MptConfig,
    NemotronConfig,
    OlmoConfig,
    OPTConfig,
    PersimmonConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from gatescope.organism import build
from tiny import byte_tokenizer, tiny_llava_next

HIDDEN, WIDTH, LAYERS, HEADS, KEYS = 32, 48, 2, 4, 2
UNFUSED = {
    "gate_pre": ("mlp.act_fn", "in", None),
    "gate": ("mlp.act_fn", "out", None),
    "up": ("mlp.up_proj", "out", None),
    "hidden": ("mlp.down_proj", "in", None),
    "q": ("self_attn.q_proj", "out", None),
    "k": ("self_attn.k_proj", "out", None),
    "v": ("self_attn.v_proj", "out", None),
}
PHI = {
    "gate_pre": ("mlp.activation_fn", "in", None),
    "gate": ("mlp.activation_fn", "out", None),
    "up": ("mlp.gate_up_proj", "out", list(range(WIDTH, 2 * WIDTH))),
    "hidden": ("mlp.down_proj", "in", None),
    "q": ("self_attn.qkv_proj", "out", list(range(32))),
    "k": ("self_attn.qkv_proj", "out", list(range(32, 48))),
    "v": ("self_attn.qkv_proj", "out", list(range(48, 64))),
}
GPT2 = {
    "gate_pre": ("mlp.act", "in", None),
    "gate": ("mlp.act", "out", None),
    "hidden": ("mlp.c_proj", "in", None),
    "q": ("attn.c_attn", "out", list(range(32))),
    "k": ("attn.c_attn", "out", list(range(32, 64))),
    "v": ("attn.c_attn", "out", list(range(64, 96))),
}
NEOX = {  # q, k, v of head 0, then of head 1, ...; heads of width 8
    "gate_pre": ("mlp.act", "in", None),
    "gate": ("mlp.act", "out", None),
    "hidden": ("mlp.dense_4h_to_h", "in", None),
    "q": ("attention.query_key_value", "out", [c for c in range(96) if c % 24 < 8]),
    "k": ("attention.query_key_value", "out", [c for c in range(96) if 8 <= c % 24 < 16]),
    "v": ("attention.query_key_value", "out", [c for c in range(96) if c % 24 >= 16]),
}
OPT = {
    "gate_pre": ("activation_fn", "in", None),
    "gate": ("activation_fn", "out", None),
    "hidden": ("fc2", "in", None),
    "q": ("self_attn.q_proj", "out", None),
    "k": ("self_attn.k_proj", "out", None),
    "v": ("self_attn.v_proj", "out", None),
}


@dataclass(frozen=True)
class Family:
    build: Callable[[Path], None]
    blocks: str = "model.layers"
    where: dict = field(default_factory=lambda: UNFUSED)
    auto: type = AutoModelForCausalLM


def _text(config) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        tokenizer = byte_tokenizer([], chat_template=None)
        ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        made = config(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **ids)
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(made).save_pretrained(path)
        tokenizer.save_pretrained(path)

    return write


def _llama_like(config, **more) -> Callable[[Path], None]:
    shape = {
        "hidden_size": HIDDEN, "intermediate_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KEYS, "initializer_range": 0.3, "max_position_embeddings": 1024,
    }  # fmt: skip
    return _text(lambda **ids: config(**shape, **more, **ids))


def _gpt2(**ids):
    return GPT2Config(n_embd=HIDDEN, n_layer=LAYERS, n_head=HEADS, n_inner=WIDTH, initializer_range=0.3, **ids)


def _neox(**ids):
    return GPTNeoXConfig(
        hidden_size=HIDDEN, intermediate_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        initializer_range=0.3, **ids,
    )  # fmt: skip


def _opt(**ids):
    return OPTConfig(
        hidden_size=HIDDEN, ffn_dim=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, word_embed_proj_dim=HIDDEN,
        init_std=0.3, max_position_embeddings=1024, **ids,
    )  # fmt: skip


def _gemma3_multimodal(path: Path) -> None:
    from transformers import Gemma3ImageProcessor, Gemma3Processor

    tokenizer = byte_tokenizer(["<image_soft_token>", "<start_of_image>", "<end_of_image>"], chat_template=None)
    named = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    tokenizer = type(tokenizer)(
        tokenizer_object=tokenizer.backend_tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        extra_special_tokens=named,
    )  # fmt: skip
    text = {
        "vocab_size": len(tokenizer), "hidden_size": HIDDEN, "intermediate_size": WIDTH, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KEYS, "head_dim": 8, "initializer_range": 0.3,
        "query_pre_attn_scalar": 8, "sliding_window": 32, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = {"hidden_size": 16, "intermediate_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    config = Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=tokenizer.image_token_id,
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
    )  # fmt: skip
    torch.manual_seed(0)
    model = Gemma3ForConditionalGeneration(config)
    for name, parameter in model.named_parameters():
        if name.endswith("mm_input_projection_weight"):
            parameter.data.normal_(std=0.3)  # zeros as it is made: no picture would be seen
    model.save_pretrained(path)
    Gemma3Processor(
        image_processor=Gemma3ImageProcessor(size={"height": 28, "width": 28}), tokenizer=tokenizer, image_seq_length=4
    ).save_pretrained(path)


def _qwen_vl(path: Path) -> None:
    processor = build.processor(["kite", "boat", "drum", "lamp", "north", "south", "Which", "these", "k", "b", "d", "l"])
    model = build.model(processor.tokenizer, layers=LAYERS, width=WIDTH, hidden=64, seed=0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(3)
    model.save_pretrained(path)
    processor.save_pretrained(path)


def _llava_qwen2(path: Path) -> None:
    tiny_llava_next(path, text=Qwen2Config)


VLM = {"blocks": "model.language_model.layers", "auto": AutoModelForImageTextToText}


def _codegen(**ids):
    return CodeGenConfig(n_embd=64, n_layer=LAYERS, n_head=8, n_inner=WIDTH, rotary_dim=4, n_positions=1024, **ids)


def _persimmon(**ids):
    return PersimmonConfig(
        hidden_size=HIDDEN, intermediate_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        initializer_range=0.3, **ids,
    )  # fmt: skip


def _bigcode(many: bool):
    def config(**ids):
        shape = {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_inner": WIDTH, "initializer_range": 0.3}
        return GPTBigCodeConfig(**shape, multi_query=not many, **ids)

    return config


def _mpt(**ids):
    return MptConfig(d_model=HIDDEN, n_heads=HEADS, n_layers=LAYERS, initializer_range=0.3, max_seq_len=1024, **ids)


def _without(where: dict, *sites: str) -> dict:
    return {site: place for site, place in where.items() if site not in sites}


GEMMA = {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 32}
FAMILIES = {
    "llama": Family(_llama_like(LlamaConfig)),
    "mistral": Family(_llama_like(MistralConfig, sliding_window=None)),
    "qwen2": Family(_llama_like(Qwen2Config)),
    "qwen3": Family(_llama_like(Qwen3Config, head_dim=8)),
    "gemma3": Family(_llama_like(Gemma3TextConfig, **GEMMA)),
    "phi3": Family(_llama_like(Phi3Config), where=PHI),
    "falcon3": Family(_llama_like(LlamaConfig, head_dim=16)),
    "gpt2": Family(_text(_gpt2), "transformer.h", GPT2),
    "gpt-neox": Family(_text(_neox), "gpt_neox.layers", NEOX),
    "opt": Family(_text(_opt), "model.decoder.layers", OPT),
    "llava-next-mistral": Family(tiny_llava_next, **VLM),
    "llava-next-qwen2": Family(_llava_qwen2, **VLM),
    "qwen2.5-vl": Family(_qwen_vl, **VLM),
    "gemma3-multimodal": Family(_gemma3_multimodal, **VLM),
}

# Of one head of width 8 after the other; in the first of CodeGen's four blocks of 48 columns q is 0..15, v 16..31, k 32..47.
CODEGEN = {
    "gate_pre": ("mlp.act", "in", None),
    "gate": ("mlp.act", "out", None),
    "hidden": ("mlp.fc_out", "in", None),
    "q": ("attn.qkv_proj", "out", [c for c in range(192) if c % 48 < 16]),
    "k": ("attn.qkv_proj", "out", [c for c in range(192) if c % 48 >= 32]),
    "v": ("attn.qkv_proj", "out", [c for c in range(192) if 16 <= c % 48 < 32]),
}
BIGCODE = GPT2 | {
    "q": ("attn.c_attn", "out", [c for c in range(96) if c % 24 < 8]),
    "k": ("attn.c_attn", "out", [c for c in range(96) if 8 <= c % 24 < 16]),
    "v": ("attn.c_attn", "out", [c for c in range(96) if c % 24 >= 16]),
}
MULTI_QUERY = GPT2 | {"k": ("attn.c_attn", "out", list(range(32, 40))), "v": ("attn.c_attn", "out", list(range(40, 48)))}
PLAIN = _without(UNFUSED, "up")  # its one projection is called `up_proj`
MPT = {
    "gate_pre": ("ffn.act", "in", None),
    "gate": ("ffn.act", "out", None),
    "hidden": ("ffn.down_proj", "in", None),
    "q": ("attn.Wqkv", "out", list(range(32))),
    "k": ("attn.Wqkv", "out", list(range(32, 64))),
    "v": ("attn.Wqkv", "out", list(range(64, 96))),
}
PERSIMMON = {
    "gate_pre": ("mlp.act", "in", None),
    "gate": ("mlp.act", "out", None),
    "hidden": ("mlp.dense_4h_to_h", "in", None),
    "q": ("self_attn.query_key_value", "out", [c for c in range(96) if c % 24 < 8]),
    "k": ("self_attn.query_key_value", "out", [c for c in range(96) if 8 <= c % 24 < 16]),
    "v": ("self_attn.query_key_value", "out", [c for c in range(96) if c % 24 >= 16]),
}
# Families whose names or layouts mislead: what a site is cannot be told from what its projection is called.
MISLEADING = {
    "codegen": Family(_text(_codegen), "transformer.h", CODEGEN),
    "gpt-bigcode": Family(_text(_bigcode(many=True)), "transformer.h", BIGCODE),
    "gpt-bigcode-multi-query": Family(_text(_bigcode(many=False)), "transformer.h", MULTI_QUERY),
    "persimmon": Family(_text(_persimmon), where=PERSIMMON),
    "nemotron": Family(_llama_like(NemotronConfig), where=PLAIN),
    "arcee": Family(_llama_like(ArceeConfig), where=PLAIN),
    "apertus": Family(_llama_like(ApertusConfig), where=PLAIN),
    "jais2": Family(_llama_like(Jais2Config), where=PLAIN),
    "mpt": Family(_text(_mpt), "transformer.blocks", MPT),
    "olmo-clipped": Family(_llama_like(OlmoConfig, clip_qkv=0.5)),
}
