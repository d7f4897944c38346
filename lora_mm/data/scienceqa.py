"""Loads ScienceQA problems and writes them as prompts. Knows no models, tokens or scores.

Nothing is dropped silently: every row of a split is used, counted as left out, or named in an error.

The official folder, the splits and the order of hint and caption in a prompt's context follow Lu et al., "Learn to
Explain" (NeurIPS 2022) and its repository; the QCM prompt ending in ``Response:`` follows LaVIN (luogen1996/LaVIN,
util/base_prompt.py, ``create_training_example``, commit dd0a1bf), and CQM-A follows LLaVA's evaluation
(haotian-liu/LLaVA, scripts/convert_sqa_to_llava_base_prompt.py and llava/eval/model_vqa_science.py, commit c121f04).
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lora_mm.data.cells import check_characters, format_value
from lora_mm.data.example import LETTERS, Example, ImageSource, open_image
from lora_mm.data.row_context import RESPONSES
from lora_mm.data.scienceqa_tables import OWN_SPLITS, TEXT_FIELDS, ProblemRow, ProblemTable, locate_table
from lora_mm.errors import InputError, suggest_name, truncate_faults
from lora_mm.json_text import read_json_file

MissingImages = Literal["error", "skip", "text"]
AnswerFormat = Literal["QCM-ALE", "QCM-A", "QCM-T", "CQM-A"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One ScienceQA problem. Texts are as in the file, because scoring checks whether the hint is empty.

    Attributes:
        answer: index of the right choice, from 0.
        has_image: whether the record names a picture, for the official IMG column; true even if the picture is missing
            and the policy is ``text``, or if pictures are not loaded.
        image: the picture to show; None if there is none.
        split: the problem's own split (train, val or test), also in trainval and in the mini splits.
    """

    id: str
    question: str
    choices: tuple[str, ...]
    answer: int
    hint: str
    has_image: bool
    image: ImageSource | None
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


@dataclass(frozen=True, slots=True)
class ProblemFormat:
    """How a problem is asked and answered.

    Attributes:
        prompt: the prompt, with places for ``question``, ``context`` and ``options``.
        write_candidate: (problem, index) → the answer that names this choice.
        explained: whether lecture and solution follow the answer in training.
    """

    prompt: str
    write_candidate: Callable[[Problem, int], str]
    explained: bool = False


@dataclass(frozen=True, slots=True)
class ProblemSplit:
    """The problems of one split, with an account of its rows: ``rows = used + skipped + beyond_limit``.

    Attributes:
        name: name of the split.
        source: where the rows come from.
        problems: the problems to use.
        rows: number of rows of the split in the source.
        missing: ids of the rows that were read and whose picture is missing.
        policy: what to do with these: ``skip`` leaves them out, ``text`` keeps them without picture.
    """

    name: str
    source: str
    problems: tuple[Problem, ...]
    rows: int
    missing: tuple[str, ...]
    policy: MissingImages

    @property
    def used(self) -> int:
        """Number of rows in ``problems``."""
        return len(self.problems)

    @property
    def skipped(self) -> int:
        """Number of rows left out because their picture is missing."""
        return len(self.missing) if self.policy == "skip" else 0

    @property
    def beyond_limit(self) -> int:
        """Number of rows not read because the limit was reached."""
        return self.rows - self.used - self.skipped

    def account(self) -> str:
        """Account for the rows: ``train: 368 of 713 rows used; 345 left out for missing pictures``."""
        fate = {"skip": "left out for missing pictures", "text": "used as text only for missing pictures"}
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
    """Read one split and check every row. Pictures must exist but are not opened; see :func:`check_images`.

    Args:
        source: the official folder (``problems.json``, ``pid_splits.json``, optionally ``captions.json``, pictures
            under ``images/<split>/<id>/`` or ``<split>/<id>/``); or a Parquet file, or a folder of them, with the
            columns of ``derek-thomas/ScienceQA``; or the Hub id of a data set in that form. Parquet rows have no id;
            they get ``<split>-<row>``, where rows are counted from 0 in each of train, val and test.
        split: a name in ``pid_splits.json``; in the Hub's form train, val (``validation`` there), test or trainval.
        missing_images: what to do with a row whose picture is missing: ``error``, ``skip`` the row, or keep it as
            ``text`` without picture. Skipped and kept rows are counted.
        limit: maximum number of problems, from the first; no more rows are read.
        captions: a file ``{"captions": {id: text}}``; by default that of the official folder, if it has one.
        pictures: whether to look for pictures; scoring needs none. If False, every ``image`` is None.

    Raises:
        InputError: all faults of the source, each with row, field and cause; or there are no rows.
    """
    if missing_images not in (policies := ("error", "skip", "text")):
        raise InputError(
            f"missing_images: unknown value '{missing_images}'. Known: {', '.join(policies)}."
            f"{suggest_name(missing_images, policies)}"
        )
    if limit is not None and limit < 1:
        raise InputError(f"limit: {limit}, must be 1 or more; leave it out for all rows")
    table = locate_table(source)(split, pictures)
    caption_of = _read_captions(captions or table.captions)

    problems: list[Problem] = []
    missing: list[str] = []
    faults: list[str] = list(table.faults)
    for row in table:
        if len(problems) == limit:
            break
        row_faults = [*row.faults, *_find_text_faults("id", row.id), *_find_faults(row.fields)]
        faults += [f"{table.where}, problem {row.id}: {fault}" for fault in row_faults]
        lacks_picture = pictures and row.has_image and row.image is None
        if lacks_picture and not row_faults:
            missing.append(row.id)
        if not row_faults and not (lacks_picture and missing_images == "skip"):
            problems.append(_make_problem(row, caption_of.get(row.id, "")))

    if missing and missing_images == "error":
        faults.insert(0, _describe_missing(table, split, missing))
    if faults:
        raise InputError(*truncate_faults(faults))
    if captions and any(p.has_image for p in problems) and not any(p.caption for p in problems):
        raise InputError(
            f"{captions}: no caption for any problem of split '{split}'; its ids may be those of another source"
        )
    result = ProblemSplit(split, str(source), tuple(problems), table.rows, tuple(missing), missing_images)
    if not problems:
        raise InputError(f"{table.where}: no usable rows in split '{split}' ({result.account()})")
    return result


