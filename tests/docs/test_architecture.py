"""Packages and imports are as docs/architecture.md says."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "lora_mm"
ARCHITECTURE = ROOT / "docs" / "architecture.md"


def list_rooms() -> list[list[str]]:
    """The rooms that each line of the architecture's table names, from the ground up."""
    table = ARCHITECTURE.read_text(encoding="utf-8").split("<!-- rooms: begin -->")[1].split("<!-- rooms: end -->")[0]
    return [re.findall(r"`(\w+)`", line.split("|")[1]) for line in table.strip().splitlines()[2:]]


def list_imports() -> Iterator[tuple[Path, str, str]]:
    """File, its room, and a room that it imports: also inside functions and for type checkers."""
    for file in PACKAGE.rglob("*.py"):
        path = file.relative_to(PACKAGE)
        room = path.parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"lora_mm.{item.name}" for item in node.names] if node.module == "lora_mm" else [node.module]
            elif isinstance(node, ast.Import):
                names = [item.name for item in node.names]
            else:
                continue
            for name in names:
                imported = name.split(".")[1] if name.startswith("lora_mm.") else ""
                if imported and imported != room and not imported.startswith("__"):
                    yield file, room, imported


def test_imports_go_one_way_as_the_architecture_says() -> None:
    rooms = {room: level for level, line in enumerate(list_rooms()) for room in line}
    upwards = [
        f"{file.relative_to(ROOT)} ({room}) imports {imported}"
        for file, room, imported in list_imports()
        if not room.startswith("__") and rooms.get(imported, 0) > rooms.get(room, 0)
    ]
    assert upwards == []


def test_every_package_is_in_the_architecture() -> None:
    there = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    there |= {file.stem for file in PACKAGE.glob("*.py") if not file.stem.startswith("__")}
    assert there == {room for line in list_rooms() for room in line}
