"""Bake: an intervention written into the weights, so that whatever loads a Hugging Face model runs the masked one.

With h = act(g) x u, y = D h + d and every projection p = W x + b, a neuron is a row of W and b, or a column of D:

    site           zero, scale by f                   set to c                       add c
    q k v up       row and bias times f (0 for zero)  row 0, bias c                  bias + c
    gate_pre       the same of the gate's projection, so that act(0) or act(f g) comes out
    hidden         column of D times f                column 0, d + column x c       d + column x c
    gate           as hidden; the product with u is linear in it
                   set and add only where there is no gate to multiply with, and gate and hidden are one

"set" and "add" need the bias they are written to. A model without it, and a gate that meets another factor at every
token, cannot hold them as an ordinary checkpoint: they are refused by name. That a layer's MLP is the formula above is
not assumed but computed, on random inputs, before anything is written.

    with baked(gs.ablate(neurons), model) as module:      # in place, restored bit for bit
        ...
    save_baked(gs.ablate(neurons), model, "masked-model")  # an ordinary checkpoint
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from gatescope.core.errors import GatescopeError
from gatescope.core.neurons import check_same_model
from gatescope.interventions.value import Change
from gatescope.models.identity import identity
from gatescope.models.sites import Site, sites_of

MARK = "gatescope_baked"  # key of the config that tells a baked model from the one it was made of


@contextlib.contextmanager
def baked(intervention: Change, model) -> Iterator[PreTrainedModel]:
    """The model with the intervention in its weights, for as long as the block runs.

    The weights are changed in place, so every copy that shares them (`edit`) is changed too; what they were is kept for
    the touched rows and columns alone, and put back bit for bit at the end, also after an exception. Blocks may be
    nested: the inner intervention comes on top.

    Args:
        intervention: what to write; "zero" and "scale" on every site, "set" and "add" where there is a bias.
        model: from `load_model`, or a plain Hugging Face module.

    Yields:
        The plain Hugging Face module.

    Raises:
        GatescopeError: if the weights cannot hold the intervention, are not there (a model for remote use), are
            quantised or shared between layers, or if the neurons belong to another model. Nothing is changed then.
    """
    module: PreTrainedModel = getattr(model, "_module", model)
    outer = module.__dict__.get("_gatescope_unbaked")
    before = outer or identity(model)
    check_same_model(intervention.neurons.model, before, "bake an intervention")
    writes = _plan(intervention, module)
    mark, old_mark = _mark(intervention, module.config), getattr(module.config, MARK, None)
    kept: list[tuple[nn.Parameter, int, Tensor, Tensor]] = []
    try:
        module.__dict__["_gatescope_unbaked"] = before
        setattr(module.config, MARK, mark)
        with torch.no_grad():
            for write in writes:
                kept += [(*touched, touched[0].index_select(*touched[1:])) for touched in write.touches()]
                write.do()
        yield module
    finally:
        with torch.no_grad():
            for parameter, axis, index, old in reversed(kept):
                parameter.index_copy_(axis, index, old)
        if old_mark is None:
            delattr(module.config, MARK)
        else:
            setattr(module.config, MARK, old_mark)
        if outer is None:
            del module.__dict__["_gatescope_unbaked"]


def _mark(intervention: Change, config) -> str:
    """A name for what is in the weights: this intervention, on top of what was baked before."""
    return hashlib.sha256(f"{getattr(config, MARK, '')}{intervention.digest()}".encode()).hexdigest()


@dataclass(frozen=True)
class _Rows:
    """Outputs `index` of a projection times `factor`, plus `addend` (None: nothing is added)."""

    part: nn.Module
    index: Tensor
    factor: Tensor
    addend: Tensor | None

    def touches(self) -> list[tuple[nn.Parameter, int, Tensor]]:
        touched = [(_weight(self.part), 1 if isinstance(self.part, Conv1D) else 0, self.index)]
        return touched if _bias(self.part) is None else [*touched, (_bias(self.part), 0, self.index)]  # type: ignore[list-item]

    def do(self) -> None:
        for parameter, axis, index in self.touches():
            along = (1, -1) if axis == 1 else (-1, *[1] * (parameter.ndim - 1))
            new = _times(parameter.index_select(axis, index), self.factor.view(along))
            if self.addend is not None and parameter is _bias(self.part):
                new = new + self.addend
            parameter.index_copy_(axis, index, new.to(parameter.dtype))


@dataclass(frozen=True)
class _Columns:
    """Inputs `index` of a projection times `factor`; what `addend` in them gives is added to the bias."""

    part: nn.Module
    index: Tensor
    factor: Tensor
    addend: Tensor | None

    def touches(self) -> list[tuple[nn.Parameter, int, Tensor]]:
        touched = [(_weight(self.part), 0 if isinstance(self.part, Conv1D) else 1, self.index)]
        bias = _bias(self.part)
        if self.addend is None or bias is None:
            return touched
        return [*touched, (bias, 0, torch.arange(len(bias), device=bias.device))]

    def do(self) -> None:
        (weight, axis, index), *rest = self.touches()
        old = weight.index_select(axis, index)
        if rest and self.addend is not None:
            bias, columns = rest[0][0], old.float() if axis == 1 else old.float().T
            bias.copy_((bias.float() + columns @ self.addend).to(bias.dtype))
        along = (1, -1) if axis == 1 else (-1, 1)
        weight.index_copy_(axis, index, _times(old, self.factor.view(along)).to(weight.dtype))


def _times(old: Tensor, factor: Tensor) -> Tensor:
    """In float32; a factor of 0 gives 0 whatever was there."""
    return torch.where(factor == 0, 0.0, old.float() * factor)


def _plan(intervention: Change, module: PreTrainedModel) -> list[_Rows | _Columns]:
    """Every write, last site of a layer first: what is set later in a forward pass wins over what was set before."""
    neurons, kind = intervention.neurons, intervention.kind
    sites = sites_of(module)
    owners: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    writes: list[tuple[int, _Rows | _Columns]] = []
    for shape in neurons.layout.sites:
        if shape.site not in sites or sites[shape.site].layout.only() != shape:
            have = ", ".join(str(site.layout) for site in sites.values())
            raise GatescopeError(f"The neurons are numbered in {neurons.layout}; the model has {have}.")
        site = sites[shape.site]
        values = intervention.table(shape)
        for layer, index in neurons.indices(shape.site).items():
            given = values[layer, index]
            factor = {"scale": given, "add": torch.ones_like(given)}.get(kind, torch.zeros_like(given))
            addend = given if kind in ("set", "add") else None
            path, columns, rows = _projection(module, sites, site, layer, kind)
            part = module.get_submodule(path)
            _check(path, part, owners, site.name, kind)
            device = _weight(part).device
            place = (site.place(index) if columns is None else torch.tensor(columns)[index]).to(device)
            moved = factor.to(device), addend.to(device) if addend is not None else None
            writes.append((site.rank, (_Rows if rows else _Columns)(part, place, *moved)))
    return [write for _, write in sorted(writes, key=lambda pair: -pair[0])]


def _projection(
    module: PreTrainedModel, sites: dict[str, Site], site: Site, layer: int, kind: str
) -> tuple[str, Sequence[int] | None, bool]:
    """Where a site's neurons are written: a projection's path; their columns if not the site's own; whether they are its
    outputs (or its inputs).
    """
    path = site.paths[layer]
    if site.name in ("q", "k", "v", "up"):
        return path, None, True
    down = sites["hidden"].paths[layer]
    if site.name == "hidden":
        return down, None, False
    gate, up = _mlp(module, sites, layer)
    if site.name == "gate_pre":
        return gate[0], gate[1], True
    if up is not None and kind in ("set", "add"):
        raise GatescopeError(
            f"{kind!r} on site 'gate' cannot be baked into {type(module).__name__}: the gate is multiplied with the up "
            f"projection, which differs at every token, and no weight holds that. Use intervention.edit(model), or choose "
            f"neurons of 'hidden' or 'gate_pre'."
        )
    return down, None, False


def _mlp(module: PreTrainedModel, sites: dict[str, Site], layer: int) -> tuple[tuple[str, range], tuple[str, range] | None]:
    """Path and columns of the projections that make the gate and, where there is one, what it is multiplied with.

    Raises:
        GatescopeError: if they are not found, or the MLP does not compute down(act(gate) x up) with them.
    """
    down, width = sites["hidden"].paths[layer], sites["hidden"].width
    holder = down.rpartition(".")[0]
    mlp = module.get_submodule(holder)
    linear = {name: part for name, part in mlp.named_children() if isinstance(part, nn.Linear | Conv1D)}
    makers = [(f"{holder}.{n}", _outputs(p)) for n, p in linear.items() if f"{holder}.{n}" != down]
    single = [path for path, size in makers if size == width]
    fused = [path for path, size in makers if size == 2 * width]
    found: tuple[tuple[str, range], tuple[str, range] | None] | None = None
    if len(single) == 1 and not fused:
        found = (single[0], range(width)), None
    elif len(fused) == 1 and not single:
        found = (fused[0], range(width)), (fused[0], range(width, 2 * width))
    elif len(single) == 2 and not fused and any("gate" in path.rpartition(".")[2] for path in single):
        gate = next(path for path in single if "gate" in path.rpartition(".")[2])
        found = (gate, range(width)), (next(path for path in single if path != gate), range(width))
    activation = module.get_submodule(sites["gate"].paths[layer])
    # OPT's MLP is no module of its own: its parts are the layer's, and there is nothing to call
    whole = not any("attn" in name for name, _ in mlp.named_children())
    if found is None or (whole and not _computes(module, mlp, activation, found, module.get_submodule(down))):
        raise GatescopeError(
            f"{holder} is not an MLP that gatescope can bake into: it was looked for down(act(gate) x up), or "
            f"down(act(up)), among {[path.rpartition('.')[2] for path, _ in makers]}, and it computes something else. Use "
            f"intervention.edit(model)."
        )
    return found


def _computes(module, mlp: nn.Module, activation: nn.Module, found, down: nn.Module) -> bool:
    """Whether the MLP is what the parts found make, on four random tokens."""
    (gate, gate_columns), up = found
    weight = _weight(module.get_submodule(gate))
    if weight.is_meta or not weight.is_floating_point():
        return True  # refused for that reason later, in words of its own
    size = weight.shape[0] if isinstance(module.get_submodule(gate), Conv1D) else weight.shape[1]
    x = torch.randn(1, 4, size, generator=torch.Generator().manual_seed(0)).to(weight)
    with torch.no_grad():
        hidden = activation(module.get_submodule(gate)(x)[..., list(gate_columns)])
        if up is not None:
            hidden = hidden * module.get_submodule(up[0])(x)[..., list(up[1])]
        ours, theirs = down(hidden).float(), mlp(x).float()
    return bool((ours - theirs).abs().max() <= 1e-2 * theirs.abs().max())


def _check(path: str, part: nn.Module, owners: dict[int, list[str]], site: str, kind: str) -> None:
    for parameter in (_weight(part), _bias(part)):
        if parameter is None:
            continue
        if parameter.is_meta:
            raise GatescopeError(f"{path} has no weights here (the model is for remote use, or off-loaded): load it whole.")
        if not parameter.is_floating_point() or parameter.element_size() < 2:
            raise GatescopeError(
                f"{path} is quantised ({str(parameter.dtype).removeprefix('torch.')}); bake into the model as it was before."
            )
        names = owners[id(parameter)]
        if len(names) > 1:
            raise GatescopeError(f"{names[0]} is shared with {', '.join(names[1:])}: baking one would change the other.")
    if kind in ("set", "add") and _bias(part) is None:
        raise GatescopeError(
            f"{kind!r} on site {site!r} cannot be baked: {path} has no bias to hold it, and a checkpoint of this "
            f"architecture has no place for one. Use intervention.edit(model); 'zero' and 'scale' can be baked."
        )


def _weight(part: nn.Module) -> nn.Parameter:
    return part.weight  # type: ignore[return-value]


def _bias(part: nn.Module) -> nn.Parameter | None:
    return getattr(part, "bias", None)


def _outputs(part: nn.Linear | Conv1D) -> int:
    return part.weight.shape[1] if isinstance(part, Conv1D) else part.out_features
