"""Reference pages as Markdown, read off the code: commands, recipe keys, methods, metrics, modules. Knows no mkdocs."""

import enum
import inspect
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer.main

import lora_mm
from lora_mm.adapters.methods import METHODS
from lora_mm.cli.main import app
from lora_mm.evaluation.metrics import METRICS
from lora_mm.recipe.load import load_recipe, recipe_file, recipe_names
from lora_mm.recipe.schema import file_schema

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGE = ROOT / "lora_mm"
README = ROOT / "README.md"
SCORE_BEGIN, SCORE_END = "<!-- score: begin -->\n", "<!-- score: end -->"


def make_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a ``|`` in a cell is escaped.

    Args:
        head: the column titles.
        rows: the cells of each row, as Markdown.
    """
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


ROLE = re.compile(r":(?:class|func|data|meth|mod|attr|exc):`~?\.*([^`]+)`")


def to_markdown(docstring: str) -> str:
    """A docstring's text as Markdown: double backticks become single ones, and Sphinx roles plain code."""
    return ROLE.sub(r"`\1`", docstring.replace("``", "`"))


# --- commands --------------------------------------------------------------------------------------------------------


def list_commands() -> dict[str, Any]:
    """Full name of every command (``merge``, ``share pack``) → its Typer command."""
    return dict(_walk_commands("", typer.main.get_command(app)))


def _walk_commands(prefix: str, group: Any) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        full = f"{prefix} {name}".strip()
        if getattr(command, "commands", None):
            yield from _walk_commands(full, command)
        else:
            yield full, command


def list_options(command: Any) -> list[str]:
    """The options of a command, such as ``--output``."""
    return [name for param in command.params for name in param.opts if name.startswith("-")]


def make_commands_page() -> str:
    """Every command with its arguments, options and defaults."""
    return "\n".join(_describe_command(name, command) for name, command in list_commands().items())


def _describe_command(name: str, command: Any) -> str:
    hints = typing.get_type_hints(command.callback)
    arguments = [param for param in command.params if not param.opts[0].startswith("-")]
    options = [param for param in command.params if param.opts[0].startswith("-")]
    needed = [f"{param.opts[0]} {_value_name(param, hints)}" for param in options if param.required]
    usage = " ".join(
        ["lora-mm", name, *(_argument_name(param) for param in arguments), *needed, *(["[OPTIONS]"] if options else [])]
    )
    text = f"## lora-mm {name} {{#{name.replace(' ', '-')}}}\n\n{to_markdown(inspect.cleandoc(command.help))}\n"
    text += f"\n```text\n{usage}\n```\n"
    rows = [(f"`{_argument_name(param)}`", param.help or "") for param in arguments]
    rows += [(_option_cell(param, hints), _option_text(param, hints)) for param in options]
    return text + (f"\n{make_table(('option', 'meaning'), rows)}" if rows else "")


def _argument_name(param: Any) -> str:
    return str(param.metavar or param.name.upper())


def _value_name(param: Any, hints: Mapping[str, Any]) -> str:
    """What stands for an option's value: its choices, its metavar, or its type."""
    if getattr(param, "is_flag", False):
        return ""
    if param.metavar:
        return str(param.metavar)
    kinds = [kind for kind in (typing.get_args(hints[param.name]) or (hints[param.name],)) if kind is not type(None)]
    if isinstance(kinds[0], type) and issubclass(kinds[0], enum.Enum):
        return "|".join(str(member.value) for member in kinds[0])
    return {int: "N", float: "X"}.get(kinds[0], param.name.rstrip("s").upper())


def _option_cell(param: Any, hints: Mapping[str, Any]) -> str:
    names = ", ".join(sorted(param.opts, key=len, reverse=True))
    return f"`{f'{names} {_value_name(param, hints)}'.strip()}`"


def _option_text(param: Any, hints: Mapping[str, Any]) -> str:
    text = param.help or ""
    if param.required:
        return f"{text} Required."
    default = param.default
    if getattr(param, "is_flag", False) or default is None or default == []:
        return text
    return f"{text} Default: `{default.value if isinstance(default, enum.Enum) else default}`."


# --- recipes ---------------------------------------------------------------------------------------------------------


