"""Neuron files of the papers' published code, read and written: use their neurons here, or ours there.

CULNIG writes JSON: {"model_name", "dataset_ids", "top_neurons": [{"module_name", "layer_idx", "neuron_idx",
"attribute_score"}]}; its evaluation sorts the neurons by their score. LAPE writes a .pth: a list over languages of a list
over layers of index tensors; it is read with `weights_only`, never unpickled freely.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from jaxtyping import Float64
from torch import Tensor

from gatescope.core import artefacts, foreign
from gatescope.core.errors import GatescopeError
from gatescope.core.layout import Layout
from gatescope.core.neurons import NeuronSet

# CULNIG scores the raw output of gate_proj: gate_pre here, not gate.
MODULES = {
    "mlp.gate_proj": "gate_pre",
    "mlp.up_proj": "up",
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
}
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def read_culnig(path: str | Path, layout: Layout, model: Mapping[str, str] | None = None) -> NeuronSet:
    """Read a neuron list of CULNIG's code, in its order.

    Args:
        path: the JSON file.
        layout: the space to number them in, with a site for every module the file names.
        model: identity of the model they are to be used with; the file has its name only.

    Raises:
        GatescopeError: if the file is not such a list, names an unknown module, or a neuron outside the layout.
    """
    rows = foreign.read_json(Path(path), _Culnig, f"{path} is not a neuron list of CULNIG's code").top_neurons
    for row in rows:
        if row.module_name not in MODULES:
            raise GatescopeError(f"{path} names the module {row.module_name!r}; known are {', '.join(MODULES)}.")
    neurons = [(MODULES[row.module_name], row.layer_idx, row.neuron_idx) for row in rows]
    with artefacts.named(path):
        return NeuronSet.of(layout, neurons, model, {"method": "CULNIG", "file": Path(path).name})


class _Neuron(msgspec.Struct):
    module_name: str
    layer_idx: int
    neuron_idx: int


class _Culnig(msgspec.Struct):
    top_neurons: list[_Neuron]


def write_culnig(path: str | Path, neurons: NeuronSet, scores: Float64[Tensor, " n"] | None = None) -> None:
    """Write a set in the format of CULNIG's code, every neuron with a score: its evaluation sorts by it.

    Args:
        path: the JSON file.
        neurons: the set.
        scores: of every neuron of the layout, as `gatescope.select.culnig_scores` gives them. A set does not hold them: if
            None, a neuron's score is its place in the set, from 1 for the first down to 1 / k for the last of k.

    Raises:
        GatescopeError: for a neuron of a site that code does not know, or scores that are not one finite number for each
            neuron of the layout.
    """
    names = {site: module for module, site in MODULES.items()}
    unknown = sorted({site for site, _, _ in neurons} - set(names))
    if unknown:
        raise GatescopeError(f"CULNIG's code has no module for {unknown}; it knows {list(names)}.")
    rows = [
        {"module_name": names[site], "layer_idx": layer, "neuron_idx": index, "attribute_score": score}
        for (site, layer, index), score in zip(neurons, _scores_of(neurons, scores), strict=True)
    ]
    content: dict[str, Any] = {"model_name": neurons.model.get("id", ""), "dataset_ids": {}, "top_neurons": rows}
    artefacts.write_bytes(Path(path), json.dumps(content, indent=4).encode())


def _scores_of(neurons: NeuronSet, scores: Tensor | None) -> list[float]:
    if scores is None:
        # Descending, so that sorting by score gives the order of the set.
        return [1 - position / len(neurons) for position in range(len(neurons))]
    if scores.shape != (neurons.layout.size,):
        raise GatescopeError(
            f"scores are {list(scores.shape)}; one for each of the {neurons.layout.size} neurons of {neurons.layout} is "
            f"needed: gs.select.culnig_scores(scores, control) gives them."
        )
    own: list[float] = scores[neurons.flat].tolist()
    for neuron, score in zip(neurons, own, strict=True):
        if not math.isfinite(score):
            raise GatescopeError(f"The score of {neuron} is {score}; CULNIG's code sorts by it and needs a finite number.")
    return own


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
    indices = _index_lists(path)
    if len(indices) != len(groups) or any(len(layers) != site.layers for layers in indices):
        raise GatescopeError(
            f"{path} holds {len(indices)} languages of {sorted({len(layers) for layers in indices})} layers; {len(groups)} "
            f"groups ({', '.join(groups)}) of {site.layers} layers are expected."
        )
    sets: dict[str, NeuronSet] = {}
    for group, layers in zip(groups, indices, strict=True):
        neurons = [(site.site, layer, index) for layer, members in enumerate(layers) for index in members]
        provenance = {"method": "LAPE", "group": group, "file": Path(path).name}
        with artefacts.named(path):
            sets[group] = NeuronSet.of(layout, neurons, model, provenance)
    return sets


def _index_lists(path: str | Path) -> list[list[list[int]]]:
    """The indices in each layer of each language."""
    try:
        # weights_only: unpickling a stranger's file would run what is in it.
        lists: Any = torch.load(foreign.regular(Path(path)), weights_only=True, map_location="cpu")
    except Exception as error:  # whatever bytes that are no pickle, or an altered one, make of the unpickler
        why = (str(error) or type(error).__name__).split("\n")[0].rstrip(".")
        raise GatescopeError(f"{path} cannot be read as LAPE's lists of index tensors: {why}.") from error
    if not _nested(lists):
        raise GatescopeError(
            f"{path} cannot be read as LAPE's lists of index tensors: a list over languages of a list over layers of tensors "
            f"is needed, and this is a {type(lists).__name__} of other things."
        )
    for layer in (layer for language in lists for layer in language):
        # A mask read as indices would be neurons 0 and 1. An empty tensor is float32 where nobody gave it a dtype.
        if layer.numel() and layer.dtype not in _INTEGERS:
            raise GatescopeError(
                f"{path} holds a tensor of {str(layer.dtype).removeprefix('torch.')}, and indices are whole numbers. "
                f"Of a mask, write mask.nonzero().flatten()."
            )
    return [[layer.flatten().tolist() for layer in language] for language in lists]


def _nested(lists: Any) -> bool:
    """Whether it is a list over languages of a list over layers of tensors."""
    many = (list, tuple)
    return isinstance(lists, many) and all(
        isinstance(language, many) and all(isinstance(layer, Tensor) for layer in language) for language in lists
    )


def write_lape(path: str | Path, sets: Mapping[str, NeuronSet]) -> None:
    """Write sets of one site as LAPE's nested lists, one language for each group in the order given."""
    lists: list[list[Tensor]] = []
    for neurons in sets.values():
        site = neurons.layout.only()
        mask = neurons.mask(site.site)
        # Ascending indices: LAPE's lists have no ranking.
        lists.append([mask[layer].nonzero().flatten() for layer in range(site.layers)])
    buffer = io.BytesIO()
    torch.save(lists, buffer)
    artefacts.write_bytes(Path(path), buffer.getvalue())
