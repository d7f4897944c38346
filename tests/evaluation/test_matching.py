"""Credit of short answers against its definition, written out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_mm.data.example import Example
from lora_mm.evaluation.reading import normalize_vqa
from tests.helpers.questions import compute_credit, make_question


def test_exact_match_accepts_any_reference_in_any_spelling() -> None:
    question = make_question("Red ball", "a ball")
    assert [compute_credit("exact", question, text) for text in ("red  BALL.", '"a ball"', "ball", "")] == [1, 1, 0, 0]


def test_an_example_without_references_is_compared_with_its_target() -> None:
    assert compute_credit("exact", Example("1", "What?", "Blue"), "blue.") == 1


def test_contains_looks_for_a_reference_anywhere_in_the_answer() -> None:
    question = make_question("42 km", "26 miles")
    assert compute_credit("contains", question, "The sign says 42 KM to Rome.") == 1
    assert compute_credit("contains", question, "some 26  miles\nnorth") == 1
    assert compute_credit("contains", question, "42 miles") == 0


annotators = st.lists(st.sampled_from(["red", "blue", "Red.", "a red"]), min_size=4, max_size=12)


@given(annotators, st.sampled_from(["red", "blue"]))
def test_vqa_accuracy_is_the_mean_over_all_subsets_that_leave_one_out(references: list[str], prediction: str) -> None:
    normalized = [normalize_vqa(text) for text in references]
    subsets = [normalized[:n] + normalized[n + 1 :] for n in range(len(normalized))]
    expected = sum(min(sum(text == prediction for text in subset) / 3, 1) for subset in subsets) / len(subsets)
    assert compute_credit("vqa", make_question(*references), prediction) == pytest.approx(expected)


@pytest.mark.parametrize(("agreeing", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_vqa_accuracy_of_ten_answers(agreeing: int, expected: float) -> None:
    references = ["red"] * agreeing + ["blue"] * (10 - agreeing)
    assert compute_credit("vqa", make_question(*references), "Red") == pytest.approx(expected)


def test_vqa_accuracy_of_one_answer_is_right_or_wrong() -> None:
    assert compute_credit("vqa", make_question("the two dogs"), "2 dogs") == 1
    assert compute_credit("vqa", make_question("the two dogs"), "dogs") == 0
