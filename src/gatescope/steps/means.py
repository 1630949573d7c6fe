"""Mean activations: the values mean-ablation holds neurons at (`set_to(neurons, mean_activation(...))`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float64
from nnsight import TransformersModel
from torch import Tensor

from gatescope.core.errors import GatescopeError
from gatescope.core.progress import bar
from gatescope.data.example import Example, listed
from gatescope.kernels.eager import total
from gatescope.models.sites import Site, site_of
from gatescope.traces.access import neurons
from gatescope.traces.encoding import collate
from gatescope.traces.passes import forward_until


def mean_activation(
    model: TransformersModel, examples: Sequence[Example], *, site: str = "gate", batch_size: int = 16, progress: bool = True
) -> Float64[Tensor, "l n"]:
    """Every neuron's mean activation over the valid tokens of the examples' prompts, signed; n is the widest layer's, and
    there is 0 where a narrower layer has no neuron.

    Args:
        model: from `load_model`.
        examples: whose prompts are run; answers play no part.
        site: which neurons.
        batch_size: examples a batch.
        progress: show a bar if it takes longer than a few seconds.

    Raises:
        GatescopeError: without examples, for an unknown site, a batch_size below 1, or if the model gives NaN.
    """
    if not listed(examples):
        raise GatescopeError("A mean needs examples; there are none.")
    if batch_size < 1:
        raise GatescopeError(f"batch_size is {batch_size}; at least 1 example a batch is needed.")
    where = site_of(model, site)
    shape = where.layout.only()
    sums = torch.zeros(shape.size, dtype=torch.float64)
    tokens = 0
    with bar(len(examples), "averaging", "examples", show=progress) as shown:
        for start in range(0, len(examples), batch_size):
            batch = collate(model, examples[start : start + batch_size])
            totals = forward_until(model, batch.inputs, partial(_totals, model, where, batch.token_mask))
            sums += torch.cat(totals)
            tokens += int(batch.token_mask.sum())
            shown.update(len(batch.examples))
    if not sums.isfinite().all():
        layer, _ = shape.locate(int((~sums.isfinite()).nonzero()[0, 0]))
        raise GatescopeError(
            f"The model gave NaN or infinity at layer {layer} in one of the {len(examples)} examples. Load it in a wider "
            f"dtype, such as dtype='float32', or leave the example out: gs.record names it."
        )
    return shape.table(sums / tokens)


def _totals(model: TransformersModel, site: Site, token_mask: Tensor) -> list[Tensor]:
    """Inside a trace: every layer's activations summed over the batch's tokens, float64 [n]."""
    totals: list[Tensor] = []
    for location in site.places:
        activation = neurons(model, location, token_mask)
        # Summed over tokens here, so that no [b, s, n] outlives its layer.
        totals.append(total(activation, token_mask.to(activation.device)).sum(0).cpu())
    return totals
