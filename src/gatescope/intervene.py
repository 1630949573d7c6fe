"""Interventions: what to do to a set of neurons while the model runs.

    ablate   the neurons' activations become 0: the keep-mask of the VLM paper, section 3.3

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
import sys
from collections.abc import Callable
from dataclasses import dataclass

from nnsight.intervention.interleaver import Mediator, OutOfOrderError
from nnsight.intervention.iterator import Iterations
from torch import Tensor

from gatescope.errors import GatescopeError
from gatescope.models import identity
from gatescope.neurons import NeuronSet, check_same_model
from gatescope.sites import site_of


@dataclass(frozen=True)
class Intervention:
    """A change to the activations of some neurons.

    Attributes:
        neurons: whose activations change.
        kind: what is done to them: "zero".
    """

    neurons: NeuronSet
    kind: str = "zero"

    def apply(self, model) -> None:
        """Intervene in the trace this is called in, from this line to the end of the run.

        In `model.generate(...)` that is every generated token. Inside `for step in tracer.iter[...]` it is that step.
        In a `tracer.invoke(...)` it is that invoke's rows.

        Raises:
            GatescopeError: outside a trace, or if the neurons belong to another model.
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
            held.add(self)
            _start(caller, lambda: _every_step(walk))
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
        self._walk(model)
        with model.edit() as (_, edited):
            _every_step(self._walk(edited))
        return edited

    def _walk(self, model) -> Callable[[], None]:
        """Check that the neurons are this model's; return the function that changes one step's activations."""
        check_same_model(self.neurons.model, identity(model), "apply an intervention")
        targets: list[list] = []
        for shape in self.neurons.layout.sites:
            site = site_of(model, shape.site)
            if site.layout.only() != shape:
                raise GatescopeError(f"The neurons are numbered in {self.neurons.layout}; the model has {site.layout}.")
            targets += [[model.get(site.paths[layer]), index] for layer, index in self.neurons.indices(shape.site).items()]

        def walk() -> None:
            for target in targets:
                envoy, index = target
                activation = envoy.output
                target[1] = index = index.to(activation.device)  # moved once, however many steps follow
                envoy.output = zero(activation, index)

        return walk if targets else lambda: _wait(model, self.neurons)


def ablate(neurons: NeuronSet) -> Intervention:
    """Switch neurons off: their activations become 0 at every position, prompt and generated.

    >>> from gatescope.neurons import Layout, NeuronSet
    >>> ablate(NeuronSet.of(Layout.single("gate", 2, 4), [("gate", 0, 1)])).kind
    'zero'
    """
    return Intervention(neurons)


def zero(activation: Tensor, index: Tensor) -> Tensor:
    """The activation [..., n] with the neurons `index` [k] at exactly 0."""
    return activation.index_fill(-1, index, 0)


def _wait(model, neurons: NeuronSet) -> None:
    """Wait for the step to begin, changing nothing: an open loop that never waits never hands over to the model."""
    model.get(site_of(model, neurons.layout.sites[0].site).paths[0]).output  # noqa: B018


def _every_step(walk: Callable[[], None]) -> None:
    """Walk again at every step of the run. The run ends by not making another step, which nnsight reports as this."""
    try:
        for _ in Iterations()[:]:
            walk()
    except OutOfOrderError:
        pass


def _start(caller: Mediator, block: Callable[[], None]) -> None:
    """Run a block as a worker of its own in the caller's run, on the caller's rows, before the caller is served."""
    worker = Mediator(compile("block()", "<gatescope intervention>", "exec"), {}, {"block": block})
    worker.batch_group = caller.batch_group
    caller.interleaver.mediators.insert(0, worker)
    worker.start(caller.interleaver)
    caller.interleaver.reindex()


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
