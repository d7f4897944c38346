"""Copies what is sent of an adapter, without paths of this machine. Knows the folder's files; sends nothing.

The folder itself keeps its paths, because a run is resumed only with the recipe that it began with.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from lora_mm.artifact.files import RECIPE, WEIGHTS, list_shared_files, read_json_object
from lora_mm.errors import InputError
from lora_mm.paths import read_text_file
from lora_mm.yaml_text import read_yaml_mapping, to_yaml

_PATH_KEYS = ("base_model_name_or_path", "eval_path", "image_root", "model", "name", "path")
"""Keys of the recipe and of the JSON files that hold the path of a base or of data."""

_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")


@contextmanager
def copy_to_send(folder: Path, say: Callable[[str], None]) -> Iterator[list[Path]]:
    """Copy the shared files of an adapter; paths of this machine become the names of their files or folders.

    Args:
        folder: the adapter's folder, which stays as it is.
        say: called with a line for each path that was replaced.

    Yields:
        The copies, sorted by name, in a folder that is deleted at the end of the block.

    Raises:
        InputError: a folder that cannot be shared, or a file with an access token in it.
    """
    files = list_shared_files(folder)
    names = _choose_names(files)
    with tempfile.TemporaryDirectory() as temporary:
        for file in files:
            if file.name == WEIGHTS:
                shutil.copyfile(file, Path(temporary) / file.name)
                continue
            text = _replace_paths(file, names)
            if _TOKEN.search(text):
                raise InputError(f"{file}: holds an access token (hf_…); remove it, and revoke the token on the Hub.")
            (Path(temporary) / file.name).write_text(text, encoding="utf-8")
        for path, name in names.items():
            say(f"'{path}' is a path of this machine; '{name}' is sent in its place.")
        yield [Path(temporary) / file.name for file in files]


def _choose_names(files: list[Path]) -> dict[str, str]:
    """Find the paths of this machine in the files: path → the name to send, longer paths first."""
    paths = {path for file in files if file.suffix != ".md" for path in _find_paths(_read(file))}
    longest_first = sorted(paths, key=lambda path: (-len(path), path))
    return {path: PureWindowsPath(path).name.replace('"', "'") or "root" for path in longest_first}


def _read(file: Path) -> Any:
    if file.name == WEIGHTS:
        return None
    return read_yaml_mapping(file) if file.name == RECIPE else read_json_object(file)


def _find_paths(value: Any) -> Iterator[str]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if key in _PATH_KEYS and isinstance(item, str) and _is_of_this_machine(item):
            yield item
        yield from _find_paths(item)


def _is_of_this_machine(path: str) -> bool:
    """Whether a path names the folders above the current one, as absolute ones and those of a home folder do."""
    posix, windows = PurePosixPath(path), PureWindowsPath(path)
    return posix.is_absolute() or windows.is_absolute() or path.startswith(("~", "file:")) or ".." in windows.parts


def _replace_paths(file: Path, names: dict[str, str]) -> str:
    """The text of ``file`` with names in place of paths, and ``~`` in place of the home folder."""
    text = read_text_file(file)
    if file.name == RECIPE and any(_find_paths(content := read_yaml_mapping(file))):
        text = to_yaml(_rename(content, names))
    home = Path.home()
    for path, name in {**names, **({str(home): "~"} if home != home.parent else {})}.items():
        text = _replace_whole(text, path, name)
    return text


def _replace_whole(text: str, path: str, name: str) -> str:
    """Replace a path, and its form in JSON, where it is not part of a longer name."""
    forms = {path, *(json.dumps(path, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False))}
    pattern = "|".join(map(re.escape, sorted(forms)))
    return re.sub(rf"(?<![\w/.:-])(?:{pattern})(?![\w-])", lambda match: name, text)


def _rename(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _rename(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_rename(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value
