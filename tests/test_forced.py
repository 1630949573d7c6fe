"""Answers put to a model token by token: the rows by hand, the probabilities by a loop in float64."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from gatescope.data import Example
from gatescope.traces.encoding import Batch
from gatescope.traces.forced import force
from gatescope.traces.likelihood import answer_logprobs
from tiny import Parts

PAD = 9
PICTURE = 6  # the placeholder's id
MODEL = Parts(
    tokenizer=SimpleNamespace(pad_token_id=PAD),
    processor=None,
    _module=SimpleNamespace(config=SimpleNamespace(image_token_id=PICTURE)),
)


def batch():
    """Two prompts, of three tokens and of one; which tokens are a picture's; a picture."""
    rows = tuple(Example(str(i), "g", "Which?", ("a", "b"), "a") for i in range(2))
    inputs = {
        "input_ids": torch.tensor([[5, 6, 7], [PAD, PAD, 4]]),
        "attention_mask": torch.tensor([[1, 1, 1], [0, 0, 1]]),
        "token_type_ids": torch.tensor([[0, 1, 1], [0, 0, 1]]),
        "pixel_values": torch.rand(1, 3, 2, 2),
    }
    return Batch(rows, inputs, inputs["attention_mask"].bool())


def test_answers_are_appended_without_their_last_token_and_rows_padded_on_the_left_again():
    given = batch()
    found = force(MODEL, given, [[1, 2], [3, 3, 3, 8]])
    assert found["input_ids"].tolist() == [[5, 6, 7, 1], [4, 3, 3, 3]]
    assert found["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 1]]
    assert found["token_type_ids"].tolist() == [[0, 1, 1, 0], [1, 0, 0, 0]]  # an answer is text, whatever came before
    found = force(MODEL, given, [[1, 2, 0, 0], [8]])
    assert found["input_ids"].tolist() == [[5, 6, 7, 1, 2, 0], [PAD] * 5 + [4]]
    assert found["attention_mask"].tolist() == [[1] * 6, [0] * 5 + [1]]
    assert found["token_type_ids"].tolist() == [[0, 1, 1, 0, 0, 0], [0] * 5 + [1]]
    assert found["pixel_values"] is given.inputs["pixel_values"]
    assert given.inputs["input_ids"].tolist() == [[5, 6, 7], [PAD, PAD, 4]]


def test_answers_of_one_token_leave_the_prompts_as_they_are():
    given = batch()
    assert all(tensor is given.inputs[name] for name, tensor in force(MODEL, given, [[1], [8]]).items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_log_probabilities_are_a_loops_in_float64_whatever_the_dtype_of_the_logits(dtype):
    logits = (5 * torch.randn(3, 4, 11, generator=torch.Generator().manual_seed(0))).to(dtype)
    answers = [[3], [10, 0, 3, 3], [1, 2]]
    expected = []
    for row, ids in zip(logits.double(), answers, strict=True):
        # the last token is predicted at the last position, the one before it one position earlier, ...
        steps = [row[len(row) - len(ids) + i].softmax(-1)[token] for i, token in enumerate(ids)]
        expected.append(torch.stack(steps).prod().log())
    found = answer_logprobs(logits, answers)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), torch.stack(expected), rtol=1e-5, atol=1e-6)
