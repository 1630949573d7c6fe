"""beartype, imported so that it works whichever of it and nnsight came first; and the checker built on it.

nnsight mounts `.save` on `object`. beartype, imported after that, finds the mounted method where it expects a plain
attribute and fails with "unhashable type: 'instancemethod'". Taking the mount off while beartype is imported, and
putting it back, is enough.
"""

from __future__ import annotations

import sys


def _import_beartype() -> None:
    if "nnsight" not in sys.modules:
        import beartype

        return
    from nnsight import save
    from nnsight._c import mount, unmount

    if unmount is None or not hasattr(object, "save"):  # nnsight without its C extension, or APP.PYMOUNT off
        import beartype

        return
    if "beartype" not in sys.modules:
        for name in [name for name in sys.modules if name.startswith("beartype.")]:
            del sys.modules[name]  # left behind by an import of beartype that failed
    unmount("save")
    try:
        import beartype  # noqa: F401
    finally:
        mount(save, "save")


_import_beartype()

from beartype import BeartypeConf, beartype  # noqa: E402
from jaxtyping import jaxtyped  # noqa: E402

# An int is accepted where a float is annotated, as Python's typing has it: rate=1 is no mistake.
checked = jaxtyped(typechecker=beartype(conf=BeartypeConf(is_pep484_tower=True)))
"""Decorator of the pure core: shapes and types of every call are checked."""
