"""Models that see pictures in ways that gatescope does not know are refused with a sentence, before anything is run."""

from __future__ import annotations

import pytest
import torch
import transformers

import gatescope as gs
from gatescope.traces.encoding import collate
from picture_parts import SQUARE, TILE, decoder, id_of, questions, tokenizer_of

CROPPED = {"size": {"shortest_edge": 28}, "crop_size": SQUARE}


def loaded(model, config, processor):
    torch.manual_seed(0)
    return gs.load_model(model(config), processor=processor)


def test_a_model_that_needs_a_picture_is_refused():
    tokenizer = tokenizer_of(["<image>"])
    processor = transformers.Blip2Processor(transformers.BlipImageProcessor(size=SQUARE), tokenizer, num_query_tokens=4)
    query = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "encoder_hidden_size": 16, "vocab_size": 9}
    config = transformers.Blip2Config(
        text_config=transformers.OPTConfig(vocab_size=len(tokenizer), hidden_size=32, ffn_dim=48, num_hidden_layers=1,
                                           num_attention_heads=4, word_embed_proj_dim=32),
        vision_config=TILE, qformer_config=query, num_query_tokens=4, image_token_index=id_of(tokenizer, "<image>"),
    )  # fmt: skip
    model = loaded(transformers.Blip2ForConditionalGeneration, config, processor)
    with pytest.raises(gs.GatescopeError, match="Blip2ForConditionalGeneration needs a picture with every question"):
        gs.record(model, questions(), only_correct=False, progress=False)


def test_a_processor_that_does_not_say_where_a_picture_goes_is_refused():
    tokenizer = tokenizer_of()
    processor = transformers.Kosmos2Processor(transformers.CLIPImageProcessor(**CROPPED), tokenizer, num_patch_index_tokens=4)
    text = {"embed_dim": 32, "layers": 1, "ffn_dim": 48, "attention_heads": 4, "vocab_size": len(tokenizer)}
    config = transformers.Kosmos2Config(text_config=text, vision_config=dict(TILE), latent_query_num=4)
    model = loaded(transformers.Kosmos2ForConditionalGeneration, config, processor)
    with (
        pytest.warns(UserWarning, match="has no chat template"),
        pytest.raises(
            gs.GatescopeError, match=r"Kosmos2Processor has neither a chat template nor an image_token.* example '0'"
        ),
    ):
        collate(model, questions())


def test_an_encoder_with_a_decoder_is_named():
    tokenizer = tokenizer_of(image_token="<image>")
    text = {"vocab_size": len(tokenizer), "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16,
            "decoder_ffn_dim": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2}  # fmt: skip
    tower = dict.fromkeys(("num_heads", "num_groups", "depths"), [1] * 4) | {"embed_dim": [8] * 4, "projection_dim": 16}
    processor = transformers.Florence2Processor(transformers.CLIPImageProcessor(**CROPPED), tokenizer)
    config = transformers.Florence2Config(
        text_config=transformers.BartConfig(**text), vision_config=tower, image_token_id=tokenizer.image_token_id
    )
    model = loaded(transformers.Florence2ForConditionalGeneration, config, processor)
    with pytest.raises(gs.GatescopeError, match="Florence2ForConditionalGeneration has an encoder and a decoder"):
        gs.sites_of(model)


def test_a_model_without_a_decoder_of_the_usual_kind_is_named():
    tokenizer = tokenizer_of()
    shape = decoder(tokenizer, num_hidden_layers=1)
    del shape["num_key_value_heads"]
    processor = transformers.GitProcessor(transformers.CLIPImageProcessor(**CROPPED), tokenizer)
    model = loaded(transformers.GitForCausalLM, transformers.GitConfig(**shape, vision_config=dict(TILE)), processor)
    with pytest.raises(gs.GatescopeError, match="No text decoder was found in GitForCausalLM"):
        gs.sites_of(model)
