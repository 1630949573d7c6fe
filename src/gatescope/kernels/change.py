"""Which columns of a module's tensor neurons are, and what an intervention does to them. Torch alone: it is called here
and on servers.

zero    the columns become 0
scale   times the values
set     the values themselves
add     plus the values
"""

from __future__ import annotations

import torch
from torch import Tensor


def take(tensor: Tensor, columns: tuple[int, int] | list[int] | None) -> Tensor:
    """Columns of a tensor [..., n]: all (None), from a start to a stop (a view), or those listed.

    >>> take(torch.tensor([1, 2, 3]), (1, 3)).tolist(), take(torch.tensor([1, 2, 3]), [2, 0]).tolist()
    ([2, 3], [3, 1])
    """
    if columns is None:
        return tensor
    # A slice is a view and costs no memory; a list of columns makes a copy.
    if isinstance(columns, tuple):
        return tensor[..., columns[0] : columns[1]]
    return tensor[..., torch.tensor(columns, device=tensor.device)]


def change(activation: Tensor, columns: Tensor, kind: str, values: Tensor) -> Tensor:
    """The activation [..., n] with the columns [k] zeroed, scaled, set or added to; the rest untouched.

    >>> change(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 2]), "scale", torch.tensor([2.0, 3.0])).tolist()
    [2.0, 2.0, 9.0]
    """
    if kind == "zero":
        # Filled, not multiplied by 0: 0 x NaN is NaN.
        return activation.index_fill(-1, columns, 0)
    old = activation.index_select(-1, columns)
    # Lambdas, so that only the change asked for is computed.
    new = {"scale": lambda: old * values, "add": lambda: old + values, "set": lambda: values.expand_as(old)}[kind]()
    return activation.index_copy(-1, columns, new)


def change_(activation: Tensor, columns: Tensor, kind: str, values: Tensor) -> None:
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
