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
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import nnsight
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from gatescope.core.errors import GatescopeError
from gatescope.core.relatives import check_same_model
from gatescope.interventions.projections import written_projection
from gatescope.interventions.value import Change
from gatescope.models.identity import identity, module_of
from gatescope.models.quantised import is_packed, quantised
from gatescope.models.sites import sites_of

MARK = "gatescope_baked"  # key of the config that tells a baked model from the one it was made of
Touched = tuple[nn.Parameter, int, Tensor]  # a parameter, an axis, and the places on it


@contextlib.contextmanager
def baked(intervention: Change, model: nnsight.TransformersModel | PreTrainedModel) -> Iterator[PreTrainedModel]:
    """The model with the intervention in its weights, for as long as the block runs.

    The weights are changed in place, so every copy that shares them (`edit`) is changed too; what they were is kept for
    the touched rows and columns alone, and restored bit for bit at the end, also after an exception. Blocks may be
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
    module = module_of(model)
    # The identity of the model before the outermost block: weights that are baked already have another digest.
    unbaked = module.__dict__.get("_gatescope_unbaked") or identity(module)
    check_same_model(intervention.neurons.model, unbaked, "bake an intervention", relatives=True)
    # All checks come first: an intervention that cannot be baked must not leave half of it written.
    writes = _plan(intervention, module)
    with _marked(module, intervention, unbaked), _written(writes):
        yield module


@contextlib.contextmanager
def _marked(module: PreTrainedModel, intervention: Change, unbaked: dict[str, str]) -> Generator[None, None, None]:
    """The config says that something is baked, and the module remembers what it was, for as long as the block runs."""
    outer, old_mark = module.__dict__.get("_gatescope_unbaked"), getattr(module.config, MARK, None)
    # What is in the weights: this intervention, on top of what was baked before.
    mark = hashlib.sha256(f"{old_mark or ''}{intervention.digest()}".encode()).hexdigest()
    module.__dict__["_gatescope_unbaked"] = unbaked
    setattr(module.config, MARK, mark)
    try:
        yield
    finally:
        if old_mark is None:
            delattr(module.config, MARK)
        else:
            setattr(module.config, MARK, old_mark)
        if outer is None:
            del module.__dict__["_gatescope_unbaked"]


@contextlib.contextmanager
def _written(writes: Sequence[_Rows | _Columns]) -> Generator[None, None, None]:
    """The weights with every write done, for as long as the block runs."""
    originals: list[tuple[Touched, Tensor]] = []
    try:
        with torch.no_grad():
            for write in writes:
                for parameter, axis, index in write.touches():
                    originals.append(((parameter, axis, index), parameter.index_select(axis, index)))
                write.do()
        yield
    finally:
        # Last first: two writes may touch the same rows, and the first one kept what they were at the start.
        with torch.no_grad():
            for (parameter, axis, index), old in reversed(originals):
                parameter.index_copy_(axis, index, old)


@dataclass(frozen=True)
class _Rows:
    """Outputs `index` of a projection times `factor`, plus `addend` (None: nothing is added)."""

    projection: nn.Module
    index: Tensor
    factor: Tensor
    addend: Tensor | None

    def touches(self) -> list[Touched]:
        """The parameters that are written to, each with the axis and the places on it."""
        weight, bias = _weight(self.projection), _bias(self.projection)
        touched = [(weight, 1 if isinstance(self.projection, Conv1D) else 0, self.index)]
        return touched if bias is None else [*touched, (bias, 0, self.index)]

    def do(self) -> None:
        """Write."""
        for parameter, axis, index in self.touches():
            # The factor runs along the rows picked, whichever axis of the parameter they are on.
            along = (1, -1) if axis == 1 else (-1, *[1] * (parameter.ndim - 1))
            new = _times(parameter.index_select(axis, index), self.factor.view(along))
            if self.addend is not None and parameter is _bias(self.projection):
                new = new + self.addend
            parameter.index_copy_(axis, index, new.to(parameter.dtype))


@dataclass(frozen=True)
class _Columns:
    """Inputs `index` of a projection times `factor`; what `addend` in them gives is added to the bias."""

    projection: nn.Module
    index: Tensor
    factor: Tensor
    addend: Tensor | None

    def touches(self) -> list[Touched]:
        """The parameters that are written to, each with the axis and the places on it."""
        weight, bias = _weight(self.projection), _bias(self.projection)
        touched = [(weight, 0 if isinstance(self.projection, Conv1D) else 1, self.index)]
        if self.addend is None or bias is None:
            return touched
        return [*touched, (bias, 0, torch.arange(len(bias), device=bias.device))]

    def do(self) -> None:
        """Write."""
        (weight, axis, index), *_ = self.touches()
        old, bias = weight.index_select(axis, index), _bias(self.projection)
        if self.addend is not None and bias is not None:
            # A constant in an input is a constant in the output, and so in its bias.
            columns = old.float() if axis == 1 else old.float().T
            bias.copy_((bias.float() + columns @ self.addend).to(bias.dtype))
        along = (1, -1) if axis == 1 else (-1, 1)
        weight.index_copy_(axis, index, _times(old, self.factor.view(along)).to(weight.dtype))


def _times(old: Tensor, factor: Tensor) -> Tensor:
    """In float32; a factor of 0 gives 0 whatever was there."""
    return torch.where(factor == 0, 0.0, old.float() * factor)


def _plan(intervention: Change, module: PreTrainedModel) -> list[_Rows | _Columns]:
    """Every write, last site of a layer first: what is set later in a forward pass wins over what was set before."""
    neurons, kind = intervention.neurons, intervention.kind
    sites, owners = sites_of(module), _owners(module)
    writes: list[tuple[int, _Rows | _Columns]] = []
    for shape in neurons.layout.sites:
        if shape.site not in sites or sites[shape.site].layout.only() != shape:
            have = ", ".join(str(site.layout) for site in sites.values())
            raise GatescopeError(f"The neurons are numbered in {neurons.layout}; the model has {have}.")
        site = sites[shape.site]
        values = intervention.table(shape)
        for layer, index in neurons.indices(shape.site).items():
            target = written_projection(module, sites, site, layer, kind)
            projection = module.get_submodule(target.path)
            _check_quantised(target.path, projection, quantised(module.config))
            _check(target.path, projection, owners, site.name, kind)
            columns = site.at(layer).columns_of(index) if target.columns is None else torch.tensor(target.columns)[index]
            writes.append((site.rank, _write(projection, target.outputs, columns, kind, values[layer, index])))
    writes.sort(key=lambda ranked: -ranked[0])
    return [write for _, write in writes]


def _owners(module: PreTrainedModel) -> dict[int, list[str]]:
    """The names of each parameter, by its id: several where layers share it."""
    owners: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    return owners


def _write(projection: nn.Module, outputs: bool, columns: Tensor, kind: str, values: Tensor) -> _Rows | _Columns:
    factor = {"scale": values, "add": torch.ones_like(values)}.get(kind, torch.zeros_like(values))
    device = _weight(projection).device
    addend = values.to(device) if kind in ("set", "add") else None
    return (_Rows if outputs else _Columns)(projection, columns.to(device), factor.to(device), addend)


def _check_quantised(path: str, projection: nn.Module, how: str) -> None:
    """Refuse a projection whose weight is packed: no row or column of it can be written to."""
    weight: Any = getattr(projection, "weight", None)  # some methods keep it under other names
    if weight is not None and not is_packed(weight):
        return
    how = how or (type(projection).__name__ if weight is None else str(weight.dtype).removeprefix("torch."))
    raise GatescopeError(f"{path} is quantised ({how}); bake into the unquantised model.")


def _check(path: str, projection: nn.Module, owners: dict[int, list[str]], site: str, kind: str) -> None:
    for parameter in (_weight(projection), _bias(projection)):
        if parameter is not None:
            _check_parameter(path, parameter, owners[id(parameter)])
    if kind in ("set", "add") and _bias(projection) is None:
        raise GatescopeError(
            f"{kind!r} on site {site!r} cannot be baked: {path} has no bias to hold it, and a checkpoint of this "
            f"architecture has no place for one. Use intervention.edit(model); 'zero' and 'scale' can be baked."
        )


def _check_parameter(path: str, parameter: nn.Parameter, names: list[str]) -> None:
    """Refuse weights that are not there, or are another layer's too."""
    if parameter.is_meta:
        raise GatescopeError(f"{path} has no weights here (the model is for remote use, or off-loaded): load it whole.")
    if len(names) > 1:
        raise GatescopeError(f"{names[0]} is shared with {', '.join(names[1:])}: baking one would change the other.")


def _weight(projection: nn.Module) -> nn.Parameter:
    return projection.weight  # type: ignore[return-value]


def _bias(projection: nn.Module) -> nn.Parameter | None:
    return getattr(projection, "bias", None)
