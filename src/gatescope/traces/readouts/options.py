"""Which option a model finds most probable, from the log-probability of each option's tokens.

An option can be the beginning of another ("1" and "10", as tokens): the probability of its tokens then contains the
longer one's. What belongs to the short one alone is the difference.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from gatescope._typing import checked


@checked
def exclusive(logprobs: Float[Tensor, " o"], options: Sequence[Sequence[int]]) -> Float[Tensor, " o"]:
    """The probability of each option and of no longer one.

    Args:
        logprobs: log-probability of each option's tokens, one after the other.
        options: their tokens.

    "1" is 0.6 likely, and "0" follows it half of the time; "2" is 0.4 likely:

    >>> exclusive(torch.tensor([0.6, 0.4, 0.3]).log(), [[1], [2], [1, 0]])
    tensor([0.3000, 0.4000, 0.3000])
    """
    probabilities = logprobs.exp()
    own = probabilities.clone()
    for short, tokens in enumerate(options):
        longer = [i for i, other in enumerate(options) if _extends(other, tokens)]
        for i in longer:
            if not any(_extends(options[i], options[j]) for j in longer):  # else it is counted in that one
                own[short] -= probabilities[i]
    return own


def _extends(other: Sequence[int], tokens: Sequence[int]) -> bool:
    return len(other) > len(tokens) and list(other[: len(tokens)]) == list(tokens)


@checked
def best(logprobs: Float[Tensor, " o"], options: Sequence[Sequence[int]], how: str) -> int:
    """The option that is read as the answer; of equal ones the first.

    Args:
        logprobs, options: as for `exclusive`.
        how: "label" compares probabilities (`exclusive`), "loglik" log-probabilities of the whole texts, "loglik_mean"
            the same divided by the number of tokens.

    A text of three likely tokens against one of a single unlikely token:

    >>> logs, options = torch.tensor([-3.0, -2.0]), [[5, 6, 7], [8]]
    >>> best(logs, options, "loglik"), best(logs, options, "loglik_mean")
    (1, 0)
    """
    if how == "label":
        return int(exclusive(logprobs, options).argmax())
    # A sum of log-probabilities favours short options; the mean does not.
    return int((logprobs / torch.tensor([len(o) for o in options]) if how == "loglik_mean" else logprobs).argmax())
