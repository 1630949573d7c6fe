"""Counting inside a trace, and adding up what was counted: the work of recording, here and on servers.

Torch-only functions of plain data, which travel as they stand. The kernel is handed in: here it is the compiled one, on a
server, which has only torch, the eager one. Nothing that grows with tokens leaves a trace: an example's counts are [N].

Axes: c class of tokens, b batch, s sequence, n neuron of a layer, N of all layers one after the other, g group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from nnsight import TransformersModel
from torch import Tensor

from gatescope.models.sites import Place
from gatescope.traces.access import neurons

Kernel = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # [b, s, n] and masks [c, b, s] -> K, S [c, b, n]
Layers = list[tuple[Tensor, Tensor]]  # K and S [b, n] of every layer


def count_prompt(
    model: TransformersModel, locations: Sequence[Place], masks: Tensor, kernel: Kernel
) -> tuple[list[Layers], str]:
    """Inside a trace of prompts: the counts of every class of tokens, and the dtype of what was counted.

    Args:
        model: what is traced.
        locations: where the neurons are, a layer each.
        masks: which tokens are of each class, bool [c, b, s].
        kernel: counts one layer.
    """
    counted: list[Layers] = [[] for _ in range(len(masks))]
    masks_by_device = {}
    dtype = ""
    for location in locations:
        gate = neurons(model, location, masks)
        dtype = str(gate.dtype).replace("torch.", "")
        if not len(masks):
            break  # only generated tokens are counted; the dtype is known from one layer
        if gate.device not in masks_by_device:  # layers may be on several devices, many on each
            masks_by_device[gate.device] = masks.to(gate.device)
        fired, summed = kernel(gate, masks_by_device[gate.device])
        for kind, layers in enumerate(counted):
            layers.append((fired[kind], summed[kind]))
    return counted, dtype


def count_step(
    model: TransformersModel, locations: Sequence[Place], markers: Tensor, kernel: Kernel, tokens: Tensor, layers: Layers
) -> None:
    """Inside a trace, at a step after the prefill: count the rows whose last token is content: not an end, not padding, not
    a placeholder for a picture that is not there.

    The token generated last of all is never fed to the model, so it is not counted.

    Args:
        model, locations, kernel: as for `count_prompt`.
        markers: ids of the tokens that are not content.
        tokens: how many tokens each row has had counted, int64 [b]; added to in place.
        layers: the counts so far; added to in place, and empty before the first step.
    """
    ids = model.inputs[1]["input_ids"]  # not the embedding's, which Chameleon also gives its pictures' tokens
    content = ~torch.isin(ids, markers.to(ids.device))
    # In place: nothing that a worker returns reaches the caller, but a tensor it shares does.
    tokens.add_(content.sum(1).cpu())
    for layer, location in enumerate(locations):
        fired, summed = kernel(neurons(model, location, content), content[None])
        if layer < len(layers):
            layers[layer] = (layers[layer][0] + fired[0], layers[layer][1] + summed[0])
        else:
            layers.append((fired[0], summed[0]))


def no_counts(rows: int, widths: Sequence[int]) -> Layers:
    """The counts of a run that ended with its first token, which has no step after the prefill; of layers of these widths."""
    nothing = {width: torch.zeros(rows, width) for width in set(widths)}
    return [(nothing[width].long(), nothing[width]) for width in widths]


def group_sums(
    classes: Sequence[Layers], tokens: Sequence[Tensor], group: Tensor, use: Tensor
) -> list[tuple[int, int, Tensor, Tensor, Tensor]]:
    """A batch's sums: for each class and group its numbers, T, K int64 [N] and S float64 [N] of all layers' neurons.

    Args:
        classes: each class's counts.
        tokens: each class's tokens [b].
        group: each row's group [b].
        use: which rows count, bool [b]. Groups without any are left out.
    """
    sums = []
    for number in group[use].unique().tolist():
        rows = use & (group == number)
        for kind, layers in enumerate(classes):
            sums.append((kind, number, tokens[kind][rows].sum(), *layer_sums(layers, rows)))
    return sums


def layer_sums(layers: Layers, rows: Tensor) -> tuple[Tensor, Tensor]:
    """K and S [N] of some rows, bool [b], summed where they are, one layer after the other."""
    index = rows.nonzero().squeeze(1)
    index_by_device = {device: index.to(device) for device in {fired.device for fired, _ in layers}}
    # Summed on the layer's own device: only [n] travels to the CPU, not [b, n].
    fired = [k.index_select(0, index_by_device[k.device]).sum(0).cpu() for k, _ in layers]
    summed = [s.index_select(0, index_by_device[s.device]).sum(0, dtype=torch.float64).cpu() for _, s in layers]
    return torch.cat(fired), torch.cat(summed)
