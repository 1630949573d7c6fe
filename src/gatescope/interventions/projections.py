"""Which projection a site's neurons are written to when an intervention is baked.

q, k, v, up and gate_pre are outputs of a projection: rows of its weight. hidden and gate are inputs of the down
projection: columns of its weight. For the gate it is proved before: the MLP must compute down(act(gate) x up).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from gatescope.core.errors import GatescopeError
from gatescope.models.found import Weights, size
from gatescope.models.quantised import is_packed
from gatescope.models.sites import Site, SiteLayer


@dataclass(frozen=True)
class Projection:
    """A projection, and where a site's neurons are in it.

    Attributes:
        path: from the root of the model.
        outputs: whether the neurons are its outputs, or its inputs.
        columns: where among them each neuron of the site is; None if the site says so itself.
    """

    path: str
    outputs: bool = True
    columns: Sequence[int] | None = None

    def of(self, module: PreTrainedModel, x: Tensor) -> Tensor:
        """What it makes of x [..., inputs], the columns alone."""
        output = module.get_submodule(self.path)(x)
        return output if self.columns is None else output[..., list(self.columns)]


Gate = tuple[Projection, Projection | None]  # what makes the gate, and what it is multiplied with
Function = Callable[[Tensor], Tensor]


def written_projection(module: PreTrainedModel, sites: dict[str, Site], site: Site, layer: int, kind: str) -> Projection:
    """The projection that holds a site's neurons in one layer.

    Raises:
        GatescopeError: if the MLP is not down(act(gate) x up), or no weight can hold an intervention of this kind.
    """
    weights = site.at(layer).weights
    if weights is None:
        raise _another_mlp(site.at(layer).path.rpartition(".")[0])
    if site.name in ("gate", "gate_pre"):
        up = _factor(module, sites, layer)
        if site.name == "gate" and up is not None and kind in ("set", "add"):
            raise GatescopeError(
                f"{kind!r} on site 'gate' cannot be baked into {type(module).__name__}: the gate is multiplied with the up "
                f"projection, which differs at every token, and no weight holds that. Use intervention.edit(model), or choose "
                f"neurons of 'hidden' or 'gate_pre'."
            )
    return _of(weights)


def _of(weights: Weights) -> Projection:
    return Projection(weights.path, weights.io == "output", weights.columns)


def _another_mlp(holder: str) -> GatescopeError:
    return GatescopeError(
        f"{holder} is not an MLP that gatescope can bake into: it was looked for down(act(gate) x up), or down(act(up)), and "
        f"it computes something else. Use intervention.edit(model)."
    )


def _factor(module: PreTrainedModel, sites: dict[str, Site], layer: int) -> Projection | None:
    """What the gate of a layer is multiplied with, if anything."""
    gate, hidden = (sites[name].at(layer).weights for name in ("gate_pre", "hidden"))
    holder = sites["hidden"].at(layer).path.rpartition(".")[0]
    if gate is None or hidden is None:
        raise _another_mlp(holder)
    ups = sites["up"].layers if "up" in sites else ()
    factor = next((_of(here.weights) for here in ups if here.layer == layer and here.weights), None)
    activation = _activation(module, sites["gate"].at(layer))
    # OPT has no MLP module: its projections are the layer's, so there is nothing to call.
    has_forward = not any("attn" in name for name, _ in module.get_submodule(holder).named_children())
    if activation is not None and has_forward:
        _check_computes(module, holder, activation, (_of(gate), factor), hidden.path)
    return factor


def _activation(module: PreTrainedModel, gate: SiteLayer) -> Function | None:
    """The nonlinearity, if it is a module of its own, or a function of torch."""
    path, _, call = gate.path.partition(".source.")
    if call:  # "F_silu_0"
        return getattr(functional, call.rpartition("_")[0].partition("_")[2], None)
    return module.get_submodule(path) if gate.io == "output" else None


def _check_computes(module: PreTrainedModel, holder: str, activation: Function, pair: Gate, down: str) -> None:
    """Refuse an MLP that does not compute down(act(gate) x up), on four random tokens."""
    gate, up = pair
    projection = module.get_submodule(gate.path)
    weight = next(projection.parameters(), None)
    if weight is None or weight.is_meta or is_packed(weight):
        return  # refused for that reason later, with a message that says so
    x = torch.randn(1, 4, size(projection)[0], generator=torch.Generator().manual_seed(0)).to(weight)
    with torch.no_grad():
        hidden = activation(gate.of(module, x))
        if up is not None:
            hidden = hidden * up.of(module, x)
        ours, theirs = module.get_submodule(down)(hidden).float(), module.get_submodule(holder)(x).float()
    # 1% of the largest value: bfloat16 keeps two to three digits.
    if (ours - theirs).abs().max() > 1e-2 * theirs.abs().max():
        raise _another_mlp(holder)
