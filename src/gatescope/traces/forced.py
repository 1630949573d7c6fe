"""Teacher forcing: the inputs that put given answers to the model after their prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from nnsight import TransformersModel
from torch import Tensor

from gatescope.traces.access import forward_options
from gatescope.traces.encoding import Batch, placeholder_ids
from gatescope.traces.jobs import Forced


def forced_batch(model: TransformersModel, batch: Batch, answers: Sequence[list[int]]) -> Forced:
    """A batch with an answer after each prompt, as plain data for one forward pass."""
    inputs = force(model, batch, answers)
    options = forward_options(model, inputs, keep=max(map(len, answers)))
    return {"inputs": inputs, "options": options, "forced": list(answers)}


def force(model: TransformersModel, batch: Batch, answers: Sequence[list[int]]) -> dict[str, Tensor]:
    """The inputs with each row's answer but its last token appended, marked as the model marks what it generates, padded
    on the left again.
    """
    appendices = [ids[:-1] for ids in answers]  # the last token is predicted, never read
    inputs = dict(batch.inputs)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    if not any(appendices):  # answers of one token: the prompts as they are
        return inputs
    shape = ids.shape
    lengths = [int(row.sum()) + len(appended) for row, appended in zip(mask, appendices, strict=True)]
    pad, kind = model.tokenizer.pad_token_id, _answer_type(model, inputs)
    for name, tensor in inputs.items():
        sees = name == "cross_attention_mask"  # [b, s, pictures, tiles]: an answer sees what the end of its prompt sees
        # Pixel values and image sizes count pictures, not positions: they stay as they are.
        if tensor.shape != shape and not sees:
            continue
        widened = tensor.new_full((len(ids), max(lengths), *tensor.shape[2:]), pad if name == "input_ids" else 0)
        for row, appended in enumerate(appendices):
            if sees:
                end = tensor[row, -1:].expand(len(appended), *tensor.shape[2:])
            else:
                marks = {"input_ids": appended, "attention_mask": [1] * len(appended), "token_type_ids": [kind] * len(appended)}
                end = tensor.new_tensor(marks.get(name, [0] * len(appended)))
            # The old padding is cut off first: rows whose answers differ in length need another amount.
            content = torch.cat([tensor[row][mask[row].bool()], end])
            widened[row, -len(content) :] = content
        inputs[name] = widened
    return inputs


def _answer_type(model: TransformersModel, inputs: dict[str, Tensor]) -> int:
    """The token type of an answer. Where types tell a picture's tokens (1) from words, an answer is words: 0. PaliGemma's
    tell the prompt and its picture (0), which it sees in both directions, from what follows: 1.
    """
    types, ids = inputs.get("token_type_ids"), inputs["input_ids"]
    if types is None:
        return 0
    pictures = torch.isin(ids, torch.tensor(sorted(placeholder_ids(model)), dtype=ids.dtype, device=ids.device))
    return int(pictures.any() and not types[pictures].any())
