"""What a data check finds, says and shows; that its memory does not grow with the data."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from lora_mm.data.check import DataReport, check_data, load_recipe_or_path
from lora_mm.data.check_text import print_report
from lora_mm.data.source import open_source
from lora_mm.jobs.session import make_collator_without_weights
from tests.helpers.own import BREAKAGES, Broken, sound_row, write_rows


def check(path: Path, *overrides: str) -> DataReport:
    recipe, splits = load_recipe_or_path(str(path), list(overrides))
    return check_data(recipe, splits, make_collator_without_weights(recipe))


def printed(report: DataReport, **how: object) -> str:
    console = Console(file=io.StringIO(), width=200, **how)  # type: ignore[arg-type]
    print_report(report, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def lora_mm(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-m", "lora_mm", *arguments], capture_output=True, text=True, env={**os.environ, **environment}
    )


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    made = [sound_row(tmp_path, number) for number in range(9)]
    made[8]["question"] += " and so on" * 20
    made.append(made[1] | {"id": "twin", "colour": "red"})
    return write_rows(tmp_path, made)


def test_rows_tokens_pictures_and_duplicates_are_counted(rows: Path) -> None:
    report = check(rows)
    [found] = report.splits.values()
    assert report.sound
    assert (found.rows, found.usable, found.faults.rows, found.layouts) == (10, 10, 0, ["question_answer"])
    assert found.pictures == {0: 3, 1: 7}
    assert found.longest == "r8"
    collator = make_collator_without_weights(load_recipe_or_path(str(rows))[0])
    lengths = [sum(collator.length(open_source(str(rows), "train")[row])) for row in range(10)]
    assert found.tokens[100] == max(lengths)
    assert found.tokens[50] == int(sorted(lengths)[4] / 2 + sorted(lengths)[5] / 2)
    assert (found.duplicate_count, found.duplicates) == (1, [("twin", "r1")])
    assert found.unread_columns == ["colour"]
    text = printed(report)
    assert "10, 10 usable (question_answer)" in text
    assert "longest" in text
    assert "1 example equal to an earlier one: twin = r1" in text
    assert "columns colour" in text


def test_supervised_text_is_shown_in_marks_or_in_colour(rows: Path) -> None:
    report = check(rows)
    assert list(report.masks) == ["r0", "r1", "r2"]
    plain = printed(report)
    assert "USER: Which is 0? ASSISTANT:⟦ the 0th</s>⟧" in plain
    assert re.search(r"USER: <image>×36\nWhich is 1\? ASSISTANT:⟦ the 1th</s>⟧", plain)
    coloured = printed(report, force_terminal=True, color_system="standard")
    assert "⟦" not in coloured
    assert "\x1b[30;42m the 0th</s>\x1b[0m" in coloured
    assert "⟦ the 0th</s>⟧" in printed(report, force_terminal=True, no_color=True)


def test_overlong_rows_are_faults_or_counted_as_the_recipe_says(rows: Path) -> None:
    for policy, sound, faulty in (("error", False, 1), ("drop", True, 0), ("truncate", False, 1)):
        report = check(rows, "data.max_length=60", f"data.overlong={policy}")
        [found] = report.splits.values()
        assert (report.sound, found.overlong, found.faults.rows) == (sound, 1, faulty)
    assert "leaves no room" in found.faults.lines[0]
    assert found.faults.lines[0].startswith("rows.jsonl:9: ")


def test_no_row_left_is_not_sound(rows: Path) -> None:
    report = check(rows, "data.max_length=8", "data.overlong=drop")
    assert (report.sound, report.splits["train"].usable, report.splits["train"].overlong) == (False, 0, 10)
    assert "train: no row is left; all are faulty or over data.max_length" in printed(report)


def test_evaluation_rows_are_measured_as_questions(rows: Path, tmp_path: Path) -> None:
    """What the model is to learn may be too long to learn, and still be asked."""
    learnt = write_rows(tmp_path, [{"question": "Which?", "answer": "so " * 100}], "learnt.jsonl")
    asked = write_rows(tmp_path, [{"question": "Which? " * 100, "answer": "so"}], "asked.jsonl")
    faults = [check(rows, "data.max_length=100", f"data.eval_path={file}").splits["test"].faults.lines
              for file in (learnt, asked)]  # fmt: skip
    assert faults[0] == []
    assert faults[1][0].startswith("asked.jsonl:1: ")
    assert "tokens to ask, more than data.max_length=100" in faults[1][0]


def test_examples_in_both_splits_are_a_fault(rows: Path, tmp_path: Path) -> None:
    report = check(rows, f"data.eval_path={rows}")
    assert list(report.splits) == ["train", "test"]
    assert not report.sound
    assert report.overlap_count == 10
    assert "10 examples in both the training and the evaluation split: r0, r1, r2" in printed(report)
    assert check(rows, "data.eval_share=0.3").sound


def test_conversations_and_special_tokens(tmp_path: Path) -> None:
    talk = [{"from": "human", "value": "One?"}, {"from": "gpt", "value": "Yes."}]
    made = [{"conversations": talk * 2}, {"conversations": [*talk, talk[0], {"from": "gpt", "value": "a </s> b"}]}]
    report = check(write_rows(tmp_path, made))
    [found] = report.splits.values()
    assert found.turns == {2: 1}
    assert found.faults.lines == [
        "rows.jsonl:2: the text contains '</s>', a special token of the base; reword it, or allow it if answers "
        "are made of it (data.special_tokens)."
    ]
    assert "⟦ Yes.</s>⟧USER: One? ASSISTANT:⟦ Yes.</s>⟧" in printed(report)


def test_scienceqa_and_mixtures_are_checked_too(scienceqa_folder: Path, rows: Path, tmp_path: Path) -> None:
    report = check(scienceqa_folder)
    assert {name: found.rows for name, found in report.splits.items()} == {"train": 24, "test": 12}
    assert report.splits["train"].pictures == {0: 12, 1: 12}
    file = tmp_path / "mix.yaml"
    place = f"{{path: {rows}}}"
    file.write_text(
        f"extends: scienceqa-pocket\nname: mix\ndata: {{path: null, eval_share: 0.2, sources: [{place}, {place}]}}\n"
    )
    recipe, splits = load_recipe_or_path(str(file))
    report = check_data(recipe, splits, make_collator_without_weights(recipe))
    assert sum(found.rows for found in report.splits.values()) == 20


def test_it_says_how_much_of_the_pictures_is_cut_off(base_folder: Path, tmp_path: Path) -> None:
    made = [sound_row(tmp_path, number) for number in range(6)]
    for number, size in enumerate([(40, 10), (10, 20), (16, 16)]):
        Image.new("RGB", size).save(tmp_path / f"shape{number}.png")
        made[number]["image"] = f"shape{number}.png"
    file = write_rows(tmp_path, made[:3])
    base = f"base.model={base_folder}"
    report = check(file, base)
    assert report.splits["train"].cut_off[50] == pytest.approx(0.5)
    assert report.splits["train"].cut_off[100] == pytest.approx(0.75)
    assert "cut off    50% of a picture's area at the median, at most 75%; data.pictures.fit=pad" in printed(report)
    assert report.as_dict()["splits"]["train"]["cut_off"][50] == pytest.approx(0.5)
    cropped = check(file, "data.pictures.fit=crop")  # the pocket base's own processor cuts nothing off
    assert cropped.splits["train"].cut_off == report.splits["train"].cut_off
    for whole in (check(file, base, "data.pictures.fit=pad"), check(file)):
        assert "cut off" not in printed(whole)


quiet = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quiet
@given(breaks=st.lists(st.sampled_from([None, *BREAKAGES]), min_size=1, max_size=10))
def test_every_fault_is_named_by_its_row(breaks: list[str | None], tmp_path_factory: pytest.TempPathFactory) -> None:
    made = Broken.of(tmp_path_factory.mktemp("broken"), ["sound", *breaks])
    report = check(made.file)
    [found] = report.splits.values()
    assert {line.split(": ")[0] for line in found.faults.lines} == set(made.broken)
    assert (found.faults.rows, found.usable) == (len(made.broken), len(made.sound))
    assert report.sound is not bool(made.broken)
    dropped = check(made.file, "data.faulty_rows=drop")
    assert dropped.sound
    assert f"{len(made.broken):,} faulty row" in printed(dropped) or not made.broken


def test_the_command_ends_with_2_if_anything_is_wrong(tmp_path: Path) -> None:
    made = Broken.of(tmp_path, ["sound", *BREAKAGES])
    done = lora_mm("data", "check", str(made.file))
    assert done.returncode == 2
    assert done.stderr == ""
    for where, words in made.broken.items():
        assert any(where + ": " in line and words in line for line in done.stdout.splitlines()), where
    told = lora_mm("data", "check", str(made.file), "--json", "--set", "data.faulty_rows=drop")
    assert told.returncode == 0
    report = json.loads(told.stdout)
    assert report["splits"]["train"]["faulty"] == len(BREAKAGES)
    assert len(report["splits"]["train"]["faults"]) == len(BREAKAGES)
    assert report["masks"]["r0"][-1] == {"text": " the 0th</s>", "supervised": True}


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    """40 MB of rows in a fifth of that; what grows is where each begins and a hash of what it says."""
    script = (
        "import sys, resource\n"
        "from lora_mm.data.source import open_source\nfrom lora_mm.data.survey import survey_source\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "survey_source(open_source(sys.argv[1], 'train'), range(2000))\n"
        "before = peak()\n"
        "source = open_source(sys.argv[1], 'train')\n"
        "print(len(survey_source(source, range(len(source))).usable), peak() - before)\n"
    )
    file = tmp_path / "rows.jsonl"
    with file.open("w") as stream:
        for number in range(60_000):
            stream.write(
                json.dumps({"id": number, "question": f"Is it {number}?" + " so" * 200, "answer": "yes"}) + "\n"
            )
    done = subprocess.run([sys.executable, "-c", script, str(file)], capture_output=True, text=True, check=True)
    kept, growth = done.stdout.split()
    assert int(kept) == 60_000
    assert float(growth) < file.stat().st_size / 2**20 / 5, done.stdout


def test_halves_of_characters_and_control_characters_end_no_check(tmp_path: Path) -> None:
    made = tmp_path / "rows.jsonl"
    made.write_text('{"question": ["\\ud800"], "answer": "a"}\n{"question": "b\\u001b[31m", "answer": "a"}\n')
    done = lora_mm("data", "check", str(made))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "rows.jsonl:1: question" in done.stdout + done.stderr
