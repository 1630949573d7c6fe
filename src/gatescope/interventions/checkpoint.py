"""A baked model as an ordinary checkpoint, with a note of which neurons, what was done to them, and whose they are."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from nnsight import TransformersModel
from safetensors import SafetensorError
from transformers import PreTrainedModel

from gatescope.core import artefacts, foreign
from gatescope.core.errors import GatescopeError
from gatescope.core.layout import Layout
from gatescope.core.neurons import NeuronSet
from gatescope.interventions.bake import baked
from gatescope.interventions.intervention import Intervention
from gatescope.interventions.value import Kind
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
    _check_free(path)
    neurons, provenance = intervention.neurons, identity(model)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Beside its destination, so that the rename at the end is atomic: nobody sees half a checkpoint.
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except (OSError, ValueError) as error:
        raise _unwritten(path, error) from error
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
    except (OSError, SafetensorError) as error:  # safetensors has its own for a full disk
        raise _unwritten(path, error) from error
    finally:
        # Renamed by now, or not to be kept: Ctrl-C too must not leave gigabytes behind.
        shutil.rmtree(scratch, ignore_errors=True)
    return path


def _check_free(path: Path) -> None:
    try:
        if not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir())):
            return
    except (OSError, ValueError) as error:
        raise _unwritten(path, error) from error
    if not path.is_dir():
        raise GatescopeError(f"{path} already exists and is a file; a baked model is written to a new directory.")
    raise GatescopeError(f"{path} already exists and is not empty; a baked model is written to a new directory.")


def _unwritten(path: Path, error: Exception) -> GatescopeError:
    """The error for a checkpoint that cannot be written."""
    return GatescopeError(
        f"The baked model cannot be written to {path}: {getattr(error, 'strerror', None) or error}. Nothing is left of it; "
        f"make room, or give another directory."
    )


def baked_from(path: str | Path) -> Intervention:
    """The intervention a checkpoint of `save_baked` was made with; its neurons name the model it was made from.

    Raises:
        GatescopeError: if the directory has no note of one.
    """
    file = Path(path) / NOTE
    try:
        content = foreign.read_bytes(file)
    except OSError as error:
        raise GatescopeError(f"{path} has no readable {NOTE}: it was not written by save_baked ({error}).") from error
    where = f"{path} has no readable {NOTE}"
    written = foreign.parse(content, dict[str, Any], where, ours=True)
    if written.get("format") != FORMAT:
        raise GatescopeError(f"{file} is not a note of format {FORMAT}.")
    note = foreign.check(written, _Note, where)
    if len(note.values) != (0 if note.kind == "zero" else len(note.neurons)):
        raise GatescopeError(f"{file} has {len(note.values)} values for {len(note.neurons)} neurons ({note.kind}).")
    with artefacts.named(file):
        flat = torch.tensor(note.neurons, dtype=torch.int64)
        return Intervention(NeuronSet(Layout.parse(note.layout), flat, note.model, note.origin), note.kind, tuple(note.values))


class _Note(msgspec.Struct):
    """What `save_baked` writes beside a checkpoint."""

    format: str
    kind: Kind
    values: list[float]
    layout: list[Any]
    neurons: list[Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]]
    model: dict[str, str]
    origin: dict[str, str]
