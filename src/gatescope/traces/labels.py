"""From an answer to the tokens it is scored by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnsight import TransformersModel

from gatescope.core.errors import GatescopeError
from gatescope.data.example import Example


def label_token(model: TransformersModel, label: str) -> int:
    """The one token a label is: the vocabulary's own entry of that name, else what the tokenizer makes of it.

    Raises:
        GatescopeError: if the label is several tokens or unknown to the tokenizer; the message names the pieces.
    """
    tokenizer = model.tokenizer
    # First the entry: a SentencePiece tokenizer puts a space before a bare "A", which makes another token.
    own = _entry(tokenizer, label)
    ids = [own] if own is not None else tokenizer(label, add_special_tokens=False).input_ids
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        pieces = tokenizer.convert_ids_to_tokens(ids)
        raise GatescopeError(
            f"The label {label!r} is not one token of this tokenizer: it becomes {pieces}. Use labels that are one token "
            f"each, such as A, B, C, D; or leave the labels out to score the answer's whole text."
        )
    return ids[0]


def answer_tokens(model: TransformersModel, example: Example) -> list[int]:
    """The tokens of an example's right answer: its label's one (each digit's of a number), or all of its text's.

    Raises:
        GatescopeError: if a label is neither a number nor one token, or any part of the answer is unknown to the tokenizer.
    """
    if example.labels:
        return _number(model, example.label) if example.label.isdigit() else [label_token(model, example.label)]
    return _known(model, example, example.answer)


def _known(model: TransformersModel, example: Example, text: str) -> list[int]:
    ids = model.tokenizer(text, add_special_tokens=False).input_ids
    if not ids or model.tokenizer.unk_token_id in ids:
        pieces = model.tokenizer.convert_ids_to_tokens(ids)
        raise GatescopeError(f"Example {example.id!r}: the answer {text!r} is unknown to the tokenizer: {pieces}.")
    return ids


def label_tokens(model: TransformersModel, examples: Sequence[Example]) -> list[list[list[int]]]:
    """The tokens of every label of each example, in the order of its choices; of a number each digit may be one.

    Raises:
        GatescopeError: for an example without labels, a label that is neither one token nor a number, or one the
            tokenizer does not know.
    """
    # Thousands of examples share a few labels: each is looked up once.
    known: dict[str, list[int]] = {}
    for example in examples:
        if not example.labels:
            raise GatescopeError(f"Example {example.id!r} has no labels; reading the next token needs one for each choice.")
        for label in example.labels:
            if label not in known:
                known[label] = _number(model, label) if label.isdigit() else [label_token(model, label)]
    return [[known[label] for label in example.labels] for example in examples]


def single_tokens(model: TransformersModel, examples: Sequence[Example]) -> list[list[int]]:
    """The one token of every label of each example, in the order of its choices.

    Raises:
        GatescopeError: as `label_tokens`, and for a number of several tokens or two labels that are the same token.
    """
    tokens = label_tokens(model, examples)
    for example, labels in zip(examples, tokens, strict=True):
        long = next((label for label, ids in zip(example.labels, labels, strict=True) if len(ids) > 1), None)
        if long is not None:
            raise GatescopeError(
                f"Example {example.id!r}: the label {long!r} is several tokens of this tokenizer, and readout='argmax' looks "
                f"at one. Use labels of one token, such as A, B, C, D, or readout='label', which compares labels of any length."
            )
        # Two labels with one token could not be told apart by the next token.
        if len({ids[0] for ids in labels}) < len(labels):
            raise GatescopeError(f"Example {example.id!r}: two of its labels {list(example.labels)} are the same token.")
    return [[ids[0] for ids in labels] for labels in tokens]


def text_tokens(model: TransformersModel, examples: Sequence[Example]) -> list[list[list[int]]]:
    """The tokens of every choice's text, for each example.

    Raises:
        GatescopeError: if any part of a choice is unknown to the tokenizer.
    """
    return [[_known(model, example, choice) for choice in example.choices] for example in examples]


def _number(model: TransformersModel, label: str) -> list[int]:
    own = _entry(model.tokenizer, label)
    if own is not None:
        return [own]
    # SentencePiece puts a space first, which may be a token by itself: it is not part of the number.
    ids = [i for i in model.tokenizer(label, add_special_tokens=False).input_ids if model.tokenizer.decode([i]).strip()]
    return ids if len(ids) > 1 and model.tokenizer.unk_token_id not in ids else [label_token(model, label)]


def _entry(tokenizer: Any, label: str) -> int | None:
    """The vocabulary's entry of that name. Asked for by name: a copy of the whole vocabulary takes tenths of a second."""
    entry = tokenizer.convert_tokens_to_ids(label)
    return None if entry == tokenizer.unk_token_id else entry
