"""Compares adapters on the pocket base at equal numbers of steps, for the tables of the ScienceQA guide.

    python benchmarks/variants.py [--recipe scienceqa-pocket] [--seeds 0 1] [--output benchmarks/results/variants.md]
    python benchmarks/variants.py --recipe monkey-pocket --output benchmarks/results/monkey-pocket.md

Each row is the mean of one run per seed of the real command, ``lora-mm finetune --recipe … --set …``.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lora_mm.evaluation.scienceqa import OFFICIAL_COLUMNS
from lora_mm.recipe.load import load_recipe
from lora_mm.recipe.sections import Recipe


def configure_lora(part: str, at: str, rank: int) -> dict[str, Any]:
    """Configure plain LoRA with the scale of the other methods, which is 1.

    Args:
        part: part of the model.
        at: names of its linear layers.
        rank: rank of the update, and alpha.
    """
    return {"method": "lora", "part": part, "at": at, "rank": rank, "alpha": rank}


def list_adapter_variants(recipe: Recipe) -> dict[str, list[str]]:
    """List MMA beside LoRA, each alone, LoRA of as many parameters as both, and the projector."""
    dumped = recipe.model_dump(mode="json")["adapters"]
    mma, lora = ([item for item in dumped if item["method"] == name] for name in ("mma", "lora"))
    large = [{**item, "rank": item["rank"] * 3 // 2, "alpha": item["alpha"] * 3 // 2} for item in lora]
    return {
        "MMA and LoRA (the recipe)": [],
        "MMA alone": [f"adapters={json.dumps(mma)}"],
        "LoRA alone": [f"adapters={json.dumps(lora)}"],
        "LoRA of the size of both": [f"adapters={json.dumps(large)}"],
        "projector alone": ["adapters=[]", "train=[connector]"],
    }


def list_crop_variants(recipe: Recipe) -> dict[str, list[str]]:
    """List a LoRA for each crop, one LoRA for all crops, and the whole picture without crops."""
    mma, crops = ([item for item in recipe.adapters if item.method == name] for name in ("mma", "crop_lora"))
    language = [{"method": "mma", "part": item.part, "at": item.at, "rank": item.rank, "temperature": item.temperature,
                 "dropout": item.dropout} for item in mma]  # fmt: skip
    rank, count = crops[0].rank, crops[0].experts or 1

    def override(*more: dict[str, Any]) -> str:
        return f"adapters={json.dumps([*language, *more])}"

    whole = "data.slicing=null"
    return {
        "one view": [override(), whole],
        f"one view, a LoRA of rank {count * rank} in the tower": [
            override(configure_lora("vision", "all", count * rank)),
            whole,
        ],
        "crops": [override()],
        f"crops, one LoRA of rank {rank} for all": [override(configure_lora("vision", "all", rank))],
        f"crops, one LoRA of rank {count * rank} for all": [override(configure_lora("vision", "all", count * rank))],
        f"crops, a LoRA of rank {rank} for each (the recipe)": [],
    }


VARIANTS = {
    "scienceqa-pocket": (list_adapter_variants, OFFICIAL_COLUMNS),
    "monkey-pocket": (list_crop_variants, ("AVG",)),
}
"""Recipe → its variants (row of the table → ``--set`` overrides), and the columns of the score to show."""


def run(recipe: str, overrides: list[str], seed: int, steps: int | None, *, base: bool) -> dict[str, Any]:
    """Run ``lora-mm finetune`` once.

    Args:
        recipe: name of the recipe.
        overrides: ``key=value`` settings.
        seed: random seed of the run.
        steps: number of optimizer steps; by default the recipe's.
        base: whether to score the frozen base too.

    Returns:
        The output of ``--json``.
    """
    settings = [*overrides, f"training.seed={seed}", f"evaluation.base={base}"]
    settings += [f"training.max_steps={steps}"] if steps else []
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "lora_mm",
            "finetune",
            "--recipe",
            recipe,
            "--output",
            f"{folder}/run",
            "--json",
        ]
        command += [word for item in settings for word in ("--set", item)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


def format_row(name: str, results: list[dict[str, Any]], score: str, shown: Sequence[str]) -> str:
    """Write one line of the table, with means over the seeds.

    Args:
        name: name of the line.
        results: one result for each seed.
        score: name of the row in each run's scores.
        shown: columns of the score to show.
    """
    columns = [
        statistics.mean(result["scores"][score]["columns"][column]["accuracy"] for result in results)
        for column in shown
    ]
    trained = results[0]["figures"]["trained_parameters"] if score == "adapter" else 0
    seconds = statistics.mean(result["figures"]["train_seconds"] for result in results) if score == "adapter" else 0
    cells = [name, f"{trained:,}", *(f"{value:.1f}" for value in columns), f"{seconds:.0f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Run every variant, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=list(VARIANTS), default="scienceqa-pocket")
    parser.add_argument("--steps", type=int, help="optimizer steps of every run; the recipe's by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()

    list_variants, shown = VARIANTS[arguments.recipe]
    lines = [
        f"| trained | parameters | {' | '.join(shown)} | seconds |",
        f"|---|---:|{'---:|' * len(shown)}---:|",
    ]
    for name, overrides in list_variants(load_recipe(arguments.recipe)).items():
        first = len(lines) == 2
        results = [run(arguments.recipe, overrides, seed, arguments.steps, base=first) for seed in arguments.seeds]
        if first:
            lines += [
                format_row("nothing: random choice", results, "random choice", shown),
                format_row("nothing: frozen base", results, "frozen base", shown),
            ]
        lines.append(format_row(name, results, "adapter", shown))
        print(lines[-1], file=sys.stderr, flush=True)
    steps = results[0]["figures"]["steps"]
    description = (
        f"{steps} steps, seeds {arguments.seeds}, {results[0]['figures']['test_rows']} test problems; "
        f"{torch.get_num_threads()} CPU threads, Python {platform.python_version()}, torch {torch.__version__}."
    )
    table = "\n".join([*lines, "", description, ""])
    print(table)
    if arguments.output:
        arguments.output.write_text(
            f"# {arguments.recipe}: comparison of adapters\n\n`{' '.join(['python', *sys.argv])}`\n\n{table}"
        )


if __name__ == "__main__":
    main()
