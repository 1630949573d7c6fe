"""Prompts are data: one template a paper, filled in one place.

`VQA` is the template of "Finding Culture-Sensitive Neurons in Vision-Language Models", Appendix A.3, Listing 1:
the options stand on one line, separated by spaces, and the full text of the option is the answer. `TEXT` is the
same without its reference to an image, for examples that have none.
"""

from __future__ import annotations

from collections.abc import Sequence

VQA = (
    "Answer the following multiple-choice question based on the image.\n"
    "Question: {question}\n"
    "Options: {options}\n"
    "Your response must be ONLY the text of the correct option from the list above, and nothing else."
)
TEXT = VQA.replace(" based on the image", "")


def multiple_choice(question: str, choices: Sequence[str], *, image: bool) -> str:
    """The prompt for one question.

    >>> multiple_choice("What is it?", ["red", "blue"], image=False).splitlines()[:3]
    ['Answer the following multiple-choice question.', 'Question: What is it?', 'Options: red blue']
    """
    return (VQA if image else TEXT).format(question=question, options=" ".join(choices))
