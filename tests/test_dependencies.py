"""Every third-party module that lora_mm imports is declared, and the bounds allow the tested versions."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OPTIONAL = {"sacrebleu": "captions", "triton": "dev"}
"""Modules that lora_mm runs without, with the extra that installs them. CUDA builds of torch bring Triton."""


def normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(requirements: list[str]) -> dict[str, Requirement]:
    parsed = [Requirement(line) for line in requirements]
    return {normalize(requirement.name): requirement for requirement in parsed}


def imported_modules(folder: Path) -> set[str]:
    """Top-level names of the third-party modules that a folder imports anywhere, also inside functions."""
    names: set[str] = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"lora_mm"}


def test_every_imported_module_is_declared() -> None:
    distributions = packages_distributions()
    always = declared(PROJECT["dependencies"])
    for module in sorted(imported_modules(ROOT / "lora_mm")):
        names = {normalize(name) for name in distributions.get(module, [module])}
        extra = OPTIONAL.get(module)
        known = declared(PROJECT["optional-dependencies"][extra]) if extra else always
        assert names & set(known), f"{module}: add {names} to {extra or 'dependencies'} in pyproject.toml"


def test_lora_mm_imports_no_tools_and_no_tests() -> None:
    assert not imported_modules(ROOT / "lora_mm") & {"tools", "tests", "benchmarks"}


@pytest.mark.parametrize("extra", [None, *PROJECT["optional-dependencies"]])
def test_every_bound_allows_the_version_in_the_constraints(extra: str | None) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {normalize(name): version for name, _, version in (line.partition("==") for line in lines) if version}
    requirements = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    for name, requirement in declared(requirements).items():
        if name in pinned:
            assert requirement.specifier.contains(pinned[name]), f"{requirement} excludes {pinned[name]}"
