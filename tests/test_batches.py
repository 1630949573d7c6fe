"""Prompts, padding and the rule for which tokens count, on three kinds of model."""

from __future__ import annotations

import pytest
import torch

import gatescope as gs
from gatescope.batches import collate, prompt
from tiny import text_examples, tiny_llama


def pieces(model, batch, row=0):
    return model.tokenizer.convert_ids_to_tokens(batch.inputs["input_ids"][row].tolist())


def test_the_prompt_is_the_papers(organism_model, examples):
    text = prompt(organism_model, examples[0])
    e = examples[0]
    assert text == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>"
        "Answer the following multiple-choice question based on the image.\n"
        f"Question: {e.question}\nOptions: {' '.join(e.choices)}\n"
        "Your response must be ONLY the text of the correct option from the list above, and nothing else.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_base_model_gets_the_bare_prompt_with_one_bos_that_does_not_count(llama):
    batch = collate(llama, text_examples(each=2))
    assert prompt(llama, batch.examples[0]).startswith("Answer the following multiple-choice question.\nQuestion:")
    for row in range(4):
        tokens, valid = pieces(llama, batch, row), batch.valid[row].tolist()
        assert tokens.count("<s>") == 1
        assert [t for t, v in zip(tokens, valid, strict=True) if not v] == ["<pad>"] * tokens.count("<pad>") + ["<s>"]


def test_a_chat_templates_bos_is_not_doubled_and_its_markers_do_not_count(tmp_path):
    model = gs.load_model(tiny_llama(tmp_path, chat=True))
    batch = collate(model, text_examples(each=1)[:1])
    tokens = pieces(model, batch)
    assert [t for t in tokens if t.startswith("<")] == ["<s>", "<|turn|>", "<|end|>", "<|turn|>"]
    dropped = [t for t, v in zip(tokens, batch.valid[0].tolist(), strict=True) if not v]
    assert dropped == ["<s>", "<|turn|>", "<|end|>", "<|turn|>"]


def test_markers_not_flagged_special_do_not_count_if_the_template_spells_them(tmp_path):
    model = gs.load_model(tiny_llama(tmp_path, chat=True))
    model.tokenizer.add_tokens(["<|plain|>", "kite"])
    model.tokenizer.chat_template = "<|plain|>{{ messages[0]['content'] }} kite kites"
    batch = collate(model, text_examples(each=1)[:1])
    dropped = {t for t, v in zip(pieces(model, batch), batch.valid[0].tolist(), strict=True) if not v}
    assert "<|plain|>" in dropped


def test_image_line_breaks_of_llava_next_do_not_count(llava, examples):
    """56x28 picture: tiles of 2x2 patches, a base view of 4, then 2 rows of 4 patches each followed by a line break."""
    wide = gs.data.Example("w", "g", "What?", ("a", "b"), "a", examples[0].picture().resize((56, 28)))
    batch = collate(llava, [wide])
    image = torch.tensor([t == "<image>" for t in pieces(llava, batch)])
    counts = batch.valid[0][image].tolist()
    assert counts == [True] * 4 + [True] * 4 + [False] + [True] * 4 + [False]


def test_pictures_and_text_mix_in_a_batch(organism_model, examples):
    mixed = [examples[0], *text_examples(each=1), examples[1]]
    batch = collate(organism_model, mixed)
    counts = [(row == organism_model.processor.image_token_id).sum().item() for row in batch.inputs["input_ids"]]
    assert counts[0] > 0 and counts[1] == counts[2] == 0 and counts[3] > 0
    alone = collate(organism_model, [mixed[1]])
    assert batch.valid[1].sum() == alone.valid[0].sum()


def test_a_picture_for_a_text_model_is_refused(llama, examples):
    with pytest.raises(gs.GatescopeError, match=r"Example 'v0' has an image, but LlamaForCausalLM takes text only"):
        collate(llama, examples[:1])


def test_padding_is_on_the_left_whatever_the_tokenizer_says(llama, examples):
    llama.tokenizer.padding_side = "right"
    try:
        batch = collate(llama, [text_examples(each=1)[0], *text_examples(groups=("a_long_group_name",), each=1)])
    finally:
        llama.tokenizer.padding_side = "left"
    assert batch.inputs["attention_mask"][:, -1].all() and not batch.inputs["attention_mask"][:, 0].all()
