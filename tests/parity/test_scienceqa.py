"""ScienceQA's prompts, targets, readings and columns are those of LaVIN, LLaVA and the official script.

The hashes are of the texts that the authors' own code writes for the 1,200 problems of the sample: luogen1996/LaVIN
(util/base_prompt.py, ``build_prompt``, commit dd0a1bf) and haotian-liu/LLaVA (scripts/convert_sqa_to_llava.py and
llava/eval/model_vqa_science.py, commit c121f04).
"""

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from lora_mm.data.scienceqa import AnswerFormat, Problem, load_problems, to_example
from lora_mm.evaluation.scienceqa import OFFICIAL_COLUMNS, parse_answer, parse_letter, read_results, score_problems
from tests.helpers.sample import SAMPLE, needs_sample

PROMPTS: dict[tuple[AnswerFormat, bool], str] = {
    ("QCM-ALE", False): "b65a5f3ad42c7674d260d38b103cf26c701694b3445bb605c6b91a50f07a0c1d",
    ("QCM-ALE", True): "d1144ed538fe5e30ac4936681088ae5622f015d2da993b1285f1a3b324b2cc00",
    ("CQM-A", False): "d6d3c6722858ec67c89115a55ae1032dbcc0f48300078f9b199105a58d0430d5",
}
"""Format, and whether captions are asked for → hash of the authors' prompts."""
TARGETS = "cf37ba5623124fc6ca07438f03786731fd7c438e6c5e57d8fadc6c2475d68e77"
"""Hash of LaVIN's QCM-ALE targets."""


