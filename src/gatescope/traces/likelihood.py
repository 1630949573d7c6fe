"""How probable a model finds given tokens: of the next one, of options, of whole answers put to it.

These functions travel to servers as they stand; what opens a trace is handed what to do inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import nnsight
import torch
from nnsight import TransformersModel
from torch import Tensor

if TYPE_CHECKING:
    from gatescope.traces.jobs import Forced

T = TypeVar("T")


def answer_logprobs(logits: Tensor, answers: Sequence[list[int]]) -> Tensor:
    """log P(y|x) [b] in float32: the sum over an answer's tokens, the last of which is predicted at the last position.

    Args:
        logits: [b, k, vocabulary] of the last k positions, k at least the longest answer's length.
        answers: token ids of each row's answer.
    """
    logprobs = logits.float().log_softmax(-1)
    rows = []
    for row, ids in enumerate(answers):
        tokens = torch.tensor(ids, device=logprobs.device)
        # The inputs are padded on the left, so every answer ends at the last position.
        rows.append(logprobs[row, -len(ids) :].gather(-1, tokens[:, None]).sum())
    return torch.stack(rows)


def option_logprobs(logits: Tensor, tokens: Sequence[list[list[int]]]) -> list[Tensor]:
    """Each row's log-probabilities [o] of its options of one token each, from the next token's logits [b, vocabulary]."""
    rows = zip(logits.log_softmax(-1), tokens, strict=True)
    return [row[torch.tensor(options).flatten()] for row, options in rows]


def next_logits(
    model: TransformersModel, inputs: dict[str, Tensor], options: dict[str, Any], inside: Callable[[], T]
) -> tuple[Tensor, T]:
    """The next token's logits, float32 [b, vocabulary], and what `inside` returned in that forward pass."""
    with torch.no_grad(), model.trace(**inputs, **options):
        returned = nnsight.save(inside())
        logits = nnsight.save(model.output.logits[:, -1])
    return logits.float().cpu(), returned


def forced_logprobs(model: TransformersModel, chunk: Forced, change: Callable[[], None]) -> Tensor:
    """log P(y|x) [b] of the answers forced in a chunk's rows, under a change."""
    # Logits of the prompts are not needed; with a large vocabulary they may not fit.
    keep = max(map(len, chunk["forced"]))
    with torch.no_grad(), model.trace(**chunk["inputs"], **chunk["options"]):
        change()
        # Reduced inside the trace: from a server come [b] numbers, not logits.
        forced = nnsight.save(answer_logprobs(model.output.logits[:, -keep:], chunk["forced"]))
    return forced.cpu()
