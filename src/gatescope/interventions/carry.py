"""Changes in a remote trace that a user writes. A server does not have gatescope, so what an intervention does must
travel as plain functions and tensors:

    edited = gs.ablate(neurons).edit(model)                      # for the whole of a run
    with edited.generate(prompt, remote=True) as tracer: ...

    off = gs.remote.carry(gs.ablate(neurons), model)             # for some steps of it
    with model.generate(prompt, remote=True) as tracer:
        for step in tracer.iter[2:5]:
            off(model)

Anything else of gatescope in a remote block is refused when nnsight packs the block, with the line to write instead.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable
from types import ModuleType
from typing import NoReturn

from nnsight import TransformersModel
from nnsight.intervention.serialization import CustomCloudPickler

from gatescope.core.attributions import Attributions
from gatescope.core.counters import Counters
from gatescope.core.errors import GatescopeError
from gatescope.core.neurons import NeuronSet
from gatescope.interventions.value import Change, plain
from gatescope.models.sites import Site
from gatescope.traces import travel


def carry(intervention: Change, model: TransformersModel) -> Callable[[object], None]:
    """An intervention as a plain function that travels: called inside a trace, it acts there, at that step.

    Args:
        intervention: what to do.
        model: whose neurons; with or without weights.

    Returns:
        A function of the model.

    Raises:
        GatescopeError: if the neurons belong to another model.
    """
    return travel.shipped().carried(plain(model, intervention))


def held(intervention: Change, model: TransformersModel) -> TransformersModel:
    """A copy of the model with the intervention in every trace and at every generated token, here and on a server."""
    mask, hold = plain(model, intervention), travel.shipped().hold
    with model.edit() as (_, edited):
        hold(edited, mask)
    return edited


def refuse(*kinds: type) -> None:
    """Make nnsight's request pickler refuse gatescope's modules, and values of these kinds, in a block. Other picklers are
    not affected.
    """
    table = CustomCloudPickler.dispatch_table
    by_name = table[ModuleType]

    def module(value: ModuleType):
        # nnsight's own rule for every other module: by reference, or by value if it was registered.
        return _refused(value) if value.__name__.partition(".")[0] == "gatescope" else by_name(value)

    ours = dict.fromkeys(kinds, _refused)
    # A chain, so that kinds refused earlier, and nnsight's own entries, stay.
    CustomCloudPickler.dispatch_table = ChainMap({ModuleType: module, **ours}, table)  # type: ignore[arg-type]


def _refused(value: object) -> NoReturn:
    what = value.__name__ if isinstance(value, ModuleType) else f"A gatescope {type(value).__name__}"
    raise GatescopeError(
        f"{what} is in a block that goes to a server, which does not have gatescope. Before the block write "
        f"`edited = gs.ablate(neurons).edit(model)` and trace `edited` instead; or, to act at some steps only, "
        f"`off = gs.remote.carry(gs.ablate(neurons), model)`, and `off(model)` inside."
    )


refuse(NeuronSet, Counters, Attributions, Site)
