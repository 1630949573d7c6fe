"""A baked model as an ordinary checkpoint, with a note of which neurons, what was done to them, and whose they are."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import torch
from nnsight import TransformersModel
from transformers import PreTrainedModel

from gatescope.core import artefacts
from gatescope.core.errors import GatescopeError
from gatescope.core.layout import Layout
from gatescope.core.neurons import NeuronSet
from gatescope.interventions.bake import baked
from gatescope.interventions.intervention import Intervention
from gatescope.models.identity import identity, versions

FORMAT = "gatescope.baked/1"
NOTE = "gatescope.json"


def save_baked(intervention: Intervention, model: TransformersModel | PreTrainedModel, path: str | Path) -> Path:
    """Write the model with the intervention in its weights as an ordinary checkpoint.

    Beside the weights, the config and the tokenizer or processor stands `gatescope.json`: which neurons, what was done
    to them, and the model they come from (`baked_from` reads it). The model given is left as it was.

    Args:
        intervention, model: as for `baked`.
        path: a new or an empty directory.

    Returns:
        The path.

    Raises:
        GatescopeError: as `baked`; or if the directory holds anything.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise GatescopeError(f"{path} already exists and is not empty; a baked model is written to a new directory.")
    neurons, provenance = intervention.neurons, identity(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside its destination, so that the rename at the end is atomic: nobody sees half a checkpoint.
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        with baked(intervention, model) as module:
            module.save_pretrained(scratch)
            note = {
                "format": FORMAT,
                "kind": intervention.kind,
                "values": list(intervention.values),
                "layout": neurons.layout.plain(),
                "neurons": neurons.flat.tolist(),
                "model": provenance,
                "origin": dict(neurons.provenance),
                "digest": identity(model)["digest"],
                "versions": json.loads(versions()),
            }
        # A processor saves its tokenizer too.
        tool = getattr(model, "processor", None) or getattr(model, "tokenizer", None)
        if tool is not None:
            tool.save_pretrained(scratch)
        artefacts.write_bytes(scratch / NOTE, json.dumps(note, indent=1).encode())
        # mkdtemp makes directories that only their owner can read.
        scratch.chmod(0o755)
        scratch.replace(path)
    # Ctrl-C too must not leave gigabytes behind.
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return path


def baked_from(path: str | Path) -> Intervention:
    """The intervention a checkpoint of `save_baked` was made with; its neurons name the model it was made from.

    Raises:
        GatescopeError: if the directory has no note of one.
    """
    try:
        note = json.loads((Path(path) / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GatescopeError(f"{path} has no readable {NOTE}: it was not written by save_baked ({error}).") from error
    if not isinstance(note, dict) or note.get("format") != FORMAT:
        raise GatescopeError(f"{Path(path) / NOTE} is not a note of format {FORMAT}.")
    flat = torch.tensor(note["neurons"], dtype=torch.int64)
    neurons = NeuronSet(Layout.parse(note["layout"]), flat, note["model"], note["origin"])
    return Intervention(neurons, note["kind"], tuple(note["values"]))
