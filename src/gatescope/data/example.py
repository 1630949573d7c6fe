"""Example: one multiple-choice question about one group, with or without a picture. Study: two lists of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from gatescope.errors import GatescopeError


@dataclass(frozen=True)
class Example:
    """One question.

    Attributes:
        id: unique within a study.
        group: the culture, language or domain it belongs to.
        question: the question alone; the prompt is built round it.
        choices: the options, full text.
        answer: the right option, as it stands in `choices`.
        image: a file, a PIL image, or None.
        labels: what stands for each choice (A, B, ...), in their order; empty if the answer is the choice's text.
        prompt: the whole of what the model is asked, where it is not the paper's multiple-choice prompt.
        prefix: what the model's answer is made to begin with, such as `{"answer_choice":"`.
        item: what the example is a variant of, where several share one; the id if empty.

    Raises:
        GatescopeError: if there are fewer than two choices, the answer is not among them, or there is not one
            label for each choice.
    """

    id: str
    group: str
    question: str
    choices: tuple[str, ...]
    answer: str
    image: Path | Image.Image | None = None
    labels: tuple[str, ...] = ()
    prompt: str | None = None
    prefix: str = ""
    item: str = ""

    def __post_init__(self) -> None:
        if self.labels and len(self.labels) != len(self.choices):
            raise GatescopeError(f"Example {self.id!r} has {len(self.labels)} labels for {len(self.choices)} choices.")
        if len(self.choices) < 2:
            raise GatescopeError(f"Example {self.id!r} has {len(self.choices)} choices; at least two are needed.")
        if self.answer not in self.choices:
            raise GatescopeError(
                f"Example {self.id!r}: the answer {self.answer!r} is not among its choices {list(self.choices)}. "
                f"It must be the full text of one of them."
            )

    @property
    def label(self) -> str:
        """What the right answer is called: its label, or its text where there are no labels."""
        return self.labels[self.choices.index(self.answer)] if self.labels else self.answer

    def picture(self) -> Image.Image | None:
        """The picture, decoded now, in RGB.

        Raises:
            GatescopeError: if it cannot be opened or decoded.
        """
        if self.image is None or isinstance(self.image, Image.Image):
            return self.image if self.image is None else self.image.convert("RGB")
        try:
            with Image.open(self.image) as opened:
                return opened.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise GatescopeError(f"Example {self.id!r}: the image {self.image} cannot be opened: {error}.") from error


@dataclass(frozen=True)
class Study:
    """What a study runs on.

    Attributes:
        name: what it is called in tables and manifests.
        identification: examples neurons are found on.
        evaluation: examples their effect is measured on.
        notes: how the split was made, and whatever else a reader must know.
    """

    name: str
    identification: Sequence[Example]
    evaluation: Sequence[Example]
    notes: dict[str, str] = field(default_factory=dict)


def fingerprint(examples: Sequence[Example]) -> str:
    """SHA-256 of everything in the examples that can change a result; pictures by their bytes."""
    digest = hashlib.sha256()
    for example in examples:
        text = [example.id, example.group, example.question, list(example.choices), example.answer]
        text += [list(example.labels), example.prompt, example.prefix, example.item]
        digest.update(json.dumps(text, ensure_ascii=False).encode())
        if isinstance(example.image, Image.Image):
            digest.update(repr((example.image.size, example.image.mode)).encode() + example.image.tobytes())
        elif example.image is not None:
            digest.update(Path(example.image).read_bytes())
    return digest.hexdigest()
