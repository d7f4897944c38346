"""Saved answers are loaded as they were; a line that is not a saved answer is named by its number."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_mm.errors import InputError
from lora_mm.evaluation.answers import Answer, load_answers, save_answers

words = st.text(st.characters(exclude_categories=["Cs"]))
answer = st.builds(
    Answer,
    words,
    words,
    st.lists(words, max_size=3).map(tuple),
    st.none() | st.floats(0, 1),
    st.none() | st.integers(0, 25),
)


@given(st.lists(answer, max_size=5))
def test_saved_answers_are_loaded_as_they_were(tmp_path_factory: pytest.TempPathFactory, answers: list[Answer]) -> None:
    file = tmp_path_factory.mktemp("answers") / "answers.jsonl"
    save_answers(file, answers)
    assert load_answers(file) == answers


def test_a_line_holds_right_wrong_partial_credit_or_unparsed(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    save_answers(file, [Answer(str(n), "é", ("x",), credit) for n, credit in enumerate((1.0, 0.0, 0.3, None))])
    lines = file.read_text(encoding="utf-8").splitlines()
    assert lines[0] == '{"id": "0", "prediction": "é", "references": ["x"], "right": true, "choice": null}'
    assert ['"right": false' in lines[1], '"right": 0.3' in lines[2], '"right": null' in lines[3]] == [True] * 3


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "3",
        "[" * 10_000,
        '{"id": "2"}',
        '{"id": "2", "prediction": "", "references": 3}',
        '{"id": 2, "prediction": "", "references": [], "right": true, "choice": null}',
        '{"id": "2", "prediction": "", "references": [3], "right": true, "choice": null}',
        '{"id": "2", "prediction": "", "references": [], "right": 7, "choice": null}',
        '{"id": "2", "prediction": "", "references": [], "right": true, "choice": true}',
        '{"id": "2", "id": "2", "prediction": "", "references": [], "right": true, "choice": null}',
        '{"id": "2", "prediction": "", "references": [], "right": ' + "9" * 5000 + ', "choice": null}',
    ],
)
def test_the_error_names_a_line_that_is_not_an_answer(tmp_path: Path, line: str) -> None:
    file = tmp_path / "answers.jsonl"
    save_answers(file, [Answer("1", "x", ("x",), 1.0)])
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(InputError, match=r"answers.jsonl, line 2: not a saved answer"):
        load_answers(file)
    file.write_text(file.read_text().removesuffix("\n"))
    with pytest.raises(InputError, match=r"answers.jsonl, line 2: the file is cut off"):
        load_answers(file)
    with pytest.raises(InputError, match="No such file"):
        load_answers(tmp_path / "none.jsonl")