def make_recipes_page() -> str:
    """Every recipe of the package with its summary and its file's opening comment."""
    parts = []
    for name in recipe_names():
        recipe = load_recipe(name)
        lines = recipe_file(name).read_text(encoding="utf-8").splitlines()
        opening = [line.removeprefix("#").removeprefix(" ") for line in _take_comment(lines)]
        parts.append(f"## {name} {{#{name}}}\n\n{_sentence(recipe.summary)}\n\n```text\n{chr(10).join(opening)}\n```\n")
    return "\n".join(parts)


def _take_comment(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if not line.startswith("#"):
            return
        yield line


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def make_recipe_keys_page() -> str:
    """Every key of a recipe, section by section, from the JSON schema that ``lora-mm recipes schema`` prints."""
    schema = file_schema()
    parts = [_describe_section("", schema, schema)]
    for path, section in _find_sections("", schema, schema):
        parts.append(_describe_section(path, section, schema))
    return "\n".join(parts)


def list_recipe_keys() -> set[str]:
    """Dotted name of every key, items of a list without their number: ``data.slicing.rows``, ``adapters.rank``."""
    schema = file_schema()
    found = set(schema["properties"])
    for path, section in _find_sections("", schema, schema):
        found |= {f"{path}.{key}" for key in section["properties"]}
    return found


def _find_sections(path: str, section: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Path and schema of every section below one, each once a path."""
    for key, fields in section["properties"].items():
        for name in _references(fields):
            inner = schema["$defs"][name]
            if "properties" in inner:
                yield f"{path}.{key}".lstrip("."), inner
                yield from _find_sections(f"{path}.{key}".lstrip("."), inner, schema)


def _references(fields: Any) -> list[str]:
    if isinstance(fields, list):
        return [name for item in fields for name in _references(item)]
    if not isinstance(fields, dict):
        return []
    own = [fields["$ref"].rpartition("/")[2]] if "$ref" in fields else []
    return own + [
        name for key, item in fields.items() if key in ("anyOf", "allOf", "items") for name in _references(item)
    ]


def _describe_section(path: str, section: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    title = f"## {path} {{#{path.replace('.', '-')}}}" if path else "## Top level {#top}"
    rows = []
    for key, fields in section["properties"].items():
        below = [name for name in _references(fields) if "properties" in schema["$defs"][name]]
        inner = f"{path}.{key}".lstrip(".")
        name = f"[`{key}`](#{inner.replace('.', '-')})" if below else f"`{key}`"
        rows.append((name, _describe_type(fields, schema), _describe_default(fields), _describe_key(fields, schema)))
    text = to_markdown(section.get("description", ""))
    return f"{title}\n\n{text}\n\n{make_table(('key', 'value', 'default', 'meaning'), rows)}"


def _describe_key(fields: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    own = fields.get("description")
    if own is None:
        inner = [schema["$defs"][name].get("description", "") for name in _references(fields)]
        own = next((text.partition("\n")[0] for text in inner if text), "")
    return to_markdown(own)


def _describe_default(fields: Mapping[str, Any]) -> str:
    if "default" not in fields:
        return ""
    value = fields["default"]
    if value is None or value == "" or isinstance(value, dict):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else _plain(value)}`"


def _plain(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)


def _describe_type(fields: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    if "$ref" in fields:
        inner = schema["$defs"][fields["$ref"].rpartition("/")[2]]
        return "keys" if "properties" in inner else _describe_type(inner, schema)
    if "enum" in fields:
        return " ".join(f"`{value}`" for value in fields["enum"])
    if "const" in fields:
        return f"`{fields['const']}`"
    if "anyOf" in fields:
        kinds = [_describe_type(item, schema) for item in fields["anyOf"] if item.get("type") != "null"]
        return ", or ".join(dict.fromkeys(kinds))
    if fields.get("type") == "array":
        return f"list of {_describe_type(fields.get('items', {}), schema)}"
    if fields.get("type") == "object":
        return "mapping"
    kind = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true` `false`"}.get(
        str(fields.get("type")), "any"
    )
    return kind + _describe_bounds(fields)


def _describe_bounds(fields: Mapping[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {fields[name]:g}" for name, sign in signs.items() if name in fields]
    return f" {', '.join(bounds)}" if bounds else ""


# --- methods ---------------------------------------------------------------------------------------------------------

ROUTERS: Mapping[str | None, str] = {
    None: "nothing",
    "modality": "the sample's modality",
    "visual": "whether the token is visual",
    "crop": "the crop's place in the grid",
    "token": "the token itself",
}
"""What a router reads, in words."""


def make_methods_page() -> str:
    """The table of methods, a row of ``lora_mm.adapters.methods.METHODS`` each."""
    rows = []
    for name, method in METHODS.items():
        sites = ", ".join(f"`{site}`" for site in method.sites)
        parts = ", ".join(f"`{part}`" for part in method.parts)
        rows.append((f"`{name}`", method.summary, parts, sites, ROUTERS[method.router], str(method.experts)))
    return make_table(("method", "what", "part", "at", "routed by", "experts"), rows)


def make_metrics_page() -> str:
    """The table of metrics, a row of ``lora_mm.evaluation.metrics.METRICS`` each."""
    rows = []
    for name, metric in METRICS.items():
        unparsed = "counted as wrong" if metric.can_be_unparsed else "–"
        rows.append((f"`{name}`", metric.title, "yes" if metric.has_choices else "no", unparsed))
    return make_table(("metric", "title of its table", "needs choices", "answers that cannot be parsed"), rows)


# --- modules ---------------------------------------------------------------------------------------------------------


def list_packages() -> dict[str, list[str]]:
    """Package of ``lora_mm`` → its modules that hold code; ``lora_mm`` itself → the modules beside the packages.

    The command line is left out: its page lists commands.
    """
    found = {"lora_mm": _modules(PACKAGE)}
    for folder in sorted(path.parent for path in PACKAGE.glob("*/__init__.py")):
        if folder.name != "cli":
            found[f"lora_mm.{folder.name}"] = _modules(folder) + [
                module for inner in sorted(folder.glob("*/__init__.py")) for module in _modules(inner.parent)
            ]
    return found


def _modules(folder: Path) -> list[str]:
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in sorted(folder.glob("*.py"))]
    return [name for name in names if not name.rpartition(".")[2].startswith("_")]


def make_package_page(package: str) -> str:
    """The API page of a package: a mkdocstrings directive a module."""
    modules = list_packages()[package]
    title = "Foundations" if package == "lora_mm" else package
    directives = "\n\n".join(f"::: {name}\n    options:\n      heading_level: 2" for name in modules)
    return f"# {title}\n\n{directives}\n"


def make_public_face_page() -> str:
    """A directive for each name in ``lora_mm.__all__`` that is a function or a class."""
    names = [name for name in lora_mm.__all__ if not name.startswith("__")]
    return "\n\n".join(f"::: lora_mm.{name}\n    options:\n      heading_level: 2" for name in names) + "\n"


# --- files of the repository -----------------------------------------------------------------------------------------


def list_results() -> dict[str, Path]:
    """Name → file of every page of measurements."""
    return {file.stem: file for file in sorted(RESULTS.glob("*.md"))}


def make_results_list() -> str:
    """A link to every page of measurements, with its first heading."""
    lines = []
    for name, file in list_results().items():
        heading = next(line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("# "))
        lines.append(f"- [{heading.removeprefix('# ')}]({name}.md): `benchmarks/results/{file.name}`\n")
    return "".join(lines)


def read_result(name: str) -> str:
    """A page of measurements as it stands in ``benchmarks/results``."""
    return list_results()[name].read_text(encoding="utf-8")


def read_score() -> str:
    """The score of the quickstart, as README.md shows it."""
    return README.read_text(encoding="utf-8").split(SCORE_BEGIN)[1].split(SCORE_END)[0]


def include_result(file: str) -> str:
    """A file of measurements inside another page: without its first heading, its other headings one level down."""
    text = (ROOT / file).read_text(encoding="utf-8")
    return re.sub(r"^#(?=#)", "##", re.sub(r"\A# .*\n+", "", text), flags=re.MULTILINE)


GENERATED: Mapping[str, Callable[[], str]] = {
    "commands": make_commands_page,
    "recipes": make_recipes_page,
    "recipe keys": make_recipe_keys_page,
    "methods": make_methods_page,
    "metrics": make_metrics_page,
    "public face": make_public_face_page,
    "results": make_results_list,
    "score": read_score,
}
"""Name in a page's ``<!-- generated: NAME -->`` → what takes its place."""


def fill_in(page: str) -> str:
    """A page with each ``<!-- generated: NAME -->`` and ``<!-- include: FILE -->`` replaced by what it names."""
    for name, make in GENERATED.items():
        mark = f"<!-- generated: {name} -->"
        if mark in page:
            page = page.replace(mark, make())
    return re.sub(r"<!-- include: (\S+) -->", lambda found: include_result(found[1]), page)
