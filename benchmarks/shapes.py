"""Models of the real architectures' shapes with random weights, and inputs for them: nothing is downloaded.

    toy  Llama, 12 layers of 1,024 neurons, hidden 256
    1b   Llama-3.2-1B
    7b   the text decoder of Qwen2.5-VL-7B
    12b  the text decoder of gemma-3-12b

bfloat16 on a GPU, float32 on a CPU. The tokenizer has one word per id, so a prompt of n words is exactly n tokens.
"""

from __future__ import annotations

import random

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

import gatescope as gs
from gatescope.data import Example

WORDS = 900
CONFIGS = {
    "toy": lambda: LlamaConfig(
        vocab_size=1000, hidden_size=256, intermediate_size=1024, num_hidden_layers=12, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=4096,
    ),
    "1b": lambda: LlamaConfig(
        vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, max_position_embeddings=4096, tie_word_embeddings=True,
    ),
    "7b": lambda: Qwen2Config(
        vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4, max_position_embeddings=4096, use_sliding_window=False,
    ),
    "12b": lambda: Gemma3TextConfig(
        vocab_size=262208, hidden_size=3840, intermediate_size=15360, num_hidden_layers=48, num_attention_heads=16,
        num_key_value_heads=8, head_dim=256, sliding_window=1024, max_position_embeddings=4096,
    ),
}  # fmt: skip


def config(preset: str, **changes: int) -> PretrainedConfig:
    """A preset's config, with some of its numbers changed."""
    chosen = CONFIGS[preset]()
    if "num_hidden_layers" in changes:
        # Built anew, because `layer_types` has one entry per layer.
        values = {name: value for name, value in chosen.to_dict().items() if name != "layer_types"}
        chosen = type(chosen)(**values | changes)
    for name, value in changes.items():
        setattr(chosen, name, value)
    return chosen


def built(auto, chosen: PretrainedConfig, device: str, attention: str = "sdpa") -> torch.nn.Module:
    """A frozen model with random weights, created on the device where it will run."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    with torch.device(device):
        module = auto.from_config(chosen, dtype=dtype, attn_implementation=attention)
    return module.to(device).eval().requires_grad_(False)


def decoder(preset: str, device: str, attention: str = "sdpa", **changes: int):
    """A text decoder, loaded as gatescope loads it."""
    module = built(AutoModelForCausalLM, config(preset, **changes), device, attention)
    return gs.load_model(module, tokenizer=tokenizer())


def tokenizer() -> PreTrainedTokenizerFast:
    """One word per id; the chat template returns the question unchanged."""
    vocabulary = {"<pad>": 0, "<end>": 1, "<unk>": 2} | {f"w{i}": i + 3 for i in range(WORDS)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<end>",
        unk_token="<unk>",
        padding_side="left",
        chat_template="{{ messages[0]['content'] }}",
    )


def passages(count: int, tokens: int, groups: int = 1) -> list[Example]:
    """Passages of random words, assigned to the groups in turn."""
    draw = random.Random(0)
    texts = [" ".join(f"w{draw.randrange(WORDS)}" for _ in range(tokens)) for _ in range(count)]
    return [Example(f"p{i}", f"g{i % groups}", "", (), "", prompt=text, chat=False) for i, text in enumerate(texts)]


def questions(count: int, tokens: int, groups: int = 1) -> list[Example]:
    """Questions of random words, with four labels of one token each."""
    labels = ("w0", "w1", "w2", "w3")
    choices = ("one", "two", "three", "four")
    return [
        Example(e.id, e.group, "", choices, choices[i % 4], prompt=e.prompt, labels=labels)
        for i, e in enumerate(passages(count, tokens, groups))
    ]
