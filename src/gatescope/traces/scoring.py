"""Activation x gradient inside a trace: the work of attribution, here and on servers.

Torch-only functions of plain data, which travel as they stand; the kernel is handed in, as in `gatescope.traces.counting`.

Axes: b batch, s sequence, n neuron (of all sites and layers one after the other), g group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import nnsight
import torch
from nnsight import TransformersModel
from torch import Tensor

from gatescope.kernels.change import take
from gatescope.traces.access import read, unflatten_tokens
from gatescope.traces.likelihood import answer_logprobs

if TYPE_CHECKING:
    from gatescope.traces.jobs import Forced, Projection, Scoring

Kernel = Callable[[Tensor, Tensor, Tensor, str, bool], Tensor]  # activation, gradient, real, reduce, pad_zero -> [b, n]


def score_batch(model: TransformersModel, what: Scoring, batch: Forced, kernel: Kernel) -> tuple[Tensor, Tensor, str]:
    """Reduced scores [b, n], P(y|x) [b], and the dtype of the activations."""
    answers, real = batch["forced"], batch["inputs"]["attention_mask"].bool()
    keep = max(map(len, answers))
    # "norm" is the inner product of weight row and gradient: activation (without bias) x gradient, summed over tokens.
    how = "sum" if what["reduce"] == "norm" else what["reduce"]
    with torch.enable_grad(), model.trace(**batch["inputs"], **batch["options"]):
        # The weights are frozen: the graph begins here, and no gradient of a weight is ever made.
        read(model, what["embedding"], "output").requires_grad_(True)
        # In the order of the forward pass, each module once: sites may share one, as q, k and v of a fused projection do.
        activations = {(path, io): read(model, path, io) for path, io in what["order"]}
        # P, not log P: CULNIG differentiates the probability.
        probability = answer_logprobs(model.output.logits[:, -keep:], answers).exp()
        gradients = dict(zip(activations, torch.autograd.grad(probability.sum(), list(activations.values())), strict=True))
        scores, masks_by_device, dtype = [], {}, ""
        for (path, io, columns), projection in what["places"]:
            activation = take(unflatten_tokens(activations[path, io].detach(), real), columns)
            gradient = take(unflatten_tokens(gradients[path, io], real), columns)
            dtype = str(activation.dtype).replace("torch.", "")
            if projection is not None:
                activation = activation - bias(model, projection, activation)
            device = activation.device
            if device not in masks_by_device:  # layers may be on several devices, many on each
                masks_by_device[device] = real.to(device)
            score = kernel(activation, gradient, masks_by_device[device], how, what["pad_zero"])
            # On the device of the logits, so that layers of several devices can be joined.
            scores.append(score.to(probability.device))
        scores = nnsight.save(torch.cat(scores, 1))
        probability = nnsight.save(probability.detach())
        dtype = nnsight.save(dtype)
    return scores, probability, dtype


def bias(model: TransformersModel, projection: Projection, like: Tensor) -> Tensor:
    """Inside a trace: a projection's bias, which is what it makes of zeros. On a server its weights may be in another
    process than this code, so they are not looked at.
    """
    path, inputs, columns = projection
    output = model.get(path)(torch.zeros(1, 1, inputs, dtype=like.dtype, device=like.device))
    return take(output.detach(), columns)


def add_scores(weighted: Tensor, group: list[int], sums: Tensor, clamped: Tensor, seen: Tensor) -> None:
    """Add weighted scores [b, n] to their groups' sums in place; `weighted` is not to be used afterwards.

    Args:
        weighted: float32.
        group: each row's.
        sums, clamped: float64 [g, n], as they are and clamped at 0.
        seen: examples, int64 [g].
    """
    for number, row in zip(group, weighted, strict=True):  # row by row: each stays in cache, and the order is fixed
        sums[number] += row
        clamped[number] += row.clamp_(min=0)
        seen[number] += 1
