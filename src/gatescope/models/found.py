"""A site in one layer, as it is found there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn
from transformers.pytorch_utils import Conv1D

Columns = range | tuple[int, ...]


@dataclass(frozen=True)
class Weights:
    """Where neurons are in the weights.

    Attributes:
        path: of a projection, from the root of the model.
        io: whether they are, unchanged, its outputs or its inputs.
        columns: which of them; all if None.
    """

    path: str
    io: Literal["input", "output"]
    columns: Columns | None = None


@dataclass(frozen=True)
class Found:
    """Where a site's neurons are in one layer.

    Attributes:
        name: of the site.
        path: of the module, from the root of the model; or of a call in a module's forward, through nnsight's `source`.
        io: whether the neurons are its input or its output.
        width: how many neurons there are.
        columns: which of the tensor's last axis they are; all of it if None.
        rank: the order in which the sites of a layer are reached.
        weights: where the neurons are in the weights, if no other operation stands between.
    """

    name: str
    path: str
    io: Literal["input", "output"]
    width: int
    columns: Columns | None
    rank: int
    weights: Weights | None


def parts_of(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every module in this one with its path, itself included with an empty one: torch's own list, with a type."""
    return list(module.named_modules())


def is_projection(module: nn.Module) -> bool:
    """Whether it is a matrix with a number of inputs and of outputs, plain or quantised."""
    features = (getattr(module, name, None) for name in ("in_features", "out_features"))
    # A router is a subclass of nn.Linear in some models, and gives more than a product.
    plain = all(isinstance(count, int) for count in features) and "Router" not in type(module).__name__
    return isinstance(module, Conv1D) or plain


def size(projection: nn.Module) -> tuple[int, int]:
    """(inputs, outputs) of a projection."""
    if isinstance(projection, Conv1D):  # its weight is that of nn.Linear, transposed
        return projection.weight.shape[0], projection.weight.shape[1]
    return projection.in_features, projection.out_features  # type: ignore[return-value]
