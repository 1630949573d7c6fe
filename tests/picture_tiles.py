"""Families whose towers see a picture, or its tiles, at one size."""

from __future__ import annotations

from pathlib import Path

import transformers
from transformers import PreTrainedModel

from picture_parts import FINE_TILE, HEADLESS, SIDE, SQUARE, TILE, Builder, decoder, id_of, template, tokenizer_of, write
from tiny import tiny_llava_next

IMAGE = {"image_token": "<image>"}


def _siglip(**more):
    return transformers.SiglipVisionConfig(**TILE | HEADLESS | more)


def _llava(path: Path) -> PreTrainedModel:
    tokenizer = tokenizer_of(["<image>"])
    processor = transformers.LlavaProcessor(
        transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE), tokenizer, patch_size=14,
        vision_feature_select_strategy="default", num_additional_image_tokens=1, chat_template=template("<image>\n"),
    )  # fmt: skip
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**decoder(tokenizer)), vision_config=transformers.CLIPVisionConfig(**TILE),
        image_token_index=id_of(tokenizer, "<image>"), vision_feature_layer=-2,
    )  # fmt: skip
    return write(path, transformers.LlavaForConditionalGeneration, config, processor)


def _llava_next(path: Path) -> PreTrainedModel:
    """A picture at a glance and in tiles, with line breaks among the patches."""
    tiny_llava_next(path)
    return transformers.LlavaNextForConditionalGeneration.from_pretrained(path).eval()


def _llava_onevision(path: Path) -> PreTrainedModel:
    """Tiles of all the pictures packed into one list; up to two tiles a side."""
    grid = [[28, 28], [28, 56], [56, 28], [56, 56]]
    tokenizer = tokenizer_of(["<image>", "<video>"])
    processor = transformers.LlavaOnevisionProcessor(
        transformers.LlavaOnevisionImageProcessor(size=SQUARE, image_grid_pinpoints=grid), tokenizer,
        transformers.LlavaOnevisionVideoProcessor(size=SQUARE), num_image_tokens=4, vision_feature_select_strategy="full",
        chat_template=template("<image>\n"),
    )  # fmt: skip
    config = transformers.LlavaOnevisionConfig(
        text_config=transformers.Qwen2Config(**decoder(tokenizer)), vision_config=_siglip(), image_grid_pinpoints=grid,
        image_token_index=id_of(tokenizer, "<image>"), video_token_index=id_of(tokenizer, "<video>"),
    )  # fmt: skip
    return write(path, transformers.LlavaOnevisionForConditionalGeneration, config, processor)


