"""ScienceQA's official scores and results file. Knows predictions, not how they came about.

The columns and their rounding are those of the official repository's ``tools/evaluate_acc.py`` (Lu et al., 2022);
the reading of an answer is that of LaVIN's ``eval.py``, except that an answer which cannot be read is counted, never
replaced by a random choice.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_mm.atomic import write_atomically
from lora_mm.data.example import LETTERS
from lora_mm.data.scienceqa import Problem
from lora_mm.errors import InputError, truncate_faults
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
"""The official table: column to the problems it counts, in the official order. A problem may be in several columns; one
of another subject or grade is in AVG only."""

# The last dot is any character, in the official scripts as here: "The answer is B" with nothing behind it is no match.
_ANSWER = re.compile(r"The answer is ([A-Z]).")
_UNPARSED = -1


def parse_answer(text: str, choices: Sequence[str]) -> int | None:
    """The index of the first ``The answer is X.`` in ``text``; None where there is none, or X is no letter of a choice.

    The official pattern to the letter: no other phrasing counts, and nothing is guessed.
    """
    match = _ANSWER.search(text)
    index = LETTERS.index(match[1]) if match else len(choices)
    return index if index < len(choices) else None


def parse_choice(text: str, choices: Sequence[str]) -> int | None:
    """The index of the choice that ``text`` names in its own words (format QCM-T); None where it names none exactly."""
    written = _words(text)
    matches = [index for index, choice in enumerate(choices) if _words(choice) == written]
    return matches[0] if len(matches) == 1 else None


def _words(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


def score_problems(
    problems: Sequence[Problem], predictions: Mapping[str, int | None], *, partial: bool = False
) -> Score:
    """The official columns of predictions (problem id to index of the choice, None for an unparsed answer).

    An index that is none of a problem's choices counts as unparsed, so as wrong.

    Raises:
        InputError: predictions do not cover the problems exactly, unless ``partial`` says so: then the problems with a
            prediction are scored, and both kinds of odd ids are counted.
    """
    known = {problem.id for problem in problems}
    missing = [problem.id for problem in problems if problem.id not in predictions]
    unknown = [id for id in predictions if id not in known]
    faults = [
        *_uncovered(missing, len(problems), "problems have no prediction"),
        *_uncovered(unknown, len(predictions), "predictions are for no problem of this split"),
    ]
    if faults and not partial:
        raise InputError(*faults, "Official scores cover the whole split; --partial scores what is there and says so")
    scored = [problem for problem in problems if problem.id in predictions]
    if not scored:
        raise InputError("no prediction is for a problem of this split: nothing to score")
    right = [predictions[problem.id] == problem.answer for problem in scored]
    named = [_names_choice(predictions[problem.id], problem) for problem in scored]
    return Score(
        columns=_tally(scored, right, sum),
        unparsed=named.count(False),
        missing=len(missing),
        unknown=len(unknown),
        headline="AVG",
    )


def score_random_choice(problems: Sequence[Problem]) -> Score:
    """What uniform guessing scores in expectation: in each column the mean of one over the number of choices."""
    chances = [1 / len(problem.choices) for problem in problems]
    return Score(columns=_tally(problems, chances, math.fsum, expected=True), headline="AVG")


def read_results(path: Path) -> dict[str, int | None]:
    """Predictions from a results file: problem id to index of the choice, None for an unparsed answer.

    Reads the official form, ``{"results": {id: index}}`` with anything beside it (``outputs``, ``acc``, ``args``), and
    a bare ``{id: index}``, which LaVIN writes. An index may be a whole number, in quotes or not; a letter (``"B"`` is
    1); or -1 or null for an answer that could not be read.

    Raises:
        InputError: naming each id whose value is none of these.
    """
    content = read_json_file(path)
    results = content.get("results", content) if isinstance(content, dict) else None
    if not isinstance(results, dict):
        raise InputError(f'{path}: must hold {{"results": {{problem id: index of the choice}}}}')
    predictions = {}
    faults = []
    for id, value in results.items():
        try:
            predictions[id] = _index(value)
        except ValueError:
            shown = json.dumps(value, ensure_ascii=False)[:40]
            faults.append(f"{path}, problem {id}: {shown} is not the index of a choice, a letter, or -1 for none")
    if faults:
        raise InputError(*truncate_faults(faults))
    return predictions


def write_results(
    path: Path, predictions: Mapping[str, int | None], *, outputs: Mapping[str, str] | None = None
) -> None:
    """Writes the official results file: ``{"results": {id: index}}``, -1 for an unparsed answer, and with ``outputs``
    the texts the answers were read from, as the official script saves them. The file is whole or as it was before.

    Raises:
        LoraMMError: the file cannot be written.
    """
    content: dict[str, Any] = {
        "results": {id: _UNPARSED if index is None else index for id, index in predictions.items()}
    }
    if outputs is not None:
        content["outputs"] = dict(outputs)
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _tally(
    problems: Sequence[Problem], right: Sequence[float], add: Callable[[list[float]], float], *, expected: bool = False
) -> dict[str, Tally]:
    tallies = {}
    for name, belongs in OFFICIAL_COLUMNS.items():
        counted = [value for problem, value in zip(problems, right, strict=True) if belongs(problem)]
        tallies[name] = Tally(add(counted), len(counted), expected)
    return tallies


def _uncovered(ids: Sequence[str], total: int, what: str) -> list[str]:
    few = ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")
    return [f"{len(ids):,} of {total:,} {what}: {few}"] if ids else []


def _names_choice(index: int | None, problem: Problem) -> bool:
    return index is not None and 0 <= index < len(problem.choices)


def _index(value: object) -> int | None:
    """A results file's value as an index; ValueError for anything that is not plainly one."""
    if isinstance(value, str) and len(value) == 1 and value in LETTERS:
        return LETTERS.index(value)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | str)):
        raise ValueError
    index = _UNPARSED if value is None else int(value)
    if index < _UNPARSED:
        raise ValueError
    return None if index == _UNPARSED else index
