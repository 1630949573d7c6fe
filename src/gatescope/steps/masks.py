"""The masks of a sweep: by selector and group, as they are given; and each of them once, as they are run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nnsight import TransformersModel

from gatescope.core.errors import GatescopeError
from gatescope.core.relatives import FOUND
from gatescope.interventions.intervention import Intervention
from gatescope.interventions.value import Change
from gatescope.statistics.table import ALL

Interventions = Mapping[str, Intervention] | Mapping[str, Mapping[str, Intervention]]
Masks = Sequence[Change | None]


def by_selector(interventions: Interventions) -> dict[str, dict[str, Intervention]]:
    """The masks by selector and group: those given without a selector under "mask", those all alike as one."""
    named: dict[str, dict[str, Intervention]] = {}
    flat: dict[str, Intervention] = {}
    for key, value in interventions.items():
        if isinstance(value, Mapping):
            named[key] = {group: _checked(group, mask) for group, mask in value.items()}
        else:
            flat[key] = _checked(key, value)
    if flat:
        named["mask"] = flat
    for selector, masks in named.items():
        if not selector or (ALL in masks and len(masks) > 1):
            raise GatescopeError(
                f"Selector {selector!r} has masks for {', '.join(map(repr, masks))}. A selector needs a name, and a mask for "
                f"{ALL!r}, which is one for all groups, must be its only one: no group can be called that."
            )
    return {selector: _one_for_all(masks) for selector, masks in named.items()}


def _checked(name: str, mask: object) -> Intervention:
    if isinstance(mask, Intervention):
        return mask
    raise GatescopeError(
        f"What is to be done under {name!r} is a {type(mask).__name__}, not an intervention. Neurons are switched off by "
        "gs.ablate(selection), a mask for each group of a selection."
    )


def _one_for_all(masks: dict[str, Intervention]) -> dict[str, Intervention]:
    # RND switches off the same neurons for every group: run and stored once.
    alike = len(masks) > 1 and len(set(masks.values())) == 1
    return {ALL: next(iter(masks.values()))} if alike else masks


def used_on(model: TransformersModel, interventions: Interventions, allow: str) -> dict[str, Any]:
    """Interventions whose neurons may have been found on another model, by group, or by selector and then by group."""

    def used(name: str, value: object) -> Any:
        if isinstance(value, Mapping):
            return {group: used(group, mask) for group, mask in value.items()}
        return _checked(name, value).used_on(model, allow=allow)

    return {name: used(name, value) for name, value in interventions.items()}


def found_on(named: Mapping[str, Mapping[str, Intervention]]) -> dict[str, list[str]]:
    """The models that neurons were found on, where it is not the one they are used on."""
    masks = (mask for by_group in named.values() for mask in by_group.values())
    models = {mask.neurons.provenance[FOUND] for mask in masks if FOUND in mask.neurons.provenance}
    return {"neurons_found_on": sorted(models)} if models else {}


def different(model: TransformersModel, named: Mapping[str, Mapping[str, Intervention]]) -> list[Change | None]:
    """The full model (None), then every mask once, however many groups it serves.

    Raises:
        GatescopeError: if neurons belong to another model.
    """
    masks: list[Change | None] = [None]
    for by_group in named.values():
        masks += [touching(mask) for mask in by_group.values()]
    for mask in masks:
        if mask is not None:
            mask.targets(model)  # here, not in the middle of a run
    # A mask that serves several groups is run once; masks compare by value.
    return list(dict.fromkeys(masks))


def touching(mask: Intervention) -> Intervention | None:
    """A mask, if it has neurons."""
    # A mask without neurons is the unmodified model, whose answers are there already.
    return mask if len(mask.neurons) else None
