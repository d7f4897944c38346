"""ScienceQA problems from the official folder, from Parquet files or from the Hub, and the prompts made of them.

Knows nothing about models, tokens or scores. Nothing is dropped silently: every row of a split is used, or counted
under the policy that left it out, or named in an error.

The official layout, the splits and the order hint, then caption in a prompt's context follow Lu et al., "Learn to
Explain" (NeurIPS 2022) and its repository; the QCM-ALE prompt ending in ``Response:`` follows LaVIN.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lora_mm.data.example import Example, ImageSource, open_image
from lora_mm.data.scienceqa_layouts import (
    OWN_SPLITS,
    TEXT_FIELDS,
    ProblemRow,
    ProblemTable,
    format_value,
    locate_table,
    read_json_file,
)
from lora_mm.errors import InputError, suggest_name, truncate_faults

MissingImages = Literal["error", "skip", "text"]
Format = Literal["QCM-ALE", "QCM-A", "QCM-T"]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class Problem:
    """One ScienceQA problem. Texts are as in the file, not tidied, since scoring asks whether a hint is empty."""

    id: str
    question: str
    choices: tuple[str, ...]
    answer: int
    """Index of the right choice, from 0."""
    hint: str
    has_image: bool
    """Whether the problem comes with a picture by its own record: the official IMG column asks this. It stays true
    where the picture is missing and the policy is ``text``, and where pictures were not asked for."""
    image: ImageSource | None
    """The picture to show, or None where there is none to show."""
    caption: str
    task: str
    grade: str
    subject: str
    topic: str
    category: str
    skill: str
    lecture: str
    solution: str
    split: str
    """The problem's own split (train, val or test), also in trainval and in the mini splits."""


@dataclass(frozen=True, slots=True)
class ProblemSplit:
    """The problems of one split, with the exact account of its rows: ``rows = used + skipped + beyond_limit``."""

    name: str
    source: str
    problems: tuple[Problem, ...]
    rows: int
    """Rows of the split in the source."""
    missing: tuple[str, ...]
    """Ids of the rows looked at whose picture is not there."""
    policy: MissingImages
    """What happened to those: ``skip`` left them out, ``text`` kept them without picture."""

    @property
    def used(self) -> int:
        """Rows in ``problems``."""
        return len(self.problems)

    @property
    def skipped(self) -> int:
        """Rows left out because their picture is missing."""
        return len(self.missing) if self.policy == "skip" else 0

    @property
    def beyond_limit(self) -> int:
        """Rows not looked at because the limit was reached."""
        return self.rows - self.used - self.skipped

    def account(self) -> str:
        """One line: ``train: 368 of 713 rows used; 345 left out for missing pictures``."""
        fate = {"skip": "left out for missing pictures", "text": "of them as text only for missing pictures"}
        parts = [f"{self.name}: {self.used:,} of {self.rows:,} rows used"]
        if self.missing:
            parts.append(f"{len(self.missing):,} {fate[self.policy]}")
        if self.beyond_limit:
            parts.append(f"{self.beyond_limit:,} beyond the limit")
        return "; ".join(parts)


