"""Given answers: put to the model token by token, and how probable it finds them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gatescope.batches import Batch


def force(model, batch: Batch, answers: Sequence[list[int]]) -> dict[str, Tensor]:
    """The inputs with each row's answer but its last token appended, padded on the left again."""
    extra = [ids[:-1] for ids in answers]
    inputs = dict(batch.inputs)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    if not any(extra):
        return inputs
    shape = ids.shape
    lengths = [int(row.sum()) + len(more) for row, more in zip(mask, extra, strict=True)]
    pad = model.tokenizer.pad_token_id
    for name, tensor in inputs.items():
        if tensor.shape != shape:
            continue
        fill = pad if name == "input_ids" else 0
        widened = torch.full((len(ids), max(lengths)), fill, dtype=tensor.dtype, device=tensor.device)
        for row, more in enumerate(extra):
            tail = {"input_ids": more, "attention_mask": [1] * len(more)}.get(name, [0] * len(more))
            end = torch.tensor(tail, dtype=tensor.dtype, device=tensor.device)
            content = torch.cat([tensor[row][mask[row].bool()], end])
            widened[row, -len(content) :] = content
        inputs[name] = widened
    return inputs


def answer_logs(logits: Tensor, answers: Sequence[list[int]]) -> Tensor:
    """log P(y|x) [b] in float32: the sum over an answer's tokens, the last of which is predicted at the last position.

    Args:
        logits: [b, k, vocabulary] of the last k positions, k at least the longest answer's length.
        answers: token ids of each row's answer.
    """
    logs = logits.float().log_softmax(-1)
    rows = []
    for row, ids in enumerate(answers):
        tokens = torch.tensor(ids, device=logs.device)
        rows.append(logs[row, -len(ids) :].gather(-1, tokens[:, None]).sum())
    return torch.stack(rows)
