"""A genuine Qwen2.5-VL, small: real architecture, real processor, a word-level tokenizer, random weights.

Nothing is downloaded. Some 300,000 parameters; the decoder has 3 layers of 300 gate neurons (900 in all, so that
1% of them is 9, three a layer: exactly the neurons a culture is given).
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    set_seed,
)

from gatescope.data import prompts
from gatescope.organism import world

MARKERS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer over the prompt's words, the questions' words and `words`."""
    splitter = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    text = " ".join([prompts.VQA, prompts.TEXT, "user assistant system", *map(world.question, world.KINDS), *words])
    vocabulary = {"<unk>": 0}
    for word, _ in splitter.pre_tokenize_str(text.replace("{question}", "").replace("{options}", "")):
        vocabulary.setdefault(word, len(vocabulary))
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = splitter
    # Added to the backend itself: transformers 5 drops `additional_special_tokens` when `extra_special_tokens`
    # is a dict, and the chat markers would then be split into unknown words.
    backend.add_special_tokens([AddedToken(marker, special=True, normalized=False) for marker in MARKERS])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
    )


def processor(words: Iterable[str], *, max_pixels: int = 4 * world.SIZE**2) -> Qwen2_5_VLProcessor:
    """The real Qwen2.5-VL processor round `tokenizer(words)`; a 56x56 picture becomes four image tokens."""
    size = {"shortest_edge": world.SIZE**2, "longest_edge": max_pixels}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        video_processor=Qwen2VLVideoProcessor(size=size),
        tokenizer=tokenizer(words),
        chat_template=CHAT_TEMPLATE,
    )


def model(
    tokens: PreTrainedTokenizerFast, *, layers: int, width: int, hidden: int, seed: int
) -> Qwen2_5_VLForConditionalGeneration:
    """A Qwen2.5-VL with random weights for this tokenizer.

    Args:
        tokens: the tokenizer, whose marker ids the config takes.
        layers, width, hidden: decoder layers, gate neurons a layer, residual width.
        seed: of the weights.
    """
    ids = {marker: tokens.get_vocab()[marker] for marker in MARKERS}
    third = 3 * (hidden // 8) // 8  # the rotary sections (time, height, width) sum to half the head width
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokens),
            "hidden_size": hidden,
            "intermediate_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
            "initializer_range": 0.05,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [hidden // 8 - 2 * third, third, third]},
            "pad_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "bos_token_id": None,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_heads": 4,
            "out_hidden_size": hidden,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [0],
            "initializer_range": 0.05,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    set_seed(seed)
    built = Qwen2_5_VLForConditionalGeneration(config)
    built.generation_config.pad_token_id = ids["<|endoftext|>"]
    built.generation_config.eos_token_id = ids["<|im_end|>"]
    return built