def load_problems(
    source: str | Path,
    split: str,
    *,
    missing_images: MissingImages = "error",
    limit: int | None = None,
    captions: Path | None = None,
    pictures: bool = True,
) -> ProblemSplit:
    """Reads one split and checks every row of it.

    Args:
        source: the official folder (``problems.json``, ``pid_splits.json``, maybe ``captions.json``, pictures under
            ``images/<split>/<id>/`` or ``<split>/<id>/``); or a Parquet file, or a folder of them, with the columns of
            ``derek-thomas/ScienceQA``; or a data set's id on the Hub in that form. Parquet rows carry no problem id:
            theirs is ``<split>-<row>``, rows counted from 0 in each of train, val and test.
        split: a name in ``pid_splits.json``; in the Hub's form train, val (``validation`` there), test or trainval.
        missing_images: for a row whose picture is not there: ``error`` stops, ``skip`` leaves the row out, ``text``
            keeps it without picture. Both ways it is counted.
        limit: take this many rows, in the split's order, and look at no more.
        captions: a file ``{"captions": {id: text}}``; by default the official folder's own, where it has one.
        pictures: False reads no picture and asks for none, as scoring does; ``image`` is then None throughout.

    Pictures are looked for but not opened; ``check_images`` opens them.

    Raises:
        InputError: everything wrong with the source, at once, each with row, field and cause; also for no rows.
    """
    if missing_images not in (policies := ("error", "skip", "text")):
        raise InputError(
            f"missing_images: '{missing_images}' is none of {', '.join(policies)}."
            f"{suggest_name(missing_images, policies)}"
        )
    if limit is not None and limit < 1:
        raise InputError(f"limit: {limit} is no number of rows; give 1 or more, or leave it out for all")
    table = locate_table(source)(split, pictures)
    texts = _captions(captions or table.captions)

    problems: list[Problem] = []
    missing: list[str] = []
    faults: list[str] = list(table.faults)
    for row in table:
        if len(problems) == limit:
            break
        found = [*row.faults, *_faults(row.fields)]
        faults += [f"{table.where}, problem {row.id}: {fault}" for fault in found]
        absent = pictures and row.has_image and row.image is None
        if absent and not found:
            missing.append(row.id)
        if not found and not (absent and missing_images == "skip"):
            problems.append(_problem(row, texts.get(row.id, "")))

    if missing and missing_images == "error":
        faults.insert(0, _missing(table, split, missing))
    if faults:
        raise InputError(*truncate_faults(faults))
    if captions and any(p.has_image for p in problems) and not any(p.caption for p in problems):
        raise InputError(
            f"{captions}: has no caption for any problem of split '{split}'; are its ids another source's?"
        )
    result = ProblemSplit(split, str(source), tuple(problems), table.rows, tuple(missing), missing_images)
    if not problems:
        raise InputError(f"{table.where}: nothing to use in split '{split}' ({result.account()})")
    return result


def check_images(problems: Iterable[Problem], *, workers: int | None = None) -> list[str]:
    """Opens and decodes every picture; one line for each that cannot be shown, in the order of the problems.

    A damaged picture found by the training loop costs the run; found here it costs one look: 0.2 s for the 112 of the
    real sample on two cores, so about 12 s for the 6,218 of train.
    """
    pictures = [(problem.id, problem.image) for problem in problems if problem.image is not None]

    def fault(picture: tuple[str, ImageSource]) -> str | None:
        try:
            open_image(picture[1])
        except InputError as error:
            return f"problem {picture[0]}: picture {error}"
        return None

    with ThreadPoolExecutor(workers or min(16, os.cpu_count() or 1)) as pool:
        return [line for line in pool.map(fault, pictures) if line]


def to_example(problem: Problem, *, format: Format = "QCM-ALE", caption: bool = False) -> Example:
    """The problem as a prompt and its answer.

    The prompt is ``Question: …``, ``Context: …`` (the hint, or ``N/A``), ``Options: (A) … (B) …`` and ``Response:``,
    a line each. With ``caption`` the picture's caption follows the hint in the context, after a space, as ScienceQA and
    LaVIN have it. Runs of spaces become one; line breaks stay (LaVIN writes a backslash and an n for those in lecture
    and solution, a habit from GPT-3's stop token).

    The target is ``The answer is B. BECAUSE: {lecture} {solution}`` (QCM-ALE; without BECAUSE where there is neither),
    ``The answer is B.`` (QCM-A), or the choice's own words alone (QCM-T, for bases that do not tie letters to choices).
    The candidates are that form, without BECAUSE, for each choice.
    """
    context = _tidy(f"{problem.hint} {problem.caption if caption else ''}") or "N/A"
    candidate = _choice_text if format == "QCM-T" else _letter_text
    options = " ".join(f"({letter}) {_tidy(choice)}" for letter, choice in zip(LETTERS, problem.choices, strict=False))
    return Example(
        id=problem.id,
        prompt=f"Question: {_tidy(problem.question)}\nContext: {context}\nOptions: {options}\nResponse:",
        target=_because(problem) if format == "QCM-ALE" else candidate(problem, problem.answer),
        images=() if problem.image is None else (problem.image,),
        candidates=tuple(candidate(problem, index) for index in range(len(problem.choices))),
        references=(candidate(problem, problem.answer),),
        answer=problem.answer,
    )


