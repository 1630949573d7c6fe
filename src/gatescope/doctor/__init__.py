"""Doctor: prove on a user's own model that what nnsight reads and edits is what plain hooks read and edit.

Three things are held against each other, on the same weights:

    the sites      against what the model computes below its modules: the operands of the product that enters the down
                   projection, and what the attention function is given (`below`)
    gatescope      against plain PyTorch hooks: counters, attributions, every kind of intervention, masks side by side,
                   generated tokens (`checks`)
    the pictures   against each question asked alone (`pictures`)

The second is done on a random left-padded batch of token ids and, where the model has a processor, on questions with
pictures of different sizes. An intervention must move the logits, or its check proves nothing and fails. This and the
tests are the only places with hooks and function modes of our own.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import nnsight

from gatescope.doctor.below import below
from gatescope.doctor.checks import examine_batch
from gatescope.doctor.families import Family, families, table
from gatescope.doctor.inputs import Patient, picture_questions, random_text
from gatescope.doctor.pictures import rows_alone, running
from gatescope.doctor.report import Finding, Report, tried
from gatescope.doctor.shrunk import plain_tokenizer, random_model
from gatescope.models.identity import identity
from gatescope.models.sites import sites_of

__all__ = ["Family", "Finding", "Report", "examine", "families", "plain_tokenizer", "random_model", "table"]


def examine(model: nnsight.TransformersModel) -> Report:
    """Check every site of a model against what it computes, and against plain hooks.

    Args:
        model: from `load_model` or `random_model`.

    Raises:
        GatescopeError: if the model's sites cannot be resolved.
    """
    sites = sites_of(model)

    def text() -> Iterator[Finding]:
        patient = Patient.of(model, sites, "text", random_text(model))
        if model.processor is not None:
            patient = running(patient)
        yield from tried(sites, "below", "text", lambda: below(patient))
        yield from examine_batch(patient)

    def pictures() -> Iterator[Finding]:
        patient = Patient.of(model, sites, "pictures", picture_questions(model))
        yield from tried(["batch"], "rows alone", "pictures", lambda: rows_alone(patient))
        yield from examine_batch(patient)

    with warnings.catch_warnings():
        # The questions do not depend on a template: any prompt will do for a comparison.
        warnings.filterwarnings("ignore", message=".*has no chat template")
        findings = tried(["batch"], "forward", "text", text)
        if model.processor is not None:
            findings += tried(["batch"], "forward", "pictures", pictures)
    described = identity(model)
    return Report(f"{described['id']} ({described['class']}, {described['dtype']})", sites, tuple(findings))
