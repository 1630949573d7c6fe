"""Prompts are data: every wording of both papers in this one place, filled by `fill`.

`VQA` is the template of "Finding Culture-Sensitive Neurons in Vision-Language Models", Appendix A.3, Listing 1: the
options stand on one line, separated by spaces, and the full text of the option is the answer. `TEXT` is the same
without its reference to an image, for examples that have none; where options have labels, the label is asked for.

`WORDINGS` has four instructions for each benchmark of CULNIG (its Appendix A, Tables 5 to 11), to the byte those of its
published code (github.com/ynklab/CULNIG, commit 323d480), white space, dashes and quotes included; BLEND_CONTROL is its
control prompt. BLEnD's multiple-choice questions come with their own instructions, and so do its short-answer questions,
in a file; SHORT_ANSWER is for those who do not have the file, in our words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter, ascii_lowercase
from typing import TypedDict

from gatescope.data.example import Example

VQA = (
    "Answer the following multiple-choice question based on the image.\n"
    "Question: {question}\n"
    "Options: {options}\n"
    "Your response must be ONLY the text of the correct option from the list above, and nothing else."
)
# Derived from the published prompt rather than written again, so that the two cannot come apart.
TEXT = VQA.replace(" based on the image", "")
LABELLED = ("the text of the correct option from the list above", "the label of the correct option")


def multiple_choice(question: str, choices: Sequence[str], *, image: bool) -> str:
    """The prompt for one question.

    >>> multiple_choice("What is it?", ["red", "blue"], image=False).splitlines()[:3]
    ['Answer the following multiple-choice question.', 'Question: What is it?', 'Options: red blue']
    """
    return (VQA if image else TEXT).format(question=question, options=" ".join(choices))


def asked(example: Example) -> str:
    """What an example asks: its own prompt, or the paper's; with the labels before its options, one a line, where it has any.

    >>> asked(Example("1", "Arveni", "Which?", ("red", "blue"), "red", labels=("A", "B"))).splitlines()[1:5]
    ['Question: Which?', 'Options: ', 'A. red', 'B. blue']
    """
    if example.prompt:
        return example.prompt
    if not example.labels:
        return multiple_choice(example.question, example.choices, image=example.image is not None)
    options = [f"\n{label}. {choice}" for label, choice in zip(example.labels, example.choices, strict=True)]
    template = (VQA if example.image is not None else TEXT).replace(*LABELLED)
    return template.format(question=example.question, options="".join(options))


class Turns(TypedDict):
    """A filled wording: the user's turn and the system turn, as an Example takes them."""

    prompt: str
    system: str


@dataclass(frozen=True)
class Wording:
    """One way to put a benchmark's questions.

    Attributes:
        text: the user's turn, with a {field} for each part of the row, and {option_a}, {option_b}, ... for its options, or
            {options} for all of them with their labels.
        labels: what the options are called, in their order; empty where the row itself says.
        system: the system turn, if any; it has fields too.
        option, between: how {options} shows one of them, and what stands between two.
    """

    text: str
    labels: tuple[str, ...] = ()
    system: str = ""
    option: str = "{label}. {choice}"
    between: str = "\n"

    def fill(self, choices: Sequence[str] = (), labels: Sequence[str] = (), **fields: object) -> Turns:
        """The prompt and the system turn of one row.

        >>> Wording("Pick one. {question}\\n{options}", ("A", "B")).fill(["x", "{y}"], question="Which?")["prompt"]
        'Pick one. Which?\\nA. x\\nB. {y}'
        >>> Wording("{option_b} or {option_a}?").fill(["x", "y"])["prompt"]
        'y or x?'
        """
        names = labels or self.labels
        # Not strict: a wording may have no labels, and option_z is as far as single letters go.
        shown = [self.option.format(label=label, choice=choice) for label, choice in zip(names, choices, strict=False)]
        by_letter = {f"option_{letter}": choice for letter, choice in zip(ascii_lowercase, choices, strict=False)}
        # Choices go in as values, so that braces in them stay as they are.
        filled = self.text.format(options=self.between.join(shown), **by_letter, **fields)
        return Turns(prompt=filled, system=self.system.format(**fields))

    def asks_for(self) -> set[str]:
        """The fields of its two turns; {option_a}, {option_b}, ... count as {options}.

        >>> sorted(Wording("{question}\\n{option_a}", system="In {country}").asks_for())
        ['country', 'options', 'question']
        """
        fields = {name for _, name, _, _ in Formatter().parse(self.text + self.system) if name is not None}
        return {"options" if name.startswith("option_") else name for name in fields}


