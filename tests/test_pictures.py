"""Pictures as they are shown: upright, in eight bits a colour; in files, as bytes and in memory alike."""

from __future__ import annotations

import hashlib
import io
import json

import numpy as np
import pytest
from PIL import Image, ImageOps

import gatescope as gs
from gatescope.data.example import Encoded, Example

KEY = 0x0112  # orientation


def example(image):
    return Example("1", "g", "q", ("a", "b"), "a", image)


@pytest.fixture(scope="module")
def drawn():
    """A picture that no turn leaves as it is."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8))


def turned(image, orientation):
    exif = Image.Exif()
    exif[KEY] = orientation
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_exif_says_wherever_it_is(drawn, tmp_path, orientation):
    content = turned(drawn, orientation)
    (tmp_path / "p.png").write_bytes(content)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    for image in (tmp_path / "p.png", Encoded("p", lambda: content), Image.open(io.BytesIO(content))):
        asked = example(image)
        assert asked.picture_size() == expected.size
        assert asked.picture().tobytes() == expected.tobytes()
    assert (expected.tobytes() != drawn.tobytes()) == (orientation > 1)


def test_an_exif_behind_the_pixels_counts_too(drawn):
    """Pillow sees it only when it has decoded them."""
    content = turned(drawn, 6)
    start = content.index(b"eXIf") - 4
    length = int.from_bytes(content[start : start + 4], "big") + 12
    end = content.index(b"IEND") - 4
    moved = content[:start] + content[start + length : end] + content[start : start + length] + content[end:]
    asked = example(Encoded("p", lambda: moved))
    assert asked.picture_size() == asked.picture().size == (4, 6)


def test_an_exif_that_is_none_leaves_a_picture_as_it_lies(drawn):
    file = io.BytesIO()
    drawn.save(file, "PNG", exif=b"Exif\0\0nothing of the kind")
    assert example(Encoded("p", file.getvalue)).picture().tobytes() == drawn.tobytes()


def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path):
    grey = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / "p.png")
    Image.fromarray(grey).save(tmp_path / "p.tif")
    (tmp_path / "p.pgm").write_bytes(b"P5 4 1 65535\n" + grey.astype(">u2").tobytes())
    for image in (*(tmp_path / f"p.{kind}" for kind in ("png", "tif", "pgm")), Image.fromarray(grey)):
        assert np.asarray(example(image).picture())[0, :, 0].tolist() == [0, 1, 128, 255], image


def test_brightness_without_a_range_is_refused():
    for image in (Image.new("F", (2, 2), 0.5), Image.fromarray(np.array([[0, 70_000]], dtype=np.int32))):
        with pytest.raises(
            gs.GatescopeError, match=r"Example '1': .* of which black and white are not known; save it with 8 or 16"
        ):
            example(image).picture()
    assert np.asarray(example(Image.fromarray(np.array([[0, 200]], dtype=np.int32))).picture())[0, :, 0].tolist() == [0, 200]


def test_a_run_does_not_mix_pictures_as_they_lie_with_pictures_upright(drawn):
    """The fingerprint of every other picture is what it was."""
    plain, on_its_side = turned(drawn, 1), turned(drawn, 6)

    def as_it_was(content):
        fields = ["1", "g", "q", ["a", "b"], "a", [], None, "", "", "", [], True, []]
        return hashlib.sha256(json.dumps(fields).encode() + content).hexdigest()

    assert gs.data.fingerprint([example(Encoded("p", lambda: plain))]) == as_it_was(plain)
    assert gs.data.fingerprint([example(Encoded("p", lambda: on_its_side))]) != as_it_was(on_its_side)
    in_memory = Image.open(io.BytesIO(plain))
    assert gs.data.fingerprint([example(in_memory)]) == as_it_was(b"((6, 4), 'RGB')" + in_memory.tobytes())
