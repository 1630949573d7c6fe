"""Files that say where they came from: safetensors with JSON metadata, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gatescope.errors import GatescopeError


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, flush it to disk, then rename: readers see all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write(path: str | Path, format: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors and JSON-able metadata as one safetensors file of a named format."""
    text = {"format": format} | {key: json.dumps(value) for key, value in metadata.items()}
    write_bytes(
        Path(path), save({name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}, text)
    )


def read(path: str | Path, format: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file written by `write`.

    Raises:
        GatescopeError: if it cannot be read, or is of another format.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise GatescopeError(f"{path} cannot be read as {format}: {error}.") from error
    found = metadata.pop("format", None)
    if found != format:
        raise GatescopeError(f"{path} is {found or 'a safetensors file of no gatescope format'}; {format} is wanted here.")
    return tensors, {key: json.loads(value) for key, value in metadata.items()}