LETTERS, DIGITS = ("A", "B", "C", "D", "E"), ("1", "2", "3", "4")


def _instructed(ending: str, labels: tuple[str, ...], *instructions: str) -> tuple[Wording, ...]:
    return tuple(Wording(f"{instruction}\n{ending}", labels) for instruction in instructions)


def _listed(labels: tuple[str, ...]) -> str:
    return "\n".join(f"{label}. {{option_{letter}}}" for label, letter in zip(labels, ascii_lowercase, strict=False))


_QUESTION = "Question: {question}\n"
_STORY = "\ncountry: {country}\nStory: {story}\nOptions: {options}\n"
_PASSAGE = "\npassage: {passage}\nquestion: {question}\n"
_AS_SOMEONE = ("You are a person from {country}.", "Behave as if you are from {country}.")
_DIGIT = (
    "Please respond with a single digit only from {min_option} to {max_option}. Do not include any other text.",
    "Your answer should be a single digit between {min_option} and {max_option}. Do not add any other information.",
)

# The dashes and quotes are the published ones: a plain one in their place is another prompt.
WORDINGS: dict[str, tuple[Wording, ...]] = {
    "culturalbench": _instructed(
        _QUESTION + _listed(LETTERS[:4]),
        LETTERS[:4],
        "To answer the following multiple-choice question, you should choose one option only among A,B,C,D. Do not output "
        "any other things.",
        "Select only one option from A, B, C, or D to answer the following multiple-choice question. Do not output "
        "anything else.",
        "Choose one answer among A, B, C, and D for the question below. Do not include any explanation or extra content.",
        "You must answer the following question by selecting a single choice from A, B, C, or D. Do not write anything else.",
    ),
    "normad": tuple(
        Wording(f"{instruction}\n{_STORY}", DIGITS[:3], option="{label}: {choice}", between=", ")
        for instruction in (
            "You will be given a short story involving 2 or more characters about everyday situations. You will also be given "
            "a country of relevance. Read the story and determine if the character\u2019s behavior aligns with the social "
            "norms of that country.\n"
            "Only consider the provided context and country. Do not include any outside assumptions. Respond **only** with "
            "the number 1, 2, or 3.",
            "Read a short story describing everyday events with at least two characters. You'll also receive a country. Your "
            "task is to judge whether the character\u2019s actions are in line with the cultural expectations of that "
            "country.\n"
            "Use only the given story and cultural context; do not bring in any outside knowledge. Answer strictly with the "
            "number 1, 2, or 3.",
            "A short scenario featuring multiple characters will be provided, along with the cultural background of a "
            "specific country. Your role is to determine how well the behavior shown fits that country's social norms.\n"
            "Do not make inferences beyond the given content. Only respond with 1, 2, or 3.",
            "Given a short daily-life story involving multiple characters, along with the country, assess whether the "
            "behavior depicted fits within the social norms of that culture.\n"
            "Stick strictly to the given material without adding outside reasoning. Answer with just 1, 2, or 3.",
        )
    ),
    "worldvaluesbench": tuple(
        Wording(f"Question: {{question}}\n{digit}", system=someone) for someone in _AS_SOMEONE for digit in _DIGIT
    ),
    "countryrc": (
        *_instructed(
            f"{_PASSAGE}{_listed(LETTERS[:4])}\n",
            LETTERS[:4],
            "Read the passage carefully and choose a single option from A, B, C, D to answer the question. Do not output any "
            "other text.",
            "Read the following passage and question. Then, pick the most suitable answer from the four options. Only "
            "return the letter of your choice (A, B, C, or D).",
        ),
        *_instructed(
            f"{_PASSAGE}{_listed(DIGITS)}\n",
            DIGITS,
            "From the information provided in the passage, choose the best answer to the question. You must select a single "
            "choice: 1, 2, 3, or 4, and do not include any other text.",
            "Determine the correct answer to the question based on the content of the passage. Respond with one of the "
            "following: 1, 2, 3, or 4. No additional text is needed.",
        ),
    ),
    "commonsenseqa": _instructed(
        _QUESTION + _listed(LETTERS),
        LETTERS,
        "To answer the following multiple-choice question, you should choose one option only among A,B,C,D,E. Do not output "
        "any other things.",
        "Choose one answer among A, B, C, D, and E for the question below. Do not include any explanation or extra content.",
        "Pick one option only \u2014 A, B, C, D, or E \u2014 as the answer to the question below. Do not provide any "
        "additional text.",
        "Please choose one and only one of the following options (A, B, C, D, or E) to answer the question. Do not add "
        "anything else.",
    ),
    "qnli": tuple(
        Wording(text, ("0", "1"))
        for text in (
            "Determine whether the following context sentence contains enough information to answer the question.\n"
            "Question: {question}\nContext: {sentence}\n"
            "Respond with:\n0 if it does (entailment)\n1 if it does not (not_entailment)\nOnly answer with 0 or 1.",
            "Classify the relationship between the following question and context.\n"
            "Question: {question}\nContext: {sentence}\n"
            "Label as:\n0: entailment \u2013 the question is supported by the context\n"
            "1: not_entailment \u2013 the question is not supported by the context\nPlease respond with either 0 or 1 only.",
            "Read the question and the context.\nQuestion: {question}\nContext: {sentence}\n"
            "If the context provides enough evidence to answer the question, return 0 (entailment).\n"
            "If the context is insufficient or irrelevant, return 1 (not_entailment).\nYour answer should be either 0 or 1.",
            "Your task is to judge if the answer to the question can be found in the context.\n"
            "Question: {question}\nContext: {sentence}\n"
            "Answer 0 for entailment, and 1 for not_entailment. Do not include any other text.",
        )
    ),
    "mrpc": tuple(
        Wording(text, ("0", "1"))
        for text in (
            "Determine whether the following two sentences are paraphrases of each other in meaning.\n"
            "Sentence 1: {sentence1}\nSentence 2: {sentence2}\n"
            "Respond with:\n1 \u2013 if they are paraphrases\n0 \u2013 if they are not paraphrases\nOnly answer with 0 or 1.",
            "You are given two sentences. Judge whether they express the same meaning, even if the wording is different.\n"
            "Sentence 1: {sentence1}\nSentence 2: {sentence2}\n"
            "Answer with 1 if they are paraphrases, and 0 if they are not.\nPlease respond using only 0 or 1.",
            "A paraphrase means that two sentences convey the same information using different words or structure.\n"
            "Sentence 1: {sentence1}\nSentence 2: {sentence2}\n"
            "Decide whether these sentences are paraphrases.\nReturn 1 for paraphrase, 0 for not paraphrase.\n"
            "Your answer must be either 0 or 1.",
            "Compare the following two sentences. If they convey the same meaning regardless of differences in wording, "
            "classify them as paraphrases.\nSentence 1: {sentence1}\nSentence 2: {sentence2}\n"
            "Respond with:\n1 \u2013 if they are semantically equivalent (paraphrase)\n"
            "0 \u2013 if they are not semantically equivalent\nOnly use 0 or 1 as your answer.",
        )
    ),
}
BLEND_CONTROL = Wording(
    "Without any explanation, choose only one from the given alphabet choices(e.g., A, B, C). Provide as JSON format: "
    '{{"answer_choice":""}}\n\n{options}\n\nAnswer:'
)
SHORT_ANSWER = Wording("{question}\nGive one short answer, without any explanation.")
BLEND_PREFIX = '{"answer_choice":"'
