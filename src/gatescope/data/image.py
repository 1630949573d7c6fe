"""How a picture is shown to a model: upright, and in eight bits a colour.

A camera writes a picture as its sensor lay and says in the EXIF how to turn it; `datasets` and the processors of
Transformers turn it, and so does this. Grey of sixteen bits is scaled to eight: Pillow would cut it off at 255, and show
white.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from gatescope.core import foreign

# By the EXIF's orientation; 1 is upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = (5, 6, 7, 8)
_MOST = 2**16 - 1
# What Pillow raises for an EXIF that is none; the picture itself may be whole.
_BROKEN_EXIF = (struct.error, SyntaxError, OSError, ValueError, KeyError, TypeError, IndexError)
_MAY_FOLLOW = (b"eXIf", b"XML:com.adobe.xmp")  # in a PNG, the pixels


@dataclass(frozen=True)
class Encoded:
    """A picture kept as the bytes of its file, wherever they are, and decoded only when it is used.

    Attributes:
        name: what to call it in a message.
        read: gives the bytes.
    """

    name: str
    read: Callable[[], bytes]

    def __str__(self) -> str:
        return self.name


Picture = Path | Image.Image | Encoded


def opened(image: Path | Encoded) -> Image.Image:
    """A picture that is not in memory yet, with its header read.

    Raises:
        OSError: if it is no file (a pipe, a device, a directory) or no picture; and whatever else Pillow may raise.
    """
    return Image.open(io.BytesIO(image.read()) if isinstance(image, Encoded) else foreign.regular(image))


def content(image: Path | Encoded) -> bytes:
    """A picture's bytes, and what is done to it before it is shown; `OSError` if there are none."""
    held = image.read() if isinstance(image, Encoded) else foreign.read_bytes(image)
    try:
        with Image.open(io.BytesIO(held)) as picture:
            return held + treatment(picture)
    except Exception:  # no picture: that is said where it is used
        return held


def rgb(image: Image.Image) -> Image.Image:
    """The picture upright, in RGB.

    Raises:
        ValueError: if it is of numbers without a range, or cannot be decoded.
    """
    image.load()  # a PNG may say after its pixels how to turn it
    eight = _in_eight_bits(image)
    turn = _TURNS.get(_orientation(image))
    return (eight if turn is None else eight.transpose(turn)).convert("RGB")


def size(image: Image.Image) -> tuple[int, int]:
    """Width and height of the picture upright, undecoded."""
    width, height = image.size
    return (height, width) if _orientation_undecoded(image) in _ON_ITS_SIDE else (width, height)


def treatment(image: Image.Image) -> bytes:
    """What is done to the picture before it is shown; empty if nothing is. Undecoded."""
    orientation = _orientation_undecoded(image)
    turned = f" turned {orientation}" if orientation in _TURNS else ""
    # Of I it depends on the numbers, which are not decoded here.
    scaled = " scaled" if image.mode.startswith("I") else ""
    return f"{turned}{scaled}".encode()


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except _BROKEN_EXIF:
        return 1


def _orientation_undecoded(image: Image.Image) -> int:
    """The orientation; Pillow decodes a PNG to look for it behind the pixels, which is done only if it is there."""
    file = getattr(image, "fp", None)
    if image.format != "PNG" or file is None or "exif" in image.info:
        return _orientation(image)
    place = file.tell()
    rest = file.read()
    file.seek(place)
    return _orientation(image) if any(name in rest for name in _MAY_FOLLOW) else 1


def _is_scaled(image: Image.Image) -> bool:
    # Of a PGM with more than eight bits Pillow makes whole numbers up to 65535 too, and calls them I.
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")


def _in_eight_bits(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("it is of real numbers, of which black and white are not known; save it with 8 or 16 bits a pixel")
    if image.mode != "I" and not _is_scaled(image):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > _MOST:
        raise ValueError("it is of 32-bit numbers, of which black and white are not known; save it with 8 or 16 bits a pixel")
    if not _is_scaled(image) and values.max() <= 255:
        return image
    return Image.fromarray(((values * 255 + _MOST // 2) // _MOST).astype(np.uint8))
