"""From an answer to the tokens it is scored by."""

from __future__ import annotations

from collections.abc import Sequence

from gatescope.data.example import Example
from gatescope.errors import GatescopeError


def label_token(model, label: str) -> int:
    """The one token a label is: the vocabulary's own entry of that name, else what the tokenizer makes of it.

    Raises:
        GatescopeError: if the label is several tokens or unknown to the tokenizer; the message names the pieces.
    """
    tokenizer = model.tokenizer
    own = tokenizer.get_vocab().get(label)
    ids = [own] if own is not None else tokenizer(label, add_special_tokens=False).input_ids
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        pieces = tokenizer.convert_ids_to_tokens(ids)
        raise GatescopeError(
            f"The label {label!r} is not one token of this tokenizer: it becomes {pieces}. Use labels that are one token "
            f"each, such as A, B, C, D; or leave the labels out to score the answer's whole text."
        )
    return ids[0]


def answer_tokens(model, example: Example) -> list[int]:
    """The tokens of an example's right answer: its label's one, or all of its text's.

    Raises:
        GatescopeError: if a label is not one token, or any part of the answer is unknown to the tokenizer.
    """
    if example.labels:
        return [label_token(model, example.label)]
    ids = model.tokenizer(example.answer, add_special_tokens=False).input_ids
    if not ids or model.tokenizer.unk_token_id in ids:
        pieces = model.tokenizer.convert_ids_to_tokens(ids)
        raise GatescopeError(f"Example {example.id!r}: the answer {example.answer!r} is unknown to the tokenizer: {pieces}.")
    return ids


def label_tokens(model, examples: Sequence[Example]) -> list[list[int]]:
    """The tokens of every label of each example, in the order of its choices.

    Raises:
        GatescopeError: for an example without labels, a label that is not one token, or two that are the same.
    """
    found = []
    known: dict[str, int] = {}
    for example in examples:
        if not example.labels:
            raise GatescopeError(f"Example {example.id!r} has no labels; reading the next token needs one for each choice.")
        for label in example.labels:
            if label not in known:
                known[label] = label_token(model, label)
        found.append([known[label] for label in example.labels])
    return found
