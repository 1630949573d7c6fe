"""Which projection a site's neurons are written to when an intervention is baked.

q, k, v, up and gate_pre are outputs of a projection: rows of its weight. hidden and gate are inputs of the down
projection: columns of its weight. Which projection makes the gate is guessed from its width and name, and then proved: the
MLP must compute down(act(gate) x up) with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from gatescope.core.errors import GatescopeError
from gatescope.models.found import size
from gatescope.models.quantised import is_packed
from gatescope.models.sites import Site


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


def written_projection(module: PreTrainedModel, sites: dict[str, Site], site: Site, layer: int, kind: str) -> Projection:
    """The projection that holds a site's neurons in one layer.

    Raises:
        GatescopeError: if the MLP is not down(act(gate) x up), or no weight can hold an intervention of this kind.
    """
    if site.name in ("q", "k", "v", "up"):
        return Projection(site.at(layer).path)
    down = Projection(sites["hidden"].at(layer).path, outputs=False)
    if site.name == "hidden":
        return down
    gate, up = _gate_and_up(module, sites, layer)
    if site.name == "gate_pre":
        return gate
    if up is not None and kind in ("set", "add"):
        raise GatescopeError(
            f"{kind!r} on site 'gate' cannot be baked into {type(module).__name__}: the gate is multiplied with the up "
            f"projection, which differs at every token, and no weight holds that. Use intervention.edit(model), or choose "
            f"neurons of 'hidden' or 'gate_pre'."
        )
    return down


def _gate_and_up(module: PreTrainedModel, sites: dict[str, Site], layer: int) -> Gate:
    hidden = sites["hidden"].at(layer)
    down, width = hidden.path, hidden.width
    holder = down.rpartition(".")[0]
    mlp = module.get_submodule(holder)
    outputs = {
        f"{holder}.{name}": size(child)[1] for name, child in mlp.named_children() if isinstance(child, nn.Linear | Conv1D)
    }
    outputs.pop(down)
    gate = _by_width(outputs, width)
    # OPT has no MLP module: its projections are the layer's, so there is nothing to call.
    has_forward = not any("attn" in name for name, _ in mlp.named_children())
    if gate is not None and has_forward:
        activation, last = (module.get_submodule(path) for path in (sites["gate"].at(layer).path, down))
        gate = gate if _computes(module, mlp, activation, gate, last) else None
    if gate is None:
        raise GatescopeError(
            f"{holder} is not an MLP that gatescope can bake into: it was looked for down(act(gate) x up), or "
            f"down(act(up)), among {[path.rpartition('.')[2] for path in outputs]}, and it computes something else. Use "
            f"intervention.edit(model)."
        )
    return gate


def _by_width(outputs: dict[str, int], width: int) -> Gate | None:
    """The gate and its factor, by how many outputs an MLP's projections have: one projection alone, the two halves of one,
    or two of which one is called a gate.
    """
    single = [path for path, count in outputs.items() if count == width]
    fused = [path for path, count in outputs.items() if count == 2 * width]
    match len(single), len(fused):
        case 1, 0:
            return Projection(single[0], columns=range(width)), None
        case 0, 1:
            up = Projection(fused[0], columns=range(width, 2 * width))
            return Projection(fused[0], columns=range(width)), up
        case 2, 0:
            # Sorted by whether the name says "gate": the sort is stable, so that of two gates the first is taken.
            gate, up = sorted(single, key=lambda path: "gate" not in path.rpartition(".")[2])
            named = "gate" in gate.rpartition(".")[2]
            return (Projection(gate, columns=range(width)), Projection(up, columns=range(width))) if named else None
        case _:
            return None


def _computes(module: PreTrainedModel, mlp: nn.Module, activation: nn.Module, pair: Gate, down: nn.Module) -> bool:
    """Whether the MLP computes down(act(gate) x up), on four random tokens."""
    gate, up = pair
    projection = module.get_submodule(gate.path)
    weight = next(projection.parameters(), None)
    if weight is None or weight.is_meta or is_packed(weight):
        return True  # refused for that reason later, with a message that says so
    x = torch.randn(1, 4, size(projection)[0], generator=torch.Generator().manual_seed(0)).to(weight)
    with torch.no_grad():
        hidden = activation(gate.of(module, x))
        if up is not None:
            hidden = hidden * up.of(module, x)
        ours, theirs = down(hidden).float(), mlp(x).float()
    # 1% of the largest value: bfloat16 keeps two to three digits.
    return bool((ours - theirs).abs().max() <= 1e-2 * theirs.abs().max())
