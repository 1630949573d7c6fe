"""Algorithm 1, case by case, worked out by hand."""

from __future__ import annotations

import pytest

from gatescope.core.answers import Reading, read

CHOICES = ["Kite", "Boat", "Dark Red", "red", "C++", "50%", "10", "10 meters"]


@pytest.mark.parametrize(
    ("text", "answer", "predicted", "correct"),
    [
        ("Boat", "Boat", "boat", True),
        ("  BOAT \n", "Boat", "boat", True),
        ("Boat", "Kite", "boat", False),
        ("Kite is plausible, but the answer is: boat.", "Boat", "boat", True),  # the last one mentioned
        ("boat, not a kite", "Boat", "kite", False),  # last one mentioned, as printed
        ("dark red", "Dark Red", "red", False),  # "red" starts later: literal
        ("I would say C++", "C++", "c++", True),  # \b would never match a non-word edge
        ("50%", "50%", "50%", True),
        ("10 meters", "10", "10", True),  # both start at 0: the first listed wins
        ("10 meters", "10 meters", "10", False),
        ("the boats", "Boat", "boat", True),  # no whole word: fallback finds the true answer inside
        ("the boats", "Kite", "the boats", False),  # and nothing else
        ("", "Boat", "", False),
        ("dark\n   red!", "red", "red", True),
    ],
)
def test_reading(text, answer, predicted, correct):
    reading = read(text, CHOICES, answer)
    assert (reading.predicted, reading.correct) == (predicted, correct)


def test_a_choice_that_ends_or_begins_another_word_is_not_found_in_it():
    for text, choice in (("a grape", "ape"), ("two boats", "boat")):
        assert read(text, [choice, "kite"], "kite") == Reading(text, False, fallback=True)
    assert read("a grape, an ape", ["ape", "kite"], "ape") == Reading("ape", True, fallback=False)


def test_the_fallback_is_told():
    assert read("boats", ["boat", "kite"], "boat") == Reading("boat", True, fallback=True)
    assert read("boat", ["boat", "kite"], "boat") == Reading("boat", True, fallback=False)
    assert read("anything", ["boat", "kite"], "") == Reading("anything", False, fallback=True)
