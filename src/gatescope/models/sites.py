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

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2CLS
from transformers.pytorch_utils import Conv1D

from gatescope.core.errors import GatescopeError
from gatescope.core.layout import Layout
from gatescope.kernels.change import take
from gatescope.models.attention import ATTENTION, attention_projections, size, why_missing

# An activation is a module that says so: every class that transformers' configs can name.
_ACTIVATIONS = (nn.GELU, *{entry[0] if isinstance(entry, tuple) else entry for entry in ACT2CLS.values()})
_WIDTH_KEYS = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")

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
        return [(path, self.io, self._plain_columns) for path in self.paths]

    @property
    def _plain_columns(self) -> tuple[int, int] | list[int] | None:
        if self.columns is None:
            return None
        return (self.columns.start, self.columns.stop) if isinstance(self.columns, range) else list(self.columns)

    def part(self, whole: Tensor) -> Tensor:
        """The site's neurons [..., n] out of the module's tensor; a view where they are contiguous."""
        return take(whole, self._plain_columns)

    def place(self, index: Tensor) -> Tensor:
        """Where in the module's tensor the neurons `index` [k] are."""
        if self.columns is None:
            return index
        return index + self.columns.start if isinstance(self.columns, range) else torch.tensor(self.columns)[index]


def sites_of(model) -> dict[str, Site]:
    """Resolve the sites of a model.

    Args:
        model: an nnsight model from `load_model`, or a plain Hugging Face module.

    Returns:
        Site by name; `up` is absent where there is no gate, q, k and v where the attention is of an unknown kind.

    Raises:
        GatescopeError: if the decoder or its MLPs cannot be found, a layer is a mixture of experts, or a width is
            not what the config says; the message names what was looked for.
    """
    module: PreTrainedModel = getattr(model, "_module", model)
    known = module.__dict__.get("_gatescope_sites")
    if known is None:
        known = module.__dict__["_gatescope_sites"] = _resolve(module)
    return dict(known)


def _resolve(module: PreTrainedModel) -> dict[str, Site]:
    path, blocks, config = _decoder(module)
    layers = [dict(_block_sites(f"{path}.{i}", block, config)) for i, block in enumerate(blocks)]
    found = {}
    for name, first in layers[0].items():
        alike = [layer.get(name) for layer in layers]
        paths = tuple(site.paths[0] for site in alike if site is not None)
        if len(paths) < len(layers) or {(s.io, s.width, s.columns) for s in alike if s} != {
            (first.io, first.width, first.columns)
        }:
            if name in ATTENTION:
                continue  # layers whose attention is of another kind: the MLP's sites are there all the same
            raise GatescopeError(
                f"Site {name!r} is not the same in all {len(layers)} layers of {path}; gatescope needs it to be."
            )
        _told_apart(module, name, paths)
        found[name] = Site(name, paths, first.io, first.width, first.columns, first.rank)
    return found


def _told_apart(module: PreTrainedModel, name: str, paths: tuple[str, ...]) -> None:
    """A module that several layers share would give each of them the values of the first."""
    owners: dict[int, str] = {}
    for path in paths:
        other = owners.setdefault(id(module.get_submodule(path)), path)
        if other != path:
            raise GatescopeError(
                f"{other} and {path} are one and the same module, so site {name!r} of one layer cannot be told from another's. "
                f"gatescope needs a module of its own in every layer."
            )


def site_of(model, name: str) -> Site:
    """One site of a model by name.

    Raises:
        GatescopeError: if the model has no such site; the message lists those it has.
    """
    sites = sites_of(model)
    if name not in sites:
        _, blocks, _ = _decoder(getattr(model, "_module", model))
        why = f" {why_missing(blocks[0])}" if name in ATTENTION else ""
        raise GatescopeError(f"The model has no site {name!r}; it has {', '.join(map(repr, sites))}.{why}")
    return sites[name]


def layout_of(sites: list[Site]) -> Layout:
    """The space of several sites' neurons, in the order given."""
    return Layout(tuple(site.layout.only() for site in sites))


def embedding_path(model) -> str:
    """Path of the token embedding: the first module of the decoder to run."""
    module: PreTrainedModel = getattr(model, "_module", model)
    embedding = module.get_input_embeddings()
    return next(name for name, part in module.named_modules() if part is embedding)


