"""Short answers read out of generated text, case by case, worked out by hand."""

# ruff: noqa: RUF001

from __future__ import annotations

import sys

import pytest

from gatescope.core.errors import GatescopeError
from gatescope.traces.readouts.short import lemmatizer, read_short, words


@pytest.mark.parametrize(
    ("language", "text", "references", "found", "lemmatised"),
    [
        # English
        ("en", "The answer is: **Blimb Pie**!", ["blimb pie"], "blimb pie", False),
        ("en", "Blimb-\n  pie.", ["blimb pie"], "blimb pie", False),
        ("en", "Blimb and pie", ["blimb pie"], None, False),  # one after the other only
        ("en", "a pineapple", ["apple"], None, False),  # whole words only
        ("en", "Two boats were there", ["kite", "boat"], "boat", True),
        ("en", "a kite or a boat", ["boat", "kite"], "boat", False),  # the first accepted, not the first said
        ("en", "boats, a kite", ["boat", "kite"], "kite", False),  # as it stands goes before lemmatised
        ("en", "30", ["3"], None, False),
        ("en", "3.5", ["5"], None, False),
        ("en", "at 18:30.", ["18:30"], "18:30", False),
        ("en", "on 12/25", ["25"], None, False),
        ("en", "３", ["3"], "3", False),  # full width
        ("en", "anything", ["?!", ""], None, False),  # nothing is left of the answer
        ("en", "", ["kite"], None, False),
        ("en-GB", "Kite", ["kite"], "kite", False),
        # Spanish: plato, platos; comer, comió
        ("es", "Los platos.", ["el plato"], "el plato", True),
        ("es", "platos", ["plato"], "plato", True),
        ("es", "¡PLÁTANO!", ["plátano"], "plátano", False),
        ("es", "platano", ["plátano"], None, False),  # accents count
        ("es", "plata", ["plato"], None, False),
        # Greek: a word that ends in a final sigma is found by its lemma
        ("el", "Οι σπανακόπιτες", ["σπανακόπιτα"], "σπανακόπιτα", True),
        ("el", "ΨΩΜΙΆ", ["ψωμί"], "ψωμί", True),
        # Persian: joiners are spelling, digits are digits
        ("fa", "کتاب‌ها", ["کتاب"], "کتاب", True),
        ("fa", "۳ سال", ["3"], "3", False),
        # Indonesian
        ("id", "Mereka makan nasi.", ["nasi"], "nasi", False),
        # Chinese: characters, with no regard to words
        ("zh", "我想是风筝。", ["风筝"], "风筝", False),
        ("zh", "我想是风 筝", ["风筝"], "风筝", False),
        ("zh", "风和筝", ["风筝"], None, False),
        ("zh", "13岁", ["3"], None, False),
        ("zh", "大约3岁", ["3"], "3", False),
        ("zh", "30", ["3"], None, False),
        ("zh", "是 1 3", ["13"], None, False),  # two numbers
        ("zh_TW", "風箏！", ["風箏"], "風箏", False),
        ("ja", "それは凧です", ["凧"], "凧", False),
        ("th", "มันคือว่าว", ["ว่าว"], "ว่าว", False),
        # Korean: particles and the copula may be attached, other words may not
        ("ko", "정답은 연입니다.", ["연"], "연", False),
        ("ko", "아이들에게는 연을 줍니다", ["아이"], "아이", False),  # 들, 에게, 는
        ("ko", "자연이다", ["연"], None, False),
        ("ko", "연필", ["연"], None, False),
        ("ko", "된장 찌개를", ["된장찌개"], "된장찌개", False),
        ("ko", "된장찌개", ["된장 찌개"], "된장 찌개", False),
        ("ko", "3살입니다", ["3"], "3", False),
        ("ko", "13살", ["3"], None, False),
        ("ko", "30살", ["3"], None, False),
        # not in simplemma: whole words as they are
        ("ha", "Ina son tuwo.", ["tuwo"], "tuwo", False),
        ("ha", "tuwon", ["tuwo"], None, False),
        ("am", "እንጀራ፡ነው።", ["እንጀራ"], "እንጀራ", False),
        ("as", "৩।", ["3"], "3", False),
        ("az", "İNƏK BALIQ", ["inək balıq"], "inək balıq", False),  # dotted and dotless i
    ],
)
def test_reading(language, text, references, found, lemmatised):
    reading = read_short(text, references, language)
    assert reading.correct == (found is not None)
    assert reading.fallback == (lemmatised or found is None)
    if found is not None:
        assert reading.predicted == found


def test_what_was_not_found_is_given_normalised():
    assert read_short("  A “Frimble”,\nor TWO ", ["kite"], "en").predicted == "a frimble or two"


def test_the_accepted_answer_is_given_as_it_stands():
    assert read_short("blimb pie", ["Blimb-Pie"], "en").predicted == "Blimb-Pie"


def test_normalising_by_hand():
    assert words("At 18:30, 12/25: C++ & $5 – «Σας»😀", "en") == ["at", "18:30", "12/25", "c++", "$5", "σας"]
    assert words("\u200fabc\ufeff d\u00ade", "ar") == ["abc", "de"]  # marks no one sees
    assert words(":3 3: 1.", "en") == ["3", "3", "1"]


def test_a_language_simplemma_lacks_has_no_lemmatizer():
    assert lemmatizer("su") is None and lemmatizer("am") is None
    spanish = lemmatizer("es")
    assert spanish is not None and spanish("platos") == "plato"


def test_a_language_must_be_a_code():
    with pytest.raises(
        GatescopeError, match=r"language of a short answer is 'Spanish'; it must be an ISO 639 code, such as 'es'"
    ):
        read_short("x", ["y"], "Spanish")


def test_a_missing_lemmatizer_is_said_even_where_the_answer_would_have_been_found(monkeypatch):
    lemmatizer.cache_clear()
    monkeypatch.setitem(sys.modules, "simplemma", None)
    with pytest.raises(GatescopeError, match=r"pip install gatescope\[answers\]"):
        read_short("kite", ["kite"], "en")
    assert read_short("风筝", ["风筝"], "zh").correct  # not needed there
    assert read_short("연을", ["연"], "ko").correct
    lemmatizer.cache_clear()


def test_a_long_text_is_read_once_through():
    text = "blimb " * 20_000
    assert not read_short(text, ["pie", "blimbo"], "ha").correct
    assert not read_short("风" * 20_000, ["风筝"], "zh").correct
    assert not read_short("연" * 20_000, ["연필"], "ko").correct
