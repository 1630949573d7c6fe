"""Interventions: what to do to a set of neurons while the model runs.

    ablate   their activations become 0: the keep-mask of the VLM paper, section 3.3; CULNIG's suppression
    scale    times a factor: CULNIG's enhancement is 2 x the pre-activation
    set_to   a value, one for all, one for each neuron, or a table [l, n] such as recorded means
    add      plus a value, in the same forms: steering

An intervention is applied inside a trace, where it holds from that line to the end of the run, at the prompt and at
every generated token; or as a lasting edit, for every trace of the copy it returns:

    with model.generate(prompt, max_new_tokens=20) as tracer:
        gs.ablate(neurons).apply(model)
        text = tracer.result.save()

    edited = gs.ablate(neurons).edit(model)

How it holds: nnsight binds a read or write to the first time a module runs, so a plain write would mask the prefill
and nothing after it. `apply` therefore starts a worker of its own beside the caller's block, which walks the masked
layers again at every step. That also leaves the caller free to read any layer afterwards, masked or not; in a loop
over steps it is the caller's own worker that walks, layer by layer, as any nnsight code there would.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from nnsight.intervention.interleaver import Mediator
from torch import Tensor

from gatescope.core.errors import GatescopeError
from gatescope.core.neurons import NeuronSet, SiteShape, check_same_model
from gatescope.models.load import identity
from gatescope.models.sites import read, site_of, write
from gatescope.traces.workers import beside, every_step

Kind = Literal["zero", "scale", "set", "add"]


@dataclass(frozen=True)
class Intervention:
    """A change to the activations of some neurons.

    Attributes:
        neurons: whose activations change; they may span sites.
        kind: what is done to them.
        values: the factor, value or addend of each neuron, in the order of `neurons`; empty for "zero".
    """

    neurons: NeuronSet
    kind: Kind = "zero"
    values: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.neurons, NeuronSet):
            raise GatescopeError(
                f"An intervention is on one NeuronSet, and this is a {type(self.neurons).__name__}. Of a selection, each group "
                f"has its own: {{group: gs.ablate(neurons) for group, neurons in selection.items()}}."
            )

    def digest(self) -> str:
        """SHA-256 of everything in it that can change a result."""
        told = [self.kind, self.values, self.neurons.layout.plain(), self.neurons.flat.tolist()]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def apply(self, model) -> None:
        """Intervene in the trace this is called in, from this line to the end of the run.

        In `model.generate(...)` that is every generated token. Inside `for step in tracer.iter[...]` it is that step.
        In a `tracer.invoke(...)` it is that invoke's rows.

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
        walk = self._walk(model)
        held = caller.__dict__.setdefault("_gatescope_held", set())
        if not _in_step(caller):
            self._check_ahead(model, caller)
            held.add(self)
            beside(caller, lambda: every_step(walk))
        elif self not in held:
            walk()
        else:
            _wait(model, self.neurons)

    def edit(self, model):
        """A copy of the model with the intervention in every trace and at every generated token.

        The copy shares the weights, and the model itself is left as it was.

        Raises:
            GatescopeError: if the neurons belong to another model.
        """
        from gatescope.interventions.carry import held  # here: it imports this module

        return held(self, model)

    def targets(self, model) -> list[tuple[tuple[int, int], str, str, Tensor, Tensor]]:
        """Where the model is changed, in the order it gets there: (layer, rank), module path, io, columns, values.

        Raises:
            GatescopeError: if the neurons are not this model's.
        """
        check_same_model(self.neurons.model, identity(model), "apply an intervention")
        found = []
        for shape in self.neurons.layout.sites:
            site = site_of(model, shape.site)
            if site.layout.only() != shape:
                raise GatescopeError(f"The neurons are numbered in {self.neurons.layout}; the model has {site.layout}.")
            table = self.table(shape)
            for layer, index in self.neurons.indices(shape.site).items():
                found.append(((layer, site.rank), site.paths[layer], site.io, site.place(index), table[layer, index]))
        return sorted(found, key=lambda target: target[0])

    def table(self, shape: SiteShape) -> Float[Tensor, "l n"]:
        """The values of one site's neurons, float32; 0 where there is none."""
        start, _ = self.neurons.layout.start(shape.site)
        values = torch.zeros(shape.size)
        if self.values:
            mine = (self.neurons.flat >= start) & (self.neurons.flat < start + shape.size)
            values[self.neurons.flat[mine] - start] = torch.tensor(self.values)[mine]
        return values.view(shape.layers, shape.width)

    def baked(self, model):
        """The model with this in its weights, for a `with` block; see `gatescope.interventions.bake.baked`."""
        from gatescope.interventions.bake import baked  # here: it imports this module

        return baked(self, model)

    def _check_ahead(self, model, caller: Mediator) -> None:
        """Refuse to begin in the middle of the neurons: those behind would be left out of this step."""
        places = [(path, f"{model.get(path).path}.{io}") for _, path, io, _, _ in self.targets(model)]
        runs = [caller.occurrence(place) for _, place in places]
        if len(set(runs)) > 1:
            behind = next(path for (path, _), count in zip(places, runs, strict=True) if count == max(runs))
            raise GatescopeError(
                f"The model is past {behind} already, and not yet at all of the intervention's neurons. Apply it before the "
                f"line that reads {behind} or anything after it."
            )

    def _walk(self, model) -> Callable[[], None]:
        """The function that changes one step's activations."""
        targets = self.targets(model)
        moved: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # once, however many steps follow

        def walk() -> None:
            for where, path, io, columns, values in targets:
                activation = read(model, path, io)
                if where not in moved:  # not by path: q, k and v may be columns of one module
                    moved[where] = columns.to(activation.device), values.to(activation)
                write(model, path, io, change(activation, moved[where][0], self.kind, moved[where][1]))

        return walk if targets else lambda: _wait(model, self.neurons)


