"""Parsing of generated answers; nothing is guessed."""

import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lora_mm.evaluation.reading import normalize, normalize_vqa, read_choice, read_yes_no


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Red\n  Ball. ", "red ball"),
        ('"Red"', "red"),
        ("“Rot”.", "rot"),
        ("ＡＢ①", "ab1"),
        ("Straße", "strasse"),
        ("3.5", "3.5"),
        ("...", "..."),
        ("", ""),
    ],
)
def test_normalize(text: str, expected: str) -> None:
    assert normalize(text) == expected


@given(st.text())
def test_normalize_gives_one_spelling(text: str) -> None:
    assume(any(letter.isalnum() for letter in unicodedata.normalize("NFKC", text)))
    assert normalize(text) == normalize(f' "{text}". ')
    assert "  " not in normalize(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The two dogs", "2 dogs"),
        ("A  red ball.", "red ball"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("u.s.", "us"),
        ("red/blue", "red blue"),
        ("red , blue", "red blue"),
        ("isnt", "isn't"),
        ("it's", "it's"),
        ("NONE", "0"),
        ("well", "well"),
        ("ill", "ill"),
        ("t-shirt", "t shirt"),
        ("", ""),
    ],
)
def test_normalize_vqa(text: str, expected: str) -> None:
    assert normalize_vqa(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes", True),
        ("yes, there is no doubt", True),
        ("No.", False),
        ("NO, yes is what you want", False),
        ("I think yes", True),
        ("There is no dog", False),
        ("yes or no", True),
        ("Could be yes, could be no", None),
        ("There is a dog", None),
        ("not", None),
        ("nothing", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_read_yes_no(text: str, expected: bool | None) -> None:
    assert read_yes_no(text) is expected


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("the red ball", 0),
        ("The Red Ball.", 0),
        ("the red ball, since it rolls", 0),
        ("the red", None),
        ("10", 2),
        ("10 m", 3),
        ("1", 1),
        ("100", None),
        ("", None),
        ("it is the red ball", None),
    ],
)
def test_a_choice_is_what_the_answer_begins_with(text: str, index: int | None) -> None:
    assert read_choice(text, ("the red ball", "1", "10", "10 m")) == index


def test_letters_and_equal_choices() -> None:
    letters = tuple(f"The answer is {letter}." for letter in "ABC")
    assert read_choice("The answer is B. BECAUSE: so.", letters) == 1
    assert read_choice("The answer is D.", letters) is None
    assert read_choice("B", ("A", "B")) == 1
    assert read_choice("Both", ("A", "B")) is None
    assert read_choice("red", ("red", "Red.")) is None, "which of the two?"


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5))
def test_a_candidate_names_itself_unless_another_is_spelt_alike(candidates: list[str]) -> None:
    for index, text in enumerate(candidates):
        alike = [n for n, other in enumerate(candidates) if normalize(other) == normalize(text)]
        expected = index if normalize(text) and len(alike) == 1 else None
        assert read_choice(text, candidates) == expected
