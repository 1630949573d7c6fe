"""A tiny random model of families that see pictures, with its real processor, each written as an ordinary directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import processors
from transformers import (
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    ChameleonImageProcessor,
    ChameleonProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    GemmaConfig,
    LightOnOcrConfig,
    LightOnOcrForConditionalGeneration,
    LightOnOcrProcessor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaImageProcessor,
    MllamaProcessor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PixtralImageProcessor,
    PixtralProcessor,
    PixtralVisionConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2VLImageProcessor,
    Qwen3Config,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    SiglipImageProcessor,
    SiglipVisionConfig,
)

from tiny import byte_tokenizer

SHAPE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 2048, "initializer_range": 0.3,
}  # fmt: skip
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.3}
TILES = {**TOWER, "image_size": 28, "patch_size": 14}  # four patches a picture
SQUARE = {"height": 28, "width": 28}


def _template(image: str) -> str:
    return (
        "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {% for part in m['content'] %}"
        "{% if part['type'] == 'image' %}" + image + "{% else %}{{ part['text'] }}{% endif %}{% endfor %}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )


def _tokenizer(markers: list[str], *, bos: bool = True, **named: str) -> PreTrainedTokenizerFast:
    """Bytes, markers, and those of the markers that the processor asks for by name."""
    made = byte_tokenizer(markers, chat_template=None)
    if not bos:
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
    return PreTrainedTokenizerFast(
        tokenizer_object=made.backend_tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=named,
    )


def _decoder(tokenizer: PreTrainedTokenizerFast, **more) -> dict:
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {"vocab_size": len(tokenizer), **SHAPE, **ids, **more}


def _write(path: Path, model: type[PreTrainedModel], config, processor) -> None:
    torch.manual_seed(0)
    made = model(config)
    for name, parameter in made.named_parameters():
        if name.endswith("_gate"):  # mllama's cross-attention, shut until it is trained
            parameter.data.fill_(1.0)
        if ".vqmodel." in name and ".embedding." not in name and parameter.ndim > 1:  # Chameleon: or all patches look alike
            parameter.data.mul_(8)
    made.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    made.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    made.save_pretrained(path)
    processor.save_pretrained(path)


def _paligemma(path: Path) -> None:
    """Sees its prompt bidirectionally; as the real one, without a chat template."""
    tokenizer = _tokenizer(["<image>"], bos=False, image_token="<image>")
    image = SiglipImageProcessor(size=SQUARE)
    image.image_seq_length = 4
    processor = PaliGemmaProcessor(image, tokenizer)  # adds a thousand tokens for places
    config = PaliGemmaConfig(
        text_config=GemmaConfig(**_decoder(tokenizer, head_dim=8)),
        vision_config=SiglipVisionConfig(**TILES, vision_use_head=False),
        image_token_index=tokenizer.image_token_id, projection_dim=32, hidden_size=32, vocab_size=len(tokenizer),
        **{name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
    )  # fmt: skip
    _write(path, PaliGemmaForConditionalGeneration, config, processor)


def _llava_onevision(path: Path) -> None:
    """Tiles of all the pictures packed into one list; up to two tiles a side."""
    grid = [[28, 28], [28, 56], [56, 28], [56, 56]]
    tokenizer = _tokenizer(["<image>", "<video>"])
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=SQUARE, image_grid_pinpoints=grid), tokenizer,
        LlavaOnevisionVideoProcessor(size=SQUARE), num_image_tokens=4, vision_feature_select_strategy="full",
        chat_template=_template("<image>\n"),
    )  # fmt: skip
    config = LlavaOnevisionConfig(
        text_config=Qwen2Config(**_decoder(tokenizer)), vision_config=SiglipVisionConfig(**TILES, vision_use_head=False),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), image_grid_pinpoints=grid,
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
    )  # fmt: skip
    _write(path, LlavaOnevisionForConditionalGeneration, config, processor)


def _llava(path: Path) -> None:
    tokenizer = _tokenizer(["<image>"])
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=SQUARE), tokenizer, patch_size=14,
        vision_feature_select_strategy="default", num_additional_image_tokens=1, chat_template=_template("<image>\n"),
    )  # fmt: skip
    config = LlavaConfig(
        text_config=LlamaConfig(**_decoder(tokenizer)), vision_config=CLIPVisionConfig(**TILES),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), vision_feature_layer=-2,
    )  # fmt: skip
    _write(path, LlavaForConditionalGeneration, config, processor)


PIXTRAL = PixtralVisionConfig(**TOWER, image_size=112, patch_size=14)  # the patches of all the pictures in one row
BREAKS = ["[IMG]", "[IMG_BREAK]", "[IMG_END]"]


def _pixtral_processor(merge: int) -> PixtralProcessor:
    image = PixtralImageProcessor(size={"longest_edge": 112}, patch_size={"height": 14, "width": 14})
    tokenizer = _tokenizer(BREAKS)
    template = _template("[IMG]")
    return PixtralProcessor(image, tokenizer, patch_size=14, spatial_merge_size=merge, chat_template=template)


def _pixtral(path: Path) -> None:
    processor = _pixtral_processor(1)
    config = LlavaConfig(
        text_config=MistralConfig(**_decoder(processor.tokenizer, head_dim=8)), vision_config=PIXTRAL,
        image_token_index=processor.image_token_id, vision_feature_select_strategy="full", vision_feature_layer=-1,
    )  # fmt: skip
    _write(path, LlavaForConditionalGeneration, config, processor)


def _mistral3(path: Path) -> None:
    """A Pixtral tower whose patches are merged by four."""
    processor = _pixtral_processor(2)
    config = Mistral3Config(
        text_config=MistralConfig(**_decoder(processor.tokenizer, head_dim=8)), vision_config=PIXTRAL,
        image_token_index=processor.image_token_id, spatial_merge_size=2, vision_feature_layer=-1, tie_word_embeddings=False,
    )  # fmt: skip
    _write(path, Mistral3ForConditionalGeneration, config, processor)


def _lighton_ocr(path: Path) -> None:
    """A Pixtral tower under another name."""
    named = dict(zip(("image_token", "image_break_token", "image_end_token"), BREAKS, strict=True))
    tokenizer = _tokenizer(BREAKS, **named)
    image = PixtralImageProcessor(size={"longest_edge": 112}, patch_size={"height": 28, "width": 28})
    processor = LightOnOcrProcessor(image, tokenizer, patch_size=14, spatial_merge_size=2, chat_template=_template("[IMG]"))
    config = LightOnOcrConfig(
        text_config=Qwen3Config(**_decoder(tokenizer, head_dim=8, tie_word_embeddings=False)), vision_config=PIXTRAL,
        image_token_id=processor.image_token_id, spatial_merge_size=2, tie_word_embeddings=False,
    )  # fmt: skip
    _write(path, LightOnOcrForConditionalGeneration, config, processor)


def _qwen3_vl(path: Path) -> None:
    """Hands features of several layers of its tower to several of its decoder."""
    markers = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = _tokenizer(markers, bos=False)
    size = {"shortest_edge": 32 * 32, "longest_edge": 128 * 128}
    image = Qwen2VLImageProcessor(size=size, patch_size=16)
    template = _template("<|vision_start|><|image_pad|><|vision_end|>")
    processor = Qwen3VLProcessor(image, tokenizer, Qwen3VLVideoProcessor(size=size), chat_template=template)
    ids = dict(
        zip(
            ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id"),
            tokenizer.convert_tokens_to_ids(markers),
            strict=True,
        )
    )
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True, "rope_theta": 10000.0}
    config = Qwen3VLConfig(
        text_config=_decoder(tokenizer, head_dim=8, rope_parameters=rope),
        vision_config={
            "depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32, "patch_size": 16,
            "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1], "initializer_range": 0.3,
        },
        **ids,
    )  # fmt: skip
    _write(path, Qwen3VLForConditionalGeneration, config, processor)


def _mllama(path: Path) -> None:
    """Sees pictures in its cross-attention layers alone (here layer 1 of 3), which do not run on text."""
    tokenizer = _tokenizer(["<|image|>", "<|python_tag|>"], image_token="<|image|>")
    text = _decoder(tokenizer, num_hidden_layers=3, cross_attention_layers=[1])
    text["vocab_size"] -= 2  # the image token comes after the words, and the embedding has eight rows more
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_global_layers": 1, "attention_heads": 2,
        "vision_output_dim": 32, "image_size": 28, "patch_size": 14, "intermediate_layers_indices": [0],
        "initializer_range": 0.3,
    }  # fmt: skip
    config = MllamaConfig(text_config=text, vision_config=vision, image_token_index=tokenizer.image_token_id)
    processor = MllamaProcessor(MllamaImageProcessor(size=SQUARE), tokenizer, chat_template=_template("<|image|>"))
    _write(path, MllamaForConditionalGeneration, config, processor)


def _chameleon(path: Path) -> None:
    """Turns a picture into tokens of its vocabulary; as the real one, without a chat template."""
    codes = [f"IMGIMG{letter}Z" for letter in "ABCDEFGH"]
    markers = ["<image>", "<racm3:break>", "<eoss>", "<reserved08706>", *codes]
    named = {"image_token": "<image>", "boi_token": "<racm3:break>", "eoi_token": "<eoss>"}
    tokenizer = _tokenizer(markers, **named)
    tokenizer.sep_token = "<reserved08706>"
    image = ChameleonImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    config = ChameleonConfig(
        **_decoder(tokenizer), vocabulary_map=tokenizer.get_vocab(),
        vq_config={
            "embed_dim": 8, "num_embeddings": len(codes), "latent_channels": 8, "resolution": 16, "base_channels": 32,
            "channel_multiplier": [1, 1, 1, 1], "num_res_blocks": 1,
        },
    )  # fmt: skip
    _write(path, ChameleonForConditionalGeneration, config, ChameleonProcessor(image, tokenizer, image_seq_length=4))


PICTURES: dict[str, Callable[[Path], None]] = {
    "paligemma": _paligemma,
    "llava-onevision": _llava_onevision,
    "llava": _llava,
    "pixtral": _pixtral,
    "mistral3": _mistral3,
    "lighton-ocr": _lighton_ocr,
    "qwen3-vl": _qwen3_vl,
    "mllama": _mllama,
    "chameleon": _chameleon,
}
