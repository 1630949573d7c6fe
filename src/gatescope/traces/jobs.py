"""The plain data that trace-side functions take and that travels to servers: dictionaries, with their types.

A job is what a server is sent: a task, its batches, and what the task needs. An answer to a batch is the generated ids
[b, t], each row's most probable next token [b], for each row the log-probabilities of its options, or None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypedDict

from nnsight import TransformersModel
from torch import Tensor

from gatescope.core.errors import GatescopeError
from gatescope.models.sites import Place, Site, SiteLayer, embedding_path

Projection = tuple[str, int, Any]  # its path, how many inputs it has, and which of its outputs the neurons are
MaskRow = tuple[str, str, Tensor, str, Tensor]  # of a mask: path, input or output, columns [k], kind, values [k]


class Forward(TypedDict):
    """What goes into one forward pass; `options` are `gatescope.traces.access.forward_options`."""

    inputs: dict[str, Tensor]
    options: dict[str, Any]


class Forced(Forward):
    """Prompts with answers put after them; `forced` is each row's answer, as token ids."""

    forced: list[list[int]]


class Asked(TypedDict, total=False):
    """A batch of questions, and what is needed to read their answers; which keys it has depends on `way`."""

    inputs: dict[str, Tensor]
    options: dict[str, Any]
    way: Literal["generate", "next", "argmax", "options", "none"]  # "next": options of one token; "options": whole texts
    tokens: Sequence[list[list[int]]]  # of every option
    right: Any  # which options are right; of "argmax" the token that is
    how: str  # how options are compared
    chunks: list[Forced]  # put the options to the model
    choices: list[list[str]]  # for Algorithm 1
    answer: list[str]
    masks: Tensor  # to record: classes of tokens [c, b, s]
    group: Tensor  # each row's [b]
    use: Tensor  # rows to count [b], where the client has decided


class Scored(Forced):
    """A batch to attribute: forced answers, and each row's group."""

    group: list[int]


class Scoring(TypedDict):
    """What is attributed, and how."""

    places: list[tuple[Place, Projection | None]]  # the neurons; and the projection whose bias is taken off, if any
    order: list[tuple[str, str]]  # the modules in the order in which the model reaches them, each once
    embedding: str  # where the graph begins
    reduce: str
    pad_zero: bool


class Owned(TypedDict, total=False):
    """What every job carries once it is sent: whose it is (see `gatescope.steps.remote.results.Identity`)."""

    of: dict[str, Any]


class RecordJob(Owned):
    """A job that counts."""

    task: Literal["record"]
    batches: list[Asked]
    classes: int  # sizes of its sums
    groups: int
    widths: list[int]  # neurons at each place
    places: list[Place]
    decides: str  # who knows which answers are right: a read-out's `decides`; "all" count; the client has "given" the rows
    generated: bool  # whether generated tokens are counted
    markers: Tensor  # ids of tokens that are not
    generation: dict[str, Any]


class AttributeJob(Scoring, Owned):
    """A job that attributes."""

    task: Literal["attribute"]
    batches: list[Scored]
    groups: int  # sizes of its sums
    width: int


class SweepJob(Owned):
    """A job that answers every batch under every mask."""

    task: Literal["sweep"]
    batches: list[Asked]
    masks: list[list[MaskRow]]
    generation: dict[str, Any]


Job = RecordJob | AttributeJob | SweepJob


def scoring(model: TransformersModel, sites: Sequence[Site], reduce: str, pad_zero: bool) -> Scoring:
    """What is attributed, as plain data.

    Raises:
        GatescopeError: if "norm" needs a projection that is not found.
    """
    # A set: sites may share a module, and nnsight can read each only once, in the order of the forward pass.
    reached = sorted({(here.layer, site.rank, here.path, here.io) for site in sites for here in site.layers})
    locations: list[tuple[Place, Projection | None]] = []
    for site in sites:
        for here in site.layers:
            locations.append((here.place, _biased(model, site, here) if reduce == "norm" else None))
    return {
        "places": locations,
        "order": [(path, io) for _, _, path, io in reached],
        "embedding": embedding_path(model),
        "reduce": reduce,
        "pad_zero": pad_zero,
    }


def _biased(model: TransformersModel, site: Site, here: SiteLayer) -> Projection | None:
    """The projection whose raw output a site is, if it has a bias."""
    if here.weights is None:
        raise GatescopeError(
            f"reduce='norm' is of a projection's outputs, and {here.path} is given something else (site {site.name!r}). Use "
            f"reduce='max', or another site."
        )
    path, columns = here.weights.path, replace(here, columns=here.weights.columns).place[2]
    projection: Any = model._module.get_submodule(path)
    if projection.bias is None:
        return None
    # GPT-2's Conv1D has no in_features; its weight is [in, out].
    inputs = projection.in_features if hasattr(projection, "in_features") else projection.weight.shape[0]
    return path, inputs, columns
