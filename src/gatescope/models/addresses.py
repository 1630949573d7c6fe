"""Where neurons lie in a loaded model: what `gatescope.core.relatives` needs to know of one, to put neurons in it."""

from __future__ import annotations

from typing import Any

from nnsight import TransformersModel
from torch import nn

from gatescope.core.layout import Layout
from gatescope.core.relatives import address_in
from gatescope.models.identity import identity


@address_in.register(TransformersModel)
@address_in.register(nn.Module)
def address(model: Any, layout: Layout) -> tuple[dict[str, str], Layout]:
    """As `address_in`, of an nnsight model, or a plain Hugging Face module."""
    from gatescope.models.sites import layout_of, site_of  # with Transformers' models, which take seconds to import

    return identity(model), layout_of([site_of(model, shape.site) for shape in layout.sites])
