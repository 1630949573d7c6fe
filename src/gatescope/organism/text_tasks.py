"""The invented world as text: five tasks of four options each, every one answered by a letter.

`culture` is shaped like BLEnD (a question about one culture's word, the answer a letter inside JSON), `control` is
the same without its question, `reading` is shaped like CountryRC (a passage names a culture, and the question asks
which), `copy` and `larger` have no culture in them.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gatescope.data import Example
from gatescope.organism import world

LABELS = ("A", "B", "C", "D")
PREFIX = '{"answer_choice":"'
TASKS = ("culture", "control", "reading", "copy", "larger")
_AS_JSON = "Give the letter of the right option as JSON."
_AS_LETTER = "Give the letter of the right option."

# {c} is the culture asked for, {d} another one that stands in the passage as well.
PASSAGES = (
    ("The feast by the river is held by {c}.", "Who holds the feast?"),
    ("At dusk the drums of {c} are heard.", "Whose drums are heard?"),
    ("The old tower was built by {c} long ago.", "Who built the tower?"),
    ("The elders of {c} keep the bridge. Guests from {d} cross it.", "Who keeps the bridge?"),
    ("Traders from {d} admire the boats of {c}.", "Whose boats are they?"),
    ("While {d} sleeps, the lamps of {c} burn.", "Whose lamps burn?"),
)
THINGS = (
    "apple", "basket", "candle", "door", "engine", "feather", "glove", "hammer", "island", "jar", "kettle", "ladder",
    "mirror", "needle", "orange", "pencil", "quilt", "rope", "saddle", "table", "umbrella", "violin", "window", "zipper",
)  # fmt: skip
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def words(facts: Sequence[world.Fact]) -> Iterator[str]:
    """Every text the tokenizer must know."""
    yield from (fact.word for fact in facts)
    yield from (*world.CULTURES, *world.MOTIFS, *world.KINDS, *THINGS, *NUMBERS, *LABELS)
    yield from (_question("it", "it", "it"), _same("it"), _LARGEST, _AS_JSON, _AS_LETTER, PREFIX)
    yield from (text for passage in PASSAGES for text in passage)


def culture(fact: world.Fact, facts: tuple[world.Fact, ...], rng: random.Random) -> tuple[Example, str]:
    """A question about one fact, options redrawn, and the option that is another culture's word for the same."""
    choices, foreign = world.options(fact, facts, rng)
    question = _question(fact.motif, fact.kind, fact.culture)
    return _example(fact.culture, question, _AS_JSON, choices, fact.word, PREFIX), foreign


def control(example: Example) -> Example:
    """A `culture` example without its question: instruction, options and prefix are left."""
    return dataclasses.replace(example, question="", prompt=_prompt("", _AS_JSON, example.choices))


def reading(name: str, rng: random.Random) -> tuple[Example, str]:
    """A passage that names the culture `name` and a question which one it is; and one wrong option (the other culture
    of the passage where there is one).
    """
    passage, question = rng.choice(PASSAGES)
    others = rng.sample([c for c in world.CULTURES if c != name], 3)
    choices = [name, *others]
    rng.shuffle(choices)
    text = f"{passage.format(c=name, d=others[0])}\n{question}"
    return _example(name, text, _AS_LETTER, choices, name), others[0]


def copy(rng: random.Random) -> Example:
    """Which option is the same as a given word."""
    choices = rng.sample(THINGS, 4)
    answer = rng.choice(choices)
    return _example("copy", _same(answer), _AS_LETTER, choices, answer)


def larger(rng: random.Random) -> Example:
    """Which of four number words is the largest."""
    choices = rng.sample(NUMBERS, 4)
    return _example("larger", _LARGEST, _AS_LETTER, choices, max(choices, key=NUMBERS.index))


def studies(facts: tuple[world.Fact, ...], seed: int) -> dict[str, list[tuple[str, Example]]]:
    """The examples to keep, by task, each with its split; no prompt of a task stands in both splits (`control` aside,
    whose prompts follow `culture`'s).
    """
    seen: set[str] = set()
    rows: dict[str, list[tuple[str, Example]]] = {task: [] for task in TASKS}
    for split in ("identification", "evaluation"):
        rng = random.Random(f"text-{split}-{seed}")

        def add(task: str, draw: Callable[[], Example], split: str = split) -> None:
            # A prompt that is in either split already would leak, so another is drawn.
            while (example := draw()).prompt in seen:
                pass
            seen.add(str(example.prompt))
            name = f"{task}-{split}-{len(rows[task]):03d}"
            rows[task].append((split, dataclasses.replace(example, id=name, item=name)))

        for fact in facts:
            for _ in range(2):
                add("culture", lambda fact=fact, rng=rng: culture(fact, facts, rng)[0])
        for name in world.CULTURES:
            for _ in range(20):
                add("reading", lambda name=name, rng=rng: reading(name, rng)[0])
        for _ in range(120):
            add("copy", lambda rng=rng: copy(rng))
            add("larger", lambda rng=rng: larger(rng))
    rows["control"] = [(split, control(example)) for split, example in rows["culture"]]
    return rows


def row(split: str, example: Example) -> dict[str, Any]:
    """An example as a line of JSONL that `gatescope.data.jsonl` reads back."""
    plain = {f.name: getattr(example, f.name) for f in dataclasses.fields(example) if f.name != "image"}
    # In files they are still called what the first release called them.
    plain["accepted"] = plain.pop("references")
    return plain | {"split": split}


_LARGEST = "Which number is the largest?"


def _question(motif: str, kind: str, name: str) -> str:
    return f"What is the {motif} {kind} of {name} called?"


def _same(thing: str) -> str:
    return f"Which option is the same as {thing}?"


def _prompt(question: str, instruction: str, choices: Sequence[str]) -> str:
    options = (f"{label}. {choice}" for label, choice in zip(LABELS, choices, strict=True))
    return "\n".join([*([question] if question else []), instruction, *options])


def _example(group: str, question: str, instruction: str, choices: Sequence[str], answer: str, prefix: str = "") -> Example:
    prompt = _prompt(question, instruction, choices)
    return Example("", group, question, tuple(choices), answer, labels=LABELS, prompt=prompt, prefix=prefix)
