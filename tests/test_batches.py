"""Prompts, padding and the rule for which tokens count, on three kinds of model."""

from __future__ import annotations

import pytest
import torch

import gatescope as gs
from families import FAMILIES
from gatescope.traces.encoding import collate, placeholder_ids, prompt, token_classes
from tiny import text_examples, tiny_llama, tiny_llava_next


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
        tokens, token_mask = pieces(llama, batch, row), batch.token_mask[row].tolist()
        assert tokens.count("<s>") == 1
        assert [t for t, v in zip(tokens, token_mask, strict=True) if not v] == ["<pad>"] * tokens.count("<pad>") + ["<s>"]


def test_a_chat_templates_bos_is_not_doubled_and_its_markers_do_not_count(tmp_path):
    model = gs.load_model(tiny_llama(tmp_path, chat=True))
    batch = collate(model, text_examples(each=1)[:1])
    tokens = pieces(model, batch)
    assert [t for t in tokens if t.startswith("<")] == ["<s>", "<|turn|>", "<|end|>", "<|turn|>"]
    dropped = [t for t, v in zip(tokens, batch.token_mask[0].tolist(), strict=True) if not v]
    assert dropped == ["<s>", "<|turn|>", "<|end|>", "<|turn|>"]


def test_markers_not_flagged_special_do_not_count_if_the_template_spells_them(tmp_path):
    model = gs.load_model(tiny_llama(tmp_path, chat=True))
    model.tokenizer.add_tokens(["<|plain|>", "kite"])
    model.tokenizer.chat_template = "<|plain|>{{ messages[0]['content'] }} kite kites"
    batch = collate(model, text_examples(each=1)[:1])
    dropped = {t for t, v in zip(pieces(model, batch), batch.token_mask[0].tolist(), strict=True) if not v}
    assert "<|plain|>" in dropped


def test_image_line_breaks_of_llava_next_do_not_count(llava, examples):
    """56x28 picture: tiles of 2x2 patches, a base view of 4, then 2 rows of 4 patches each followed by a line break."""
    wide = gs.data.Example("w", "g", "What?", ("a", "b"), "a", examples[0].picture().resize((56, 28)))
    batch = collate(llava, [wide])
    image = torch.tensor([t == "<image>" for t in pieces(llava, batch)])
    counts = batch.token_mask[0][image].tolist()
    assert counts == [True] * 4 + [True] * 4 + [False] + [True] * 4 + [False]


def test_pictures_and_text_mix_in_a_batch(organism_model, examples):
    mixed = [examples[0], *text_examples(each=1), examples[1]]
    batch = collate(organism_model, mixed)
    counts = [(row == organism_model.processor.image_token_id).sum().item() for row in batch.inputs["input_ids"]]
    assert counts[0] > 0 and counts[1] == counts[2] == 0 and counts[3] > 0
    alone = collate(organism_model, [mixed[1]])
    assert batch.token_mask[1].sum() == alone.token_mask[0].sum()


def test_every_row_keeps_its_own_picture_where_the_processor_goes_by_rows(tmp_path, examples):
    """Gemma 3's; the rows without a picture stand first and between."""
    FAMILIES["gemma3-multimodal"].build(tmp_path)
    model = gs.load_model(tmp_path)
    text = text_examples(each=1)
    batch = collate(model, [text[0], examples[0], text[1], examples[1]])
    counts = (batch.inputs["input_ids"] == model.tokenizer.image_token_id).sum(1).tolist()
    assert counts == [0, 4, 0, 4] and len(batch.inputs["pixel_values"]) == 2
    for place, example in ((0, examples[0]), (1, examples[1])):
        alone = collate(model, [example]).inputs["pixel_values"]
        assert torch.equal(batch.inputs["pixel_values"][place], alone[0])


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


@pytest.mark.parametrize("written", [True, False], ids=["by the template", "by the tokenizer"])
def test_a_pictures_model_has_one_bos_whoever_writes_it(tmp_path, examples, written):
    model = gs.load_model(tiny_llava_next(tmp_path))
    if written:
        model.processor.chat_template = "<s>" + model.processor.chat_template
    batch = collate(model, examples[:2])
    assert (batch.inputs["input_ids"] == model.tokenizer.bos_token_id).sum(1).tolist() == [1, 1]


