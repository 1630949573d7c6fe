"""Where a model keeps its neurons, found by structure.

The text decoder is the module that holds the token embedding and, beside it, a list of `num_hidden_layers` blocks:
true of every decoder in transformers, and never of a vision tower. Inside a block:

    gate      output of the MLP's activation module: the gate activation (the activation itself where there is no gate)
    gate_pre  its input: the gate before the nonlinearity
    up        the projection the gate is multiplied with
    hidden    input of the down projection: activation x up
    q k v     raw outputs of the attention's projections, before norms and rotation

"The activation module's input and output" is one rule for fused and unfused MLPs; `up`, q, k and v of fused projections
are columns of the fused output (q, k and v: see `gatescope.models.attention`). Every width is checked against the config. What
does not fit is refused with what was looked for.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import nnsight
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2CLS
from transformers.pytorch_utils import Conv1D

from gatescope.core.errors import GatescopeError
from gatescope.core.layout import Layout
from gatescope.kernels.change import take
from gatescope.models.attention import ATTENTION, attention_projections, parts_of, size, why_missing
from gatescope.models.identity import module_of

# An activation is a module that says so: every class that transformers' configs can name.
_ACTIVATIONS = (nn.GELU, *{entry[0] if isinstance(entry, tuple) else entry for entry in ACT2CLS.values()})
_WIDTH_KEYS: tuple[str, ...] = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")

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
    """

    layer: int
    path: str
    io: Literal["input", "output"]
    width: int
    columns: range | tuple[int, ...] | None = None

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
    def width(self) -> int:
        """Neurons in the widest layer."""
        return self.layout.only().width

    @property
    def io(self) -> Literal["input", "output"]:
        """Whether the neurons are the module's input or its output, in the first layer that has the site."""
        return self.layers[0].io

    @property
    def columns(self) -> range | tuple[int, ...] | None:
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
        Site by name; `up` is absent where there is no gate, q, k and v where the attention is of an unknown kind.

    Raises:
        GatescopeError: if the decoder or its MLPs cannot be found, a layer is a mixture of experts, or a width is
            not what the config says; the message names what was looked for.
    """
    module = module_of(model)
    # Kept on the module: every trace needs them, and looking for them walks through all of it.
    known = module.__dict__.get("_gatescope_sites")
    if known is None:
        known = module.__dict__["_gatescope_sites"] = _resolve(module)
    return dict(known)


def _resolve(module: PreTrainedModel) -> dict[str, Site]:
    path, blocks, config = _decoder(module)
    found: dict[tuple[int, str], list[SiteLayer]] = {}
    for layer, block in enumerate(blocks):
        for rank, name, here in _block_sites(f"{path}.{layer}", layer, block, config):
            found.setdefault((rank, name), []).append(here)
    sites = {name: Site(name, len(blocks), tuple(layers), rank) for (rank, name), layers in found.items()}
    for site in sites.values():
        _check_distinct(module, site.name, site.paths)
    return sites


def _check_distinct(module: PreTrainedModel, name: str, paths: tuple[str, ...]) -> None:
    """A module that several layers share would give each of them the values of the first."""
    owners: dict[int, str] = {}
    for path in paths:
        owner = owners.setdefault(id(module.get_submodule(path)), path)
        if owner != path:
            raise GatescopeError(
                f"{owner} and {path} are one and the same module, so site {name!r} of one layer cannot be "
                f"distinguished from another's. "
                f"gatescope needs a separate module in every layer."
            )


def site_of(model: Model, name: str) -> Site:
    """One site of a model by name.

    Raises:
        GatescopeError: if the model has no such site; the message lists those it has.
    """
    sites = sites_of(model)
    if name not in sites:
        _, blocks, _ = _decoder(module_of(model))
        why = f" {why_missing(blocks[0])}" if name in ATTENTION else ""
        raise GatescopeError(f"The model has no site {name!r}; it has {', '.join(map(repr, sites))}.{why}")
    return sites[name]


def layout_of(sites: list[Site]) -> Layout:
    """The space of several sites' neurons, in the order given."""
    return Layout(tuple(site.layout.only() for site in sites))


def embedding_path(model: Model) -> str:
    """Path of the token embedding: the first module of the decoder to run."""
    module = module_of(model)
    embedding = module.get_input_embeddings()
    return next(name for name, candidate in parts_of(module) if candidate is embedding)