def check_images(problems: Iterable[Problem], *, workers: int | None = None) -> list[str]:
    """Open and decode every picture.

    A damaged picture would stop training. Opening all pictures first takes 0.2 s for the 112 of the real sample on two
    cores, so about 12 s for the 6,218 of train.

    Args:
        problems: the problems whose pictures to open.
        workers: number of threads; by default the number of cores, at most 16.

    Returns:
        One line for each picture that cannot be opened, in the order of the problems.
    """
    pictures = [(problem.id, problem.image) for problem in problems if problem.image is not None]

    def find_fault(picture: tuple[str, ImageSource]) -> str | None:
        try:
            open_image(picture[1])
        except InputError as error:
            return f"problem {picture[0]}: picture {error}"
        return None

    with ThreadPoolExecutor(workers or min(16, os.cpu_count() or 1)) as pool:
        return [line for line in pool.map(find_fault, pictures) if line]


def to_example(problem: Problem, *, format: AnswerFormat = "QCM-ALE", caption: bool = False) -> Example:
    """Write a problem as a prompt and its answer.

    The context is the hint, or ``N/A``; options are ``(A) … (B) …``. Runs of spaces become one space; line breaks stay.
    (LaVIN writes those of lecture and solution as a backslash and an n, because GPT-3 stopped at line breaks.)

    Args:
        problem: the problem.
        format: a row of :data:`FORMATS`.
        caption: whether to append the picture's caption to the hint, as in ScienceQA and LaVIN.
    """
    form = FORMATS[format]
    candidates = tuple(form.write_candidate(problem, index) for index in range(len(problem.choices)))
    right = candidates[problem.answer]
    options = " ".join(f"({letter}) {_tidy(choice)}" for letter, choice in zip(LETTERS, problem.choices, strict=False))
    return Example(
        id=problem.id,
        prompt=form.prompt.format(
            question=_tidy(problem.question),
            context=_tidy(f"{problem.hint} {problem.caption if caption else ''}") or "N/A",
            options=options,
        ),
        target=_explain(right, problem) if form.explained else right,
        images=() if problem.image is None else (problem.image,),
        candidates=candidates,
        references=(right,),
        answer=problem.answer,
    )


def format_answer(index: int) -> str:
    """Write an answer in its official form: ``The answer is B.`` for 1."""
    return f"The answer is {LETTERS[index]}."


def _find_faults(fields: Mapping[str, Any]) -> Iterator[str]:
    """Find the faults of a row's fields, except the picture."""
    for name in (*TEXT_FIELDS, "split"):
        if name not in fields:
            yield f"{name}: the field is missing"
        else:
            yield from _find_text_faults(name, fields[name])
    if isinstance(question := fields.get("question"), str) and not question.strip():
        yield "question: empty"
    if isinstance(split := fields.get("split"), str) and split not in OWN_SPLITS:
        yield f"split: unknown split '{split}'. Known: {', '.join(OWN_SPLITS)}.{suggest_name(split, OWN_SPLITS)}"
    yield from _find_choice_faults(fields)


