"""A model's answers, one for each question, and their file. Knows no metric."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_mm.atomic import write_atomically
from lora_mm.data.example import Example
from lora_mm.errors import InputError


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
    write_atomically(path, "".join(json.dumps(answer.as_dict(), ensure_ascii=False) + "\n" for answer in answers))


def load_answers(path: Path) -> list[Answer]:
    """Read a file of :func:`save_answers`.

    Raises:
        InputError: the file cannot be read, or a line, named by its number, is not a saved answer.
    """
    answers: list[Answer] = []
    try:
        # Not splitlines(), which also breaks a line at U+2028.
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
            fields = json.loads(line)
            credit = fields["right"]
            answers.append(
                Answer(
                    id=fields["id"],
                    prediction=fields["prediction"],
                    references=tuple(fields["references"]),
                    credit=None if credit is None else float(credit),
                    choice=fields["choice"],
                )
            )
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError) as error:
        line_number = len(answers) + 1
        raise InputError(
            f"{path}, line {line_number}: not a saved answer ({type(error).__name__}: {error})."
        ) from error
    return answers
