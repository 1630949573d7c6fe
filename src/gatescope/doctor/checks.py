"""gatescope against plain hooks, on one batch: counters, attributions, interventions, masks side by side, generation.

An intervention's check holds if gatescope's logits are the reference's, and the reference's are not those of the model
left alone: where nothing moves, an intervention without any effect would pass.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import nnsight
import torch
from torch import Tensor

from gatescope.core.neurons import NeuronSet
from gatescope.doctor.inputs import Patient
from gatescope.doctor.references import Change, Location, apart, columns, edited, hooked, products, watched
from gatescope.doctor.report import Finding, tried
from gatescope.interventions.apply import side_by_side
from gatescope.interventions.intervention import Intervention, ablate, add, scale, set_to
from gatescope.kernels.eager import attribution, count
from gatescope.models.identity import identity
from gatescope.models.sites import Site, SiteLayer, embedding_path, site_of
from gatescope.traces import vision
from gatescope.traces.access import forward_options, read, unflatten_tokens
from gatescope.traces.encoding import Batch, placeholder_ids
from gatescope.traces.readouts.generated import GREEDY

KINDS: dict[str, Callable[[NeuronSet], Intervention]] = {
    "ablate": ablate,
    "scale": lambda neurons: scale(neurons, 2.0),
    "set": lambda neurons: set_to(neurons, 0.5),
    "add": lambda neurons: add(neurons, 0.5),
}
SIDES = ("ablate", "scale")  # the masks that are put side by side
STEPS = 4  # generated tokens to compare
SAME = 1e-5  # the same operations on the same batch
SHAPED = {torch.float64: 1e-4, torch.float32: 1e-4}  # the same numbers in a batch of another shape
SHAPED_HALF = 5e-2  # in half precision


def examine_batch(patient: Patient) -> Iterator[Finding]:
    """Every check of every site on one batch."""
    names = list(patient.sites)
    yield from tried(names, "counters", patient.inputs, lambda: _counters(patient))
    yield from tried(names, "attributions", patient.inputs, lambda: _attributions(patient))
    # Cached: two checks compare with the same reference, which costs a forward pass.
    reference = functools.cache(lambda name, kind: _by_hooks(patient, patient.sites[name], kind))
    for name, site in patient.sites.items():
        checks: dict[str, Callable[[], Finding]] = {
            kind: lambda site=site, kind=kind: _intervention(patient, site, kind, reference(site.name, kind)[0])
            for kind in KINDS
        }
        checks["side by side"] = lambda site=site: _side_by_side(patient, site, [reference(site.name, kind) for kind in SIDES])
        checks["generation"] = lambda site=site: _generation(patient, site)
        for check, work in checks.items():
            yield from tried([name], check, patient.inputs, lambda work=work: [work()])


def shaped(logits: Tensor) -> float:
    """How far apart logits of the same row may be in batches of other shapes."""
    return SHAPED.get(logits.dtype, SHAPED_HALF)


def _reached(patient: Patient) -> list[tuple[Site, SiteLayer]]:
    """Every site in every layer that has it, in the order the model gets there."""
    reached = [(site, here) for site in patient.sites.values() for here in site.layers]
    return sorted(reached, key=lambda entry: (entry[1].layer, entry[0].rank))


def _counters(patient: Patient) -> Iterator[Finding]:
    model, batch, token_mask = patient.model, patient.batch, patient.batch.token_mask
    reached = _reached(patient)
    with torch.no_grad(), model.trace(**batch.inputs, **patient.options):
        ours = []
        for _, here in reached:
            gate = unflatten_tokens(here.part(read(model, here.path, here.io)), token_mask)
            ours.append(count(gate, token_mask.to(gate.device)))
        ours = nnsight.save(ours)
    sites = list(patient.sites.values())
    seen = watched(patient.module, sites, lambda: patient.module(**batch.inputs, **patient.options))
    for site in sites:
        same, off = True, 0.0
        for (other, here), (fired, summed) in zip(reached, ours, strict=True):
            if other is site:
                gate = unflatten_tokens(seen[here.path, here.io], token_mask)[..., columns(here)]
                gate = gate * token_mask[..., None].to(gate.device)
                same &= torch.equal(fired, (gate > 0).sum(1))
                off = max(off, apart(summed, gate.clamp(min=0).float().sum(1)))
        yield Finding(
            site.name, "counters", same and off < SAME, f"K equal: {same}, S off by {off:.1e} relative", patient.inputs
        )


def _attributions(patient: Patient) -> Iterator[Finding]:
    """Activation x gradient of the most probable next token, max over tokens."""
    model, inputs, token_mask = patient.model, patient.batch.inputs, patient.batch.token_mask
    reached = _reached(patient)
    with torch.enable_grad(), model.trace(**inputs, **patient.options):
        read(model, embedding_path(model), "output").requires_grad_(True)
        tensors = [read(model, here.path, here.io) for _, here in reached]
        gradients = torch.autograd.grad(_probability(model.output.logits), tensors)
        ours = []
        for (_, here), tensor, gradient in zip(reached, tensors, gradients, strict=True):
            a, g = (here.part(unflatten_tokens(t, token_mask)) for t in (tensor.detach(), gradient))
            ours.append(attribution(a, g, token_mask.to(a.device), "max"))
        ours = nnsight.save(ours)
    sites = list(patient.sites.values())
    references = products(patient.module, sites, lambda: _probability(patient.module(**inputs, **patient.options).logits))
    for site in sites:
        off, largest = 0.0, 0.0
        for (other, here), score in zip(reached, ours, strict=True):
            if other is site:
                product = unflatten_tokens(references[here.path, here.io], token_mask)[..., columns(here)]
                theirs = product.masked_fill(~token_mask[..., None].to(product.device), -torch.inf).amax(1)
                off, largest = max(off, apart(score, theirs)), max(largest, theirs.abs().max().item())
        detail = f"off by {off:.1e} relative" if largest else "the reference's scores are all 0, so nothing is proved"
        yield Finding(site.name, "attributions", off < 1e-4 and largest > 0, detail, patient.inputs)


def _probability(logits: Tensor) -> Tensor:
    """The probability of the most probable next token, summed over rows."""
    return logits[:, -1].float().softmax(-1).max(-1).values.sum()


def _by_hooks(patient: Patient, site: Site, kind: str) -> tuple[Tensor, Tensor]:
    """The logits under an intervention, by plain hooks, and what is left of every token at the end (see `_witness`)."""
    changes = _every_third(site, kind)
    logits: list[Tensor] = []

    def run() -> None:
        logits.append(patient.module(**patient.batch.inputs, **patient.options).logits[:, -1])

    last = _last(patient)
    with torch.no_grad(), hooked(patient.module, changes):
        (tensor,) = watched(patient.module, [last], run).values()
    return logits[0], _witness(last, tensor, patient.batch)


def _last(patient: Patient) -> Site:
    """Where the last layer's MLP ends."""
    hidden = patient.sites.get("hidden", next(iter(patient.sites.values())))
    return dataclasses.replace(hidden, layers=hidden.layers[-1:])