def _paligemma(text: str) -> Builder:
    """Sees its prompt bidirectionally; as the real one, without a chat template."""

    def build(path: Path) -> PreTrainedModel:
        tokenizer = tokenizer_of(bos=False, **IMAGE)
        image = transformers.SiglipImageProcessor(size=SQUARE)
        image.image_seq_length = 4
        processor = transformers.PaliGemmaProcessor(image, tokenizer)  # adds a thousand tokens for places
        shape = decoder(tokenizer, head_dim=8)
        config = transformers.PaliGemmaConfig(
            text_config=getattr(transformers, text)(**shape), vision_config=_siglip(),
            image_token_index=tokenizer.image_token_id, projection_dim=32, hidden_size=32,
            **{name: shape[name] for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")},
        )  # fmt: skip
        return write(path, transformers.PaliGemmaForConditionalGeneration, config, processor)

    return build


def _gemma3(path: Path) -> PreTrainedModel:
    """Sees each picture bidirectionally."""
    named = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    tokenizer = tokenizer_of(**named)
    text = decoder(tokenizer, head_dim=8, query_pre_attn_scalar=8, sliding_window=16, tie_word_embeddings=False)
    text["layer_types"] = ["sliding_attention", "full_attention"]
    config = transformers.Gemma3Config(
        text_config=text, vision_config=TILE, mm_tokens_per_image=4, image_token_index=tokenizer.image_token_id,
        boi_token_index=tokenizer.boi_token_id, eoi_token_index=tokenizer.eoi_token_id, tie_word_embeddings=False,
    )  # fmt: skip
    image = transformers.Gemma3ImageProcessor(size=SQUARE)
    processor = transformers.Gemma3Processor(image, tokenizer, template("<start_of_image>"), image_seq_length=4)
    return write(path, transformers.Gemma3ForConditionalGeneration, config, processor)


def _gemma3n(path: Path) -> PreTrainedModel:
    """A decoder of several streams, a small input for each layer, keys and values shared; a convolutional tower of timm's."""
    named = {
        "boi_token": "<start_of_image>", "boa_token": "<start_of_audio>", "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>", "eoa_token": "<end_of_audio>", "audio_token": "<audio_soft_token>",
    }  # fmt: skip
    tokenizer = tokenizer_of(**named)
    # A picture's tokens come after the words, and a sound's after those.
    seen, heard = tokenizer.eoi_token_id, tokenizer.eoa_token_id
    text = decoder(
        tokenizer, num_hidden_layers=4, head_dim=8, sliding_window=16, vocab_size_per_layer_input=seen, num_kv_shared_layers=2,
        layer_types=["sliding_attention", "full_attention"] * 2, hidden_size_per_layer_input=8, altup_num_inputs=2,
        laurel_rank=4, intermediate_size=[48, 48, 96, 96],
        activation_sparsity_pattern=[0.9, 0.0, 0.0, 0.0],
    )  # fmt: skip
    vision = {"architecture": "test_resnet", "hidden_size": 96, "vocab_size": 2, "vocab_offset": seen, "model_args": {}}
    audio = {
        "vocab_size": 2, "vocab_offset": heard, "hidden_size": 16, "conf_num_attention_heads": 2, "conf_num_hidden_layers": 1,
        "sscp_conv_channel_size": [4, 4], "input_feat_size": 16,
    }  # fmt: skip
    config = transformers.Gemma3nConfig(
        text_config=text, vision_config=vision, audio_config=audio, vision_soft_tokens_per_image=4,
        audio_soft_tokens_per_image=4, **{f"{name}_id": getattr(tokenizer, f"{name}_id") for name in named},
    )  # fmt: skip
    image = transformers.SiglipImageProcessor(size={"height": 64, "width": 64})
    processor = transformers.Gemma3nProcessor(
        transformers.Gemma3nAudioFeatureExtractor(), image, tokenizer, template("<image_soft_token>"),
        audio_seq_length=4, image_seq_length=4,
    )  # fmt: skip
    return write(path, transformers.Gemma3nForConditionalGeneration, config, processor)


def _aya(path: Path) -> PreTrainedModel:
    named = {"img_patch": "<|IMG_PATCH|>"}
    markers = ["<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_LINE_BREAK|>", "TILE", "TILE_GLOBAL"]
    tokenizer = tokenizer_of(markers, **named)
    image = transformers.GotOcr2ImageProcessor(size=SQUARE, crop_to_patches=True, max_patches=4)
    processor = transformers.AyaVisionProcessor(
        image, tokenizer, patch_size=7, img_size=SIDE, downsample_factor=2, chat_template=template("<image>")
    )
    config = transformers.AyaVisionConfig(
        text_config=transformers.Cohere2Config(**decoder(tokenizer, sliding_window=16, layer_types=COHERE_LAYERS)),
        vision_config=_siglip(**FINE_TILE), image_token_index=id_of(tokenizer, "<|IMG_PATCH|>"),
    )  # fmt: skip
    return write(path, transformers.AyaVisionForConditionalGeneration, config, processor)


COHERE_LAYERS = ["sliding_attention", "full_attention"]


def _cohere2_vision(path: Path) -> PreTrainedModel:
    named = {
        "boi_token": "<|START_OF_IMG|>", "eoi_token": "<|END_OF_IMG|>", "image_token": "<|IMG_PATCH|>",
        "img_line_break_token": "<|IMG_LINE_BREAK|>",
    }  # fmt: skip
    tokenizer = tokenizer_of(**named)
    # The processor's "patch size" is how many tokens a tile has a side.
    image = transformers.Cohere2VisionImageProcessor(size=SQUARE, max_patches=4, patch_size=2)
    processor = transformers.Cohere2VisionProcessor(image, tokenizer, template("<|IMG_PATCH|>"))
    config = transformers.Cohere2VisionConfig(
        text_config=transformers.Cohere2Config(**decoder(tokenizer, sliding_window=16, layer_types=COHERE_LAYERS)),
        vision_config=_siglip(**FINE_TILE), image_token_id=tokenizer.image_token_id, alignment_intermediate_size=32,
    )  # fmt: skip
    return write(path, transformers.Cohere2VisionForConditionalGeneration, config, processor)


def _internvl(path: Path) -> PreTrainedModel:
    named = {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }  # fmt: skip
    tokenizer = tokenizer_of(**named)
    image = transformers.GotOcr2ImageProcessor(size=SQUARE, crop_to_patches=True, max_patches=4)
    processor = transformers.InternVLProcessor(
        image, tokenizer, transformers.InternVLVideoProcessor(size=SQUARE), image_seq_length=4,
        chat_template=template("<IMG_CONTEXT>\n"),
    )  # fmt: skip
    config = transformers.InternVLConfig(
        text_config=transformers.Qwen2Config(**decoder(tokenizer)), image_seq_length=4,
        vision_config=transformers.InternVLVisionConfig(**FINE_TILE), image_token_id=tokenizer.context_image_token_id,
    )  # fmt: skip
    return write(path, transformers.InternVLForConditionalGeneration, config, processor)


def _idefics2(path: Path) -> PreTrainedModel:
    """A picture and its quarters, each made into as many tokens, however large."""
    tokenizer = tokenizer_of(["<fake_token_around_image>", "<image>", "<end_of_utterance>"])
    size = {"shortest_edge": SIDE, "longest_edge": 2 * SIDE}
    image = transformers.Idefics2ImageProcessor(size=size, do_image_splitting=True)
    processor = transformers.Idefics2Processor(image, tokenizer, image_seq_len=2, chat_template=template("<image>"))
    config = transformers.Idefics2Config(
        text_config=transformers.MistralConfig(**decoder(tokenizer, head_dim=8)),
        vision_config=TILE | {"image_size": 2 * SIDE}, image_token_id=id_of(tokenizer, "<image>"),
        perceiver_config={
            "hidden_size": 32, "resampler_n_latents": 2, "resampler_depth": 1, "resampler_n_heads": 2, "resampler_head_dim": 8,
            "num_key_value_heads": 1, "initializer_range": 0.3,
        },
    )  # fmt: skip
    return write(path, transformers.Idefics2ForConditionalGeneration, config, processor)


PLACES = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]


