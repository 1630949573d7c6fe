"""A picture's features, computed once and used by every mask.

The masks act on the language model, so what the vision encoder makes of a picture is the same under all of them. It is
kept from the first run of a batch; the encoder is skipped in the others.
"""

from __future__ import annotations

from torch import Tensor
from torch.utils._pytree import tree_map

from gatescope.batches import Batch
from gatescope.traces import until


def encoder_path(model) -> str | None:
    """Where the picture encoder is; None for a model without one."""
    module = model._module
    encoder = module.get_encoder(modality="image") if model.processor is not None else module
    return next((name for name, part in module.named_modules() if part is encoder and name), None)


def features(model, batch: Batch):
    """What the encoder makes of a batch's pictures; None where there are none. Stops as soon as that is there."""
    path = encoder_path(model)
    if path is None or "pixel_values" not in batch.inputs:
        return None
    return until(model, batch.inputs, lambda: model.get(path).output)


def skip(model, found, times: int = 1) -> None:
    """Inside a trace: let the encoder give these features, `times` over along their first axis, without running."""
    if found is not None:
        envoy = model.get(str(encoder_path(model)))
        envoy.skip(tree_map(lambda part: _repeat(part, times), found))


def repeated(batch: Batch, times: int, *, pixels: bool = True) -> Batch:
    """The batch's rows, `times` over; its pixels only if asked for: they are the largest tensor, and no encoder that is
    skipped looks at them.
    """
    if times == 1:
        return batch
    # Where the model goes by the sizes of pictures; others count the pictures themselves.
    sized = "image_grid_thw" in batch.inputs or "image_sizes" in batch.inputs
    alone = ("pixel_values",) if sized and not pixels else ()
    rows = {name: tensor if name in alone else _repeat(tensor, times) for name, tensor in batch.inputs.items()}
    return Batch(batch.examples * times, rows, _repeat(batch.valid, times))


def _repeat(part, times: int):
    return part.repeat(times, *[1] * (part.ndim - 1)) if isinstance(part, Tensor) and part.ndim else part