def _witness(last: Site, tensor: Tensor, batch: Batch) -> Tensor:
    """Positive sums over a row's tokens [b, n]: a picture shows in them also where the last token does not see so far back."""
    activation = unflatten_tokens(tensor, batch.token_mask)[..., columns(last.layers[0])].float().clamp(min=0)
    return torch.where(batch.token_mask[..., None].to(activation.device), activation, 0.0).sum(1)


def _intervention(patient: Patient, site: Site, kind: str, theirs: Tensor) -> Finding:
    model = patient.model
    with torch.no_grad(), model.trace(**patient.batch.inputs, **patient.options):
        KINDS[kind](_every_third_neuron(model, site)).apply(model)
        ours = nnsight.save(model.output.logits[:, -1])
    # Without rotation, a constant added to every key adds the same to every score, and attention does not change.
    idle = (site.name, kind) == ("k", "add")
    return _compared(patient, site, kind, ours, theirs, SAME, 0.01, idle)


def _side_by_side(patient: Patient, site: Site, theirs: list[tuple[Tensor, Tensor]]) -> Finding:
    """Two masks in one batch, each on its own rows, the pictures' features computed once: as a sweep runs them."""
    model, neurons, last = patient.model, _every_third_neuron(patient.model, site), _last(patient)
    rows = vision.repeated(patient.batch, len(SIDES), vision.features(model, patient.batch))
    with torch.no_grad(), model.trace(**rows.inputs, **forward_options(model, rows.inputs, keep=1)):
        side_by_side(model, [KINDS[kind](neurons) for kind in SIDES])
        our_witness = nnsight.save(_witness(last, read(model, last.layers[0].path, last.layers[0].io), rows))
        ours = nnsight.save(model.output.logits[:, -1])
    logits, their_witness = (torch.cat(masks) for masks in zip(*theirs, strict=True))
    finding = _compared(patient, site, "side by side", ours, logits, shaped(ours), 0.1)
    off = apart(our_witness, their_witness)
    if finding.holds and not off < shaped(ours):
        return dataclasses.replace(
            finding, holds=False, detail=f"what the last MLP makes of a row is off by {off:.1e} relative"
        )
    return finding


