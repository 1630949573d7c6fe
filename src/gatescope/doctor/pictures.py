"""Each question with its picture, alone and in the batch: the picture's features must be where the question is.

The next token's logits are compared, and what the gate does over all of a row's tokens, which a picture reaches even
where the last token does not see so far back.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gatescope.doctor.checks import shaped
from gatescope.doctor.inputs import Patient, questions
from gatescope.doctor.references import apart, columns, watched
from gatescope.doctor.report import Finding
from gatescope.models.sites import Site
from gatescope.traces.access import forward_options, unflatten_tokens
from gatescope.traces.encoding import Batch, collate


def running(patient: Patient) -> Patient:
    """The patient without the layers that do not run on its inputs, as Llama 3.2 Vision's cross-attention layers on text. They
    are examined on pictures, where every layer must run.
    """
    run = functools.partial(patient.module, **patient.batch.inputs, **patient.options)
    ran = watched(patient.module, patient.sites.values(), run)
    sites: dict[str, Site] = {}
    for name, site in patient.sites.items():
        if layers := tuple(here for here in site.layers if (here.path, here.io) in ran):
            sites[name] = dataclasses.replace(site, layers=layers)
    return dataclasses.replace(patient, sites=sites)


def rows_alone(patient: Patient) -> Iterator[Finding]:
    """A batch's rows, against each row by itself; and against the row with another's picture, which must differ."""
    examples = questions()
    sums, logits = _sums_and_logits(patient, patient.batch)
    off, moved = 0.0, float("inf")
    for row, example in enumerate(examples):
        alone = _sums_and_logits(patient, collate(patient.model, [example]))
        # The first row gets the last picture, by the index -1.
        swapped = _sums_and_logits(
            patient, collate(patient.model, [dataclasses.replace(example, image=examples[row - 1].image)])
        )
        off = max(off, apart(sums[row], alone[0][0]), apart(logits[row], alone[1][0]))
        moved = min(moved, apart(swapped[0], alone[0]))
    detail = f"gate or logits off by {off:.1e} relative; another picture moves the gate by {moved:.1e}"
    yield Finding("batch", "rows alone", off < shaped(logits) and off < 0.5 * moved, detail, patient.inputs)


def _sums_and_logits(patient: Patient, batch: Batch) -> tuple[Tensor, Tensor]:
    """Of each row, by hooks: the gate's positive sums [b, l n], and the next token's logits [b, vocabulary]."""
    gate, batch = patient.sites["gate"], batch.to(patient.batch.token_mask.device)
    options: dict[str, Any] = forward_options(patient.model, batch.inputs, keep=1)
    logits: list[Tensor] = []
    seen = watched(patient.module, [gate], lambda: logits.append(patient.module(**batch.inputs, **options).logits[:, -1]))
    sums: list[Tensor] = []
    for here in gate.layers:
        activation = unflatten_tokens(seen[here.path, here.io], batch.token_mask)[..., columns(here)].float().clamp(min=0)
        counted = batch.token_mask[..., None].to(activation.device)
        # On the CPU, for the layers may be spread over several devices.
        sums.append(torch.where(counted, activation, 0.0).sum(1).cpu())
    return torch.cat(sums, 1), logits[0]
