"""Rows as examples of one layout: files that cannot be read, rows of another layout, keys without effect."""

import json
from pathlib import Path

import pytest

from lora_mm.data.source import open_source
from lora_mm.data.survey import survey_source
from lora_mm.errors import InputError

LATIN1 = "ä".encode("latin-1")


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        (
            "a.csv",
            b"question,answer\n" + LATIN1 + b",b\n",
            r"a\.csv:2: not UTF-8 text \(byte 0 of the row\); save it",
        ),
        ("a.csv", b"fr" + LATIN1 + b"ge,answer\na,b\n", r"a\.csv:1: not UTF-8 text \(byte 2\); save it as UTF-8"),
        ("a.csv", "question,answer\na,b\n".encode("utf-16"), r"a\.csv:1: not UTF-8 text"),
        ("a.jsonl", '{"question": "a"}\n'.encode("utf-16"), r"a\.jsonl:1: not UTF-8 text"),
        ("a.json", '[{"question": "a"}]'.encode("utf-16"), r"a\.json: not UTF-8 text; save it as UTF-8, .* UTF-16"),
        (
            "a.json",
            b'[{"question": "' + LATIN1 + b'"}]',
            r"a\.json:1: not UTF-8 text after this line; save it",
        ),
        ("a.json", b"[" + b"[" * 10_000, r"a\.json:1: JSON nested too deeply"),
        ("a.json", b'[{"question": ' + b"9" * 5000 + b"}]", r"a\.json:1: an integer with more digits"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_before_its_layout(
    name: str, content: bytes, fault: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=fault):
        open_source(str(tmp_path / name), "train")


def test_rows_of_another_layout_after_the_first_are_faults_of_their_own(tmp_path: Path) -> None:
    """They were learnt as open questions with the answer 'B'."""
    rows = [{"question": f"{n}?", "answer": "yes"} for n in range(250)]
    rows += [{"question": f"{n}?", "choices": ["red", "blue"], "answer": "B"} for n in range(3)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = open_source(str(tmp_path / "a.jsonl"), "train")
    survey = survey_source(source, range(len(source)))
    assert (len(survey.usable), survey.faults.rows) == (250, 3)
    assert survey.faults.lines[0].startswith("a.jsonl:251: data.layout: the row has the columns of multiple_choice")


def test_the_form_of_the_answer_is_for_choices_alone(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    with pytest.raises(InputError, match=r"data\.answer: has no effect on rows of layout question_answer"):
        open_source(str(tmp_path / "a.jsonl"), "train", answer="index")
