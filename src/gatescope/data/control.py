"""The control of a study: the same examples with their questions removed (CULNIG, section 3.3).

What remains is the instruction, the options and the prefix. A neuron that scores as high on those helps with the task,
not with what was asked.
"""

from __future__ import annotations

import dataclasses

from gatescope.core.errors import GatescopeError
from gatescope.data import prompts
from gatescope.data.example import Example, Study


def control(study: Study) -> Study:
    """The study without its questions; ids stay, so that every example pairs with its control.

    Raises:
        GatescopeError: if a prompt does not contain its question verbatim.
    """
    return dataclasses.replace(
        study,
        name=f"{study.name}, questions removed",
        identification=[_without_question(example) for example in study.identification],
        evaluation=[_without_question(example) for example in study.evaluation],
    )


def _without_question(example: Example) -> Example:
    text = prompts.asked(example)
    if not example.question or example.question not in text:
        raise GatescopeError(
            f"Example {example.id!r}: its prompt does not contain its question {example.question!r}, which is to be removed "
            f"from it."
        )
    # Once only: an option may repeat the words of the question, and the options stay.
    return dataclasses.replace(example, question="", prompt=text.replace(example.question, "", 1).strip())
