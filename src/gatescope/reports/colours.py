"""Colours of maps: straight lines in Oklab (Ottosson 2020), so that equal steps in a number look like equal steps.

A diverging map runs from `loss` over `mid` to `gain`, a sequential one from `mid` to `count`. Orange and violet differ
in blue as well as in red and green, and all ends are far from the middle in lightness, so the maps can be read with
any kind of colour vision and in grey. In a dark theme the middle is dark and the ends are light.
"""

from __future__ import annotations

import numpy as np

LIGHT = {"mid": "#faf9f6", "loss": "#783600", "gain": "#543098", "count": "#0b5563"}
DARK = {"mid": "#211f1d", "loss": "#e38834", "gain": "#a88feb", "count": "#39b3c3"}
DEEP = 0.715  # from here on a cell's number is printed in the colour of the page, before in the colour of text

_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def linear(colour: str) -> np.ndarray:
    """Linear-light red, green and blue of a colour written as #rrggbb.

    >>> linear("#ffffff").tolist()
    [1.0, 1.0, 1.0]
    """
    value = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def oklab(colour: str) -> np.ndarray:
    """Lightness and two colour axes of a colour written as #rrggbb."""
    return _TO_LAB @ np.cbrt(_TO_LMS @ linear(colour))


def mix(a: str, b: str, share: float) -> str:
    """The colour `share` of the way from a to b, in Oklab; what CSS calls color-mix(in oklab, b share, a).

    >>> mix("#000000", "#ffffff", 0.0), mix("#000000", "#ffffff", 1.0)
    ('#000000', '#ffffff')
    """
    lab = oklab(a) * (1 - share) + oklab(b) * share
    value = np.clip(np.linalg.inv(_TO_LMS) @ (np.linalg.inv(_TO_LAB) @ lab) ** 3, 0, 1)
    value = np.where(value <= 0.0031308, value * 12.92, 1.055 * value ** (1 / 2.4) - 0.055)
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in value)


def ramp(*stops: str, steps: int = 256) -> list[str]:
    """Colours evenly spaced along the lines between stops."""
    positions = np.linspace(0, len(stops) - 1, steps)
    before = [min(int(position), len(stops) - 2) for position in positions]  # the last place is the end of the last line
    return [mix(stops[i], stops[i + 1], float(position - i)) for i, position in zip(before, positions, strict=True)]
