"""A model's answers, one for each question, and their file. Knows no metric."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lora_mm.atomic import write_atomically
from lora_mm.data.example import Example
from lora_mm.errors import InputError, name_place
from lora_mm.json_text import parse_json, to_json
from lora_mm.paths import read_text_file
from lora_mm.validation import explain_validation_error


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer to one question, and its credit.

    Attributes:
        id: id of the question.
        prediction: the generated text, or the likeliest candidate.
        references: answers that count as right.
        credit: 0 (wrong) to 1 (right); None if the answer could not be parsed, which counts as 0.
        choice: index of the candidate that the answer names; None if it names none.
    """

    id: str
    prediction: str
    references: tuple[str, ...]
    credit: float | None
    choice: int | None = None

    @property
    def points(self) -> float:
        """The credit as it is counted: 0 for an answer that could not be parsed."""
        return self.credit or 0.0

    @property
    def correct(self) -> bool:
        """Whether the answer earns half the credit or more."""
        return self.points >= 0.5

    def as_dict(self) -> dict[str, Any]:
        """Convert to JSON values; ``right`` is true, false, a partial credit, or null if the answer was not parsed."""
        return {
            "id": self.id,
            "prediction": self.prediction,
            "references": list(self.references),
            "right": bool(self.credit) if self.credit in (0, 1) else self.credit,
            "choice": self.choice,
        }


def list_references(example: Example) -> tuple[str, ...]:
    """Return the answers that count as right: the example's references, or its target where it has none."""
    return example.references or (example.target,)


def save_answers(path: Path, answers: Iterable[Answer]) -> None:
    """Write answers as JSON lines with the fields id, prediction, references, right and choice.

    Args:
        path: file to write; an error leaves it unchanged.
        answers: the answers, one line each.

    Raises:
        LoraMMError: the file cannot be written.
    """
    write_atomically(path, "".join(to_json(answer.as_dict()) + "\n" for answer in answers))


class _SavedAnswer(BaseModel):
    """A line of the file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: str
    prediction: str
    references: list[str]
    right: bool | Annotated[float, Field(ge=0, le=1)] | None
    choice: Annotated[int, Field(ge=0)] | None


def load_answers(path: Path) -> list[Answer]:
    """Read a file of :func:`save_answers`.

    Raises:
        InputError: the file cannot be read or is cut off, or a line, named by its number, is not a saved answer.
    """
    *lines, end = read_text_file(path).split("\n")  # not splitlines(), which also breaks a line at U+2028
    if end:
        raise InputError(f"{path}, line {len(lines) + 1}: the file is cut off.")
    answers = []
    for number, line in enumerate(lines, 1):
        with name_place(f"{path}, line {number}: not a saved answer"):
            answers.append(_parse_answer(line))
    return answers


def _parse_answer(line: str) -> Answer:
    try:
        saved = _SavedAnswer.model_validate(parse_json(line))
    except ValidationError as error:
        raise InputError(*explain_validation_error(error, _SavedAnswer)) from error
    credit = None if saved.right is None else float(saved.right)
    return Answer(saved.id, saved.prediction, tuple(saved.references), credit, saved.choice)
