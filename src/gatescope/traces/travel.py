"""What may leave for a server, and how: by value, as source text, with nothing in it that the server does not have.

The functions a job calls are loaded a second time under another name, from the same source. There they are the
plain functions of their files, whatever a decorator or an import hook has made of the package's own (a checker of shapes
wraps them, and a wrapper's globals are not the function's).
"""

from __future__ import annotations

import importlib.util
import inspect
import linecache
import sys
from functools import cache
from types import FunctionType, ModuleType
from typing import Any

import nnsight
from nnsight.intervention.serialization import CustomCloudUnpickler
from nnsight.schema.request import RequestModel

from gatescope.core.errors import GatescopeError

# What a server has: nnsight's dependencies. Everything else that a block names must come with it.
SERVER = frozenset({"torch", "numpy", "transformers", "tokenizers", "nnsight", "accelerate", "cloudpickle", "PIL"})


@cache
def plain(name: str) -> ModuleType:
    """A module of plain functions, registered to travel by value; the package's functions it imports are plain too."""
    original = importlib.util.find_spec(name)
    if original is None or original.origin is None:
        raise GatescopeError(f"{name} cannot be sent to a server: it has no source file.")
    # Another name than the package's, which a server would try to import.
    alias = name.replace(".", "_") + "_as_shipped"
    spec = importlib.util.spec_from_file_location(alias, original.origin)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[alias] = module  # before it runs: its dataclasses look their module up here
    spec.loader.exec_module(module)
    for word, value in list(vars(module).items()):
        home = getattr(value, "__module__", None) or ""
        # A function imported from another of our modules must be that module's plain one, and so on down.
        if isinstance(value, FunctionType) and home.startswith("gatescope."):
            setattr(module, word, getattr(plain(home), word))
        elif isinstance(value, FunctionType) and home == alias:
            setattr(module, word, inspect.unwrap(value))
    nnsight.register(alias)
    return module


def shipped() -> ModuleType:
    """gatescope.traces.shipped, ready to travel."""
    return plain("gatescope.traces.shipped")


def check(blob: bytes, compress: bool) -> None:
    """Rebuild a request here as a server would, with nothing but what a server has.

    Raises:
        GatescopeError: naming what would be missing there.
    """
    before = dict(linecache.cache)
    try:
        RequestModel.deserialize(blob, None, compress, _AsServer)
    finally:  # rebuilding a block registers its source under its file's name, which is still in use here
        linecache.cache.clear()
        linecache.cache.update(before)


class _Kept:
    """Stands for an object that only the server has: the model, its modules, its tokenizer."""


class _AsServer(CustomCloudUnpickler):
    """Refuses what a server would not find."""

    def persistent_load(self, pid: object) -> _Kept:
        return _Kept()

    def find_class(self, module: str, name: str) -> Any:
        _check_present(module)
        # cloudpickle names the modules of a block by a call of `subimport`.
        return _module if name == "subimport" else super().find_class(module, name)


def _module(name: str) -> ModuleType:
    """A module that a block refers to by name."""
    _check_present(name)
    return ModuleType(name)


def _check_present(module: str) -> None:
    root = module.partition(".")[0]
    if root in SERVER or root in sys.stdlib_module_names:
        return
    if root == "gatescope":
        raise GatescopeError(
            f"{module} cannot travel: a server does not have gatescope. Make what you need of it before the block, and edit "
            f"the model instead of calling it inside: edited = gs.ablate(neurons).edit(model), then "
            f"`with edited.trace(..., remote=True):` or `with edited.generate(..., remote=True):`."
        )
    raise GatescopeError(
        f"{module} cannot travel: a server does not have it. Use torch and plain Python inside the block, or register the "
        f"module before it: nnsight.register({root!r})."
    )
