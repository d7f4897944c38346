"""Reads thousands of broken recipes, settings, rows, problems and predictions, and counts what is not refused in words.

    python -m benchmarks.fuzz_text [--inputs 1500] [--kind rows] [--seed 0] [--append]

An input is sound data with a few faults: another type, a huge number, nesting, a repeated or unknown key, another
encoding, missing bytes. Reading it must succeed, or fail with our own error in short lines, within 20 seconds. Anything
else is printed with its kind and seed; ``--kind KIND --seed SEED --inputs 1`` repeats it.
"""

import argparse
import copy
import csv
import io
import json
import logging
import os
import random
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow
import pyarrow.parquet
import yaml
from PIL import Image

from benchmarks import measure
from lora_mm.data.check import check_data, load_recipe_or_path
from lora_mm.data.collate import Collator
from lora_mm.data.scienceqa import load_problems
from lora_mm.errors import LoraMMError
from lora_mm.evaluation.answers import load_answers
from lora_mm.evaluation.scienceqa import read_results, score_problems
from lora_mm.jobs.session import make_collator_without_weights
from lora_mm.recipe.load import load_recipe, recipe_names

SECONDS = 20
LONGEST_LINE = 1000
"""Characters of a fault; more is not a message."""

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
WEIRD: tuple[Any, ...] = (
    None, True, False, 0, 1, 2, -1, 10**8, 10**12, 2**63, 2**64, 10**400, 0.5, 1e308, -1e308, 5e-324, float("nan"),
    float("inf"), -float("inf"), "", " ", "yes", "nan", "inf", "1e-3", "1_0", "²", "١", "0x_", "2024-01-01", "12:30",
    "null", "~", "~nobody/x", "../../x", "/etc/passwd", "C:\\x",
    "a\0b", "\ufeffa", "\ufffc", "\u2028", "\x85", "\x1b[31m",
    "<image>", "</s>", "{{ 1 }}", "{% for %}", "A", "B", "=", "<<", "é" * 300, "x" * 5000, [],
    {}, [[]], [None], {"a": 1},
    {"": ""}, [1, "a", None], {"bytes": None, "path": None}, [{"role": "user", "content": []}],
)  # fmt: skip
"""Values to put where another belongs."""
SPLICES = (
    b"\0", b"\xff", b"\xef\xbb\xbf", b"\r", b"\r\n", b"\n", b"\t", b'"', b"'", b",", b";", b":", b"{", b"}", b"[", b"]",
    b"[" * 3000, b"{" * 3000, b'{"a":' * 3000, b"- " * 3000, b"9" * 5000, b"\\ud800", b"\\u0000",
    b"\xed\xa0\x80", b"&a *a",
    b"!!python/object:x ", b"!!binary aGk=", b"<<: *a", b"# ", b"---\n", b"...\n", b"%YAML 9.9\n", b"NaN", b"-Infinity",
    b"0x_", b"1e999", b"//", b"\xe4", b"\xe2\x80\xa8",
)  # fmt: skip
ENCODINGS = (*["utf-8"] * 24, "utf-8-sig", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "utf-32")

Reader = Callable[[random.Random, Path], None]


# --- faults ----------------------------------------------------------------------------------------------------------


def spoil(rng: random.Random, value: Any, times: int) -> Any:
    """Replace, remove, add or nest parts of a value of mappings and lists."""
    for _ in range(times):
        places = list(_list_places(value))
        if not places:
            return value
        container, key = rng.choice(places)
        change = rng.choice(("replace", "replace", "replace", "swap", "remove", "rename", "nest", "repeat"))
        if change == "replace":
            container[key] = copy.deepcopy(rng.choice(WEIRD))
        elif change == "swap":
            container[key] = copy.deepcopy(rng.choice([place[name] for place, name in places]))
        elif change == "nest":
            for _ in range(rng.choice((1, 3, 60, 200))):
                container[key] = rng.choice(([container[key]], {"a": container[key]}))
        elif isinstance(container, list):
            times = 0 if change == "remove" else rng.choice((2, 30))
            container[key : key + 1] = [copy.deepcopy(container[key]) for _ in range(times)]
        elif change == "rename":
            container[rng.choice(("", "x", "id", "answer", "choices", f"{key}s", f"{key}"[1:]))] = container.pop(key)
        elif change == "remove":
            del container[key]
    return value


