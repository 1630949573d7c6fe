"""Changing activations inside a trace, at the prompt and at every generated token.

nnsight binds a read or write to the first time a module runs, so a plain write would mask the prefill and nothing after
it. `hold` therefore starts a worker alongside the caller's block, which walks the masked layers again at every
step. That also leaves the caller free to read any layer afterwards, masked or not; in a loop over steps it is the
caller's own worker that walks, layer by layer, as any nnsight code there would.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence

from nnsight import TransformersModel
from nnsight.intervention.interleaver import Mediator
from torch import Tensor

from gatescope.core.errors import GatescopeError
from gatescope.core.neurons import NeuronSet
from gatescope.interventions.value import Change, Kind, plain
from gatescope.kernels.change import change_
from gatescope.models.sites import site_of
from gatescope.traces.access import change_all, read, write
from gatescope.traces.jobs import MaskRow
from gatescope.traces.passes import Masks
from gatescope.traces.workers import every_step, run_alongside


def hold(what: Change, model: TransformersModel) -> None:
    """Change activations in the trace this is called in, from this line to the end of the run.

    Raises:
        GatescopeError: outside a trace; if the neurons belong to another model; if the model is past some of them and
            before others; or, when the run ends, if a module of theirs did not run in a step.
    """
    try:
        caller = Mediator.current("ablate(...).apply")
    except ValueError as error:
        raise GatescopeError(
            "apply(model) works inside a trace: `with model.trace(...):` or `with model.generate(...) as tracer:`. "
            "For an intervention that lasts, write `edited = intervention.edit(model)`."
        ) from error
    mask = plain(model, what)
    moved: dict[int, tuple[Tensor, Tensor]] = {}

    def walk() -> None:
        change_all(model, mask, moved)

    # Kept with the caller's worker: what already holds in this run must not be applied twice in a loop over steps.
    held = caller.__dict__.setdefault("_gatescope_held", set())
    if not _in_step(caller):
        _check_ahead(mask, model, caller)
        held.add(what)
        run_alongside(caller, lambda: every_step(walk))
    elif what not in held:
        walk()
    else:
        _wait(model, what.neurons)


def _check_ahead(mask: list[MaskRow], model: TransformersModel, caller: Mediator) -> None:
    """Refuse to begin in the middle of the neurons: those behind would be left out of this step."""
    # How often the worker has seen each module: all equally often means that none was passed in this step.
    runs = [caller.occurrence(f"{model.get(path).path}.{io}") for path, io, *_ in mask]
    if len(set(runs)) > 1:
        behind = mask[runs.index(max(runs))][0]
        raise GatescopeError(
            f"The model is past {behind} already, but not all of the intervention's neurons. Apply it before the "
            f"line that reads {behind} or anything after it."
        )


def side_by_side(model: TransformersModel, masks: Sequence[Change | None]) -> None:
    """Inside a trace: intervene in equal blocks of rows, each mask in its own; None leaves its block as it is.

    Each masked activation is copied once, however many masks touch it. It holds from this line to the end of the run.

    Raises:
        GatescopeError: if neurons belong to another model.
    """
    changes_at: dict[tuple[tuple[int, int], str, str], list[tuple[int, Kind, Tensor, Tensor]]] = {}
    for block, mask in enumerate(masks):
        if mask is None:
            continue
        for where, path, io, columns, values in mask.targets(model):
            changes_at.setdefault((where, path, io), []).append((block, mask.kind, columns, values))
    # Reads must come in the order of the forward pass, whichever mask they belong to.
    ordered = sorted(changes_at.items(), key=lambda item: item[0][0])

    def walk() -> None:
        for (_, path, io), changes in ordered:
            # Cloned: `change_` writes in place, and the model may use the tensor it gave elsewhere, as a residual.
            activation = read(model, path, io).clone()
            blocks = activation.chunk(len(masks))
            for block, kind, columns, values in changes:
                change_(blocks[block], columns.to(activation.device), kind, values.to(activation))
            write(model, path, io, activation)

    if ordered:
        run_alongside(Mediator.current("side_by_side"), lambda: every_step(walk))


def masks_of(model: TransformersModel, changes: Sequence[Change | None]) -> Masks:
    """Changes for `gatescope.traces.batch.run_batch`, each in its own block of rows; None leaves its block as it is."""

    def alone(block: int) -> None:
        mask = changes[block]
        if mask is not None:
            hold(mask, model)

    def together() -> None:
        if len(changes) > 1:
            side_by_side(model, changes)
        else:
            alone(0)

    return Masks(len(changes), together, alone)


def _wait(model: TransformersModel, neurons: NeuronSet) -> None:
    """Wait for the step to begin, changing nothing: an open loop that never waits never hands over to the model."""
    first = site_of(model, neurons.layout.sites[0].site).layers[0]
    read(model, first.path, first.io)


def _in_step(caller: Mediator) -> bool:
    """Whether the calling line stands inside a loop over `tracer.iter` or `tracer.all()`.

    After its first step such a loop has moved the worker's `iteration` off 0. At its first step nothing shows but the
    source: the worker keeps its block's syntax tree, and its frame says which line is running. (A loop hidden in a
    helper is not seen there: its first step makes the intervention hold, and the later ones find it held.)
    """
    if caller.iteration != 0:
        return True
    # Up to the block of the trace itself, whose lines are those of its syntax tree.
    frame = sys._getframe()
    while frame is not None and frame.f_code is not caller.code:
        frame = frame.f_back
    if frame is None or caller.node is None:
        return False
    return any(isinstance(node, ast.For) and _steps_at(node, frame.f_lineno) for node in ast.walk(caller.node))


def _steps_at(loop: ast.For, line: int) -> bool:
    """Whether a loop is over steps and a line stands in its body."""
    # `tracer.iter[2:5]`, `tracer.all()`: the tracer may have any name, so only the attribute is looked at.
    over = [node.attr for node in ast.walk(loop.iter) if isinstance(node, ast.Attribute)]
    return bool({"iter", "all"} & set(over)) and loop.lineno < line <= (loop.end_lineno or loop.lineno)
