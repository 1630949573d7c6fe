"""What an intervention does to an activation. Torch alone: it is called here and on servers.

zero    the columns become 0
scale   times the values
set     the values themselves
add     plus the values
"""

from __future__ import annotations

from torch import Tensor


def change(activation: Tensor, columns: Tensor, kind: str, values: Tensor) -> Tensor:
    """The activation [..., n] with the columns [k] zeroed, scaled, set or added to; the rest untouched.

    >>> import torch
    >>> change(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 2]), "scale", torch.tensor([2.0, 3.0])).tolist()
    [2.0, 2.0, 9.0]
    """
    if kind == "zero":
        return activation.index_fill(-1, columns, 0)
    old = activation.index_select(-1, columns)
    new = {"scale": lambda: old * values, "add": lambda: old + values, "set": lambda: values.expand_as(old)}[kind]()
    return activation.index_copy(-1, columns, new)


def change_(activation: Tensor, columns: Tensor, kind: str, values: Tensor) -> None:
    """`change`, in place.

    >>> import torch
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
