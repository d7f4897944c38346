"""What the pocket base learns from which adapter, at equal steps and equal size: the README's table.

    python benchmarks/variants.py [--steps N] [--seeds 0 1] [--output benchmarks/results/variants.md]

Each row is one run a seed of the real command, ``lora-mm finetune --recipe scienceqa-pocket --set …``.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from lora_mm.evaluation.scienceqa import COLUMNS
from lora_mm.recipe import load_recipe

RECIPE = "scienceqa-pocket"


def lora_like(part: str, rank: int) -> dict[str, Any]:
    """Plain LoRA on q, k and v: 6·r·D parameters a layer, against 20·D + 10 of MMA at rank 8."""
    return {"method": "lora", "part": part, "at": "qkv", "rank": rank, "alpha": 2 * rank}


def variants() -> dict[str, list[str]]:
    """Row → what is set on top of the recipe."""
    mma = [item for item in load_recipe(RECIPE).adapters if item.method == "mma"]
    ranks = {item.part: max(1, round((2 * item.rank + 4) * len(item.roles) / 6)) for item in mma}
    lora = [lora_like(part, rank) for part, rank in ranks.items()]
    return {
        "MMA (the recipe)": [],
        "plain LoRA of equal size": [f"adapters={json.dumps(lora)}"],
        "projector alone": ["adapters=[]", "train=[connector]"],
    }


def run(overrides: list[str], seed: int, steps: int | None, *, base: bool) -> dict[str, Any]:
    """One fine-tuning run; what ``--json`` printed. ``base`` scores the frozen base too."""
    settings = [*overrides, f"training.seed={seed}", f"evaluation.base={base}"]
    settings += [f"training.max_steps={steps}"] if steps else []
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "lora_mm",
            "finetune",
            "--recipe",
            RECIPE,
            "--output",
            f"{folder}/run",
            "--json",
        ]
        command += [word for item in settings for word in ("--set", item)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


def row(name: str, results: list[dict[str, Any]], score: str) -> str:
    """One line of the table: means over the seeds."""
    columns = [
        statistics.mean(result["scores"][score]["columns"][column]["accuracy"] for result in results)
        for column in COLUMNS
    ]
    trained = results[0]["figures"]["trained_parameters"] if score == "adapter" else 0
    seconds = statistics.mean(result["figures"]["train_seconds"] for result in results) if score == "adapter" else 0
    cells = [name, f"{trained:,}", *(f"{value:.1f}" for value in columns), f"{seconds:.0f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Run every variant, print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="optimiser steps of every run; the recipe's by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()

    lines = [
        f"| trained | parameters | {' | '.join(COLUMNS)} | seconds |",
        f"|---|---:|{'---:|' * len(COLUMNS)}---:|",
    ]
    for name, overrides in variants().items():
        first = len(lines) == 2
        results = [run(overrides, seed, arguments.steps, base=first) for seed in arguments.seeds]
        if first:
            lines += [
                row("nothing: random choice", results, "random choice"),
                row("nothing: frozen base", results, "frozen base"),
            ]
        lines.append(row(name, results, "adapter"))
        print(lines[-1], file=sys.stderr, flush=True)
    steps = results[0]["figures"]["steps"]
    about = (
        f"{steps} steps, seeds {arguments.seeds}, {results[0]['figures']['test_rows']} test problems; "
        f"{torch.get_num_threads()} CPU threads, Python {platform.python_version()}, torch {torch.__version__}."
    )
    table = "\n".join([*lines, "", about, ""])
    print(table)
    if arguments.output:
        arguments.output.write_text(f"# Adapters on the pocket base\n\n`{' '.join(['python', *sys.argv])}`\n\n{table}")


if __name__ == "__main__":
    main()
