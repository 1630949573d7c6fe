"""Example: one question about one group, with or without a picture; or a passage of plain text. Study: two lists of them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from gatescope.core import foreign
from gatescope.core.answers import ALL, clearly_distinct, normalise
from gatescope.core.errors import GatescopeError
from gatescope.core.renamed import rename_fields
from gatescope.data import image as shown
from gatescope.data.image import Encoded as Encoded
from gatescope.data.image import Picture


@dataclass(frozen=True)
class Example:
    """One question, with choices or with accepted short answers; or a passage, with neither.

    Attributes:
        id: unique within a study.
        group: the culture, language or domain it belongs to.
        question: the question alone; the prompt is built round it.
        choices: the options, full text; none if the answer is a short one, or if there is none.
        answer: the right option, as it stands in `choices`; the first of `references` where there are no choices.
        image: a file, a PIL image, the bytes of a file (Encoded), or None.
        labels: what stands for each choice (A, B, ...), in their order; empty if the answer is the choice's text.
        prompt: the user's whole turn, where it is not the paper's multiple-choice prompt.
        prefix: what the model's answer is made to begin with, such as `{"answer_choice":"`.
        item: what the example is a variant of, where several share one; the id if empty.
        system: the system turn, where the model's chat template has one.
        references: short answers that count as right.
        chat: False for a passage: the model reads it as it stands, without a chat template.
        facts: what else is known about it (language, category, licence ...), for a reader and for read-outs.

    Raises:
        GatescopeError: if its group is called "*", there is only one choice, the answer is not among them, a choice is blank or
            repeated (without labels also if two differ in case and white space alone, which Algorithm 1 cannot tell apart),
            there is not one label for each choice, a label is blank or repeated, or a passage has no text.
    """

    id: str
    group: str
    question: str
    choices: tuple[str, ...]
    answer: str
    image: Picture | None = None
    labels: tuple[str, ...] = ()
    prompt: str | None = None
    prefix: str = ""
    item: str = ""
    system: str = ""
    references: tuple[str, ...] = ()
    chat: bool = True
    facts: Mapping[str, str] = field(default_factory=dict[str, str], hash=False)

    def __post_init__(self) -> None:
        if self.group == ALL:
            raise GatescopeError(
                f"Example {self.id!r}: its group is {ALL!r}, which stands for all groups together. Give it another name."
            )
        if not self.chat:
            self._check_passage()
            return
        if self.labels and len(self.labels) != len(self.choices):
            raise GatescopeError(f"Example {self.id!r} has {len(self.labels)} labels for {len(self.choices)} choices.")
        if self.choices or not self.references:
            self._check_choices()
        elif self.answer not in self.references:
            raise GatescopeError(f"Example {self.id!r}: the answer {self.answer!r} is not among those accepted.")

    def _check_passage(self) -> None:
        if not self.prompt or self.choices or self.references:
            raise GatescopeError(f"Example {self.id!r} is a passage: it needs a text in `prompt`, and no choices.")

    def _check_choices(self) -> None:
        if len(self.choices) < 2:
            raise GatescopeError(f"Example {self.id!r} has {len(self.choices)} choices; at least two are needed.")
        if self.answer not in self.choices:
            raise GatescopeError(
                f"Example {self.id!r}: the answer {self.answer!r} is not among its choices {list(self.choices)}. "
                f"It must be the full text of one of them."
            )
        clear = clearly_distinct(self.choices)
        if not clear:
            self._check_distinct("choices", self.choices)
        if self.labels:
            self._check_distinct("labels", self.labels)
        # Where there are labels, the label is read, and the choices may differ in capitals alone (5 mW, 5 MW).
        elif not clear and len(set(map(normalise, self.choices))) < len(self.choices):
            raise GatescopeError(
                f"Example {self.id!r}: two of its choices {list(self.choices)} differ in case and white space alone, and an "
                f"answer is read without these. Give it labels, such as ['A', 'B'], or choices that differ."
            )

    def _check_distinct(self, name: str, texts: Sequence[str]) -> None:
        if not all(map(str.strip, texts)):
            raise GatescopeError(
                f"Example {self.id!r}: one of its {name} {list(texts)} is blank; give it a text, or leave it out."
            )
        if len(set(texts)) == len(texts):
            return
        for text, count in Counter(texts).items():
            if count > 1:
                raise GatescopeError(
                    f"Example {self.id!r}: {text!r} appears twice among its {name} {list(texts)}; each must appear only once."
                )

    @classmethod
    def plain(cls, id: str, group: str, question: str, choices: tuple[str, ...], answer: str) -> Example:
        """An example that has nothing else, checked like any other and equal to it; made in half of the time."""
        example = cls.__new__(cls)
        # What is not given is read from the class, whose attributes are the defaults.
        given = (("id", id), ("group", group), ("question", question), ("choices", choices), ("answer", answer), ("facts", {}))
        for name, value in given:
            object.__setattr__(example, name, value)
        example.__post_init__()
        return example

    @classmethod
    def passage(cls, id: str, group: str, text: str, **fields: Any) -> Example:
        """Plain text to read, with no question to answer; record it with `readout="none"`.

        >>> Example.passage("1", "Arveni", "The drums are heard at dusk.").chat
        False
        """
        return cls(id, group, "", (), "", prompt=text, chat=False, **fields)

    @property
    def label(self) -> str:
        """What the right answer is called: its label, or its text where there are no labels."""
        return self.labels[self.choices.index(self.answer)] if self.labels else self.answer

    def picture_size(self) -> tuple[int, int]:
        """Width and height of the picture as it is shown, upright; from its header, undecoded.

        Raises:
            ValueError: if there is none, or its header cannot be read.
        """
        if isinstance(self.image, Image.Image):
            return shown.size(self.image)
        if self.image is None:
            raise ValueError(f"Example {self.id!r} has no picture.")
        try:
            with shown.opened(self.image) as image:
                return shown.size(image)
        except Exception as error:  # each of Pillow's formats has its own for a damaged file
            raise ValueError(str(error)) from error

    def picture(self) -> Image.Image | None:
        """The picture, decoded now, upright, in RGB (see `gatescope.data.image`).

        Raises:
            GatescopeError: if it cannot be opened or decoded, is no file (a pipe, a device), or its brightness has no range.
        """
        if self.image is None:
            return None
        try:
            if isinstance(self.image, Image.Image):
                return shown.rgb(self.image)
            with shown.opened(self.image) as image:
                return shown.rgb(image)
        except Exception as error:  # each of Pillow's formats has its own for a damaged file
            raise GatescopeError(f"Example {self.id!r}: the image {self.image} cannot be opened: {error}.") from error


rename_fields(Example, accepted="references")


@dataclass(frozen=True)
class Study:
    """What a study runs on.

    Attributes:
        name: what it is called in tables and manifests.
        identification: the examples that neurons are found on.
        evaluation: the examples that their effect is measured on.
        notes: how the split was made, and whatever else a reader must know.
        readout: how its answers are best read (see `gatescope.traces.readouts`).
    """

    name: str
    identification: Sequence[Example]
    evaluation: Sequence[Example]
    notes: dict[str, str] = field(default_factory=dict[str, str])
    readout: str = "generate"


def listed(examples: Any) -> Sequence[Example]:
    """Examples as they were given.

    Raises:
        GatescopeError: if it is anything but a list (or another sequence) of Examples, saying what was given and how to
            turn it into one.
    """
    if isinstance(examples, Study):
        raise GatescopeError(
            f"{examples.name!r} is a study, of two halves; give one of them: study.identification to find neurons on, "
            f"study.evaluation to measure their effect on."
        )
    # A string is a sequence too, of its letters.
    if isinstance(examples, str) or not isinstance(examples, Sequence):
        raise GatescopeError(f"Examples must be a list, and {_what(examples)} was given. {_instead(examples)}")
    for number, example in enumerate(examples):
        if not isinstance(example, Example):
            advice = _OF_TEXTS if isinstance(example, str) else _OF_ROWS.format(rows="rows")
            raise GatescopeError(f"Item {number} of the examples is {_what(example)}, and each must be an Example. {advice}")
    return examples


_OF_ROWS = (
    "Make one of each row: [Example(row['id'], row['group'], row['question'], tuple(row['choices']), row['answer']) for row in "
    "{rows}]."
)
_OF_TEXTS = "Make one of each text: [Example.passage(id, group, text)], recorded with readout='none' and only_correct=False."


def _what(given: Any) -> str:
    """A value as a message names it: its type, with the package that defines it; a text by its beginning.

    >>> _what("Where is it?"), _what({}), _what(Path("x.jsonl"))
    ("the text 'Where is it?'", 'a dict', "a Path ('x.jsonl')")
    """
    if given is None:
        return "None"
    if isinstance(given, str):
        return f"the text {given[:60]!r}"
    if isinstance(given, Path):
        return f"a Path ({str(given)!r})"
    kind: type = type(given)
    article = "an" if kind.__name__[0] in "AEIOUaeiou" else "a"
    package = kind.__module__.partition(".")[0]
    # "a DataFrame" says little: pandas and polars both have one.
    return f"{article} {kind.__name__}" + ("" if package in ("builtins", "gatescope") else f" ({package})")


def _instead(given: Any) -> str:
    """How to turn something else into a list of Examples."""
    if isinstance(given, Example):
        return "Put it in a list: [example]."
    if isinstance(given, str | Path):
        return f"Questions in a file: gatescope.data.jsonl(path), and one of its halves, such as .evaluation. {_OF_TEXTS}"
    if isinstance(given, Mapping):
        return "Give one list; each Example says its own group."
    if hasattr(given, "columns"):  # a data frame: polars has to_dicts, pandas to_dict
        return _OF_ROWS.format(rows="frame.to_dicts()" if hasattr(given, "to_dicts") else "frame.to_dict('records')")
    if hasattr(given, "column_names"):  # a table of Hugging Face datasets
        return _OF_ROWS.format(rows="dataset")
    return "Give list(...) of its Examples." if hasattr(given, "__iter__") else "Each is a gatescope.data.Example."


def readout_of(examples: Sequence[Example]) -> str:
    """The read-out that fits what every example has, for callers that did not name one.

    >>> readout_of([Example("1", "Arveni", "Which?", ("a", "b"), "a", labels=("A", "B"))])
    'label'
    """
    if all(not example.chat for example in examples):
        return "none"
    if all(example.references for example in examples):
        return "short"
    return "label" if all(example.labels for example in examples) else "generate"


def fingerprint(examples: Sequence[Example]) -> str:
    """SHA-256 of everything in the examples that can change a result; pictures by their bytes, and by how they are shown.

    Raises:
        GatescopeError: for a text that is none (half a pair of surrogates), or a picture that cannot be read.
    """
    digest = hashlib.sha256()
    for example in examples:
        # The order of these is part of the digest: a run checks it before it is continued.
        content: list[object] = [example.id, example.group, example.question, list(example.choices), example.answer]
        content += [list(example.labels), example.prompt, example.prefix, example.item, example.system]
        content += [list(example.references), example.chat, sorted(example.facts.items())]
        digest.update(foreign.encoded(content, f"Example {example.id!r}"))
        digest.update(_picture_bytes(example))
    return digest.hexdigest()


def _picture_bytes(example: Example) -> bytes:
    """What there is of a picture; and how it is shown, where that is not as it lies: a run must not mix the two."""
    image = example.image
    if image is None:
        return b""
    if isinstance(image, Image.Image):
        return repr((image.size, image.mode)).encode() + image.tobytes() + shown.treatment(image)
    try:
        return shown.content(image)
    except OSError as error:
        raise GatescopeError(f"Example {example.id!r}: the image {image} cannot be opened: {error}.") from error