def _decoder(module: PreTrainedModel) -> tuple[str, nn.ModuleList, PreTrainedConfig]:
    """The text decoder's blocks, where they are, and its config."""
    if getattr(module.config, "is_encoder_decoder", False):
        raise GatescopeError(
            f"{type(module).__name__} has an encoder and a decoder, and gatescope reads models that are a decoder alone: "
            f"what it would find first are the encoder's neurons. Use a decoder-only model."
        )
    config = module.config.get_text_config(decoder=True)
    embedding, depth = module.get_input_embeddings(), getattr(config, "num_hidden_layers", None)
    for name, parent in module.named_modules():
        if not any(child is embedding for child in parent.children()):
            continue
        for child_name, child in parent.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == depth:
                return f"{name}.{child_name}".lstrip("."), child, config
    raise GatescopeError(
        f"No text decoder was found in {type(module).__name__}: looked for a module that holds the token embedding "
        f"beside a list of {depth} blocks (num_hidden_layers in its config)."
    )


def _block_sites(path: str, block: nn.Module, config) -> Iterator[tuple[str, Site]]:
    """The sites of one block, each with its one path."""
    activation = _activation(path, block)
    holder, _, _ = activation.rpartition(".")
    mlp = block.get_submodule(holder)
    width = next((value for key in _WIDTH_KEYS if (value := getattr(config, key, None))), 4 * config.hidden_size)
    prefix = f"{path}.{holder}".rstrip(".")
    sizes = {name: size(part) for name, part in mlp.named_children() if isinstance(part, nn.Linear | Conv1D)}
    down = [name for name, shape in sizes.items() if shape == (width, config.hidden_size)]
    down = [name for name in down if "down" in name] or down[-1:]  # equal widths: the last to be defined is the last to run
    if not down:
        raise GatescopeError(
            f"The config says {width} neurons a layer, but no projection in {prefix} takes {width} inputs to "
            f"{config.hidden_size} outputs (found {sizes})."
        )
    yield "gate_pre", Site("gate_pre", (f"{path}.{activation}",), "input", width, rank=4)
    yield "gate", Site("gate", (f"{path}.{activation}",), "output", width, rank=5)
    into = [name for name, shape in sizes.items() if shape == (config.hidden_size, width) and name != down[0]]
    fused = [name for name, shape in sizes.items() if shape[1] == 2 * width and "up" in name]
    if fused:
        yield "up", Site("up", (f"{prefix}.{fused[0]}",), "output", width, range(width, 2 * width), rank=3)
    elif "up_proj" in into and len(into) > 1:  # alone, it makes what the activation is given, whatever its name
        yield "up", Site("up", (f"{prefix}.up_proj",), "output", width, rank=6)
    yield "hidden", Site("hidden", (f"{prefix}.{down[0]}",), "input", width, rank=7)
    for which, where, outputs, columns in attention_projections(path, block, config):
        yield which, Site(which, (where,), "output", outputs, columns, ATTENTION.index(which))


def _activation(path: str, block: nn.Module) -> str:
    """The name, within a block, of the one activation module of its MLP."""
    experts = [name for name, part in block.named_modules() if name.rsplit(".", 1)[-1] == "experts"]
    if experts:
        raise GatescopeError(
            f"{path} is a mixture of experts ({experts[0]}): its neurons fire for some tokens only, which gatescope does "
            f"not count yet. Use a model with a dense MLP."
        )
    found = [name for name, part in block.named_modules() if isinstance(part, _ACTIVATIONS)]
    mixers = [name for name, part in block.named_modules() if any(isinstance(p, nn.Conv1d) for p in part.children())]
    if mixers:
        raise GatescopeError(
            f"{path} ({type(block).__name__}) mixes tokens by a state space or a convolution ({mixers[0]}), and gatescope "
            f"knows blocks of one attention and one MLP only. Use a model all of whose layers are such blocks."
        )
    if len(found) != 1:
        has = f"{len(found)} activation modules ({', '.join(found)})" if found else "0 activation modules"
        called = "It is called as a function there, or is of an unknown class."
        why = "Which of them it is cannot be told." if found else called
        raise GatescopeError(
            f"{path} ({type(block).__name__}) has {has}, and exactly one was looked for, inside its MLP: its output is the "
            f"gate. {why} Use a model whose MLP holds one activation module."
        )
    return found[0]
