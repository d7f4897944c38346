"""Resolves the paths that users write, and reads the text files there. Knows no format."""

import codecs
from pathlib import Path

from lora_mm.errors import InputError, shorten


def resolve_path(text: str | Path, what: str) -> Path:
    """Turn a path that a user wrote into one that can be opened or made; ``~`` is the user's home folder.

    Args:
        text: the path. Nothing needs to be there.
        what: what the path is for, or the key or option that has it, for messages.

    Raises:
        InputError: no file can have this path, or the system does not let us look at it.
    """
    try:
        path = Path(text).expanduser()
        str(path).encode()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return path
    except OSError as error:
        raise InputError(f"{what}: '{shorten(str(text))}': {error.strerror or error}") from error
    except RuntimeError as error:  # ~name of an unknown user
        raise InputError(
            f"{what}: '{shorten(str(text))}': no user of this name; write the path of the home folder, or ./~…"
        ) from error
    except ValueError as error:  # a NUL byte, or half of a character
        raise InputError(f"{what}: {shorten(ascii(str(text)))} is not a valid path in UTF-8") from error
    return path


def read_text_file(path: Path) -> str:
    """Read a text file; a byte order mark is skipped.

    Raises:
        InputError: no such file, it may not be read, or it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: {describe_encoding_error(error)}") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error


def describe_encoding_error(error: UnicodeDecodeError, where: str = "") -> str:
    """Say that text is not UTF-8, and how to convert it.

    Args:
        error: what the decoder raised.
        where: what its position counts from, such as ``of the row``; the beginning of the file by default.
    """
    return f"not UTF-8 text ({f'byte {error.start} {where}'.strip()}); {describe_conversion(error.object)}"


def describe_conversion(content: bytes) -> str:
    """Say how to convert a text that is not UTF-8.

    Args:
        content: its first bytes.
    """
    encoding = "UTF-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "LATIN1"
    return f"save it as UTF-8, for example: iconv -f {encoding} -t UTF-8 OLD > NEW"