def side_by_side(model, masks: Sequence[Intervention | None]) -> None:
    """Inside a trace: intervene in equal blocks of rows, each mask in its own; None leaves its block as it is.

    Each masked activation is copied once, however many masks touch it. It holds from this line to the end of the run.

    Raises:
        GatescopeError: if neurons belong to another model.
    """
    places: dict[tuple, list[tuple[int, Kind, Tensor, Tensor]]] = {}
    for block, mask in enumerate(masks):
        if mask is None:
            continue
        for where, path, io, columns, values in mask.targets(model):
            places.setdefault((where, path, io), []).append((block, mask.kind, columns, values))
    ordered = sorted(places.items(), key=lambda item: item[0][0])

    def walk() -> None:
        for (_, path, io), changes in ordered:
            activation = read(model, path, io).clone()
            blocks = activation.chunk(len(masks))
            for block, kind, columns, values in changes:
                change_(blocks[block], columns.to(activation.device), kind, values.to(activation))
            write(model, path, io, activation)

    if ordered:
        beside(Mediator.current("side_by_side"), lambda: every_step(walk))


def ablate(neurons: NeuronSet) -> Intervention:
    """Switch neurons off: their activations become 0 at every position, prompt and generated.

    >>> from gatescope.core.neurons import Layout, NeuronSet
    >>> ablate(NeuronSet.of(Layout.single("gate", 2, 4), [("gate", 0, 1)])).kind
    'zero'
    """
    return Intervention(neurons)


def scale(neurons: NeuronSet, factor: float) -> Intervention:
    """Multiply activations by a factor; CULNIG enhances with `scale(neurons, 2.0)` on gate_pre, q, k and v."""
    return Intervention(neurons, "scale", (float(factor),) * len(neurons))


def set_to(neurons: NeuronSet, values: float | Tensor) -> Intervention:
    """Hold activations at a value: one for all, one for each neuron [k], or a table [l, n] of their one site.

    Raises:
        GatescopeError: if `values` has none of these shapes.
    """
    return Intervention(neurons, "set", _values(neurons, values))


def add(neurons: NeuronSet, values: float | Tensor) -> Intervention:
    """Add to activations (steering); `values` as in `set_to`.

    Raises:
        GatescopeError: if `values` has none of the shapes allowed.
    """
    return Intervention(neurons, "add", _values(neurons, values))


def change(activation: Tensor, columns: Tensor, kind: Kind, values: Tensor) -> Tensor:
    """The activation [..., n] with the columns [k] zeroed, scaled, set or added to; the rest untouched.

    >>> change(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 2]), "scale", torch.tensor([2.0, 3.0])).tolist()
    [2.0, 2.0, 9.0]
    """
    if kind == "zero":
        return activation.index_fill(-1, columns, 0)
    old = activation.index_select(-1, columns)
    new = {"scale": lambda: old * values, "add": lambda: old + values, "set": lambda: values.expand_as(old)}[kind]()
    return activation.index_copy(-1, columns, new)


def change_(activation: Tensor, columns: Tensor, kind: Kind, values: Tensor) -> None:
    """`change`, in place.

    >>> activation = torch.tensor([[1.0, 2.0, 3.0]])
    >>> change_(activation, torch.tensor([0, 2]), "add", torch.tensor([2.0, 3.0]))
    >>> activation.tolist()
    [[3.0, 2.0, 6.0]]
    """
    if kind == "zero":
        activation.index_fill_(-1, columns, 0)
    elif kind == "set":
        activation[..., columns] = values
    elif kind == "scale":
        activation[..., columns] *= values
    else:
        activation[..., columns] += values


def _values(neurons: NeuronSet, values: float | Tensor) -> tuple[float, ...]:
    given = torch.as_tensor(values, dtype=torch.float32)
    if given.ndim == 0:
        return (given.item(),) * len(neurons)
    if given.shape == (len(neurons),):
        return tuple(given.tolist())
    if len(neurons.layout.sites) == 1 and given.shape == (neurons.layout.only().layers, neurons.layout.only().width):
        return tuple(given.flatten()[neurons.flat].tolist())
    raise GatescopeError(
        f"Values of shape {tuple(given.shape)} fit no way of giving them to {neurons}: one number, one for each of the "
        f"{len(neurons)} neurons, or a table [layers, width] where there is one site."
    )


def _wait(model, neurons: NeuronSet) -> None:
    """Wait for the step to begin, changing nothing: an open loop that never waits never hands over to the model."""
    site = site_of(model, neurons.layout.sites[0].site)
    read(model, site.paths[0], site.io)


def _in_step(caller: Mediator) -> bool:
    """Whether the calling line stands inside a loop over `tracer.iter` or `tracer.all()`.

    After its first step such a loop has moved the worker's `iteration` off 0. At its first step nothing shows but the
    source: the worker keeps its block's syntax tree, and its frame says which line is running. (A loop hidden in a
    helper is not seen there: its first step makes the intervention hold, and the later ones find it held.)
    """
    if caller.iteration != 0:
        return True
    frame = sys._getframe()
    while frame is not None and frame.f_code is not caller.code:
        frame = frame.f_back
    if frame is None or caller.node is None:
        return False
    return any(
        isinstance(node, ast.For)
        and any(isinstance(part, ast.Attribute) and part.attr in ("iter", "all") for part in ast.walk(node.iter))
        and node.lineno < frame.f_lineno <= (node.end_lineno or node.lineno)
        for node in ast.walk(caller.node)
    )