def test_a_passage_has_the_tokenizers_bos_whatever_the_chat_template_writes(tmp_path):
    model = gs.load_model(tiny_llama(tmp_path, chat=True))
    batch = collate(model, [gs.data.Example.passage("p", "g", "drums at dusk")])
    assert pieces(model, batch)[0] == "<s>" and pieces(model, batch).count("<s>") == 1
    assert batch.token_mask[0].tolist() == [False] + [True] * len("drums at dusk")


def test_text_and_image_are_told_apart_token_by_token(llava, examples):
    """Rows of unequal length, so with padding; a BOS, image line breaks; every token's class worked out from its piece."""
    small, wide = (
        gs.data.Example(str(size), "g", "What?", ("a", "b"), "a", examples[0].picture().resize(size))
        for size in ((28, 28), (56, 28))
    )
    batch = collate(llava, [small, wide])
    found = token_classes(llava, batch)
    for row, tokens in enumerate((pieces(llava, batch, 0), pieces(llava, batch, 1))):
        image = [t == "<image>" for t in tokens]
        marker = [t in ("<s>", "<pad>") for t in tokens]
        assert found["text"][row].tolist() == [not i and not m for i, m in zip(image, marker, strict=True)]
        assert not (found["image"][row] & ~torch.tensor(image)).any()
    patches = found["image"].sum(1).tolist()
    placeholders = [pieces(llava, batch, row).count("<image>") for row in (0, 1)]
    assert patches[1] == 4 + 8 and placeholders[1] == 4 + 8 + 2  # a base view; two rows of four, each with its line break
    assert "<pad>" in pieces(llava, batch, 0)


def test_a_pictures_model_is_asked_without_pictures_too(llava):
    batch = collate(llava, text_examples(each=1))
    found = token_classes(llava, batch)
    assert not found["image"].any() and torch.equal(found["text"], found["all"]) and found["all"].any()


def test_an_unknown_word_counts_even_where_padding_is_written_as_one(organism_model):
    """Some tokenizers pad with <unk>, which is content elsewhere: there only the attention mask tells them apart."""
    asked = [gs.data.Example(str(n), "g", "Qwertz" + " what" * n, ("a", "b"), "a") for n in (1, 9)]
    unknown = organism_model.tokenizer.unk_token_id
    alone = [collate(organism_model, [e]) for e in asked]
    for batch in alone:
        assert batch.token_mask[batch.inputs["input_ids"] == unknown].all() and (batch.inputs["input_ids"] == unknown).any()
    usual = organism_model.tokenizer.pad_token
    organism_model.tokenizer.pad_token = organism_model.tokenizer.unk_token
    try:
        both = collate(organism_model, asked)
    finally:
        organism_model.tokenizer.pad_token = usual
    assert both.inputs["input_ids"][0, 0] == unknown and not both.inputs["attention_mask"][0, 0]
    assert both.token_mask.sum(1).tolist() == [int(batch.token_mask.sum()) for batch in alone]


def test_pictures_and_films_have_placeholders_by_the_model_or_its_processor(organism_model, monkeypatch):
    names = ["<|image_pad|>", "<|video_pad|>"]
    image, video = organism_model.tokenizer.convert_tokens_to_ids(names)
    assert placeholder_ids(organism_model) == {image, video}
    monkeypatch.setattr(organism_model._module.config, "image_token_id", video)  # a config that does not say
    assert placeholder_ids(organism_model) == {image, video}


def test_line_breaks_that_are_tokens_of_their_own_count_though_the_template_has_them(tmp_path):
    model = gs.load_model(tiny_llama(tmp_path, chat=True))
    model.tokenizer.add_tokens(["\n\n"])
    model.tokenizer.chat_template = "{{ messages[0]['content'] }}\n\n"
    batch = collate(model, [gs.data.Example("x", "g", "Which?", ("a", "b"), "a", prompt="One.\n\nTwo.")])
    assert pieces(model, batch).count("\n\n") >= 1
    assert [t for t, v in zip(pieces(model, batch), batch.token_mask[0].tolist(), strict=True) if not v] in ([], ["<s>"])


def test_markers_of_the_processors_template_do_not_count(tmp_path, examples):
    """The tokenizer has no template of its own, and does not call the marker special."""
    model = gs.load_model(tiny_llava_next(tmp_path))
    model.tokenizer.chat_template = None
    model.tokenizer.add_tokens(["<|plain|>"])
    model.processor.chat_template = "<|plain|>" + model.processor.chat_template
    batch = collate(model, examples[:1])
    assert not batch.token_mask[0][torch.tensor([t == "<|plain|>" for t in pieces(model, batch)])].any()
    assert "<|plain|>" in pieces(model, batch)
