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
