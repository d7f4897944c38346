"""Computes ScienceQA's official scores; reads and writes its results files. Knows predictions, not models.

The columns and their rounding are those of the official repository's ``tools/evaluate_acc.py`` (Lu et al., 2022).
Answers are parsed as in LaVIN's ``eval.py``, and those to LLaVA's prompt as LLaVA parses them; an answer that cannot be
parsed is counted and never replaced by a random choice.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_mm.atomic import write_atomically
from lora_mm.data.cells import format_value
from lora_mm.data.example import LETTERS
from lora_mm.data.scienceqa import AnswerFormat, Problem
from lora_mm.errors import InputError, shorten, truncate_faults
from lora_mm.evaluation.score import Score, Tally
from lora_mm.json_text import read_json_file

_LOW_GRADES = frozenset(f"grade{n}" for n in range(1, 7))
_HIGH_GRADES = frozenset(f"grade{n}" for n in range(7, 13))

OFFICIAL_COLUMNS: Mapping[str, Callable[[Problem], bool]] = {
    "NAT": lambda problem: problem.subject == "natural science",
    "SOC": lambda problem: problem.subject == "social science",
    "LAN": lambda problem: problem.subject == "language science",
    "TXT": lambda problem: bool(problem.hint),
    "IMG": lambda problem: problem.has_image,
    "NO": lambda problem: not problem.hint and not problem.has_image,
    "G1-6": lambda problem: problem.grade in _LOW_GRADES,
    "G7-12": lambda problem: problem.grade in _HIGH_GRADES,
    "AVG": lambda problem: True,
}
"""Column → whether it counts a problem, in the official order. A problem can be in several columns; a problem with
another subject or grade is only in AVG."""

# The last dot is any character, as in the official scripts: "The answer is B" at the end of the text does not match.
_ANSWER = re.compile(r"The answer is ([A-Z]).")
_LETTER = re.compile(r"([A-Z])(\. .*)?", re.DOTALL)
_UNPARSED = -1


@dataclass(frozen=True, slots=True)
class Results:
    """Predictions of a results file, and how many of them are written in an unusual way.

    Attributes:
        predictions: problem id → index of the choice; None for an unparsed answer.
        floats: number of indices that are whole floats, such as ``2.0``.
        negatives: number of indices below -1.
    """

    predictions: dict[str, int | None]
    floats: int
    negatives: int

    def account(self) -> str:
        """Say in one line how many unusual indices there are; empty if there are none."""
        parts = [f"Whole floats, read as indices: {self.floats:,}."] if self.floats else []
        parts += [f"Indices below -1, counted as wrong: {self.negatives:,}."] if self.negatives else []
        return " ".join(parts)


def parse_answer(text: str, choices: Sequence[str]) -> int | None:
    """Read the letter of the first ``The answer is X.`` in a text.

    This is the official pattern: no other phrasing counts, and nothing is guessed.

    Args:
        text: the answer.
        choices: choices of the problem.

    Returns:
        Index of the choice; None if the pattern does not match, or X is not the letter of a choice.
    """
    match = _ANSWER.search(text)
    return _find_choice(match[1], choices) if match else None


def parse_letter(text: str, choices: Sequence[str]) -> int | None:
    """Read a text that is a letter, begins with a letter, a full stop and a space, or says one ``The answer is X.``

    This is LLaVA's reading (haotian-liu/LLaVA, llava/eval/eval_science_qa.py, commit c121f04) of the answers to its
    own prompt (format CQM-A). ``B.``, ``(B)`` and ``b`` do not count there either.

    Args:
        text: the answer.
        choices: choices of the problem.

    Returns:
        Index of the choice; None if the text has another form, or X is not the letter of a choice.
    """
    stripped = text.strip()
    match = _LETTER.fullmatch(stripped)
    letters = [match[1]] if match else _ANSWER.findall(stripped)
    return _find_choice(letters[0], choices) if len(letters) == 1 else None


def parse_choice(text: str, choices: Sequence[str]) -> int | None:
    """Read which choice a text equals (format QCM-T).

    Args:
        text: the answer.
        choices: choices of the problem.

    Returns:
        Index of the choice; None if the text equals none of them, or several.
    """
    normalized = _normalize_spaces(text)
    matches = [index for index, choice in enumerate(choices) if _normalize_spaces(choice) == normalized]
    return matches[0] if len(matches) == 1 else None


def _find_choice(letter: str, choices: Sequence[str]) -> int | None:
    index = LETTERS.index(letter)
    return index if index < len(choices) else None


def _normalize_spaces(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


READERS: Mapping[AnswerFormat, Callable[[str, Sequence[str]], int | None]] = {
    "QCM-ALE": parse_answer,
    "QCM-A": parse_answer,
    "QCM-T": parse_choice,
    "CQM-A": parse_letter,
}
"""Name in ``data.format`` → how a generated answer is read."""


def score_problems(
    problems: Sequence[Problem], predictions: Mapping[str, int | None], *, partial: bool = False
) -> Score:
    """Compute the official columns.

    An index that is not one of a problem's choices counts as an unparsed answer, and so as wrong.

    Args:
        problems: problems of the split.
        predictions: problem id → index of the choice; None for an unparsed answer.
        partial: whether to score the problems that have a prediction, and count missing and unknown ids.

    Returns:
        One row of the table.

    Raises:
        InputError: predictions do not cover the problems exactly and ``partial`` is not set, or no problem has a
            prediction.
    """
    known = {problem.id for problem in problems}
    missing = [problem.id for problem in problems if problem.id not in predictions]
    unknown = [id for id in predictions if id not in known]
    faults = [
        *_describe_ids(missing, len(problems), "problems have no prediction"),
        *_describe_ids(unknown, len(predictions), "predictions are for no problem of this split"),
    ]
    if faults and not partial:
        raise InputError(*faults, "Official scores cover the whole split; use --partial to score what there is.")
    scored = [problem for problem in problems if problem.id in predictions]
    if not scored:
        raise InputError("No prediction is for a problem of this split.")
    correct = [predictions[problem.id] == problem.answer for problem in scored]
    return Score(
        columns=_tally_columns(scored, correct, sum),
        unparsed=sum(not _is_choice(predictions[problem.id], problem) for problem in scored),
        missing=len(missing),
        unknown=len(unknown),
        headline="AVG",
    )


def score_random_choice(problems: Sequence[Problem]) -> Score:
    """Compute the expected score of random choices: in each column the mean of 1 / number of choices."""
    chances = [1 / len(problem.choices) for problem in problems]
    return Score(columns=_tally_columns(problems, chances, math.fsum, is_expectation=True), headline="AVG")


def read_results(path: Path) -> Results:
    """Read predictions from a results file.

    The file holds the official form, ``{"results": {id: index}}`` with any other keys (``outputs``, ``acc``,
    ``args``), or a bare ``{id: index}`` as LaVIN writes it. An index is an integer, in quotes or not, or a whole float;
    or a letter (``"B"`` is 1); or null for an unparsed answer. A negative index is one too, and so wrong, as in the
    official script. The script also cuts ``1.5`` to 1 and takes ``true`` as 1; here these are faults.

    Raises:
        InputError: the file has another form, or a value, named by its id, is not an index.
    """
    content = read_json_file(path)
    results = content.get("results", content) if isinstance(content, dict) else None
    if not isinstance(results, dict):
        raise InputError(f'{path}: must hold {{"results": {{problem id: index of the choice}}}}')
    indices = {}
    faults = []
    for id, value in results.items():
        try:
            indices[id] = _parse_index(value)
        except ValueError:
            fault = f"{format_value(value)} is not the index of a choice, a letter, or -1 for none"
            faults.append(f"{path}, problem {shorten(id)}: {fault}")
    if faults:
        raise InputError(*truncate_faults(faults))
    return Results(
        predictions={id: None if index < 0 else index for id, index in indices.items()},
        floats=sum(isinstance(value, float) for value in results.values()),
        negatives=sum(index < _UNPARSED for index in indices.values()),
    )


def write_results(
    path: Path, predictions: Mapping[str, int | None], *, outputs: Mapping[str, str] | None = None
) -> None:
    """Write the official results file: ``{"results": {id: index}}``, with -1 for an unparsed answer.

    Args:
        path: file to write; an error leaves it unchanged.
        predictions: problem id → index of the choice; None for an unparsed answer.
        outputs: problem id → generated text, saved beside the results as the official script does.

    Raises:
        LoraMMError: the file cannot be written.
    """
    content: dict[str, Any] = {
        "results": {id: _UNPARSED if index is None else index for id, index in predictions.items()}
    }
    if outputs is not None:
        content["outputs"] = dict(outputs)
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _tally_columns(
    problems: Sequence[Problem],
    points: Sequence[float],
    add: Callable[[list[float]], float],
    *,
    is_expectation: bool = False,
) -> dict[str, Tally]:
    """Add up the points of the problems in each column."""
    tallies = {}
    for name, belongs in OFFICIAL_COLUMNS.items():
        counted = [value for problem, value in zip(problems, points, strict=True) if belongs(problem)]
        tallies[name] = Tally(add(counted), len(counted), is_expectation)
    return tallies


def _describe_ids(ids: Sequence[str], total: int, description: str) -> list[str]:
    """Describe in one line how many ids there are, and name a few; no line for no ids."""
    few = ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")
    return [f"{len(ids):,} of {total:,} {description}: {few}"] if ids else []


def _is_choice(index: int | None, problem: Problem) -> bool:
    return index is not None and 0 <= index < len(problem.choices)


def _parse_index(value: object) -> int:
    """Convert a value of a results file to an index, -1 for null; raise ValueError for anything else."""
    if value is None:
        return _UNPARSED
    if isinstance(value, str) and len(value) == 1 and value in LETTERS:
        return LETTERS.index(value)
    if isinstance(value, str) and re.fullmatch("-?[0-9]{1,9}", value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise ValueError