def hash_texts(texts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


@pytest.fixture(scope="module")
def sample() -> list[Problem]:
    """The problems of the sample, in the order of their ids."""
    splits = [load_problems(SAMPLE, split, pictures=False).problems for split in ("train", "val", "test")]
    problems = sorted((problem for split in splits for problem in split), key=lambda problem: int(problem.id))
    assert len(problems) == 1200
    return problems


# -------------------------------------------------------------------------------------------------- prompts and targets


@needs_sample
@pytest.mark.parametrize(("format", "caption"), list(PROMPTS))
def test_every_prompt_is_the_authors(sample: list[Problem], format: AnswerFormat, caption: bool) -> None:
    prompts = [to_example(problem, format=format, caption=caption).prompt for problem in sample]
    assert hash_texts(prompts) == PROMPTS[format, caption]


def write_as_lavin(problem: Problem) -> str:
    """LaVIN's target: line breaks of lecture and solution as two characters, pairs of spaces replaced once, and BECAUSE
    even where nothing follows."""
    lecture, solution = (text.replace("\n", "\\n") for text in (problem.lecture, problem.solution))
    text = f"The answer is {'ABCDE'[problem.answer]}. BECAUSE: {lecture} {solution}"
    return text.replace("  ", " ").strip()


def describe_difference(ours: str, theirs: str) -> str:
    if ours == theirs:
        return "none"
    if theirs.endswith("BECAUSE:") and f"{ours} BECAUSE:" == theirs:
        return "BECAUSE without a reason"
    if ours.replace("\n", "\\n") == theirs:
        return "line breaks"
    words = [text.replace("\n", "\\n").replace("\\n", " ").split() for text in (ours, theirs)]
    return "line breaks and spaces" if words[0] == words[1] else "words"


@needs_sample
def test_targets_differ_from_lavins_in_line_breaks_spaces_and_a_bare_because(sample: list[Problem]) -> None:
    theirs = [write_as_lavin(problem) for problem in sample]
    assert hash_texts(theirs) == TARGETS
    ours = [to_example(problem).target for problem in sample]
    assert Counter(map(describe_difference, ours, theirs)) == {
        "none": 60,
        "line breaks": 1043,  # a line break, where LaVIN writes a backslash and an n
        "line breaks and spaces": 83,  # of three spaces LaVIN leaves two, and it keeps a space at the start of a line
        "BECAUSE without a reason": 14,
    }


# ------------------------------------------------------------------------------------------------------------- readings

PIECES = ("A", "B", "C", "E", "F", ". ", ".", " ", "The answer is ", "the answer is ", "BECAUSE: ", "(", "FAILED", "\n")


def draw_answers() -> list[str]:
    rng = random.Random(0)
    return ["".join(rng.choices(PIECES, k=rng.randint(0, 5))) for _ in range(20_000)]


def read_as_lavin(text: str, count: int) -> int | None:
    """eval.py of LaVIN; None where it takes a random choice."""
    found = re.findall(r"The answer is ([A-Z]).", text)
    letter = found[0] if found else "FAILED"
    return list("ABCDE").index(letter) if letter in list("ABCDE")[:count] else None


def read_as_llava(text: str, count: int) -> int | None:
    """llava/eval/eval_science_qa.py, of an answer that model_vqa_science.py has stripped; None where it takes -1."""
    options, text = list("ABCDE"), text.strip()
    if text in options:
        letter = text
    elif len(text) >= 3 and text[0] in options and text[1:3] == ". ":
        letter = text[0]
    else:
        found = re.findall(r"The answer is ([A-Z]).", text)
        letter = found[0] if len(found) == 1 else "FAILED"
    return options.index(letter) if letter in options[:count] else None


@pytest.mark.parametrize(("read", "theirs"), [(parse_answer, read_as_lavin), (parse_letter, read_as_llava)])
def test_answers_are_read_as_the_authors_read_them(read: Any, theirs: Any) -> None:
    readings: Counter[int | None] = Counter()
    for count in (2, 3, 5):
        for text in draw_answers():
            expected = theirs(text, count)
            readings[expected] += 1
            # LLaVA reads no letter beyond E, so it looks on in "F. The answer is A."; no problem has that many choices.
            if not re.match(r"\s*F\. ", text):
                assert read(text, "abcde"[:count]) == expected, text
    assert min(readings[index] for index in (None, 0, 1, 2, 4)) > 100


# -------------------------------------------------------------------------------------------------------------- columns


def compute_as_officially(problems: Mapping[str, Any], results: Mapping[str, Any], split: str) -> dict[str, str]:
    """Columns of lupantech/ScienceQA (tools/evaluate_acc.py, ``get_scores``, commit 2cbf831), in plain Python."""
    rows = {id: row for id, row in problems.items() if row["split"] == split}
    right = {id: row["answer"] == int(results[id]) for id, row in rows.items()}

    def share(ids: Sequence[str]) -> str:
        return f"{sum(right[id] for id in ids) / len(ids) * 100:.2f}" if ids else "-1"

    def where(key: str, *values: str) -> str:
        return share([id for id, row in rows.items() if row[key] in values])

    return {
        "NAT": where("subject", "natural science"),
        "SOC": where("subject", "social science"),
        "LAN": where("subject", "language science"),
        "TXT": share([id for id, row in rows.items() if row["hint"]]),
        "IMG": share([id for id, row in rows.items() if row["image"]]),
        "NO": share([id for id, row in rows.items() if not row["hint"] and not row["image"]]),
        "G1-6": where("grade", *(f"grade{grade}" for grade in range(1, 7))),
        "G7-12": where("grade", *(f"grade{grade}" for grade in range(7, 13))),
        "AVG": f"{sum(right.values()) / len(results) * 100:.2f}",
    }


def draw_problems(rng: random.Random) -> dict[str, dict[str, Any]]:
    texts = dict.fromkeys(("task", "topic", "category", "skill", "lecture", "solution"), "")
    subjects = ("natural science", "social science", "language science")
    problems: dict[str, dict[str, Any]] = {}
    for number in range(rng.randint(2, 300)):
        choices = [f"choice {index}" for index in range(rng.randint(2, 5))]
        problems[str(number)] = {
            **texts,
            "question": "Which?",
            "choices": choices,
            "answer": rng.randrange(len(choices)),
            "hint": rng.choice(("", "A hint.")),
            "image": rng.choice((None, "image.png")),
            "grade": f"grade{rng.randint(1, 12)}",
            "subject": rng.choice(subjects),
            "split": "val" if number and rng.random() < 0.3 else "test",
        }
    return problems


def draw_results(rng: random.Random, problems: Mapping[str, Any], split: str) -> dict[str, int | float | str]:
    """Predictions in every form that the official script takes: integers, text, whole floats, negative indices."""
    results: dict[str, int | float | str] = {}
    for id, row in problems.items():
        if row["split"] == split:
            index = rng.choice((row["answer"], rng.randint(-3, 6)))
            results[id] = rng.choice((int, float, str))(index)
    return results


def check_columns(data: Path, problems: Mapping[str, Any], split: str, rng: random.Random, file: Path) -> None:
    results = draw_results(rng, problems, split)
    file.write_text(json.dumps({"results": results}))
    read = read_results(file)
    score = score_problems(load_problems(data, split, pictures=False).problems, read.predictions)
    texts = {name: figure.text.replace("–", "-1") for name, figure in score.columns.items()}
    assert texts == compute_as_officially(problems, results, split)
    assert list(texts) == list(OFFICIAL_COLUMNS)
    assert read.negatives == sum(int(index) < -1 for index in results.values())


@pytest.mark.parametrize("seed", range(100))
def test_the_nine_columns_of_generated_predictions_are_the_official_ones(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    problems = draw_problems(rng)
    (tmp_path / "problems.json").write_text(json.dumps(problems))
    ids = [id for id, row in problems.items() if row["split"] == "test"]
    (tmp_path / "pid_splits.json").write_text(json.dumps({"test": ids}))
    check_columns(tmp_path, problems, "test", rng, tmp_path / "results.json")


@needs_sample
@pytest.mark.parametrize("split", ["test", "val"])
def test_the_nine_columns_of_the_sample_are_the_official_ones(tmp_path: Path, split: str) -> None:
    problems = json.loads((SAMPLE / "problems.json").read_text())
    for seed in range(6):
        check_columns(SAMPLE, problems, split, random.Random(seed), tmp_path / f"{seed}.json")
