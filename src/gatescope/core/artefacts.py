"""Files that say where they came from: safetensors with JSON metadata, written whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gatescope.core import foreign
from gatescope.core.errors import GatescopeError, quoted

T = TypeVar("T")
_AGAIN = "Delete it and make it again."
_PARTIAL = re.compile(r"\..+\.[0-9a-f]{12}\.partial", re.DOTALL)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, flush it to disk, then rename: readers see all of it or none.

    Raises:
        GatescopeError: if it cannot be written: a full disk, a read-only directory.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _partial(path) as (file, partial):
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a crash may leave the new name on an empty file
            partial.replace(path)  # while it is open, and so locked
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise GatescopeError(
            f"{path} cannot be written: {getattr(error, 'strerror', None) or error}. What was written before is intact; make "
            f"room, or give a directory that can be written to, and run the same command again."
        ) from error


@contextlib.contextmanager
def _partial(path: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """A new file beside a path, to be renamed; locked as long as it is open, and gone afterwards if it was not renamed."""
    while True:
        # A unique name: several processes may write the same file.
        partial = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")
        try:
            with open(partial, "wb") as file:
                with contextlib.suppress(OSError):  # a file system without locks
                    fcntl.flock(file, fcntl.LOCK_EX)
                # Whoever clears up may have come between the two, and taken it for one of the dead's.
                if os.fstat(file.fileno()).st_nlink:
                    yield file, partial
                    return
        finally:
            with contextlib.suppress(OSError, ValueError):
                partial.unlink(missing_ok=True)


def clear_partials(directory: Path) -> None:
    """Remove what processes that were killed while they wrote have left below a directory; not what is being written now."""
    for partial in directory.rglob(".*.partial"):
        if _PARTIAL.fullmatch(partial.name):
            # An error is that of a file in use, or gone by now; nothing depends on its removal.
            with contextlib.suppress(OSError), open(partial, "rb+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                partial.unlink()


def write(path: str | Path, format: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors and JSON-able metadata as one safetensors file of a named format."""
    write_bytes(Path(path), packed(format, tensors, metadata))