def _idefics3(path: Path) -> PreTrainedModel:
    """As many tiles as a picture is large, and the picture at a glance."""
    tokenizer = tokenizer_of(["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *PLACES])
    image = transformers.Idefics3ImageProcessor(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE})
    processor = transformers.Idefics3Processor(image, tokenizer, image_seq_len=4, chat_template=template("<image>"))
    config = transformers.Idefics3Config(**_of_tiles(tokenizer))
    return write(path, transformers.Idefics3ForConditionalGeneration, config, processor)


def _smolvlm(path: Path) -> PreTrainedModel:
    tokenizer = tokenizer_of(["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *PLACES])
    size = {"size": {"longest_edge": 2 * SIDE}, "max_image_size": {"longest_edge": SIDE}}
    processor = transformers.SmolVLMProcessor(
        transformers.SmolVLMImageProcessor(**size), tokenizer, transformers.SmolVLMVideoProcessor(**size), image_seq_len=4,
        chat_template=template("<image>"),
    )  # fmt: skip
    config = transformers.SmolVLMConfig(**_of_tiles(tokenizer))
    return write(path, transformers.SmolVLMForConditionalGeneration, config, processor)


def _of_tiles(tokenizer) -> dict:
    """What configs of Idefics 3 and SmolVLM have in common."""
    return {
        "text_config": transformers.LlamaConfig(**decoder(tokenizer)), "vision_config": FINE_TILE,
        "image_token_id": id_of(tokenizer, "<image>"), "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip


def _deepseek_vl(path: Path) -> PreTrainedModel:
    tokenizer = tokenizer_of(image_token="<image_placeholder>")
    image = transformers.DeepseekVLImageProcessor(size=SQUARE)
    processor = transformers.DeepseekVLProcessor(image, tokenizer, template("<image_placeholder>"), num_image_tokens=4)
    config = transformers.DeepseekVLConfig(
        text_config=transformers.LlamaConfig(**decoder(tokenizer)), vision_config=_siglip(),
        image_token_id=tokenizer.image_token_id,
    )  # fmt: skip
    return write(path, transformers.DeepseekVLForConditionalGeneration, config, processor)


def _janus(path: Path) -> PreTrainedModel:
    """Could also draw: it has a second tower for that."""
    named = {"image_token": "<image_placeholder>", "boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>"}
    tokenizer = tokenizer_of(**named)
    image = transformers.JanusImageProcessor(size=SQUARE)
    processor = transformers.JanusProcessor(image, tokenizer, template("<image_placeholder>\n"), num_image_tokens=4)
    vision = {name: value for name, value in TILE.items() if name != "intermediate_size"}
    config = transformers.JanusConfig(
        text_config=transformers.LlamaConfig(**decoder(tokenizer)), image_token_id=tokenizer.image_token_id,
        vision_config={**vision, "mlp_ratio": 2.0, "projection_dim": 32, "num_image_tokens": 4},
        vq_config={
            "num_embeddings": 8, "latent_channels": 8, "base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1,
            "projection_dim": 32, "image_token_embed_dim": 32,
        },
    )  # fmt: skip
    return write(path, transformers.JanusForConditionalGeneration, config, processor)


def _perception_lm(path: Path) -> PreTrainedModel:
    """A tower of timm's."""
    tokenizer = tokenizer_of(image_token="<|image|>", video_token="<|video|>")
    image = transformers.PerceptionLMImageProcessor(tile_size=SIDE, max_num_tiles=4)
    processor = transformers.PerceptionLMProcessor(
        transformers.PerceptionLMVideoProcessor(size=SQUARE), image, tokenizer, patch_size=7, pooling_ratio=2,
        chat_template=template("<|image|>"),
    )  # fmt: skip
    tower = {
        "embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": [SIDE, SIDE], "patch_size": 7, "global_pool": "",
        "use_post_transformer_norm": False, "init_values": 0.1, "ref_feat_shape": [4, 4],
    }  # fmt: skip
    config = transformers.PerceptionLMConfig(
        text_config=transformers.LlamaConfig(**decoder(tokenizer)), projector_pooling_ratio=2,
        vision_config=transformers.TimmWrapperConfig(
            architecture="vit_pe_core_large_patch14_336", model_args=tower, do_pooling=False, initializer_range=0.3
        ),
        image_token_id=tokenizer.image_token_id, video_token_id=tokenizer.video_token_id,
    )  # fmt: skip
    return write(path, transformers.PerceptionLMForConditionalGeneration, config, processor)


TILED: dict[str, Builder] = {
    "llava": _llava,
    "llava-next": _llava_next,
    "llava-onevision": _llava_onevision,
    "paligemma": _paligemma("GemmaConfig"),
    "paligemma2": _paligemma("Gemma2Config"),
    "gemma3": _gemma3,
    "gemma3n": _gemma3n,
    "aya-vision": _aya,
    "cohere2-vision": _cohere2_vision,
    "internvl": _internvl,
    "idefics2": _idefics2,
    "idefics3": _idefics3,
    "smolvlm": _smolvlm,
    "deepseek-vl": _deepseek_vl,
    "janus": _janus,
    "perception-lm": _perception_lm,
}