def _decoder(module: PreTrainedModel) -> tuple[str, nn.ModuleList, Any]:
    """Where the text decoder's blocks are, the blocks, and its config, whose fields every architecture names anew."""
    if getattr(module.config, "is_encoder_decoder", False):
        raise GatescopeError(
            f"{type(module).__name__} has an encoder and a decoder, and gatescope reads decoder-only models: "
            f"what it would find first are the encoder's neurons. Use a decoder-only model."
        )
    outer: Any = module.config
    config = outer.get_text_config(decoder=True)
    embedding, depth = module.get_input_embeddings(), getattr(config, "num_hidden_layers", None)
    for name, parent in parts_of(module):
        if not any(child is embedding for child in parent.children()):
            continue
        for child_name, child in parent.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == depth:
                return f"{name}.{child_name}".lstrip("."), child, config
    raise GatescopeError(
        f"No text decoder was found in {type(module).__name__}: looked for a module that holds the token embedding "
        f"beside a list of {depth} blocks (num_hidden_layers in its config)."
    )


def _block_sites(path: str, layer: int, block: nn.Module, config: Any) -> Iterator[tuple[int, str, SiteLayer]]:
    """The sites of one block, each with its rank and name."""
    yield from _mlp_sites(path, layer, block, config)
    for which, where, outputs, columns in attention_projections(path, block, config):
        yield ATTENTION.index(which), which, SiteLayer(layer, where, "output", outputs, columns)


def _mlp_sites(path: str, layer: int, block: nn.Module, config: Any) -> Iterator[tuple[int, str, SiteLayer]]:
    _check_block(path, block)
    activation = _activation(path, block)
    holder = activation.rpartition(".")[0]
    prefix = f"{path}.{holder}".rstrip(".")
    width = next((value for key in _WIDTH_KEYS if (value := getattr(config, key, None))), 4 * config.hidden_size)
    sizes = {
        n: size(child) for n, child in block.get_submodule(holder).named_children() if isinstance(child, nn.Linear | Conv1D)
    }
    down = _down(prefix, sizes, width, config.hidden_size)
    del sizes[down]
    yield 4, "gate_pre", SiteLayer(layer, f"{path}.{activation}", "input", width)
    yield 5, "gate", SiteLayer(layer, f"{path}.{activation}", "output", width)
    yield from _up(prefix, layer, sizes, width, config.hidden_size)
    yield 7, "hidden", SiteLayer(layer, f"{prefix}.{down}", "input", width)


def _up(
    prefix: str, layer: int, sizes: dict[str, tuple[int, int]], width: int, hidden: int
) -> Iterator[tuple[int, str, SiteLayer]]:
    """What the gate is multiplied with, if anything: among the projections but the last, half of one, or a separate one."""
    for name, shape in sizes.items():
        if shape[1] == 2 * width and "up" in name:
            yield 3, "up", SiteLayer(layer, f"{prefix}.{name}", "output", width, range(width, 2 * width))
            return
    # Alone, an "up_proj" makes what the activation is given, whatever its name.
    into = [name for name, shape in sizes.items() if shape == (hidden, width)]
    if "up_proj" in into and len(into) > 1:
        yield 6, "up", SiteLayer(layer, f"{prefix}.up_proj", "output", width)


def _down(prefix: str, sizes: dict[str, tuple[int, int]], width: int, hidden: int) -> str:
    """The name of the down projection, among an MLP's projections with their (inputs, outputs)."""
    fitting = [name for name, shape in sizes.items() if shape == (width, hidden)]
    if not fitting:
        raise GatescopeError(
            f"The config says {width} neurons a layer, but no projection in {prefix} takes {width} inputs to "
            f"{hidden} outputs (found {sizes})."
        )
    # Where the MLP is as wide as the residual stream, all of them fit: the last to be defined is the last to run.
    return next((name for name in fitting if "down" in name), fitting[-1])


def _check_block(path: str, block: nn.Module) -> None:
    """Refuse a block that is not one attention and one dense MLP."""
    for name, _ in parts_of(block):
        if name.rpartition(".")[2] == "experts":
            raise GatescopeError(
                f"{path} is a mixture of experts ({name}): its experts are routed per token, which gatescope does not "
                f"support yet. Use a model with a dense MLP."
            )
    for name, module in parts_of(block):
        if any(isinstance(child, nn.Conv1d) for child in module.children()):
            raise GatescopeError(
                f"{path} ({type(block).__name__}) mixes tokens by a state space or a convolution ({name}), and gatescope "
                f"knows blocks of one attention and one MLP only. Use a model all of whose layers are such blocks."
            )


def _activation(path: str, block: nn.Module) -> str:
    """The name, within a block, of the one activation module of its MLP."""
    names = [name for name, module in parts_of(block) if isinstance(module, _ACTIVATIONS)]
    if len(names) == 1:
        return names[0]
    has = f"{len(names)} activation modules ({', '.join(names)})" if names else "0 activation modules"
    called = "It is called as a function there, or is of an unknown class."
    why = "It is not clear which of them it is." if names else called
    raise GatescopeError(
        f"{path} ({type(block).__name__}) has {has}, and exactly one was looked for, inside its MLP: its output is the "
        f"gate. {why} Use a model whose MLP holds one activation module."
    )