def _list_places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container of a value with each of its keys."""
    pending = [value]
    while pending:
        container = pending.pop()
        keys: Any = list(container) if isinstance(container, dict) else range(len(container))
        for key in keys:
            yield container, key
            if isinstance(container[key], dict | list):
                pending.append(container[key])


def spoil_bytes(rng: random.Random, content: bytes) -> bytes:
    """Cut a file off, splice bytes into it, or change some; most files stay."""
    for _ in range(rng.choice((0, 0, 0, 0, 1, 2))):
        at = rng.randrange(len(content) + 1)
        change = rng.choice(("cut", "splice", "splice", "flip", "lines"))
        if change == "cut":
            content = content[:at]
        elif change == "splice":
            content = content[:at] + rng.choice(SPLICES) + content[at:]
        elif change == "flip" and content:
            content = content[: max(0, at - 1)] + bytes([rng.randrange(256)]) + content[at:]
        else:
            content = content.replace(b"\n", b"\r\n")
    return content


def encode(rng: random.Random, text: str) -> bytes:
    """Encode a text in one of several ways, mostly in UTF-8."""
    return text.encode(rng.choice(ENCODINGS), errors="replace")


def to_json(rng: random.Random, value: Any) -> str:
    """Write JSON, with letters escaped or not."""
    return json.dumps(value, ensure_ascii=rng.random() < 0.5)


# --- kinds -----------------------------------------------------------------------------------------------------------


def read_recipe(rng: random.Random, folder: Path) -> None:
    """A whole recipe, or one that extends another, as a YAML file."""
    fields: dict[str, Any] = json.loads(_dump_recipe(rng.choice(recipe_names())))
    if rng.random() < 0.3:
        fields = {
            "extends": rng.choice((["scienceqa-pocket"], "own-data", "x.yaml", "fuzz.yaml")),
            "training": {"seed": 1},
        }
    fields = spoil(rng, fields, rng.choice((0, 1, 1, 2, 3)))
    text = yaml.dump(fields, sort_keys=False, allow_unicode=rng.random() < 0.5)
    if rng.random() < 0.2:  # the same key twice, or many aliases
        text += rng.choice((LAUGHS, text.partition("\n")[0] + "\n", "data: {path: x}\n", "base: *a\n"))
    file = folder / "fuzz.yaml"
    file.write_bytes(spoil_bytes(rng, encode(rng, text)))
    recipe = load_recipe(str(file))
    file.write_text(recipe.to_yaml(), encoding="utf-8")
    if load_recipe(str(file)) != recipe:
        raise AssertionError("the saved recipe is another")


@cache
def _dump_recipe(name: str) -> str:
    return load_recipe(name).model_dump_json()


def read_setting(rng: random.Random, folder: Path) -> None:
    """A ``--set`` of a known or unknown key."""
    fields = json.loads(_dump_recipe("scienceqa-pocket"))
    keys = [
        "data.slicing.rows",
        "adapters.²",
        "adapters.-1.rank",
        "adapters.99999999999999999999.rank",
        "",
        ".",
        "a." * 5000,
    ]
    container, key = chosen = rng.choice(list(_list_places(fields)))
    path = [str(key)]
    while container is not fields:
        container, key = next((place, name) for place, name in _list_places(fields) if place[name] is container)
        path.insert(0, str(key))
    container, key = chosen
    name = rng.choice([".".join(path)] * 8 + keys)
    value: Any = rng.choice(rng.choice(((1, 2, 0.5, None, container[key], container[key]), WEIRD)))
    text = LAUGHS if rng.random() < 0.05 else yaml.dump(value, default_flow_style=True).removesuffix("\n...\n").strip()
    if rng.random() < 0.1:
        text += rng.choice(SPLICES).decode("utf-8", errors="surrogateescape")
    load_recipe("scienceqa-pocket", [rng.choice((*[f"{name}={text}"] * 18, name, f"={text}"))])


SOUND_ROWS: Mapping[str, Callable[[int], dict[str, Any]]] = {
    "messages": lambda n: {"messages": [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": f"{n}?"}]},
        {"role": "assistant", "content": "Yes."}], "images": ["red.png"]},
    "conversations": lambda n: {"conversations": [{"from": "human", "value": f"<image>\n{n}?"},
                                                  {"from": "gpt", "value": "Yes."}], "image": "red.png"},
    "multiple_choice": lambda n: {"question": f"{n}?", "choices": ["1", "two", "A"], "answer": "two"},
    "letters": lambda n: {"question": f"{n}?", "A": "one", "B": "two", "answer": "B"},
    "question_answer": lambda n: {"id": n, "question": f"{n}?", "answer": "yes", "hint": "Look.", "image": None},
    "vqa": lambda n: {"question_id": n, "question": f"{n}?", "answers": ["yes"] * 9 + ["no"]},
    "caption": lambda n: {"file_name": "red.png", "text": f"The {n}th."},
}  # fmt: skip
"""Layout → a sound row by its number."""


def read_rows(rng: random.Random, folder: Path) -> None:
    """Rows of any layout in any format, as ``lora-mm data check`` reads them."""
    Image.new("RGB", (8, 6), "red").save(folder / "red.png")
    make = SOUND_ROWS[rng.choice(list(SOUND_ROWS))]
    rows = spoil(rng, [make(number) for number in range(rng.choice((1, 4, 4, 210)))], rng.choice((0, 1, 2, 4)))
    suffix = rng.choice(("json", "jsonl", "jsonl", "csv", "tsv", "parquet"))
    file = folder / f"rows.{suffix}"
    file.write_bytes(spoil_bytes(rng, _write_rows(rng, rows, suffix)))
    settings = [
        "", "", "data.question=What?", "data.faulty_rows=drop", "data.response=letter", "data.answer=text",
        "data.eval_share=0.5", "data.overlong=drop", "data.max_length=40", "data.layout=question_answer",
        "data.columns={question: text}",
    ]  # fmt: skip
    recipe, splits = load_recipe_or_path(str(file), list(filter(None, rng.sample(settings, 2))))
    report = check_data(recipe, splits, _get_collator(recipe.data.max_length))
    json.dumps(report.as_dict())


def _write_rows(rng: random.Random, rows: list[Any], suffix: str) -> bytes:
    if suffix == "parquet":
        sink = io.BytesIO()
        try:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row for row in rows if isinstance(row, dict)]), sink)
        except (pyarrow.ArrowException, OverflowError, UnicodeEncodeError, AttributeError, TypeError, ValueError):
            return b"PAR1"  # Arrow has no such value
        return sink.getvalue()
    if suffix == "json":
        return encode(rng, json.dumps(rows, indent=rng.choice((None, 1))))
    if suffix == "jsonl":
        return encode(rng, "\n".join(to_json(rng, row) for row in rows))
    mappings = [row for row in rows if isinstance(row, dict)]
    stream = io.StringIO()
    writer = csv.DictWriter(
        stream, list(mappings[0]) if mappings else ["a"], delimiter="\t" if suffix == "tsv" else ","
    )
    writer.writeheader()
    for row in mappings:
        cells = {key: json.dumps(row.get(key)) if isinstance(row.get(key), dict | list) else row.get(key)
                 for key in writer.fieldnames}  # fmt: skip
        writer.writerow(cells)
    return encode(rng, stream.getvalue())


@cache
def _get_collator(max_length: int) -> Collator:
    return make_collator_without_weights(load_recipe("scienceqa-pocket", [f"data.max_length={max_length}"]))


def _write_problems(rng: random.Random, folder: Path, times: int) -> None:
    """Write ScienceQA's official folder of six problems, with ``times`` faults in all."""
    problems: Any = {
        str(number): {
            "question": f"{number}?", "choices": ["red", "blue"], "answer": number % 2, "hint": "", "image": None,
            "task": "closed choice", "grade": "grade1", "subject": "natural science", "topic": "colours",
            "category": "Colours", "skill": "See", "lecture": "Look.", "solution": "So.", "split": "test",
        }
        for number in range(6)
    }  # fmt: skip
    files = {
        "problems.json": problems,
        "pid_splits.json": {"train": [], "test": list(problems)},
        "captions.json": {"captions": dict.fromkeys(problems, "A colour.")},
    }
    for name, value in files.items():
        faults = rng.randint(0, times)
        text = to_json(rng, spoil(rng, value, faults))
        (folder / name).write_bytes(spoil_bytes(rng, encode(rng, text)) if faults else text.encode())


