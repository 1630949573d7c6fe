"""Where a model gave no number: NaN, or infinity, in the place of logits.

Nothing downstream would show it. The most probable of NaNs is a token like any other, and an answer made of it is read as
wrong; so a mask that breaks a model would look like one that takes all its knowledge away. A row without numbers is marked
where it is made: ids are -1. Torch-only functions of plain data, which travel to servers as they stand.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

NO_TOKEN = -1


def no_number(logits: Tensor) -> Tensor:
    """Which rows of logits [b, vocabulary] hold NaN or infinity, bool [b]. -inf is a number here: it forbids a token.

    >>> no_number(torch.tensor([[0.0, -torch.inf], [torch.nan, 1.0], [torch.inf, 1.0], [-torch.inf, -torch.inf]])).tolist()
    [False, True, True, True]
    """
    # One reduction: the maximum is NaN where there is one, and infinite where there is nothing else.
    return ~logits.amax(-1).isfinite()


def most_probable(logits: Tensor) -> Tensor:
    """The most probable token of each row [b] of logits [b, vocabulary]; -1 where there is none.

    >>> most_probable(torch.tensor([[0.0, 1.0], [torch.nan, 1.0]])).tolist()
    [1, -1]
    """
    return logits.argmax(-1).masked_fill(no_number(logits), NO_TOKEN)


def with_holes(ids: Tensor, failed: Sequence[Tensor], pad: int) -> Tensor:
    """Generated ids [b, t]; all of a row is -1 where the model gave no number before the row's answer had ended.

    Args:
        ids: rows that end early are filled with `pad`.
        failed: `no_number` of each step.
        pad: the padding token.

    The first row ended before the second failed:

    >>> ids, fine, failed = torch.tensor([[5, 9, 9], [5, 6, 0]]), torch.tensor([False, False]), torch.tensor([True, True])
    >>> with_holes(ids, [fine, fine, failed], pad=9).tolist()
    [[5, 9, 9], [-1, -1, -1]]
    """
    # One look for the whole batch: a GPU is waited for once.
    steps = torch.stack(list(failed), 1).to(ids.device) if failed else None
    if steps is None or not steps.any():
        return ids
    places = torch.arange(1, ids.shape[1] + 1, device=ids.device)
    length = (places * (ids != pad)).amax(1)
    first = steps.long().argmax(1)
    # Up to the length, not below it: where padding is the end token, the end is the first padding.
    return ids.masked_fill((steps.any(1) & (first <= length))[:, None], NO_TOKEN)


def holes(ids: Tensor) -> list[bool]:
    """Which rows of generated ids [b, t] are holes."""
    return (ids[:, :1] < 0).any(1).tolist()