def packed(format: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> bytes:
    """Tensors and JSON-able metadata as the bytes of a safetensors file of a named format.

    The metadata is one text, since safetensors keeps several in no order: the same content gives the same bytes.
    """
    owned = _unshared({name: _contiguous(tensor) for name, tensor in tensors.items()})
    about = {"format": format, **metadata}
    about["checksum"] = checksum(owned, about)
    return save(owned, {"about": json.dumps(about)})


def _contiguous(tensor: Tensor) -> Tensor:
    """A tensor as safetensors takes it, contiguous and alone in its storage; itself where it is that already."""
    plain = tensor.detach().cpu().contiguous()
    return plain if plain.untyped_storage().nbytes() == plain.nbytes else plain.clone()


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, each in separate storage: groups may share one (a draw for all), which safetensors refuses."""
    storages: set[int] = set()
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        # An empty tensor has the address 0, which several may have.
        if storage and storage in storages:
            tensors[name] = tensor.clone()
        storages.add(storage)
    return tensors


def checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """SHA-256 over every tensor and every word of the metadata."""
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    # Sorted: safetensors gives tensors back in its own order.
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor).numpy().data)
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> Tensor:
    """A contiguous tensor's bytes, uint8 [b]. `view` needs a stride of 1, but with fewer than two
    elements the stride is arbitrary: NumPy's is 0 for an empty array.
    """
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)


def read(path: str | Path, format: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file written by `write`.

    Raises:
        GatescopeError: if there is none, or it cannot be read (it may be truncated), is of another format, or was altered.
    """
    tensors, texts, about = _contents(Path(path), format)
    its_format = about.pop("format", None) or texts.pop("format", None)
    if its_format != format:
        its_format = its_format or "a safetensors file of no gatescope format"
        raise GatescopeError(f"{path} is {quoted(its_format)}; {format} is expected here.")
    if "about" not in texts:  # as it was written before there were checksums
        return tensors, {key: _facts(path, format, value) for key, value in texts.items()}
    if about.pop("checksum", None) != checksum(tensors, {"format": format, **about}):
        raise GatescopeError(
            f"{path} was altered after it was written: its checksum does not match. Delete it and make it again."
        )
    return tensors, about


def facts(path: str | Path, metadata: Mapping[str, Any], kind: type[T]) -> T:
    """A file's metadata as the type it must have.

    Raises:
        GatescopeError: naming the file and the field, if something is missing or of another type.
    """
    return foreign.check(dict(metadata), kind, f"What {path} says of itself is not as it should be", _AGAIN)


def needed(
    path: str | Path, tensors: Mapping[str, Tensor], kinds: Mapping[str, tuple[torch.dtype, Sequence[int | None]]]
) -> dict[str, Tensor]:
    """A file's tensors, those that it must have and no others.

    Args:
        path: the file.
        tensors: what it holds.
        kinds: the dtype and the shape of each by its name; None for a size that may be any.

    Raises:
        GatescopeError: naming the file and the tensor, if one is missing, of another dtype or another shape.
    """
    for name, (dtype, shape) in kinds.items():
        if name not in tensors:
            raise GatescopeError(f"{path} holds no {name!r}; it holds {', '.join(map(repr, tensors)) or 'nothing'}. {_AGAIN}")
        tensor = tensors[name]
        sizes = tuple(tensor.shape)
        fits = len(sizes) == len(shape) and all(size in (None, is_) for size, is_ in zip(shape, sizes, strict=True))
        if tensor.dtype != dtype or not fits:
            raise GatescopeError(
                f"{path}: {name!r} is {_dtype(tensor.dtype)} {list(sizes)}, and {_dtype(dtype)} "
                f"{['any' if size is None else size for size in shape]} is needed. {_AGAIN}".replace("'any'", "any")
            )
    return {name: tensors[name] for name in kinds}


@contextlib.contextmanager
def named(path: str | Path) -> Generator[None, None, None]:
    """Errors about what a file holds begin with its name."""
    try:
        yield
    except GatescopeError as error:
        raise GatescopeError(f"{path}: {error}") from error


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _contents(path: Path, format: str) -> tuple[dict[str, Tensor], dict[str, str], dict[str, Any]]:
    """A file's tensors, its metadata as safetensors keeps it, and what the one text in it holds."""
    if not os.path.isfile(path):  # Path.is_file raises for a name that is too long
        raise GatescopeError(f"There is no file {path}{_neighbours(path.parent)}.")
    try:
        opened: Any = safe_open(str(path), framework="pt")
        with opened as file:
            texts: dict[str, str] = dict(file.metadata() or {})
            names: list[str] = file.keys()  # the file itself cannot be iterated over
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise GatescopeError(
            f"{path} cannot be read as {format}: {error}. It may be truncated: delete it and make it again."
        ) from error
    about: Any = _facts(path, format, texts.get("about", "{}"))
    if not isinstance(about, dict):
        raise GatescopeError(f"{path} cannot be read as {format}: its metadata are no JSON object. {_AGAIN}")
    return tensors, texts, about


def _facts(path: Path | str, format: str, text: str) -> Any:
    """What a text of the metadata says; Python's decoder, which writes NaN and reads it."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GatescopeError(f"{path} cannot be read as {format}: its metadata are no JSON ({error}). {_AGAIN}") from error
    if foreign.too_deep(value):
        raise GatescopeError(f"{path} cannot be read as {format}: its metadata are nested too deep. {_AGAIN}")
    return value


def _neighbours(folder: Path) -> str:
    """The other files of the folder, for a message: a name may be misspelt."""
    names = sorted(path.name for path in folder.glob("*.safetensors")) if os.path.isdir(folder) else []
    if not names:
        return ""
    return f"; beside it there are {', '.join(names[:6])}" + (", ..." if len(names) > 6 else "")
