"""Organisms that are ready: those shipped with the package, and those somebody made again.

A *shelf* is a directory with a `manifest.json`, a model directory for each kind, and their pictures, which kinds of one
world share. The manifest says by which recipe and with which packages each was made, and the SHA-256 of every file of it.
An organism is used where it lies: nothing is copied, nothing is written, so an installation that can only be read and
any number of processes will do.

`python -m gatescope.organism --train KIND --out DIR` makes a shelf; with GATESCOPE_ORGANISMS=DIR its organisms take the
place of the shipped ones of the same kind.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gatescope.core.artefacts import write_bytes
from gatescope.core.errors import GatescopeError

FORMAT = "gatescope.organisms/1"
SHIPPED = Path(__file__).parent / "assets"
VARIABLE = "GATESCOPE_ORGANISMS"
PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "pillow", "numpy")


def shelves() -> list[Path]:
    """Where organisms are looked for, first to last."""
    own = os.environ.get(VARIABLE)
    return [Path(own).expanduser().resolve(), SHIPPED] if own else [SHIPPED]


def find(kind: str) -> Path:
    """The model directory of a kind, every file of it as its manifest says.

    Raises:
        GatescopeError: if no shelf has it, or what is there was altered; for a shelf that cannot be read.
    """
    for shelf in shelves():
        entries = organisms(shelf)
        if kind in entries:
            # At every use: an altered model would give wrong results and no error.
            check(shelf, kind, entries[kind])
            return shelf / kind
    raise GatescopeError(f"There is no organism {kind!r} in {' or '.join(map(str, shelves()))}; {_again(kind)}")


def organisms(shelf: Path) -> dict[str, dict[str, Any]]:
    """What a shelf's manifest says of each organism, by kind.

    Raises:
        GatescopeError: if it has no manifest, or one of another format.
    """
    try:
        manifest: Any = json.loads((shelf / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise GatescopeError(
            f"{shelf} holds no organisms: manifest.json cannot be read ({error}). GATESCOPE_ORGANISMS must name a directory "
            f"made by `python -m gatescope.organism --train KIND --out DIR`; without it the shipped organisms are used."
        ) from error
    written_format = manifest.get("format") if isinstance(manifest, dict) else None
    if written_format != FORMAT:
        raise GatescopeError(
            f"{shelf} holds organisms of format {written_format!r}; this version reads {FORMAT!r}. Make them again: "
            f"`python -m gatescope.organism --train KIND --out DIR`."
        )
    return manifest["organisms"]


def check(shelf: Path, kind: str, entry: Mapping[str, Any]) -> None:
    """Compare an organism's files with their digests.

    Raises:
        GatescopeError: naming the first that is missing or was altered.
    """
    for name, expected in entry["files"].items():
        if not (shelf / name).exists():
            raise GatescopeError(f"The organism {kind!r} is incomplete: {shelf / name} is missing. {_again(kind)}")
        if digest(shelf / name) != expected:
            raise GatescopeError(
                f"The organism {kind!r} was altered: the SHA-256 of {shelf / name} is not the one in manifest.json. "
                f"{_again(kind)}"
            )


def put(shelf: Path, kind: str, made: Path, edition: int, recipe: Mapping[str, Any]) -> None:
    """Move a freshly made organism onto a shelf, in the place of one that was there.

    Args:
        shelf: the directory; made if need be.
        kind: what to call it.
        made: its directory, with its pictures inside; moved.
        edition: of the way recipes of this kind are followed.
        recipe: what it was made by.
    """
    files: dict[str, str] = {}  # digests, by path on the shelf
    if (made / "pictures").is_dir():
        files |= _share_pictures(shelf, made)
    shutil.rmtree(shelf / kind, ignore_errors=True)
    made.rename(shelf / kind)
    (shelf / kind).chmod(0o755)  # a temporary directory is its owner's alone, and so is a file of safetensors
    for path in sorted(path for path in (shelf / kind).rglob("*") if path.is_file()):
        path.chmod(0o644)
        files[path.relative_to(shelf).as_posix()] = digest(path)
    entries = organisms(shelf) if (shelf / "manifest.json").is_file() else {}
    made_with = {"python": platform.python_version(), "machine": platform.machine()} | {p: version(p) for p in PACKAGES}
    entries[kind] = {"edition": edition, "recipe": dict(recipe), "made_with": made_with, "files": files}
    # Written last: until the manifest names it, an organism is not used.
    manifest = {"format": FORMAT, "organisms": dict(sorted(entries.items()))}
    write_bytes(shelf / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())


def _share_pictures(shelf: Path, made: Path) -> dict[str, str]:
    """Move an organism's pictures beside it, under a name that says what they are: kinds of one world share them."""
    pictures_digest = digest(made / "pictures")
    name = f"pictures-{pictures_digest[:8]}"
    study = (made / "study.jsonl").read_text(encoding="utf-8")
    write_bytes(made / "study.jsonl", study.replace('"image": "pictures/', f'"image": "../{name}/').encode())
    shutil.rmtree(shelf / name, ignore_errors=True)
    (made / "pictures").rename(shelf / name)
    return {name: pictures_digest}


def digest(path: Path) -> str:
    """SHA-256 of a file, or of a directory's file names and their digests."""
    if path.is_dir():
        listing = "".join(f"{file.name} {digest(file)}\n" for file in sorted(path.iterdir()))
        return hashlib.sha256(listing.encode()).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _again(kind: str) -> str:
    command = f"python -m gatescope.organism --train {kind} --out DIR"
    return f"Install gatescope again, or make it: `{command}`, GATESCOPE_ORGANISMS=DIR."
