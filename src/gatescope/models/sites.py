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

import dataclasses
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
class Site:
    """A named place where neurons live.

    Attributes:
        name: see the module's docstring.
        paths: path of the module in each layer, from the root of the model.
        io: whether the neurons are the module's input or its output.
        width: neurons a layer.
        columns: which of the tensor's last axis they are; all of it if None.
        rank: the order in which sites of a layer are reached in a forward pass.
    """

    name: str
    paths: tuple[str, ...]
    io: Literal["input", "output"]
    width: int
    columns: range | tuple[int, ...] | None = None
    rank: int = 0

    @property
    def layout(self) -> Layout:
        """The site as a space of neurons."""
        return Layout.single(self.name, len(self.paths), self.width)

    @property
    def places(self) -> list[Place]:
        """Where the neurons are, a layer each, as plain data that can travel."""
        columns = self._plain_columns
        return [(path, self.io, columns) for path in self.paths]

    @property
    def _plain_columns(self) -> tuple[int, int] | list[int] | None:
        if self.columns is None:
            return None
        return (self.columns.start, self.columns.stop) if isinstance(self.columns, range) else list(self.columns)

    def part(self, tensor: Tensor) -> Tensor:
        """The site's neurons [..., n] out of the module's tensor; a view where they are contiguous."""
        return take(tensor, self._plain_columns)

    def columns_of(self, index: Tensor) -> Tensor:
        """The columns of the module's tensor that the neurons `index` [k] are."""
        if self.columns is None:
            return index
        return index + self.columns.start if isinstance(self.columns, range) else torch.tensor(self.columns)[index]


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
    layers = [{site.name: site for site in _block_sites(f"{path}.{i}", block, config)} for i, block in enumerate(blocks)]
    sites: dict[str, Site] = {}
    for name, first in layers[0].items():
        alike = [layer[name] for layer in layers if name in layer]
        kinds = {dataclasses.replace(site, paths=()) for site in alike}
        if len(alike) == len(layers) and len(kinds) == 1:
            paths = tuple(site.paths[0] for site in alike)
            _check_distinct(module, name, paths)
            sites[name] = dataclasses.replace(first, paths=paths)
        elif name not in ATTENTION:  # layers may differ in attention; their MLPs still have their sites
            raise GatescopeError(
                f"Site {name!r} is not the same in all {len(layers)} layers of {path}; gatescope needs it to be."
            )
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


def _block_sites(path: str, block: nn.Module, config: Any) -> Iterator[Site]:
    """The sites of one block, each with its one path."""
    yield from _mlp_sites(path, block, config)
    for which, where, outputs, columns in attention_projections(path, block, config):
        yield Site(which, (where,), "output", outputs, columns, ATTENTION.index(which))


def _mlp_sites(path: str, block: nn.Module, config: Any) -> Iterator[Site]:
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
    yield Site("gate_pre", (f"{path}.{activation}",), "input", width, rank=4)
    yield Site("gate", (f"{path}.{activation}",), "output", width, rank=5)
    if (up := _up(prefix, sizes, width, config.hidden_size)) is not None:
        yield up
    yield Site("hidden", (f"{prefix}.{down}",), "input", width, rank=7)


def _up(prefix: str, sizes: dict[str, tuple[int, int]], width: int, hidden: int) -> Site | None:
    """What the gate is multiplied with, if anything: among the projections but the last, half of one, or a separate one."""
    for name, shape in sizes.items():
        if shape[1] == 2 * width and "up" in name:
            return Site("up", (f"{prefix}.{name}",), "output", width, range(width, 2 * width), rank=3)
    # Alone, an "up_proj" makes what the activation is given, whatever its name.
    into = [name for name, shape in sizes.items() if shape == (hidden, width)]
    if "up_proj" in into and len(into) > 1:
        return Site("up", (f"{prefix}.up_proj",), "output", width, rank=6)
    return None


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
