"""A tiny random model of families that see pictures, with its real processor, each written as an ordinary directory."""

from __future__ import annotations

from picture_packs import PACKED
from picture_parts import Builder
from picture_tiles import TILED

PICTURES: dict[str, Builder] = TILED | PACKED
