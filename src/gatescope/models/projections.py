"""The projections whose raw outputs are neurons."""

from __future__ import annotations

from gatescope.core.errors import GatescopeError
from gatescope.models.identity import module_of
from gatescope.models.sites import Model, Site

GATE_PROJECTIONS = ("gate_proj", "gate_up_proj", "c_fc", "dense_h_to_4h", "fc1")


def projection_path(model: Model, site: Site, path: str) -> str:
    """The projection whose raw output a site is: the site's own module, or, of gate_pre, what its activation is given.

    Raises:
        GatescopeError: if there is none of a known name beside the activation.
    """
    if site.name != "gate_pre":
        return path
    # The activation's input is that projection's output, whose name differs between families.
    holder = path.rpartition(".")[0]
    named = dict(module_of(model).get_submodule(holder).named_children())
    for name in GATE_PROJECTIONS:
        if name in named:
            return f"{holder}.{name}"
    raise GatescopeError(f"reduce='norm' knows no projection in {holder}; looked for {', '.join(GATE_PROJECTIONS)}.")