def read_problems(rng: random.Random, folder: Path) -> None:
    """ScienceQA's official folder."""
    _write_problems(rng, folder, 2)
    load_problems(folder, "test", missing_images=rng.choice(("error", "skip", "text")))


def read_predictions(rng: random.Random, folder: Path) -> None:
    """A file of predictions in ScienceQA's format, scored; or one of saved answers."""
    file = folder / "predictions.json"
    if rng.random() < 0.5:
        lines = [
            {"id": str(number), "prediction": "a", "references": ["a"], "right": True, "choice": 0}
            for number in range(4)
        ]
        text = "".join(to_json(rng, line) + "\n" for line in spoil(rng, lines, rng.choice((0, 1, 2))))
        file.write_bytes(spoil_bytes(rng, encode(rng, text)))
        load_answers(file)
        return
    _write_problems(rng, folder, 0)
    results = {str(number): rng.choice((0, 1, "0", "A", -1, None, 1.0)) for number in range(6)}
    value = spoil(rng, rng.choice(({"results": results, "acc": 1.0}, results)), rng.choice((0, 1, 2)))
    file.write_bytes(spoil_bytes(rng, encode(rng, to_json(rng, value))))
    found = read_results(file)
    score_problems(load_problems(folder, "test").problems, found.predictions, partial=rng.random() < 0.5)


