"""Checks and reads the cells of a row: texts, ids and pictures. Knows no layouts and no files of rows."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lora_mm.data.example import PICTURE, ImageSource
from lora_mm.errors import InputError
from lora_mm.printable import find_control_character

_QUOTED_LENGTH = 40
_URL = re.compile(r"(https?|data|s3|gs):")


def read_text(name: str, value: Any, *, allow_empty: bool = False) -> str:
    """Check that a cell is text, and strip the spaces around it.

    Args:
        name: name of the cell in messages.
        value: value of the cell.
        allow_empty: whether the text may be empty.

    Raises:
        InputError: the value is not text, is empty, or contains a control character.
    """
    if not isinstance(value, str):
        raise InputError(f"{name}: {format_value(value)} is not text")
    check_characters(name, value)
    if not allow_empty and not value.strip():
        raise InputError(f"{name}: empty")
    return value.strip()


def read_id(value: Any, default: str) -> str:
    """Read a row's id.

    Args:
        value: value of the cell; None if the row has no id.
        default: id for a row that has none.

    Raises:
        InputError: the value is neither text nor an integer.
    """
    if isinstance(value, str):
        check_characters("id", value)
    if value is None or value == "":
        return default
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        return str(value)
    raise InputError(f"id: {format_value(value)} is neither text nor an integer")


def format_value(value: object) -> str:
    """Write a faulty value for a message: as JSON, truncated."""
    text = json.dumps(value, ensure_ascii=False, default=lambda item: type(item).__name__)
    return text if len(text) <= _QUOTED_LENGTH else f"{text[: _QUOTED_LENGTH - 1]}…"


def check_characters(name: str, text: str) -> None:
    """Raise InputError for control characters, unpaired surrogates, and the character that marks a picture.

    Args:
        name: name of the cell in messages.
        text: its text.
    """
    if PICTURE in text:
        raise InputError(f"{name}: contains U+FFFC, which stands for a lost object; remove it")
    if match := find_control_character(text):
        raise InputError(
            f"{name}: contains the control character U+{ord(match.group()):04X} at position {match.start() + 1}"
        )


@dataclass(frozen=True)
class PictureFolder:
    """Finds the pictures that cells name.

    Attributes:
        root: folder that paths are relative to; no path may lead outside it.
    """

    root: Path

    @cached_property
    def _top(self) -> str:
        return os.path.normpath(self.root.absolute())

    def read_cell(self, value: Any) -> tuple[ImageSource, ...]:
        """Read all pictures of a cell: a path, bytes, ``{bytes, path}``, a list of these, or nothing."""
        if value is None or value == "" or value == []:
            return ()
        return tuple(self.read_picture(item) for item in (value if isinstance(value, list) else [value]))

    def read_picture(self, value: Any) -> ImageSource:
        """Read one picture. Its file must exist but is not opened.

        Raises:
            InputError: the value is neither a path nor bytes, or there is no such file under ``root``.
        """
        if isinstance(value, Mapping):
            if isinstance(encoded := value.get("bytes"), bytes):
                return encoded
            value = next((value[key] for key in ("path", "url") if value.get(key)), value)
        return value if isinstance(value, bytes) else self._find_file(value)

    def _find_file(self, value: Any) -> Path:
        if not isinstance(value, str):
            raise InputError(f"image: {format_value(value)} is neither a path nor the bytes of a picture")
        if _URL.match(value):
            raise InputError(f"image: {format_value(value)} is a URL, not a file; download it and give its path")
        if "\0" in value:
            raise InputError(f"image: {format_value(value)} is not a valid path")
        # Paths are compared as text: links inside the folder are allowed, '..' in a row is not.
        path = os.path.normpath(os.path.join(self._top, value))
        if path != self._top and not path.startswith(self._top.rstrip(os.sep) + os.sep):
            raise InputError(
                f"image: '{value}' is outside {self.root}; set data.image_root to the folder that holds the pictures"
            )
        if not os.path.isfile(path):
            raise InputError(
                f"image: no file '{value}' in {self.root}; data.image_root sets the folder that paths are relative to"
            )
        return Path(path)
