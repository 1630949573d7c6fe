"""Where a model keeps its neurons, found by what it computes.

The text decoder is the module around the token embedding that holds a list of `num_hidden_layers` blocks: true of every
decoder in transformers, and never of a vision tower. In a block:

    gate      output of the MLP's nonlinearity: the gate activation (the activation itself where there is no gate)
    gate_pre  its input: the gate before the nonlinearity
    up        the projection the gate is multiplied with
    hidden    input of the down projection: activation x up
    q k v     raw outputs of the attention's projections, before norms and rotation

Which modules, and which columns of them, is told by neither names nor a config, but seen on one token
(`gatescope.models.probe`): `gatescope.models.mlp` and `gatescope.models.attention` have the rules. Layers may differ in which
sites they have, and in how wide these are. What cannot be told is left out, and a model of which no layer has an MLP
is refused, with what was looked for.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import nnsight
import torch
from torch import Tensor
from transformers import PreTrainedModel

from gatescope.core.errors import GatescopeError
from gatescope.core.layout import Layout
from gatescope.kernels.change import take
from gatescope.models.attention import ATTENTION, attention_sites, why_no_attention
from gatescope.models.decoder import decoder_of, embedding_in
from gatescope.models.found import Columns, Weights
from gatescope.models.identity import module_of
from gatescope.models.mlp import mlp_sites, why_no_mlp
from gatescope.models.probe import probed

_NAMES = ("gate_pre", "gate", "up", "hidden", *ATTENTION)  # in the order in which they are listed

Model = nnsight.TransformersModel | PreTrainedModel

# A module's path, "input" or "output", and which columns of its last axis: None for all, a pair (start, stop), or a list.
Place = tuple[str, str, tuple[int, int] | list[int] | None]


@dataclass(frozen=True)
class SiteLayer:
    """A site in one layer.

    Attributes:
        layer: its number.
        path: of the module, from the root of the model.
        io: whether the neurons are the module's input or its output.
        width: how many neurons there are.
        columns: which of the tensor's last axis they are; all of it if None.
        weights: where they are in the weights, if no other operation stands between.
    """

    layer: int
    path: str
    io: Literal["input", "output"]
    width: int
    columns: Columns | None = None
    weights: Weights | None = None

    @property
    def place(self) -> Place:
        """As plain data that can travel."""
        return self.path, self.io, self._plain_columns

    @property
    def _plain_columns(self) -> tuple[int, int] | list[int] | None:
        if self.columns is None:
            return None
        return (self.columns.start, self.columns.stop) if isinstance(self.columns, range) else list(self.columns)

    def part(self, tensor: Tensor) -> Tensor:
        """The neurons [..., n] out of the module's tensor; a view where they are contiguous."""
        return take(tensor, self._plain_columns)

    def columns_of(self, index: Tensor) -> Tensor:
        """The columns of the module's tensor that the neurons `index` [k] are."""
        if self.columns is None:
            return index
        return index + self.columns.start if isinstance(self.columns, range) else torch.tensor(self.columns)[index]


@dataclass(frozen=True)
class Site:
    """A named place where neurons live, in every layer or in some.

    Attributes:
        name: see the module's docstring.
        depth: how many layers the model has.
        layers: the layers that have it, in order, and where it is there.
        rank: the order in which sites of a layer are reached in a forward pass.
    """

    name: str
    depth: int
    layers: tuple[SiteLayer, ...]
    rank: int = 0

    @functools.cached_property
    def layout(self) -> Layout:
        """The site as a space of neurons."""
        widths = {here.layer: here.width for here in self.layers}
        return Layout.of(self.name, [widths.get(layer, 0) for layer in range(self.depth)])

    @property
    def places(self) -> list[Place]:
        """Where the neurons are, a layer each, as plain data that can travel."""
        return [here.place for here in self.layers]

    @property
    def paths(self) -> tuple[str, ...]:
        """Path of the module in each layer that has the site, from the root of the model."""
        return tuple(here.path for here in self.layers)

    @property
    def numbers(self) -> list[int]:
        """Numbers of the layers that have it."""
        return [here.layer for here in self.layers]

    @property
    def widths(self) -> list[int]:
        """Neurons in each of them."""
        return [here.width for here in self.layers]

    @property
    def width(self) -> int:
        """Neurons in the widest layer."""
        return self.layout.only().width

    @property
    def io(self) -> Literal["input", "output"]:
        """Whether the neurons are the module's input or its output, in the first layer that has the site."""
        return self.layers[0].io

    @property
    def columns(self) -> Columns | None:
        """Which of the tensor's last axis the neurons are, in the first layer that has the site; all of it if None."""
        return self.layers[0].columns

    @property
    def everywhere(self) -> bool:
        """Whether all layers have it."""
        return len(self.layers) == self.depth

    def at(self, layer: int) -> SiteLayer:
        """The site in one layer.

        Raises:
            GatescopeError: if the layer is without it.
        """
        for here in self.layers:
            if here.layer == layer:
                return here
        raise GatescopeError(f"Layer {layer} has no site {self.name!r}; there is {self.layout}.")


def sites_of(model: Model) -> dict[str, Site]:
    """Resolve the sites of a model.

    Args:
        model: an nnsight model from `load_model`, or a plain Hugging Face module.

    Returns:
        Site by name; `up` is absent where there is no gate, q, k and v where the attention is of another kind.

    Raises:
        GatescopeError: if the decoder cannot be found or run, or no layer has an MLP; the message names what was looked
            for.
    """
    module = module_of(model)
    # Kept on the module: every trace needs them, and looking for them takes as long as a small model's forward pass.
    known = module.__dict__.get("_gatescope_sites")
    if known is None:
        known = module.__dict__["_gatescope_sites"] = _resolve(module)
    return dict(known)


def _resolve(module: PreTrainedModel) -> dict[str, Site]:
    decoder = decoder_of(module)
    probe = probed(decoder)
    layers: dict[str, list[SiteLayer]] = {}
    ranks: dict[str, int] = {}
    for layer, (path, block) in enumerate(decoder.blocks.items()):
        for found in (*attention_sites(path, probe), *mlp_sites(path, block, probe)):
            ranks.setdefault(found.name, found.rank)
            here = SiteLayer(layer, found.path, found.io, found.width, found.columns, found.weights)
            layers.setdefault(found.name, []).append(here)
    if "hidden" not in layers:
        raise GatescopeError(why_no_mlp(decoder))
    return {name: Site(name, len(decoder.blocks), tuple(layers[name]), ranks[name]) for name in _NAMES if name in layers}


def site_of(model: Model, name: str) -> Site:
    """One site of a model by name.

    Raises:
        GatescopeError: if the model has no such site; the message lists those it has.
    """
    sites = sites_of(model)
    if name not in sites:
        decoder = decoder_of(module_of(model))
        why = f" {why_no_attention(decoder, probed(decoder))}" if name in ATTENTION else ""
        raise GatescopeError(f"The model has no site {name!r}; it has {', '.join(map(repr, sites))}.{why}")
    return sites[name]


def layout_of(sites: list[Site]) -> Layout:
    """The space of several sites' neurons, in the order given."""
    return Layout(tuple(site.layout.only() for site in sites))


def embedding_path(model: Model) -> str:
    """Path of the token embedding: the first module of the decoder to run."""
    return embedding_in(module_of(model))
