"""The walks of CONTRIBUTING.md: their rows are added to a copy of the repository, and their commands run there."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WALKS = ("Add a model family", "Add a method", "Add a metric")
STEP = re.compile(
    r"^ *<!-- walk: (\S+) \| (above|below|replace): ([^\n]*) -->\n *```\w+\n(.*?)^ *```", re.DOTALL | re.MULTILINE
)
SHELL = re.compile(r"^ *```bash\n(.*?)^ *```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Step:
    """One block of a walk.

    Attributes:
        file: path in the repository.
        place: whether the block goes above or below the line at the mark, or replaces the mark.
        mark: how that line begins; or the text to replace.
        block: what to write.
    """

    file: str
    place: str
    mark: str
    block: str

    def take(self, root: Path) -> None:
        """Change the file in ``root``."""
        path = root / self.file
        text = path.read_text(encoding="utf-8")
        if self.place == "replace":
            assert text.count(self.mark) == 1, f"CONTRIBUTING.md: {self.file} has no single '{self.mark}'"
            path.write_text(text.replace(self.mark, self.block.strip()), encoding="utf-8")
            return
        lines = text.splitlines(keepends=True)
        found = [number for number, line in enumerate(lines) if line.strip().startswith(self.mark)]
        assert len(found) == 1, f"CONTRIBUTING.md: {self.file} has no single line '{self.mark}'"
        lines.insert(found[0] + (self.place == "below"), self.block)
        path.write_text("".join(lines), encoding="utf-8")


def read_walk(title: str) -> tuple[list[Step], list[str]]:
    """The steps and the commands under a heading of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = re.split(r"^## ", text.split(f"## {title}\n")[1], flags=re.MULTILINE)[0]
    steps = [Step(file, place, mark, unindent(block)) for file, place, mark, block in STEP.findall(section)]
    return steps, [line.strip() for block in SHELL.findall(section) for line in block.splitlines()]


def unindent(block: str) -> str:
    """A block without the indentation of the list that it stands in."""
    return "".join(line[4:] if line.strip() else "\n" for line in block.splitlines(keepends=True))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of what the tests need."""
    root = tmp_path / "repository"
    for name in ("lora_mm", "tests", "recipes", "benchmarks", "tools"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    shutil.copy(ROOT / "pyproject.toml", root)
    return root


def test_the_walks_are_all_here() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert tuple(re.findall(r"^## (Add .*)$", text, flags=re.MULTILINE)) == WALKS
    assert sum(len(read_walk(title)[0]) for title in WALKS) == text.count("<!-- walk: ")


@pytest.mark.parametrize("title", WALKS)
def test_a_walk_leads_where_it_says(title: str, repository: Path) -> None:
    steps, commands = read_walk(title)
    assert steps
    assert commands
    for step in steps:
        step.take(repository)
    environment = {**os.environ, "PYTHONPATH": str(repository), "PYTEST_ADDOPTS": "-n 0"}
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "python"
        done = subprocess.run([sys.executable, *words], cwd=repository, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}{done.stderr[-2000:]}"
        assert re.search(r"\d+ passed", done.stdout), f"{command} ran no test:\n{done.stdout}"
