"""Paired tests: exact where answers are right or wrong, and only on the same questions."""

from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_mm.errors import InputError
from lora_mm.evaluation.answers import Answer
from lora_mm.evaluation.compare import compare_answers, compute_mcnemar_p


def answers(credits: list[float | None]) -> list[Answer]:
    return [Answer(str(n), "predicted", ("expected",), credit) for n, credit in enumerate(credits)]


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_the_two_sided_sign_test(a: int, b: int) -> None:
    tail = sum(comb(a + b, k) for k in range(a + b + 1) if k <= min(a, b) or k >= max(a, b))
    assert compute_mcnemar_p(a, b) == pytest.approx(min(1, tail / 2 ** (a + b)))
    assert compute_mcnemar_p(a, b) == compute_mcnemar_p(b, a)
    assert 0 < compute_mcnemar_p(a, b) <= 1


def test_mcnemar_of_many_is_a_number() -> None:
    assert compute_mcnemar_p(5, 15) == pytest.approx(0.04139, abs=1e-5)
    assert compute_mcnemar_p(6000, 7000) < 1e-15
    assert compute_mcnemar_p(0, 0) == 1


def test_right_and_wrong_are_counted_and_tested_exactly() -> None:
    first = answers([1, 1, 1, 1, 1, 1, 0, 0, None, 1])
    second = answers([0, 0, 0, 0, 0, 0, 1, 0, 0, 1])
    found = compare_answers(("a", "b"), first, second)
    assert (found.both, found.first, found.second, found.neither) == (1, 6, 1, 2)
    assert found.test == "exact McNemar"
    assert found.p == compute_mcnemar_p(6, 1)
    assert found.difference == pytest.approx(50)
    assert found.interval[0] < 50 < found.interval[1]
    assert "a minus b: +50.00 points" in found.sentences()[0]
    assert found.as_dict()["right"] == {"both": 1, "only_first": 6, "only_second": 1, "neither": 2}


def test_partial_credit_is_tested_by_a_paired_bootstrap() -> None:
    alike = compare_answers(("a", "b"), answers([0.3, 0.6] * 30), answers([0.6, 0.3] * 30))
    assert alike.test == "paired bootstrap"
    assert alike.p > 0.5
    better = compare_answers(("a", "b"), answers([0.9] * 60), answers([0.3, 0.9] * 30))
    assert better.p < 0.001
    assert better.interval[0] > 0


def test_a_model_against_itself_differs_in_nothing() -> None:
    same = answers([1, 0, 1, None])
    found = compare_answers(("a", "b"), same, same)
    assert (found.difference, found.interval, found.p) == (0, (0, 0), 1)
    shares = answers([0.3, 0.9])
    assert compare_answers(("a", "b"), shares, shares).p == 1


def test_the_order_of_answers_does_not_matter_but_the_questions_must_be_the_same() -> None:
    first, second = answers([1, 0, 1]), answers([0, 0, 1])
    assert compare_answers(("a", "b"), first, second[::-1]) == compare_answers(("a", "b"), first, second)
    with pytest.raises(InputError, match="different questions: 1 differ, for example 2"):
        compare_answers(("a", "b"), first, second[:2])
