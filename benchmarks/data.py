"""Speed of collating: our collator against TRL's collator for vision and language, on the same rows.

    python benchmarks/data.py [--rows 512] [--rounds 5] [--base pocket] [--output benchmarks/results/data.md]
    python benchmarks/data.py --check 1000000 [--output …]

Both read the same files with the same processor, in one worker of torch's data loader, in alternating rounds. TRL is
optional (`pip install trl`); without it, only our collator is measured. ``--check N`` measures `lora-mm data check`
instead, on N rows and on N / 100 rows.
"""

import argparse
import importlib.util
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader

from lora_mm.data.collate import Collator
from lora_mm.data.splits import load_split
from lora_mm.jobs.session import make_collator_without_weights
from lora_mm.models.forward import IGNORE_INDEX
from lora_mm.recipe.sections import Recipe

BATCH = 8
WORDS = ("red", "blue", "square", "disc", "near", "far", "under", "above", "left", "right", "one", "two", "three")


def make_rows(folder: Path, count: int, seed: int = 0) -> Path:
    """Write questions with answers of about 30 words, each with a JPEG of 640 × 480 pixels, about as large as COCO's.

    Args:
        folder: folder to write.
        count: number of rows.
        seed: random seed of texts and pictures.
    """
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    with (folder / "rows.jsonl").open("w") as stream:
        for number in range(count):
            blobs = torch.randint(256, (30, 40, 3), generator=generator, dtype=torch.uint8)
            picture = Image.fromarray(blobs.numpy()).resize((640, 480), Image.Resampling.BICUBIC)
            picture.save(folder / f"{number}.jpg", quality=90)
            question, answer = (" ".join(rng.choices(WORDS, k=k)) for k in (12, rng.randint(15, 45)))
            row = {"id": number, "image": f"{number}.jpg", "question": f"{question}?", "answer": answer}
            stream.write(json.dumps(row) + "\n")
    return folder / "rows.jsonl"


def load_with_lora_mm(file: Path, collator: Collator, recipe: Recipe) -> tuple[Any, Callable[..., Any]]:
    """Return the examples, each read on access, and the collator.

    Args:
        file: file of rows.
        collator: the collator of the recipe's base.
        recipe: says how to read the rows.
    """
    data = recipe.data.model_copy(update={"path": str(file)})
    return load_split(recipe.model_copy(update={"data": data}), "train").examples, collator


def load_with_trl(file: Path, collator: Collator) -> tuple[Any, Callable[..., Any]]:
    """Return the same rows as TRL expects them (a table with pictures, prompts and completions), and TRL's collator.

    Args:
        file: file of rows.
        collator: our collator; TRL gets its processor and maximum length.
    """
    import datasets
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    rows = [json.loads(line) for line in file.read_text().splitlines()]
    table = datasets.Dataset.from_list(
        [
            {
                "images": [str(file.parent / row["image"])],
                "prompt": [{"role": "user", "content": row["question"]}],
                "completion": [{"role": "assistant", "content": row["answer"]}],
            }
            for row in rows
        ]
    ).cast_column("images", datasets.List(datasets.Image()))
    return table, DataCollatorForVisionLanguageModeling(
        collator.processor, max_length=collator.max_length, completion_only_loss=True
    )


def measure_throughput(data: Any, collate: Callable[..., Any]) -> tuple[float, int]:
    """Measure samples per second of one worker, from its second batch on, and count all supervised tokens.

    Args:
        data: examples or rows.
        collate: makes batches from them.
    """
    loader: Any = DataLoader(data, batch_size=BATCH, num_workers=1, collate_fn=collate)
    started, supervised, samples = 0.0, 0, 0
    for number, batch in enumerate(loader):
        supervised += int((batch["labels"] != IGNORE_INDEX).sum())
        if number == 0:
            started = time.perf_counter()
        else:
            samples += len(batch["labels"])
    return samples / (time.perf_counter() - started), supervised


