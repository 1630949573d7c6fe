"""Where a model keeps its neurons, found by structure.

The text decoder is the module that holds the token embedding and, beside it, a list of `num_hidden_layers` blocks:
true of every decoder in transformers, and never of a vision tower. Inside a block the neurons are the output of the
MLP's activation module (site `gate`: the gate activation of a gated MLP, the activation of a plain one), whose width
must be the one the config names. What does not fit is refused with what was looked for.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.activations import ACT2CLS
from transformers.pytorch_utils import Conv1D

from gatescope.errors import GatescopeError
from gatescope.neurons import Layout

# An activation is a module that says so: every class that transformers' configs can name.
_ACTIVATIONS = (nn.GELU, *{entry[0] if isinstance(entry, tuple) else entry for entry in ACT2CLS.values()})
_WIDTH_KEYS = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")


@dataclass(frozen=True)
class Site:
    """A named place where neurons live.

    Attributes:
        name: `gate`.
        paths: module path of the activation module in each layer, from the root of the model.
        width: neurons a layer.
    """

    name: str
    paths: tuple[str, ...]
    width: int

    @property
    def layout(self) -> Layout:
        """The site as a space of neurons."""
        return Layout.single(self.name, len(self.paths), self.width)


def sites_of(model) -> dict[str, Site]:
    """Resolve the sites of a model.

    Args:
        model: an nnsight model from `load_model`, or a plain Hugging Face module.

    Returns:
        Site by name.

    Raises:
        GatescopeError: if the decoder or its MLPs cannot be found, a layer is a mixture of experts, or a width is
            not what the config says; the message names what was looked for.
    """
    module: PreTrainedModel = getattr(model, "_module", model)
    config = module.config.get_text_config(decoder=True)
    path, blocks = _decoder_blocks(module, config)
    paths = [f"{path}.{i}.{_activation(f'{path}.{i}', block)}" for i, block in enumerate(blocks)]
    return {"gate": Site("gate", tuple(paths), _width(path, blocks, config))}


def site_of(model, name: str) -> Site:
    """One site of a model by name.

    Raises:
        GatescopeError: if the model has no such site; the message lists those it has.
    """
    sites = sites_of(model)
    if name not in sites:
        raise GatescopeError(f"The model has no site {name!r}; it has {', '.join(map(repr, sites))}.")
    return sites[name]


def _decoder_blocks(module: PreTrainedModel, config) -> tuple[str, nn.ModuleList]:
    embedding = module.get_input_embeddings()
    depth = getattr(config, "num_hidden_layers", None)
    for name, parent in module.named_modules():
        if not any(child is embedding for child in parent.children()):
            continue
        for child_name, child in parent.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == depth:
                return f"{name}.{child_name}".lstrip("."), child
    raise GatescopeError(
        f"No text decoder was found in {type(module).__name__}: looked for a module that holds the token embedding "
        f"beside a list of {depth} blocks (num_hidden_layers in its config)."
    )


def _activation(path: str, block: nn.Module) -> str:
    experts = [name for name, part in block.named_modules() if name.rsplit(".", 1)[-1] == "experts"]
    if experts:
        raise GatescopeError(
            f"{path} is a mixture of experts ({experts[0]}): its neurons fire for some tokens only, which gatescope does "
            f"not count yet. Use a model with a dense MLP."
        )
    found = [name for name, part in block.named_modules() if isinstance(part, _ACTIVATIONS)]
    if len(found) != 1:
        raise GatescopeError(
            f"{path} ({type(block).__name__}) has {len(found)} activation modules {found or ''} and one was looked for, "
            f"inside its MLP. The model's MLP is of a kind gatescope does not know."
        )
    return found[0]


def _width(path: str, blocks: nn.ModuleList, config) -> int:
    """Neurons a layer: what the config says, checked against the input of each block's down projection."""
    said = next((value for key in _WIDTH_KEYS if (value := getattr(config, key, None))), 4 * config.hidden_size)
    for index, block in enumerate(blocks):
        widths = {_inputs(part) for part in block.modules() if isinstance(part, nn.Linear | Conv1D)}
        if said not in widths:
            raise GatescopeError(
                f"The config says {said} neurons a layer, but no projection in {path}.{index} takes {said} inputs "
                f"(found {sorted(widths)})."
            )
    return said


def _inputs(projection: nn.Linear | Conv1D) -> int:
    return projection.weight.shape[0] if isinstance(projection, Conv1D) else projection.in_features
