"""Families that see a picture at its own size, the patches of all the pictures in one row; and those like no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedModel

from picture_parts import SQUARE, TOWER, Builder, decoder, id_of, template, tokenizer_of, write

BREAKS = ["[IMG]", "[IMG_BREAK]", "[IMG_END]"]


def _pixtral_tower():
    return transformers.PixtralVisionConfig(**TOWER, image_size=112, patch_size=14)


def _pixtral_processor(merge: int):
    image = transformers.PixtralImageProcessor(size={"longest_edge": 112}, patch_size={"height": 14, "width": 14})
    return transformers.PixtralProcessor(
        image, tokenizer_of(BREAKS), patch_size=14, spatial_merge_size=merge, chat_template=template("[IMG]")
    )


def _pixtral(path: Path) -> PreTrainedModel:
    processor = _pixtral_processor(1)
    config = transformers.LlavaConfig(
        text_config=transformers.MistralConfig(**decoder(processor.tokenizer, head_dim=8)), vision_config=_pixtral_tower(),
        image_token_index=processor.image_token_id, vision_feature_select_strategy="full", vision_feature_layer=-1,
    )  # fmt: skip
    return write(path, transformers.LlavaForConditionalGeneration, config, processor)


def _mistral3(path: Path) -> PreTrainedModel:
    """A Pixtral tower whose patches are merged by four."""
    processor = _pixtral_processor(2)
    config = transformers.Mistral3Config(
        text_config=transformers.MistralConfig(**decoder(processor.tokenizer, head_dim=8)), vision_config=_pixtral_tower(),
        image_token_index=processor.image_token_id, spatial_merge_size=2, vision_feature_layer=-1, tie_word_embeddings=False,
    )  # fmt: skip
    return write(path, transformers.Mistral3ForConditionalGeneration, config, processor)


def _lighton_ocr(path: Path) -> PreTrainedModel:
    """A Pixtral tower under another name."""
    named = dict(zip(("image_token", "image_break_token", "image_end_token"), BREAKS, strict=True))
    tokenizer = tokenizer_of(**named)
    image = transformers.PixtralImageProcessor(size={"longest_edge": 112}, patch_size={"height": 28, "width": 28})
    processor = transformers.LightOnOcrProcessor(
        image, tokenizer, patch_size=14, spatial_merge_size=2, chat_template=template("[IMG]")
    )
    config = transformers.LightOnOcrConfig(
        text_config=transformers.Qwen3Config(**decoder(tokenizer, head_dim=8, tie_word_embeddings=False)),
        vision_config=_pixtral_tower(), image_token_id=processor.image_token_id, spatial_merge_size=2,
        tie_word_embeddings=False,
    )  # fmt: skip
    return write(path, transformers.LightOnOcrForConditionalGeneration, config, processor)


QWEN = {
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
}
AXES = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}  # time, height, width


def _qwen(family: str, text: dict[str, Any], vision: dict[str, Any], patch: int, processor: str = "") -> Builder:
    """Numbers positions along time, height and width."""

    def build(path: Path) -> PreTrainedModel:
        processor_name = processor or family
        tokenizer = tokenizer_of(list(QWEN.values()), bos=False)
        size = {"shortest_edge": (2 * patch) ** 2, "longest_edge": (8 * patch) ** 2}
        image = transformers.Qwen2VLImageProcessor(size=size, patch_size=patch)
        video = "Qwen3VLVideoProcessor" if processor_name == "Qwen3VL" else "Qwen2VLVideoProcessor"
        made = getattr(transformers, f"{processor_name}Processor")(
            image, tokenizer, getattr(transformers, video)(size=size),
            chat_template=template("<|vision_start|><|image_pad|><|vision_end|>"),
        )  # fmt: skip
        config = getattr(transformers, f"{family}Config")(
            text_config=decoder(tokenizer, **{"rope_parameters": AXES} | text),
            vision_config={"depth": 2, "num_heads": 2, "patch_size": patch, "initializer_range": 0.3, **vision},
            **{name: id_of(tokenizer, token) for name, token in QWEN.items()},
        )  # fmt: skip
        return write(path, getattr(transformers, f"{family}ForConditionalGeneration"), config, made)

    return build


OUT = {"hidden_size": 16, "intermediate_size": 32, "out_hidden_size": 32}
POSITIONS = {**OUT, "num_position_embeddings": 16}
MIXED = {  # one layer of linear attention, one of the usual kind
    "head_dim": 8, "layer_types": ["linear_attention", "full_attention"], "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "rope_parameters": AXES | {"mrope_interleaved": True, "partial_rotary_factor": 1.0},
}  # fmt: skip


def _glm4v(path: Path) -> PreTrainedModel:
    named = {
        "image_token_id": "<|image|>", "video_token_id": "<|video|>", "image_start_token_id": "<|begin_of_image|>",
        "image_end_token_id": "<|end_of_image|>", "video_start_token_id": "<|begin_of_video|>",
        "video_end_token_id": "<|end_of_video|>",
    }  # fmt: skip
    tokenizer = tokenizer_of(list(named.values()))
    size = {"shortest_edge": 28 * 28, "longest_edge": 2 * 112 * 112}
    processor = transformers.Glm4vProcessor(
        transformers.Glm4vImageProcessor(size=size), tokenizer, transformers.Glm4vVideoProcessor(size=size),
        chat_template=template("<|begin_of_image|><|image|><|end_of_image|>"),
    )  # fmt: skip
    config = transformers.Glm4vConfig(
        text_config=decoder(tokenizer, rope_parameters=AXES),
        vision_config={"depth": 2, "num_heads": 2, "image_size": 112, "initializer_range": 0.3, **OUT},
        **{name: id_of(tokenizer, token) for name, token in named.items()},
    )  # fmt: skip
    return write(path, transformers.Glm4vForConditionalGeneration, config, processor)


GEMMA4 = {
    "boi_token": "<|image>", "eoi_token": "<image|>", "image_token": "<|image|>", "boa_token": "<|audio>",
    "eoa_token": "<audio|>", "audio_token": "<|audio|>",
}  # fmt: skip
GEMMA4_LAYERS = ["sliding_attention", "full_attention"] * 2


def _gemma4(family: str, **text: Any) -> Builder:
    def build(path: Path) -> PreTrainedModel:
        tokenizer = tokenizer_of(["<|video|>"], **GEMMA4)
        patches = {"patch_size": 4, "pooling_kernel_size": 2, "max_soft_tokens": 70}  # as few as it can do with
        made = {kind: getattr(transformers, f"{family}{kind}") for kind in ("Config", "Processor", "ForConditionalGeneration")}
        part = {name: getattr(transformers, f"{family}{name}") for name in ("ImageProcessor", "VideoProcessor")}
        processor = made["Processor"](
            transformers.Gemma4AudioFeatureExtractor(), part["ImageProcessor"](**patches), tokenizer,
            part["VideoProcessor"](**patches), template("<|image|>"),
        )  # fmt: skip
        tower = {"patch_size": 4, "pooling_kernel_size": 2}
        vision = {
            "Gemma4": {**TOWER, **tower, "num_key_value_heads": 2, "head_dim": 8, "position_embedding_size": 128},
            "Gemma4Unified": {**tower, "mm_embed_dim": 16, "mm_posemb_size": 128, "output_proj_dims": 16},
        }[family]
        shape = decoder(
            tokenizer, num_hidden_layers=4, head_dim=8, global_head_dim=16, sliding_window=32, layer_types=GEMMA4_LAYERS,
            **text,
        )  # fmt: skip
        if "hidden_size_per_layer_input" in text:
            shape["vocab_size_per_layer_input"] = shape["vocab_size"]
        config = made["Config"](
            text_config=shape, vision_config=vision, audio_config=None, video_token_id=id_of(tokenizer, "<|video|>"),
            eoa_token_index=tokenizer.eoa_token_id,
            **{f"{name}_id": getattr(tokenizer, f"{name}_id") for name in GEMMA4 if name != "eoa_token"},
        )  # fmt: skip
        return write(path, made["ForConditionalGeneration"], config, processor)

    return build


def _mllama(path: Path) -> PreTrainedModel:
    """Sees pictures in its cross-attention layers alone (here layer 1 of 3), which do not run on text."""
    tokenizer = tokenizer_of(["<|image|>", "<|python_tag|>"], image_token="<|image|>")
    text = decoder(tokenizer, num_hidden_layers=3, cross_attention_layers=[1])
    text["vocab_size"] -= 2  # the image token comes after the words, and the embedding has eight rows more
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_global_layers": 1, "attention_heads": 2,
        "vision_output_dim": 32, "image_size": 28, "patch_size": 14, "intermediate_layers_indices": [0],
        "initializer_range": 0.3,
    }  # fmt: skip
    config = transformers.MllamaConfig(text_config=text, vision_config=vision, image_token_index=tokenizer.image_token_id)
    image = transformers.MllamaImageProcessor(size=SQUARE)
    processor = transformers.MllamaProcessor(image, tokenizer, chat_template=template("<|image|>"))
    return write(path, transformers.MllamaForConditionalGeneration, config, processor)


def _chameleon(path: Path) -> PreTrainedModel:
    """Turns a picture into tokens of its vocabulary; as the real one, without a chat template."""
    codes = [f"IMGIMG{letter}Z" for letter in "ABCDEFGH"]
    named = {"image_token": "<image>", "boi_token": "<racm3:break>", "eoi_token": "<eoss>"}
    tokenizer = tokenizer_of(["<image>", "<racm3:break>", "<eoss>", "<reserved08706>", *codes], **named)
    tokenizer.sep_token = "<reserved08706>"
    image = transformers.ChameleonImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    config = transformers.ChameleonConfig(
        **decoder(tokenizer), vocabulary_map=tokenizer.get_vocab(),
        vq_config={
            "embed_dim": 8, "num_embeddings": len(codes), "latent_channels": 8, "resolution": 16, "base_channels": 32,
            "channel_multiplier": [1, 1, 1, 1], "num_res_blocks": 1,
        },
    )  # fmt: skip
    processor = transformers.ChameleonProcessor(image, tokenizer, image_seq_length=4)
    return write(path, transformers.ChameleonForConditionalGeneration, config, processor)


PACKED: dict[str, Builder] = {
    "pixtral": _pixtral,
    "mistral3": _mistral3,
    "lighton-ocr": _lighton_ocr,
    "qwen2-vl": _qwen("Qwen2VL", {}, {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2}, 14),
    "qwen2.5-vl": _qwen("Qwen2_5_VL", {}, {**OUT, "fullatt_block_indexes": [0], "window_size": 56}, 14),
    # Hands features of several layers of its tower to several of its decoder.
    "qwen3-vl": _qwen(
        "Qwen3VL",
        {"head_dim": 8, "rope_parameters": AXES | {"mrope_interleaved": True}},
        {**POSITIONS, "deepstack_visual_indexes": [0, 1]},
        16,
    ),
    "qwen3.5-vl": _qwen("Qwen3_5", MIXED, POSITIONS, 16, processor="Qwen3VL"),
    "glm4v": _glm4v,
    "gemma4-e2b": _gemma4("Gemma4", hidden_size_per_layer_input=8, num_kv_shared_layers=2, use_double_wide_mlp=True),
    "gemma4-31b": _gemma4(
        "Gemma4", hidden_size_per_layer_input=0, attention_k_eq_v=True, num_global_key_value_heads=1,
        use_bidirectional_attention="vision",
    ),
    "gemma4-unified": _gemma4("Gemma4Unified", attention_k_eq_v=True, num_global_key_value_heads=1),
    "mllama": _mllama,
    "chameleon": _chameleon,
}  # fmt: skip
