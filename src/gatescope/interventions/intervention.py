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
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, overload

import torch
from nnsight import TransformersModel
from torch import Tensor
from transformers import PreTrainedModel

from gatescope.core.errors import GatescopeError
from gatescope.core.neurons import NeuronSet
from gatescope.interventions.apply import hold
from gatescope.interventions.bake import baked
from gatescope.interventions.carry import held, refuse
from gatescope.interventions.value import Change, check_one_set
from gatescope.select.selection import Selection


@dataclass(frozen=True, eq=False)  # equality is that of a change
class Intervention(Change):
    """A change to the activations of some neurons that can be applied in a trace, kept in an edit, baked into weights.

    Attributes:
        neurons: whose activations change; they may span sites.
        kind: what is done to them.
        values: the factor, value or addend of each neuron, in the order of `neurons`; empty for "zero".
    """

    def used_on(self, model: Any, *, allow: str | None = None) -> Intervention:
        """The same change, of neurons that are used on a model; arguments and errors as for `NeuronSet.used_on`."""
        return replace(self, neurons=self.neurons.used_on(model, allow=allow))

    def apply(self, model: TransformersModel) -> None:
        """Intervene in the trace this is called in, from this line to the end of the run.

        In `model.generate(...)` that is every generated token. Inside `for step in tracer.iter[...]` it is that step.
        In a `tracer.invoke(...)` it is that invoke's rows.

        Raises:
            GatescopeError: outside a trace; if the neurons belong to another model; if the model is past some of them and
                before others; or, when the run ends, if a module of theirs did not run in a step.
        """
        hold(self, model)

    def edit(self, model: TransformersModel) -> TransformersModel:
        """A copy of the model with the intervention in every trace and at every generated token.

        The copy shares the weights, and the model itself is left as it was.

        Raises:
            GatescopeError: if the neurons belong to another model.
        """
        return held(self, model)

    def baked(self, model: TransformersModel | PreTrainedModel) -> AbstractContextManager[PreTrainedModel]:
        """The model with this in its weights, for a `with` block; see `gatescope.interventions.bake.baked`."""
        return baked(self, model)


@overload
def ablate(neurons: NeuronSet) -> Intervention: ...
@overload
def ablate(neurons: Mapping[str, NeuronSet]) -> dict[str, Intervention]: ...
@overload
def ablate(neurons: Mapping[str, Selection]) -> dict[str, dict[str, Intervention]]: ...
def ablate(neurons):
    """Switch neurons off: their activations become 0 at every position, prompt and generated.

    Args:
        neurons: a set; or a selection (any sets by group), or selections by name: they give masks in the same order, as
            `sweep` takes them.

    >>> from gatescope.core.layout import Layout
    >>> one = NeuronSet.of(Layout.single("gate", 2, 4), [("gate", 0, 1)])
    >>> ablate(one).kind, list(ablate({"Arveni": one}))
    ('zero', ['Arveni'])
    """
    if isinstance(neurons, Mapping):
        return {name: ablate(chosen) for name, chosen in neurons.items()}
    return Intervention(neurons)


def scale(neurons: NeuronSet, factor: float) -> Intervention:
    """Multiply activations by a factor; CULNIG enhances with `scale(neurons, 2.0)` on gate_pre, q, k and v."""
    # A value for each neuron, though all are the same: every kind but "zero" is stored, hashed and applied that way.
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


def _values(neurons: NeuronSet, values: float | Tensor) -> tuple[float, ...]:
    check_one_set(neurons)  # before it is asked for its size: a selection has none
    tensor = torch.as_tensor(values, dtype=torch.float32)
    if tensor.ndim == 0:
        return (tensor.item(),) * len(neurons)
    if tensor.shape == (len(neurons),):
        return tuple(tensor.tolist())
    if len(neurons.layout.sites) == 1 and tensor.shape == (neurons.layout.only().layers, neurons.layout.only().width):
        return tuple(neurons.layout.only().values(tensor)[neurons.flat].tolist())
    raise GatescopeError(
        f"Values of shape {tuple(tensor.shape)} do not match {neurons}: one number, one for each of the "
        f"{len(neurons)} neurons, or a table [layers, width] where there is one site."
    )


refuse(Intervention)  # in a block that goes to a server