def compare(arguments: argparse.Namespace) -> list[str]:
    """Compare both collators; return the lines of a table."""
    recipe = Recipe.model_validate(
        {"name": "data", "base": {"model": arguments.base}, "train": ["connector"], "data": {"path": "rows.jsonl"}}
    )
    collator = make_collator_without_weights(recipe)
    with tempfile.TemporaryDirectory() as folder:
        file = make_rows(Path(folder), arguments.rows)
        loaded = {"lora-mm": load_with_lora_mm(file, collator, recipe)}
        if importlib.util.find_spec("trl"):
            import trl

            loaded[f"TRL {trl.__version__}"] = load_with_trl(file, collator)
        speeds: dict[str, list[float]] = {name: [] for name in loaded}
        supervised: dict[str, int] = {}
        for _ in range(arguments.rounds):
            for name, (data, collate) in loaded.items():
                speed, supervised[name] = measure_throughput(data, collate)
                speeds[name].append(speed)
    lines = [
        f"## Batches of {BATCH} pictures of 640 × 480 with question and answer, base `{arguments.base}`",
        "",
        f"{arguments.rows} rows, {arguments.rounds} alternating rounds, one worker; medians. {_describe_machine()}",
        "",
        "| collator | samples/s per worker | slowest to fastest round | supervised tokens |",
        "|---|---:|---:|---:|",
    ]
    for name, rounds in speeds.items():
        spread = f"{min(rounds):.0f} to {max(rounds):.0f}"
        lines.append(f"| {name} | {statistics.median(rounds):.0f} | {spread} | {supervised[name]:,} |")
    if len(loaded) == 1:
        lines += ["", "TRL is not installed; `pip install trl` to compare."]
    else:
        ours, theirs = (statistics.median(rounds) for rounds in speeds.values())
        lines += ["", f"Ratio of medians: {ours / theirs:.2f}."]
    return lines


def check(arguments: argparse.Namespace) -> list[str]:
    """Measure `lora-mm data check`; return the lines of a table."""
    lines = [
        f"## `lora-mm data check` on text rows, {_describe_machine()}",
        "",
        "| rows | file | seconds | peak memory |",
        "|---:|---:|---:|---:|",
    ]
    for count in (arguments.check // 100, arguments.check):
        with tempfile.TemporaryDirectory() as folder:
            file, rng = Path(folder) / "rows.jsonl", random.Random(0)
            with file.open("w") as stream:
                for number in range(count):
                    question, answer = (" ".join(rng.choices(WORDS, k=k)) for k in (25, rng.randint(3, 30)))
                    stream.write(
                        json.dumps({"id": number, "question": f"{question} {number}?", "answer": answer}) + "\n"
                    )
            started = time.perf_counter()
            child = subprocess.Popen([sys.executable, "-m", "lora_mm", "data", "check", str(file)])
            _, status, usage = os.wait4(child.pid, 0)
            if status:
                raise SystemExit(f"data check ended with {os.waitstatus_to_exitcode(status)}")
            seconds, size = time.perf_counter() - started, file.stat().st_size / 1e6
            lines.append(f"| {count:,} | {size:,.0f} MB | {seconds:.0f} | {_mebibytes(usage):,.0f} MiB |")
    return lines


def _mebibytes(usage: resource.struct_rusage) -> float:
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _describe_machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--base", default="pocket")
    parser.add_argument("--check", type=int, help="number of rows to check, instead of the comparison")
    parser.add_argument("--output", type=Path, help="file to append the table to")
    arguments = parser.parse_args()
    text = "\n".join(check(arguments) if arguments.check else compare(arguments)) + "\n"
    print(text)
    if arguments.output:
        before = arguments.output.read_text(encoding="utf-8") + "\n" if arguments.output.exists() else "# Data\n\n"
        arguments.output.write_text(before + text, encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
