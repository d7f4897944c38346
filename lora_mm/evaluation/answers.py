"""A model's answers, one a question, and the file that keeps them. Knows no metric."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_mm.atomic import write_atomically
from lora_mm.errors import InputError


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answered to one question, and what that is worth.

    Attributes:
        prediction: as written; of answers taken by likelihood, the likeliest candidate.
        references: answers that count as right.
        worth: 0 to 1; None where it could not be read, which counts as 0.
        choice: index of the candidate that it names, where it names one.
    """

    id: str
    prediction: str
    references: tuple[str, ...]
    worth: float | None
    choice: int | None = None

    @property
    def points(self) -> float:
        """The worth as it counts."""
        return self.worth or 0.0

    @property
    def right(self) -> bool:
        """Whether it is worth half or more."""
        return self.points >= 0.5

    def as_dict(self) -> dict[str, Any]:
        """JSON values; ``right`` is true, false, the share it is worth, or null for what could not be read."""
        return {
            "id": self.id,
            "prediction": self.prediction,
            "references": list(self.references),
            "right": bool(self.worth) if self.worth in (0, 1) else self.worth,
            "choice": self.choice,
        }


def save_answers(path: Path, answers: Iterable[Answer]) -> None:
    """Write ``answers`` as JSON lines: id, prediction, references, right, choice.

    Raises:
        LoraMMError: the file cannot be written; it is then as it was before.
    """
    write_atomically(path, "".join(json.dumps(answer.as_dict(), ensure_ascii=False) + "\n" for answer in answers))


def load_answers(path: Path) -> list[Answer]:
    """What :func:`save_answers` wrote.

    Raises:
        InputError: for a line that is none of its own, named by number.
    """
    answers: list[Answer] = []
    try:
        # Not splitlines(), which breaks a line at U+2028 too.
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
            fields = json.loads(line)
            worth = fields["right"]
            answers.append(
                Answer(
                    id=fields["id"],
                    prediction=fields["prediction"],
                    references=tuple(fields["references"]),
                    worth=None if worth is None else float(worth),
                    choice=fields["choice"],
                )
            )
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError) as error:
        line_number = len(answers) + 1
        raise InputError(
            f"{path}, line {line_number}: is no saved answer ({type(error).__name__}: {error})."
        ) from error
    return answers
