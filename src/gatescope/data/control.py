"""The control of a study: the same examples with their questions removed (CULNIG, section 3.3).

What is left is the instruction, the options and the prefix. A neuron that scores as high there helps with the task, not
with what was asked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from gatescope.core.errors import GatescopeError
from gatescope.data import prompts
from gatescope.data.example import Example, Study


def control(study: Study) -> Study:
    """The study without its questions; ids stay, so that the two pair.

    Raises:
        GatescopeError: if a prompt does not contain its question as it stands.
    """
    name = f"{study.name}, questions removed"
    halves = (_without(study.identification), _without(study.evaluation))
    return dataclasses.replace(study, name=name, identification=halves[0], evaluation=halves[1])


def _without(examples: Sequence[Example]) -> list[Example]:
    return [dataclasses.replace(example, question="", prompt=_prompt(example)) for example in examples]


def _prompt(example: Example) -> str:
    text = prompts.asked(example)
    if not example.question or example.question not in text:
        raise GatescopeError(
            f"Example {example.id!r}: its prompt does not contain its question {example.question!r}, which is to be removed "
            f"from it."
        )
    return text.replace(example.question, "", 1).strip()