KINDS: Mapping[str, Reader] = {
    "recipe": read_recipe,
    "setting": read_setting,
    "rows": read_rows,
    "problems": read_problems,
    "predictions": read_predictions,
}


# --- the run ---------------------------------------------------------------------------------------------------------


@contextmanager
def _limit_seconds(seconds: int) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def try_input(kind: str, seed: int) -> tuple[str, str]:
    """Read one input.

    Args:
        kind: a key of :data:`KINDS`.
        seed: random seed of the input.

    Returns:
        ``accepted``, ``refused`` or ``fault``, and the message or the traceback.
    """
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        try:
            with _limit_seconds(SECONDS):
                KINDS[kind](random.Random(f"{kind} {seed}"), Path(folder))
        except LoraMMError as error:
            lines = str(error).splitlines()
            if not str(error).strip() or max(map(len, lines)) > LONGEST_LINE:
                return "fault", f"a message of {[len(line) for line in lines]} characters: {str(error)[:200]}"
            return "refused", str(error)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            return "fault", "".join(traceback.format_exception(error)[-4:])
    return "accepted", ""


def count_outcomes(kind: str, seeds: range, show: Callable[[str], None] = print) -> Counter[str]:
    """Read an input for every seed; count the outcomes, and show the faults."""
    outcomes: Counter[str] = Counter()
    for seed in seeds:
        outcome, message = try_input(kind, seed)
        outcomes[outcome] += 1
        if outcome == "fault":
            show(f"--kind {kind} --seed {seed} --inputs 1\n{message}\n")
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1500, help="inputs of each kind")
    parser.add_argument("--kind", choices=list(KINDS), help="only this kind")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--append", action="store_true", help="write the table to benchmarks/results/fuzz.md")
    arguments = parser.parse_args()
    started = time.monotonic()
    rows = []
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    seeds = range(arguments.seed, arguments.seed + arguments.inputs)
    with tempfile.TemporaryDirectory() as os.environ["HF_DATASETS_CACHE"]:
        for kind in [arguments.kind] if arguments.kind else KINDS:
            counts = count_outcomes(kind, seeds)
            numbers = (counts.total(), *(counts[name] for name in ("refused", "accepted", "fault")))
            rows.append([kind, *(f"{number:,}" for number in numbers)])
    text = measure.table(["kind", "inputs", "refused", "accepted", "faults"], rows)
    print(text, f"\n{time.monotonic() - started:.0f} s")
    if arguments.append:
        command = f"python -m benchmarks.fuzz_text --inputs {arguments.inputs} --seed {arguments.seed}"
        measure.append("fuzz", "Broken recipes, settings, rows, problems and predictions", command, text)


if __name__ == "__main__":
    logging.disable()  # datasets logs each table that it refuses
    main()
