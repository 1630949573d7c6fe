"""The tensor functions that run where the activation is. They import torch and nothing else.

Axes: b batch, s sequence, n neuron.
"""

from __future__ import annotations

import torch


def count(gate: torch.Tensor, valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Firing counts and sums of positive activations over an example's valid tokens.

    Args:
        gate: activations [b, s, n], any float type.
        valid: which tokens count, bool [b, s].

    Returns:
        K, int64 [b, n], and S, float32 [b, n].
    """
    fires = (gate > 0) & valid.unsqueeze(-1)
    return fires.sum(1), torch.where(fires, gate, 0).sum(1, dtype=torch.float32)


def attribution(
    activation: torch.Tensor, gradient: torch.Tensor, real: torch.Tensor, reduce: str, pad_zero: bool = False
) -> torch.Tensor:
    """Activation x gradient, reduced over an example's real tokens, in float32.

    Args:
        activation, gradient: [b, s, n], any float type.
        real: which tokens are not padding, bool [b, s].
        reduce: "max" or "mean" over real tokens, or "sum" (the inner product of a weight row and its gradient).
        pad_zero: let padding count as a score of 0 in the max, as CULNIG's published code does.

    Returns:
        Scores [b, n].
    """
    score = activation.float() * gradient.float()
    if reduce == "max":
        return score.masked_fill(~real.unsqueeze(-1), 0.0 if pad_zero else -torch.inf).amax(1)
    total = score.masked_fill(~real.unsqueeze(-1), 0.0).sum(1)
    return total / real.sum(1, keepdim=True) if reduce == "mean" else total


def total(activation: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Sum of activations [b, s, n] over an example's valid tokens [b, s], signed, float64 [b, n]."""
    return torch.where(valid.unsqueeze(-1), activation, 0).sum(1, dtype=torch.float64)
