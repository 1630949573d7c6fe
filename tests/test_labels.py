"""From an answer to the tokens it is scored by, on tokenizers small enough to see through."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import gatescope as gs
from gatescope.traces.labels import answer_tokens, label_token, label_tokens, text_tokens
from tiny import Parts

SPACE = "▁"


def model_of(*vocabulary, prepend="always", merges=()):
    """Something with a tokenizer in the manner of SentencePiece: a text begins with a space, which may be a token alone."""
    entries = {piece: i for i, piece in enumerate(("<unk>", "<s>", *vocabulary))}
    backend = Tokenizer(models.BPE(vocab=entries, merges=list(merges), unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    backend.decoder = decoders.Metaspace(prepend_scheme=prepend)
    return Parts(tokenizer=PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>"))


def numbered(*labels, answer=0):
    choices = tuple(f"choice {label}" for label in labels)
    return gs.data.Example("x", "g", "Which?", choices, choices[answer], labels=labels)


def test_a_label_is_the_vocabularys_own_entry_before_what_the_tokenizer_makes_of_it():
    model = model_of(SPACE, "A", "▁A", merges=[("▁", "A")])
    ids = model.tokenizer.convert_tokens_to_ids
    assert model.tokenizer("A", add_special_tokens=False).input_ids == [ids("▁A")]
    assert label_token(model, "A") == ids("A")
    only = model_of(SPACE, "▁A", "A", "B", "▁B", merges=[("▁", "B")])
    assert label_tokens(only, [numbered("A", "B")]) == [[[3 + 1], [3 + 2]]]


def test_a_number_is_scored_by_its_digits_where_it_is_no_token():
    """The space in front of it is a token here, and no part of the number."""
    model = model_of(SPACE, "1", "0", "2")
    ids = model.tokenizer.convert_tokens_to_ids
    assert model.tokenizer("10", add_special_tokens=False).input_ids == [ids(SPACE), ids("1"), ids("0")]
    example = numbered("1", "2", "10", answer=2)
    assert label_tokens(model, [example]) == [[[ids("1")], [ids("2")], [ids("1"), ids("0")]]]
    assert answer_tokens(model, example) == [ids("1"), ids("0")]


def test_a_number_that_is_a_token_is_that_token():
    model = model_of(SPACE, "1", "0", "10")  # which no merge makes: the tokenizer itself would give digits
    ids = model.tokenizer.convert_tokens_to_ids
    assert answer_tokens(model, numbered("1", "10", answer=1)) == [ids("10")]
    assert label_tokens(model, [numbered("10", "1")]) == [[[ids("10")], [ids("1")]]]


def test_a_number_with_a_digit_the_tokenizer_does_not_know_is_refused():
    model = model_of(SPACE, "1", "0")
    with pytest.raises(gs.GatescopeError, match=r"The label '17' is not one token of this tokenizer: it becomes .*<unk>"):
        answer_tokens(model, numbered("1", "17", answer=1))
    with pytest.raises(gs.GatescopeError, match=r"The label '17' is not one token of this tokenizer: it becomes .*<unk>"):
        label_tokens(model, [numbered("1", "17")])


def test_a_label_of_several_tokens_that_is_no_number_is_refused():
    model = model_of("a", "b", prepend="never")
    with pytest.raises(gs.GatescopeError, match=r"The label 'ab' is not one token of this tokenizer: it becomes \['a', 'b'\]"):
        label_tokens(model, [numbered("a", "ab")])


def test_an_example_without_labels_has_none_to_read():
    bare = gs.data.Example("x", "g", "Which?", ("a", "b"), "a")
    with pytest.raises(gs.GatescopeError, match="Example 'x' has no labels; reading the next token needs one for each choice"):
        label_tokens(model_of("a", "b"), [bare])


def test_texts_are_scored_by_their_own_tokens_alone(llama):
    """Bytes, without the BOS this tokenizer puts before every text."""
    example = gs.data.Example("x", "g", "Which?", ("kite", "tea"), "tea")
    byte = llama.tokenizer.convert_tokens_to_ids
    assert text_tokens(llama, [example]) == [[[byte(b) for b in "kite"], [byte(b) for b in "tea"]]]
    assert answer_tokens(llama, example) == [byte(b) for b in "tea"]
