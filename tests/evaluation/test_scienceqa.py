"""What the official columns count, what is an answer, and results files. ``tests/parity`` compares with the authors."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_mm.data.scienceqa import Problem, format_answer, load_problems, to_example
from lora_mm.errors import InputError, LoraMMError
from lora_mm.evaluation.scienceqa import (
    OFFICIAL_COLUMNS,
    Results,
    parse_answer,
    parse_choice,
    parse_letter,
    read_results,
    score_problems,
    score_random_choice,
    write_results,
)
from tests.helpers.sample import SAMPLE, needs_sample

SUBJECTS = ("natural science", "social science", "language science")


def problem(id: str = "1", **changes: Any) -> Problem:
    texts = dict.fromkeys(("caption", "task", "topic", "category", "skill", "lecture", "solution", "hint"), "")
    row = {"id": id, "question": "?", "choices": ("a", "b"), "answer": 0, "has_image": False, "image": None}
    return Problem(**{**texts, **row, "grade": "grade1", "subject": SUBJECTS[0], "split": "test", **changes})


@st.composite
def exams(draw: st.DrawFn) -> tuple[list[Problem], dict[str, int | None]]:
    """Problems and complete predictions, unparsed and impossible ones among them."""
    problems = []
    for n in range(draw(st.integers(1, 12))):
        count = draw(st.integers(2, 5))
        problems.append(
            problem(
                str(n),
                choices=tuple("abcde"[:count]),
                answer=draw(st.integers(0, count - 1)),
                hint=draw(st.sampled_from(["", "a hint"])),
                has_image=draw(st.booleans()),
                grade=f"grade{draw(st.integers(1, 12))}",
                subject=draw(st.sampled_from(SUBJECTS)),
            )
        )
    predictions = {p.id: draw(st.none() | st.integers(0, 6)) for p in problems}
    return problems, predictions


@needs_sample
def test_the_columns_of_the_real_test_split_have_their_problems() -> None:
    columns = score_random_choice(load_problems(SAMPLE, "test", pictures=False).problems).columns
    assert {name: tally.total for name, tally in columns.items()} == {
        "NAT": 129, "SOC": 48, "LAN": 64, "TXT": 122, "IMG": 112, "NO": 79, "G1-6": 156, "G7-12": 85, "AVG": 241,
    }  # fmt: skip


def test_columns_are_in_the_official_order() -> None:
    assert list(OFFICIAL_COLUMNS) == ["NAT", "SOC", "LAN", "TXT", "IMG", "NO", "G1-6", "G7-12", "AVG"]


def test_a_missing_picture_still_counts_as_a_picture() -> None:
    columns = score_problems([problem(has_image=True)], {"1": 0}).columns
    assert [name for name, tally in columns.items() if tally.total] == ["NAT", "IMG", "G1-6", "AVG"]


def test_other_subjects_and_grades_count_on_average_only() -> None:
    columns = score_problems([problem(subject="music", grade="kindergarten", hint="x")], {"1": 0}).columns
    assert [name for name, tally in columns.items() if tally.total] == ["TXT", "AVG"]


@given(exams())
def test_the_average_weighs_the_grades_by_their_problems(exam: tuple) -> None:
    columns = score_problems(*exam).columns
    for parts in (("G1-6", "G7-12"), ("NAT", "SOC", "LAN")):
        assert sum(columns[name].correct for name in parts) == columns["AVG"].correct
        assert sum(columns[name].total for name in parts) == columns["AVG"].total
        weighed = sum((columns[name].accuracy or 0) * columns[name].total for name in parts) / columns["AVG"].total
        assert weighed == pytest.approx(columns["AVG"].accuracy)


@given(exams(), st.randoms(use_true_random=False))
def test_order_does_not_matter(exam: tuple, seed: Any) -> None:
    problems, predictions = exam
    shuffled, items = list(problems), list(predictions.items())
    seed.shuffle(shuffled)
    seed.shuffle(items)
    assert score_problems(shuffled, dict(items)) == score_problems(problems, predictions)
    assert score_random_choice(shuffled) == score_random_choice(problems)


@given(exams())
def test_right_answers_score_100_and_no_answers_0(exam: tuple) -> None:
    problems, _ = exam
    perfect, silent = (
        score_problems(problems, {p.id: p.answer for p in problems}),
        score_problems(problems, {p.id: None for p in problems}),
    )
    assert all(tally.correct == tally.total for tally in perfect.columns.values())
    assert all(tally.correct == 0 for tally in silent.columns.values())
    assert (perfect.unparsed, silent.unparsed) == (0, len(problems))


@given(exams())
def test_random_choice_is_the_mean_over_all_single_guesses(exam: tuple) -> None:
    """Guessing k at every problem, over all k, hits each problem exactly once."""
    problems, _ = exam
    by_count: dict[int, list[Problem]] = {}
    for p in problems:
        by_count.setdefault(len(p.choices), []).append(p)
    for count, group in by_count.items():
        hits = sum(score_problems(group, {p.id: k for p in group}).columns["AVG"].correct for k in range(count))
        assert score_random_choice(group).columns["AVG"].correct == pytest.approx(hits / count)


def test_a_column_without_problems_has_no_accuracy() -> None:
    tally = score_problems([problem()], {"1": 0}).columns["IMG"]
    assert (tally.total, tally.accuracy, tally.text) == (0, None, "–")


def test_an_impossible_index_is_unparsed_and_wrong() -> None:
    result = score_problems([problem("1"), problem("2", answer=1)], {"1": 4, "2": 1})
    assert (result.unparsed, result.columns["AVG"].correct) == (1, 1)


def test_predictions_must_cover_the_split() -> None:
    problems = [problem(str(n)) for n in range(8)]
    predictions: dict[str, int | None] = {"0": 0, "ghost": 1}
    with pytest.raises(InputError) as caught:
        score_problems(problems, predictions)
    assert caught.value.faults[:2] == (
        "7 of 8 problems have no prediction: 1, 2, 3, 4, 5, …",
        "1 of 2 predictions are for no problem of this split: ghost",
    )
    assert "--partial" in caught.value.faults[2]
    result = score_problems(problems, predictions, partial=True)
    assert (result.missing, result.unknown, result.columns["AVG"].total) == (7, 1, 1)
    with pytest.raises(InputError, match="No prediction is for a problem of this split"):
        score_problems(problems, {"ghost": 1}, partial=True)


# -------------------------------------------------------------------------------------------------------------- answers


@given(count=st.integers(2, 26), data=st.data(), rest=st.text(max_size=40))
def test_a_formatted_answer_is_parsed(count: int, data: st.DataObject, rest: str) -> None:
    index = data.draw(st.integers(0, count - 1))
    assert parse_answer(f"{format_answer(index)} BECAUSE: {rest}", "x" * count) == index


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("The answer is B.", 1),
        ("So. The answer is B. BECAUSE: The answer is A.", 1),
        ("The answer is C.", None),
        ("The answer is Z.", None),
        ("the answer is B.", None),
        ("The answer is b.", None),
        ("The answer is (B).", None),
        ("The answer is B", None),
        ("The answer is B\n", None),
        ("The answer is B,", 1),
        ("B", None),
        ("", None),
    ],
)
def test_only_the_official_form_is_an_answer(text: str, index: int | None) -> None:
    assert parse_answer(text, ("a", "b")) == index


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("B", 1),
        (" B\n", 1),
        ("B. a pond", 1),
        ("B. The answer is A.", 1),
        ("The answer is B.", 1),
        ("So. The answer is B. BECAUSE: so", 1),
        ("The answer is B. The answer is A.", None),
        ("C", None),
        ("C. a pond", None),
        ("B.", None),
        ("B: a pond", None),
        ("(B)", None),
        ("b", None),
        ("Both", None),
        ("a pond", None),
        ("", None),
    ],
)
def test_a_bare_letter_is_an_answer_to_the_prompt_of_llava(text: str, index: int | None) -> None:
    assert parse_letter(text, ("a", "b")) == index


# --------------------------------------------------------------------------------------------------------- results file

predictions_of = st.dictionaries(st.text(min_size=1, max_size=8), st.none() | st.integers(0, 25), max_size=8)


@given(predictions=predictions_of, outputs=st.none() | st.dictionaries(st.text(max_size=5), st.text(max_size=20)))
@settings(max_examples=40, deadline=None)
def test_a_results_file_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, predictions: dict, outputs: dict | None
) -> None:
    file = tmp_path_factory.mktemp("results") / "deep" / "results.json"
    write_results(file, predictions, outputs=outputs)
    assert read_results(file) == Results(predictions, floats=0, negatives=0)
    content = json.loads(file.read_text())
    assert content.get("outputs") == outputs
    assert all(type(index) is int for index in content["results"].values())
    assert [entry.name for entry in file.parent.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    "content",
    [
        {"results": {"4": 1, "5": 0, "6": -1}, "outputs": {"4": "The answer is B."}, "acc": 50.0, "args": {}},
        {"4": 1, "5": 0, "6": -1},
        {"results": {"4": "1", "5": "0", "6": None}},
        {"results": {"4": "B", "5": "A", "6": "-1"}},
        {"results": {"4": 1.0, "5": -0.0, "6": -1.0}},
        {"results": {"4": 1, "5": 0, "6": -7}},
        {"results": {"4": 1, "5": 0, "6": "-7"}},
    ],
)
def test_other_known_forms_of_results_files_are_read(tmp_path: Path, content: dict) -> None:
    file = tmp_path / "results.json"
    file.write_text(json.dumps(content))
    assert read_results(file).predictions == {"4": 1, "5": 0, "6": None}


def test_unusual_indices_are_counted_and_said_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"results": {"1": 1.0, "2": 0, "3": -1, "4": -2, "5": "-3", "6": -4.0, "7": None}}))
    read = read_results(file)
    assert (read.floats, read.negatives) == (2, 3)
    assert read.predictions == {"1": 1, "2": 0, **dict.fromkeys("34567")}
    assert read.account() == "Whole floats, read as indices: 2. Indices below -1, counted as wrong: 3."
    write_results(file, read.predictions)
    assert read_results(file).account() == ""


@pytest.mark.parametrize("value", [True, 1.5, "", "AB", "b", "FAILED", "1.0", [1], {"index": 1}])
def test_the_error_names_the_id_of_another_value(tmp_path: Path, value: object) -> None:
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"results": {"4": 1, "77": value}}))
    with pytest.raises(InputError, match=r"problem 77: .* is not the index of a choice") as caught:
        read_results(file)
    assert len(caught.value.faults) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "must hold"),
        ('{"results": [1]}', "must hold"),
        ('{"results": {"1": 0, "1": 1}}', "duplicate key '1'"),
        ('{"results": {"1": 0', "cut off"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "results.json"
    file.write_text(content)
    with pytest.raises(InputError, match=message):
        read_results(file)


def test_a_file_that_cannot_be_written_fails_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LoraMMError, match="cannot be written") as caught:
        write_results(tmp_path / "file" / "results.json", {"1": 0})
    assert caught.value.exit_code == 1


def test_a_choice_repeated_word_for_word_is_parsed() -> None:
    choices = ["the red  island", "the red island chain", "The force is weak."]
    assert parse_choice(" the red island.", choices) == 0
    assert parse_choice("The force is weak.", choices) == 2
    assert parse_choice("the red", choices) is None
    assert parse_choice("the red island, I think.", choices) is None
    assert parse_choice("", choices) is None


def test_a_text_that_equals_two_choices_names_neither() -> None:
    assert parse_choice("red", ["red", "red."]) is None


@given(
    choices=st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1), min_size=2, unique=True), data=st.data()
)
def test_every_choice_is_parsed_from_its_own_answer(choices: list[str], data: st.DataObject) -> None:
    answer = data.draw(st.integers(0, len(choices) - 1))
    example = to_example(problem(choices=tuple(choices), answer=answer), format="QCM-T")
    assert parse_choice(example.target, choices) == answer
    assert example.candidates[answer] == example.target