def format_answer(index: int) -> str:
    """``The answer is B.`` for 1: the official form in which an answer is learnt, compared and read back."""
    return f"The answer is {LETTERS[index]}."


def _letter_text(problem: Problem, index: int) -> str:
    return format_answer(index)


def _choice_text(problem: Problem, index: int) -> str:
    return _tidy(problem.choices[index])


def _faults(fields: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a row's fields, the picture aside."""
    for name in (*TEXT_FIELDS, "split"):
        if name not in fields:
            yield f"{name}: the field is missing"
        elif not isinstance(fields[name], str):
            yield f"{name}: {format_value(fields[name])} is not text"
    if isinstance(question := fields.get("question"), str) and not question.strip():
        yield "question: empty"
    if isinstance(split := fields.get("split"), str) and split not in OWN_SPLITS:
        yield f"split: '{split}' is none of {', '.join(OWN_SPLITS)}.{suggest_name(split, OWN_SPLITS)}"
    yield from _choice_faults(fields)


def _choice_faults(fields: Mapping[str, Any]) -> Iterator[str]:
    missing = [name for name in ("choices", "answer") if name not in fields]
    yield from (f"{name}: the field is missing" for name in missing)
    choices, answer = fields.get("choices"), fields.get("answer")
    count = None
    if "choices" in fields:
        if not isinstance(choices, list):
            yield f"choices: {format_value(choices)} is not a list"
        else:
            count = len(choices)
            yield from (
                f"choices: number {index} is {format_value(choice)}, not text"
                for index, choice in enumerate(choices)
                if not isinstance(choice, str) or not choice.strip()
            )
            if not 2 <= count <= len(LETTERS):
                yield f"choices: {count}, must be 2 to {len(LETTERS)}"
    if "answer" in fields:
        if type(answer) is not int:  # bool is an int to Python, not to us
            yield f"answer: {format_value(answer)} is not a whole number"
        elif count is not None and not 0 <= answer < count:
            yield f"answer: {answer} is out of range, there are {count} choices (0 to {count - 1})"


def _problem(row: ProblemRow, caption: str) -> Problem:
    texts = {name: row.fields[name] for name in (*TEXT_FIELDS, "split")}
    choices, answer = tuple(row.fields["choices"]), row.fields["answer"]
    return Problem(
        id=row.id, choices=choices, answer=answer, has_image=row.has_image, image=row.image, caption=caption, **texts
    )


def _missing(table: ProblemTable, split: str, ids: Sequence[str]) -> str:
    few = ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")
    return (
        f"{table.where}: pictures missing in split '{split}': {len(ids):,}, of problems {few} "
        f"(looked for {table.looked_for(ids[0])}). Put them there, or choose what to do with these rows: "
        "--set data.missing_images=skip leaves them out, --set data.missing_images=text keeps them without picture"
    )


def _captions(path: Path | None) -> Mapping[str, str]:
    if path is None:
        return {}
    value = read_json_file(path)
    captions = value.get("captions") if isinstance(value, dict) else None
    if not isinstance(captions, dict):
        raise InputError(f'{path}: must hold {{"captions": {{id: text}}}}')
    faults = [
        f"{path}, problem {key}: {format_value(text)} is not text"
        for key, text in captions.items()
        if type(text) is not str
    ]
    if faults:
        raise InputError(*truncate_faults(faults))
    return captions


def _tidy(text: str) -> str:
    return re.sub(" {2,}", " ", text).strip()


def _because(problem: Problem) -> str:
    explanation = _tidy(f"{_tidy(problem.lecture)} {_tidy(problem.solution)}")
    return f"{format_answer(problem.answer)} BECAUSE: {explanation}" if explanation else format_answer(problem.answer)
