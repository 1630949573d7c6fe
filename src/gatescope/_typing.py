"""beartype and anyio, imported so that they work whichever of them and nnsight came first; and the checker on beartype.

nnsight mounts `.save` on `object`. beartype, imported after that, finds the mounted method where it expects a plain
attribute and fails with "unhashable type: 'instancemethod'"; anyio finds it in `dir()` of its own classes and fails with
"Attribute 'save' is missing its type annotation", and with it what imports anyio late: httpx's asynchronous client, the
clients of APIs, web servers. Taking the mount off while they are imported, and putting it back, is enough for beartype.
anyio does the same for every class it makes later, so it is told of the name as well.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

T = TypeVar("T")

if TYPE_CHECKING:

    def checked(function: T) -> T: ...


@contextlib.contextmanager
def _unmounted() -> Iterator[None]:
    """Without `object.save`, where it is there."""
    if "nnsight" not in sys.modules or not hasattr(object, "save"):
        yield
        return
    from nnsight import save
    from nnsight._c import mount, unmount

    unmount("save")
    try:
        yield
    finally:
        mount(save, "save")


def _imported(name: str) -> Any:
    """A package, also where an import of it failed before and left parts behind."""
    if name not in sys.modules:
        for part in [part for part in sys.modules if part.startswith(f"{name}.")]:
            del sys.modules[part]
    return importlib.import_module(name)


with _unmounted():
    _imported("beartype")
    with contextlib.suppress(ImportError):  # anyio may not be installed
        _imported("anyio").TypedAttributeSet.__annotations__.setdefault("save", Any)


def __getattr__(name: str) -> Any:
    """`checked`, made when the first module of the pure rooms asks for it: jaxtyping takes a while to import."""
    if name != "checked":
        raise AttributeError(name)
    from beartype import BeartypeConf, beartype
    from jaxtyping import jaxtyped

    # An int is accepted where a float is annotated, as Python's typing has it: rate=1 is no mistake.
    globals()[name] = jaxtyped(typechecker=beartype(conf=BeartypeConf(is_pep484_tower=True)))
    return globals()[name]
