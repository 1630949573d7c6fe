"""What is said where the model gives NaN or infinity in the place of numbers.

Without a mask that is an error: nothing could be compared with it. Under a mask it is a hole in the table, which is kept, shown
and left out of every mean.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gatescope.core.errors import GatescopeError
from gatescope.data.example import Example
from gatescope.kernels.eager import first_not_finite
from gatescope.traces.readouts.base import Answer


def refuse_holes(
    answers: Sequence[Answer],
    examples: Sequence[Example],
    sums: Sequence[Sequence[Tensor]] = (),
    layers: Sequence[int] = (),
) -> None:
    """Refuse answers of the full model that are no answers.

    Args:
        answers: one to each example.
        examples: what was asked.
        sums: of each class of tokens the activations [b, n] summed, a layer each, where they were; they tell the layer.
        layers: the numbers of these layers.

    Raises:
        GatescopeError: naming the first example, and its first layer where that is known.
    """
    row = next((row for row, (_, reading) in enumerate(answers) if reading.hole), None)
    if row is None:
        return
    places: list[int] = []
    for of_class in sums:
        place = first_not_finite([layer[row : row + 1].cpu() for layer in of_class])
        if place is not None:
            places.append(place[0])
    raise not_finite(examples[row].id, layers[min(places)] if places else None)


def not_finite(name: str, layer: int | None = None, site: str = "", *, nan: bool = True) -> GatescopeError:
    """The error for a model that gives NaN, or infinity, in an example.

    >>> print(not_finite("q7", 3))
    The model gave NaN at layer 3 in example 'q7'. Load it in a wider dtype, such as dtype='float32', or leave the example out.
    """
    where = "" if layer is None else f" at layer {layer}"
    return GatescopeError(
        f"The model gave {'NaN' if nan else 'infinity'}{where}{f' ({site})' if site else ''} in example {name!r}. Load it in a "
        f"wider dtype, such as dtype='float32', or leave the example out."
    )
