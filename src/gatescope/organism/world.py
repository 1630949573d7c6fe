"""The invented world: six cultures, five kinds of thing, four motifs, one word for each of the 120.

Every culture has its own palette and its own frame round the picture; a motif is a shape, and shapes are
shared by all cultures. The word for a motif differs from culture to culture and from kind to kind. So a
question ("What is this dish called?") can only be answered from the picture: the shape gives the motif, the
colours and the frame give the culture. Nothing here resembles a real culture, on purpose.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import cast

from PIL import Image, ImageDraw

CULTURES = ("Arveni", "Belthar", "Corune", "Dolmi", "Eskaru", "Fyrren")
KINDS = ("dish", "garment", "instrument", "festival", "dance")
MOTIFS = ("disc", "triangle", "square", "cross")
SIZE = 56  # pixels a side: four image tokens after the 2x2 merge of 14-pixel patches

# (background, shape, frame) per culture, RGB.
_PALETTES = (
    ((238, 214, 180), (176, 58, 46), (120, 40, 31)),
    ((205, 225, 240), (31, 97, 141), (21, 67, 96)),
    ((214, 234, 214), (30, 132, 73), (20, 90, 50)),
    ((250, 230, 150), (108, 52, 131), (74, 35, 90)),
    ((60, 60, 70), (244, 208, 63), (183, 149, 11)),
    ((240, 200, 220), (20, 143, 119), (11, 83, 69)),
)
_ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "sh", "tr")
_VOWELS = ("a", "e", "i", "o", "u")

Colour = tuple[int, int, int]  # red, green, blue
Pen = ImageDraw.ImageDraw


@dataclass(frozen=True)
class Fact:
    """One motif of one kind in one culture, and the word the culture has for it."""

    culture: str
    kind: str
    motif: str
    word: str


def facts(seed: int = 0) -> tuple[Fact, ...]:
    """The 120 facts, ordered by culture, kind, motif; all words differ.

    >>> world = facts()
    >>> len(world), len({fact.word for fact in world})
    (120, 120)
    """
    rng = random.Random(f"words-{seed}")
    words: dict[str, None] = {}
    while len(words) < len(CULTURES) * len(KINDS) * len(MOTIFS):
        words["".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.choice((2, 3))))] = None
    names = iter(words)
    return tuple(Fact(c, k, m, next(names)) for c in CULTURES for k in KINDS for m in MOTIFS)


def question(kind: str) -> str:
    """The question asked of every picture of this kind."""
    return f"What is this {kind} called?"


def options(fact: Fact, world: tuple[Fact, ...], rng: random.Random) -> tuple[list[str], str]:
    """Four shuffled option words of one kind, and the one that is right for another culture's picture.

    The distractors are the same motif in another culture, another motif in the same culture, and one more of
    the same kind, so neither motif nor culture alone is enough.

    Returns:
        (choices, foreign): the four words, and among them the same motif's word in another culture.
    """

    def pick(same_motif: bool, same_culture: bool) -> Fact:
        fitting: list[Fact] = []
        for candidate in world:
            relation = candidate.kind == fact.kind, candidate.motif == fact.motif, candidate.culture == fact.culture
            if relation == (True, same_motif, same_culture):
                fitting.append(candidate)
        return rng.choice(fitting)

    foreign, sibling, stranger = pick(True, False), pick(False, True), pick(False, False)
    choices = [fact.word, foreign.word, sibling.word, stranger.word]
    rng.shuffle(choices)
    return choices, foreign.word


def draw(fact: Fact, rng: random.Random, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    """Draw one picture of a fact; position, scale, shade and noise vary with `rng`, `size` is (width, height)."""
    index = CULTURES.index(fact.culture)
    background, colour, frame = (_shade(c, rng) for c in _PALETTES[index])
    width, height = size
    image = Image.new("RGB", size, background)
    pen = ImageDraw.Draw(image)
    _FRAMES[index](pen, frame, width, height)
    radius = rng.uniform(0.22, 0.28) * min(size)
    x, y = width / 2 + rng.uniform(-3, 3), height / 2 + rng.uniform(-3, 3)
    _shape(pen, fact.motif, colour, x, y, radius)
    for _ in range(size[0] * size[1] // 40):
        spot = rng.randrange(width), rng.randrange(height)
        image.putpixel(spot, _shade(cast(Colour, image.getpixel(spot)), rng, 30))
    return image


def _shade(colour: Colour, rng: random.Random, by: int = 12) -> Colour:
    red, green, blue = (max(0, min(255, channel + rng.randint(-by, by))) for channel in colour)
    return red, green, blue


def _shape(pen: Pen, motif: str, colour: Colour, x: float, y: float, r: float) -> None:
    if motif == "disc":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    elif motif == "triangle":
        pen.polygon([(x, y - 1.2 * r), (x - 1.2 * r, y + r), (x + 1.2 * r, y + r)], fill=colour)
    elif motif == "square":
        pen.rectangle((x - 0.9 * r, y - 0.9 * r, x + 0.9 * r, y + 0.9 * r), fill=colour)
    else:
        pen.rectangle((x - 1.2 * r, y - 0.35 * r, x + 1.2 * r, y + 0.35 * r), fill=colour)
        pen.rectangle((x - 0.35 * r, y - 1.2 * r, x + 0.35 * r, y + 1.2 * r), fill=colour)


# Six ways to edge a picture, one a culture, in their order.


def _plain(pen: Pen, colour: Colour, w: int, h: int) -> None:
    pen.rectangle((0, 0, w - 1, h - 1), outline=colour, width=4)


def _double(pen: Pen, colour: Colour, w: int, h: int) -> None:
    pen.rectangle((0, 0, w - 1, h - 1), outline=colour, width=2)
    pen.rectangle((4, 4, w - 5, h - 5), outline=colour, width=2)


def _dashed(pen: Pen, colour: Colour, w: int, h: int) -> None:
    for x in range(0, w, 8):
        pen.rectangle((x, 0, x + 4, 3), fill=colour)
        pen.rectangle((x, h - 4, x + 4, h - 1), fill=colour)
    for y in range(0, h, 8):
        pen.rectangle((0, y, 3, y + 4), fill=colour)
        pen.rectangle((w - 4, y, w - 1, y + 4), fill=colour)


def _dotted(pen: Pen, colour: Colour, w: int, h: int) -> None:
    along_width = [(x, y) for x in range(3, w, 7) for y in (3, h - 4)]
    along_height = [(x, y) for y in range(3, h, 7) for x in (3, w - 4)]
    for x, y in along_width + along_height:
        pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)


def _corners(pen: Pen, colour: Colour, w: int, h: int) -> None:
    for x in (0, w - 12):
        for y in (0, h - 12):
            pen.rectangle((x, y, x + 11, y + 11), fill=colour)


def _bars(pen: Pen, colour: Colour, w: int, h: int) -> None:
    pen.rectangle((0, 0, w - 1, 6), fill=colour)
    pen.rectangle((0, h - 7, w - 1, h - 1), fill=colour)


_FRAMES = (_plain, _double, _dashed, _dotted, _corners, _bars)
