"""Modules: which parts of a model hold the most of some neurons, or none, up to a number of parameters.

CULNIG fine-tunes only some modules of a model (section 4.5): those with the most culture-general neurons, or those
without any. A gate projection comes with the up and down projections of its MLP, and a query, key or value projection
with the other two and the output projection of its attention, "since neurons in those modules are connected as subkeys
and subvalues". So what is chosen is a layer's MLP or a layer's attention, as a whole: a part.

    parts = parts_of(model, general)
    for part in choose(parts, budget=total // 10):
        for name in part.modules:
            model._module.get_submodule(name).requires_grad_(True)
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import nnsight
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from gatescope.core.errors import GatescopeError, one_of
from gatescope.core.neurons import NeuronSet
from gatescope.core.relatives import check_same_model
from gatescope.models.identity import identity
from gatescope.models.sites import ATTENTION, Site, sites_of


@dataclass(frozen=True)
class Part:
    """The MLP or the attention of one layer: projections that are trained together or not at all.

    Attributes:
        layer: which.
        kind: "MLP" or "attention".
        modules: paths of its projections, from the root of the model.
        parameters: of these projections, together.
        neurons: how many of the neurons asked for lie in it.
    """

    layer: int
    kind: str
    modules: tuple[str, ...]
    parameters: int
    neurons: int

    def __str__(self) -> str:
        return f"layer {self.layer} {self.kind} ({self.neurons})"


def parts_of(model: nnsight.TransformersModel | PreTrainedModel, neurons: NeuronSet) -> tuple[Part, ...]:
    """Every layer's attention and MLP, with the number of the neurons in it.

    A kind of part in whose sites the neurons were not looked for (none of q, k, v in their layout, or no site of the
    MLP) is left out: nothing is known of it.

    Args:
        model: from `load_model`, or a plain Hugging Face module.
        neurons: such as the culture-general ones.

    Raises:
        GatescopeError: if the neurons belong to another model, or to a site this one does not have.
    """
    module: PreTrainedModel = getattr(model, "_module", model)
    check_same_model(neurons.model, identity(module), "choose modules by these neurons", relatives=True)
    sites = sites_of(module)
    if any(shape.site not in sites or sites[shape.site].layout.only() != shape for shape in neurons.layout.sites):
        raise GatescopeError(f"The neurons are numbered in {neurons.layout}, which this model does not have.")
    names = [shape.site for shape in neurons.layout.sites]
    attention, mlp = [name for name in names if name in ATTENTION], [name for name in names if name not in ATTENTION]
    # hidden is the down projection's input, in the MLP; q is a projection's, in the attention, which may have k and v alone.
    parts = _parts(module, "attention", sites.get("q", sites[attention[0]]), neurons, attention) if attention else []
    parts += _parts(module, "MLP", sites["hidden"], neurons, mlp) if mlp else []
    # Attention before MLP, as in a layer's forward pass.
    return tuple(sorted(parts, key=lambda part: (part.layer, part.kind == "MLP")))


def _parts(module: PreTrainedModel, kind: str, inside: Site, neurons: NeuronSet, sites: Sequence[str]) -> list[Part]:
    """One kind of part of every layer that has it.

    Args:
        module: the model.
        kind: "MLP" or "attention".
        inside: a site in it, which tells where it is.
        neurons: what is counted.
        sites: which of their sites lie in it.
    """
    held = torch.stack([neurons.per_layer(site) for site in sites]).sum(0).tolist()  # by layer
    parts: list[Part] = []
    for here in inside.layers:
        holder, _, _ = here.path.rpartition(".")
        sizes: dict[str, int] = {}
        for name, child in module.get_submodule(holder).named_children():
            if isinstance(child, nn.Linear | Conv1D):  # no norms: they hold no neurons
                sizes[f"{holder}.{name}"] = sum(weight.numel() for weight in child.parameters())
        parts.append(Part(here.layer, kind, tuple(sizes), sum(sizes.values()), held[here.layer]))
    return parts


def choose(parts: Iterable[Part], budget: int, *, which: str = "most", seed: int = 0) -> tuple[Part, ...]:
    """Parts in order until their parameters exceed the budget; the one that exceeds it is the last (CULNIG, section 4.5).

    Args:
        parts: from `parts_of`.
        budget: a number of parameters, such as a tenth of the model's.
        which: "most" takes those with the most neurons first, and never one without; "none" only those without any, in
            random order, as the paper does.
        seed: of that order.

    Returns:
        The parts chosen, in the order they were chosen; fewer parameters than the budget if there are no more parts.

    Raises:
        GatescopeError: for a budget below 1, or if there is no part to choose.

    >>> parts = [Part(0, "MLP", ("a",), 100, 5), Part(1, "MLP", ("b",), 100, 7), Part(2, "MLP", ("c",), 100, 0)]
    >>> [str(part) for part in choose(parts, 100)], [str(part) for part in choose(parts, 100, which="none")]
    (['layer 1 MLP (7)', 'layer 0 MLP (5)'], ['layer 2 MLP (0)'])
    """
    one_of("which", which, ("most", "none"))
    if budget < 1:
        raise GatescopeError(f"budget is {budget}; it is a number of parameters, so it must be 1 or more.")
    candidates = list(parts)
    ordered = _ordered(candidates, which, seed)
    if not ordered:
        requirement = "holds one of the neurons" if which == "most" else "is without one of the neurons"
        raise GatescopeError(f"None of the {len(candidates)} parts {requirement}, so none can be chosen.")
    chosen: list[Part] = []
    parameters = 0
    for part in ordered:
        chosen.append(part)
        # After taking it: the part that exceeds the budget is still in, as in the paper.
        parameters += part.parameters
        if parameters > budget:
            break
    return tuple(chosen)


def _ordered(parts: Sequence[Part], which: str, seed: int) -> list[Part]:
    """The parts that may be chosen, the first to be chosen first."""
    if which == "most":
        return sorted((part for part in parts if part.neurons), key=lambda part: -part.neurons)
    without = [part for part in parts if not part.neurons]
    random.Random(seed).shuffle(without)
    return without
