"""Neuron files of the papers' published code, read and written: use their neurons here, or ours there.

CULNIG writes JSON: {"model_name", "dataset_ids", "top_neurons": [{"module_name", "layer_idx", "neuron_idx",
"attribute_score"}]}. LAPE writes a .pth: a list over languages of a list over layers of index tensors; it is read with
`weights_only`, never unpickled freely.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from gatescope.errors import GatescopeError
from gatescope.neurons import Layout, NeuronSet

MODULES = {
    "mlp.gate_proj": "gate_pre",
    "mlp.up_proj": "up",
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
}


def read_culnig(path: str | Path, layout: Layout, model: Mapping[str, str] | None = None) -> NeuronSet:
    """Read a neuron list of CULNIG's code, in its order.

    Args:
        path: the JSON file.
        layout: the space to number them in, with a site for every module the file names.
        model: identity of the model they are to be used with; the file has its name only.

    Raises:
        GatescopeError: if the file is not such a list, names an unknown module, or a neuron outside the layout.
    """
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))["top_neurons"]
        named = [(row["module_name"], row["layer_idx"], row["neuron_idx"]) for row in rows]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise GatescopeError(f"{path} is not a neuron list of CULNIG's code: {error!r}.") from error
    for module, _, _ in named:
        if module not in MODULES:
            raise GatescopeError(f"{path} names the module {module!r}; known are {', '.join(MODULES)}.")
    neurons = [(MODULES[module], layer, index) for module, layer, index in named]
    return NeuronSet.of(layout, neurons, model, {"method": "CULNIG", "file": Path(path).name})


def write_culnig(path: str | Path, neurons: NeuronSet) -> None:
    """Write a set in the format of CULNIG's code; scores are left out (null).

    Raises:
        GatescopeError: for a neuron of a site that code does not know.
    """
    names = {site: module for module, site in MODULES.items()}
    unknown = sorted({site for site, _, _ in neurons} - set(names))
    if unknown:
        raise GatescopeError(f"CULNIG's code has no module for {unknown}; it knows {list(names)}.")
    rows = [
        {"module_name": names[site], "layer_idx": layer, "neuron_idx": index, "attribute_score": None}
        for site, layer, index in neurons
    ]
    content = {"model_name": neurons.model.get("id", ""), "dataset_ids": {}, "top_neurons": rows}
    Path(path).write_text(json.dumps(content, indent=4), encoding="utf-8")


def read_lape(
    path: str | Path, layout: Layout, groups: Sequence[str], model: Mapping[str, str] | None = None
) -> dict[str, NeuronSet]:
    """Read the neurons LAPE's code saved, for each language in the order of its lists.

    Args:
        path: the .pth file.
        layout: of the one site, `gate`.
        groups: names of the languages, in the file's order.
        model: identity of the model they are to be used with.

    Raises:
        GatescopeError: if the file cannot be read safely, or does not fit the groups and layers.
    """
    site = layout.only()
    try:
        lists = torch.load(path, weights_only=True, map_location="cpu")
        found = [[layer.flatten().tolist() for layer in language] for language in lists]
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, AttributeError, TypeError) as error:
        raise GatescopeError(f"{path} cannot be read as LAPE's lists of index tensors: {error}.") from error
    if len(found) != len(groups) or any(len(layers) != site.layers for layers in found):
        raise GatescopeError(
            f"{path} holds {len(found)} languages of {sorted({len(layers) for layers in found})} layers; {len(groups)} "
            f"groups ({', '.join(groups)}) of {site.layers} layers are wanted."
        )
    return {
        group: NeuronSet.of(
            layout,
            [(site.site, layer, index) for layer, indices in enumerate(layers) for index in indices],
            model,
            {"method": "LAPE", "group": group, "file": Path(path).name},
        )
        for group, layers in zip(groups, found, strict=True)
    }


def write_lape(path: str | Path, sets: Mapping[str, NeuronSet]) -> None:
    """Write sets of one site as LAPE's nested lists, one language for each group in the order given."""
    lists = []
    for neurons in sets.values():
        site = neurons.layout.only()
        mask = neurons.mask(site.site)
        lists.append([mask[layer].nonzero().flatten() for layer in range(site.layers)])
    torch.save(lists, path)
