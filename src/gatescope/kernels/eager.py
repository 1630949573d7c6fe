"""The tensor functions that run where the activation is. They import torch and nothing else.

K = number of counted tokens with a > 0, S = sum over counted tokens of max(a, 0). A NaN at a counted token makes S NaN
and leaves K alone; what stands at any other token has no effect. Zero, of either sign, does not fire.

Each function is written twice. The masked form is one expression over the whole tensor: what an accelerator runs and
what `gatescope.kernels.compiled` compiles. On a CPU it is slow, because every step writes an array as large as the
activation; there an example's counted rows are gathered and reduced while they are in cache, unless the examples are small.

Axes: b batch, s sequence, n neuron; c token classes.
"""

from __future__ import annotations

import torch

# Elements of one example from which gathering its rows pays on a CPU; below it, starting the operations costs more.
SMALL = 2**15


def count(gate: torch.Tensor, token_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Firing counts and sums of positive activations over an example's valid tokens.

    Args:
        gate: activations [b, s, n], any float type.
        token_mask: which tokens count, bool [b, s].

    Returns:
        K, int64 [b, n], and S, float32 [b, n].

    >>> gate = torch.tensor([[[1.0, -2.0], [0.5, 3.0], [9.0, 9.0]]])
    >>> count(gate, torch.tensor([[True, True, False]]))
    (tensor([[2, 1]]), tensor([[1.5000, 3.0000]]))
    """
    fired, summed = count_classes(gate, token_mask.unsqueeze(0))
    return fired[0], summed[0]


def count_classes(gate: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` for several classes of tokens, reading the activation once.

    Args:
        gate: activations [b, s, n], any float type.
        masks: which tokens count in each class, bool [c, b, s]; classes may overlap.

    Returns:
        K, int64 [c, b, n], and S, float32 [c, b, n].
    """
    if not _by_row(gate):
        return count_masked(gate, masks)
    fired = torch.empty(masks.shape[0], gate.shape[0], gate.shape[2], dtype=torch.int64)
    summed = torch.empty_like(fired, dtype=torch.float32)
    for row, example in enumerate(gate):
        for kind, mask in enumerate(masks[:, row]):
            positive = example.index_select(0, mask.nonzero().squeeze(1)).float().clamp_(min=0)
            summed[kind, row] = positive.sum(0)
            # In place, and exact in float32 up to 2^24 tokens; the sign of NaN is 0.
            fired[kind, row] = positive.sign_().sum(0)
    return fired, summed


def count_masked(gate: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`count_classes` as one expression over the whole tensor."""
    fired: list[torch.Tensor] = []
    summed: list[torch.Tensor] = []
    for mask in masks.unbind(0):
        # Not a product with the mask: 0 x NaN is NaN, and padding may hold one.
        positive = torch.where(mask.unsqueeze(-1), gate, 0).clamp_(min=0)
        fired.append((positive > 0).sum(1, dtype=torch.int32).long())
        summed.append(positive.sum(1, dtype=torch.float32))
    return torch.stack(fired), torch.stack(summed)


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
        Scores [b, n]; for an example without real tokens -inf (0 with `pad_zero`), NaN or 0.

    >>> activation = torch.tensor([[[1.0, -2.0], [3.0, 4.0]]])
    >>> gradient = torch.tensor([[[2.0, 1.0], [-1.0, 0.5]]])
    >>> attribution(activation, gradient, torch.tensor([[True, True]]), "max")
    tensor([[2., 2.]])
    """
    if not _by_row(activation):
        return attribution_masked(activation, gradient, real, reduce, pad_zero)
    scores = torch.empty(activation.shape[0], activation.shape[2])
    for row, mask in enumerate(real):
        tokens = mask.nonzero().squeeze(1)
        # In float32 before the product, which half precision would round or overflow.
        score = activation[row].index_select(0, tokens).float()
        score = score * gradient[row].index_select(0, tokens).float()
        if reduce != "max":
            scores[row] = score.sum(0) / len(tokens) if reduce == "mean" else score.sum(0)
        else:
            scores[row] = score.amax(0) if len(tokens) else -torch.inf
            if pad_zero and len(tokens) < len(mask):
                scores[row].clamp_(min=0)
    return scores


def attribution_masked(
    activation: torch.Tensor, gradient: torch.Tensor, real: torch.Tensor, reduce: str, pad_zero: bool
) -> torch.Tensor:
    """`attribution` as one expression over the whole tensor."""
    score = activation.float() * gradient.float()
    # Filled after the product, since padding may hold NaN.
    padding = ~real.unsqueeze(-1)
    if reduce == "max":
        return score.masked_fill_(padding, 0.0 if pad_zero else -torch.inf).amax(1)
    total = score.masked_fill_(padding, 0.0).sum(1)
    return total / real.sum(1, keepdim=True) if reduce == "mean" else total


def total(activation: torch.Tensor, token_mask: torch.Tensor) -> torch.Tensor:
    """Sum of activations [b, s, n] over an example's valid tokens [b, s], signed, float64 [b, n]."""
    return torch.where(token_mask.unsqueeze(-1), activation, 0).sum(1, dtype=torch.float64)


def first_not_finite(sums: list[torch.Tensor]) -> tuple[int, int] | None:
    """Layer and example of the first NaN or infinity in sums [..., b, n], one tensor a layer; None if there is none.

    >>> first_not_finite([torch.zeros(2, 3), torch.tensor([[0.0], [torch.nan]])])
    (1, 1)
    """
    for layer, summed in enumerate(sums):
        examples = (~summed.isfinite()).any(-1).reshape(-1, summed.shape[-2]).any(0).nonzero()
        if len(examples):
            return layer, int(examples[0])
    return None


def _by_row(activation: torch.Tensor) -> bool:
    return activation.device.type == "cpu" and activation.shape[1] * activation.shape[2] >= SMALL