def _find_text_faults(name: str, value: object) -> list[str]:
    """Find what is wrong with a text; it may be empty, and its spaces stay, because scoring looks at both."""
    if not isinstance(value, str):
        return [f"{name}: {format_value(value)} is not text"]
    try:
        check_characters(name, value)
    except InputError as error:
        return list(error.faults)
    return []


def _find_choice_faults(fields: Mapping[str, Any]) -> Iterator[str]:
    missing = [name for name in ("choices", "answer") if name not in fields]
    yield from (f"{name}: the field is missing" for name in missing)
    choices, answer = fields.get("choices"), fields.get("answer")
    count = None
    if "choices" in fields:
        if not isinstance(choices, list):
            yield f"choices: {format_value(choices)} is not a list"
        else:
            count = len(choices)
            for index, choice in enumerate(choices):
                yield from _find_text_faults(f"choices: number {index}", choice)
                if isinstance(choice, str) and not choice.strip():
                    yield f"choices: number {index}: empty"
            if not 2 <= count <= len(LETTERS):
                yield f"choices: {count} given, must be 2 to {len(LETTERS)}"
    if "answer" in fields:
        if type(answer) is not int:  # a bool is an int in Python
            yield f"answer: {format_value(answer)} is not an integer"
        elif count is not None and not 0 <= answer < count:
            yield f"answer: {answer} is out of range, there are {count} choices (0 to {count - 1})"


def _make_problem(row: ProblemRow, caption: str) -> Problem:
    texts = {name: row.fields[name] for name in (*TEXT_FIELDS, "split")}
    choices, answer = tuple(row.fields["choices"]), row.fields["answer"]
    return Problem(
        id=row.id, choices=choices, answer=answer, has_image=row.has_image, image=row.image, caption=caption, **texts
    )


def _describe_missing(table: ProblemTable, split: str, ids: Sequence[str]) -> str:
    few = ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")
    return (
        f"{table.where}: pictures missing in split '{split}': {len(ids):,}, of problems {few} "
        f"(expected {table.describe_picture(ids[0])}). Add them, or choose what to do with these rows: "
        "--set data.missing_images=skip leaves them out, --set data.missing_images=text keeps them without picture"
    )


def _read_captions(path: Path | None) -> Mapping[str, str]:
    if path is None:
        return {}
    value = read_json_file(path)
    captions = value.get("captions") if isinstance(value, dict) else None
    if not isinstance(captions, dict):
        raise InputError(f'{path}: must hold {{"captions": {{id: text}}}}')
    faults = [f"{path}, problem {key}: {fault}" for key, text in captions.items()
              for fault in _find_text_faults("caption", text)]  # fmt: skip
    if faults:
        raise InputError(*truncate_faults(faults))
    return captions


def _tidy(text: str) -> str:
    return re.sub(" {2,}", " ", text).strip()


def _explain(answer: str, problem: Problem) -> str:
    explanation = _tidy(f"{_tidy(problem.lecture)} {_tidy(problem.solution)}")
    return f"{answer} BECAUSE: {explanation}" if explanation else answer


def _write_sentence(problem: Problem, index: int) -> str:
    return format_answer(index)


def _write_letter(problem: Problem, index: int) -> str:
    return LETTERS[index]


def _write_choice(problem: Problem, index: int) -> str:
    return _tidy(problem.choices[index])


_QUESTION_FIRST = "Question: {question}\nContext: {context}\nOptions: {options}\nResponse:"
_CONTEXT_FIRST = "Context: {context}\nQuestion: {question}\nOptions: {options}\n" + RESPONSES["letter"]

FORMATS: Mapping[AnswerFormat, ProblemFormat] = {
    "QCM-ALE": ProblemFormat(_QUESTION_FIRST, _write_sentence, explained=True),
    "QCM-A": ProblemFormat(_QUESTION_FIRST, _write_sentence),
    "QCM-T": ProblemFormat(_QUESTION_FIRST, _write_choice),
    "CQM-A": ProblemFormat(_CONTEXT_FIRST, _write_letter),
}
"""Name in ``data.format`` → the format. QCM-ALE answers ``The answer is B. BECAUSE: {lecture} {solution}``, without
BECAUSE if both are empty; QCM-A ``The answer is B.``; QCM-T the text of the choice, for bases that do not connect
letters with choices; CQM-A the letter, as LLaVA asks for it. ``READERS`` in ``evaluation/scienceqa.py`` reads the
answers."""