def _compared(
    patient: Patient, site: Site, check: str, ours: Tensor, theirs: Tensor, limit: float, share: float, idle: bool = False
) -> Finding:
    """Whether logits agree, and by much less than the reference is moved: by `share` of it, if in full precision."""
    off = apart(ours, theirs)
    moved = apart(theirs, patient.logits.repeat(len(theirs) // len(patient.logits), 1))
    detail = f"logits off by {off:.1e} relative; the intervention itself moves them by {moved:.1e}"
    sharp = limit == SAME or theirs.dtype in SHAPED
    holds = off < limit and (idle or (moved > 0 and (off <= share * moved or not sharp)))
    if off < limit and moved == 0 and not idle:
        detail = "the reference does not move the logits, so nothing is proved"
    return Finding(site.name, check, holds, detail, patient.inputs)


def _generation(patient: Patient, site: Site) -> Finding:
    """Every step's logits, not the tokens alone: those may be the same by chance."""
    model, module, inputs = patient.model, patient.module, patient.batch.inputs
    padding = patient.model.tokenizer.pad_token_id or 0
    options: dict[str, Any] = {
        **GREEDY,
        "max_new_tokens": STEPS,
        "min_new_tokens": STEPS,
        "pad_token_id": padding,
        "output_logits": True,
        "return_dict_in_generate": True,
        # A placeholder among the answers would ask for one more picture.
        "suppress_tokens": sorted(placeholder_ids(model)) or None,
    }
    with model.generate(**inputs, **options) as tracer:
        ablate(_every_third_neuron(model, site)).apply(model)
        ours = nnsight.save(tracer.result)
    with hooked(module, _every_third(site, "ablate")):
        theirs = module.generate(**inputs, **options)
    same = torch.equal(ours.sequences, theirs.sequences)
    off = max(apart(o, t) for o, t in zip(ours.logits, theirs.logits, strict=True))
    detail = f"logits of a step off by {off:.1e} relative" if same else "other tokens were generated"
    return Finding(site.name, "generation", same and off < SAME, detail, patient.inputs)


def _every_third(site: Site, kind: str) -> dict[Location, Change]:
    """One kind of intervention on every third neuron of every layer, written out."""
    return {(here.path, here.io): edited(columns(here)[::3], kind) for here in site.layers}


def _every_third_neuron(model: nnsight.TransformersModel, site: Site) -> NeuronSet:
    """Every third neuron of every layer."""
    neurons = [(site.name, here.layer, index) for here in site.layers for index in range(0, here.width, 3)]
    # The whole site's layout: of the patient's, layers may have been left out.
    return NeuronSet.of(site_of(model, site.name).layout, neurons, identity(model))
