"""Compares the answers of merged files with the adapter's on a whole split, and merges into an NF4 base.

    lora-mm finetune --recipe scienceqa-pocket --output runs/quickstart
    python benchmarks/merge.py runs/quickstart [--output benchmarks/results/merge.md]

First table: the adapter's answers against those of merged models and of stock LoRAs, one for each modality, in fp32 and
on an NF4 base. Second table: a stock LoRA on an NF4 base, merged by PEFT's ``merge_and_unload`` (which quantizes the
result) and by lora-mm (which saves it dequantized), each against the unmerged model.
"""

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lora_mm.artifact.files import CONFIG, WEIGHTS
from lora_mm.artifact.folder import load_adapter
from lora_mm.data.example import Example
from lora_mm.data.splits import load_split
from lora_mm.evaluation.scoring import score_model
from lora_mm.jobs.merge import MergeFormat, merge
from lora_mm.jobs.session import find_adapter_recipe, load_recipe_base, make_base_collator
from lora_mm.merging.collect import collect_changes
from lora_mm.merging.drift import Drift, compute_probe_logits, measure_drift
from lora_mm.merging.verify import load_merged_model
from lora_mm.merging.writers import write_model
from lora_mm.recipe.load import load_recipe
from lora_mm.recipe.sections import Recipe

MODALITIES = ("text", "image")
FORMATS: tuple[MergeFormat, ...] = ("model", "lora")


def filter_modality(examples: Sequence[Example], modality: str) -> list[Example]:
    """Keep the examples with a picture (``image``), or those without (``text``)."""
    return [example for example in examples if bool(example.images) is (modality == "image")]


def make_batches(collator: Any, examples: Sequence[Example], size: int = 64) -> list[Any]:
    """Make batches of ``examples`` with their right answers as labels."""
    return [collator(examples[start : start + size]) for start in range(0, len(examples), size)]


def choose_answers(
    model: nn.Module, recipe: Recipe, collator: Any, examples: Sequence[Example]
) -> dict[str, int | None]:
    """Return example id → choice that is likeliest for ``model``."""
    scored = score_model(model, collator, recipe, examples)
    return {answer.id: answer.choice for answer in scored.answers}


def load_merged(folder: Path, recipe: Recipe, scratch: Path) -> nn.Module:
    """Load a merged checkpoint into memory."""
    return load_merged_model(
        folder, dtype="float32", attention=recipe.base.attention, max_bytes=10**12, offload=scratch
    )


def compare_on_split(adapter: Path, settings: list[str], label: str, scratch: Path) -> list[str]:
    """Make rows of the first table."""
    recipe = load_recipe(find_adapter_recipe(adapter), settings)
    examples = list(load_split(recipe, recipe.data.eval_split, recipe.data.eval_limit).examples)
    base = load_recipe_base(recipe)
    collator = make_base_collator(recipe, base)
    batches = {modality: make_batches(collator, filter_modality(examples, modality)) for modality in MODALITIES}
    bare = {modality: compute_probe_logits(base.model, batches[modality]) for modality in MODALITIES}
    model = load_adapter(base, adapter)
    want = choose_answers(model, recipe, collator, examples)
    before = {modality: compute_probe_logits(model, batches[modality]) for modality in MODALITIES}
    rows = [f"| {label} | adapter | | | | {compute_accuracy(want, examples):.2f} |"]
    for form in FORMATS:
        answers: dict[str, int | None] = {}
        drifts: dict[str, Drift] = {}
        for modality in MODALITIES:
            folder = scratch / f"{label}-{form}-{modality}"
            merge(adapter, folder, overrides=settings, format=form, modality=modality, dtype="float32")
            if form == "model":
                merged = load_merged(folder, recipe, scratch)
            else:
                merged = peft.PeftModel.from_pretrained(load_recipe_base(recipe).model, str(folder))
            drifts[modality] = measure_drift(
                before[modality], compute_probe_logits(merged, batches[modality]), bare[modality]
            )
            answers |= choose_answers(merged, recipe, collator, filter_modality(examples, modality))
        cells = [f"{drifts[modality].largest:.1e}" for modality in MODALITIES]
        equal = sum(answers[example.id] == want[example.id] for example in examples)
        name = "merged models" if form == "model" else "stock LoRAs"
        score = f"{compute_accuracy(answers, examples):.2f}"
        rows.append(f"| {label} | {name} | {' | '.join(cells)} | {equal:,} of {len(examples):,} | {score} |")
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def compute_accuracy(answers: dict[str, int | None], examples: Sequence[Example]) -> float:
    """Compute the share of right answers in percent."""
    return 100 * sum(answers[example.id] == example.answer for example in examples) / len(examples)


def compare_merges_of_nf4(adapter: Path, scratch: Path) -> list[str]:
    """Make rows of the second table: a LoRA without biases on NF4, merged by PEFT and by lora-mm."""
    settings = ["base.quantization=nf4", "base.dtype=float32"]
    recipe = load_recipe(find_adapter_recipe(adapter), settings)
    examples = list(load_split(recipe, recipe.data.eval_split, recipe.data.eval_limit).examples)
    pictured = filter_modality(examples, "image")
    folder = scratch / "stock"
    merge(adapter, folder, overrides=settings, format="lora", modality="image")
    remove_biases(folder)
    base = load_recipe_base(recipe)
    collator = make_base_collator(recipe, base)
    batches = make_batches(collator, pictured)
    bare = compute_probe_logits(base.model, batches)
    model = peft.PeftModel.from_pretrained(base.model, str(folder))
    before, want = compute_probe_logits(model, batches), choose_answers(model, recipe, collator, pictured)

    written = scratch / "ours"
    written.mkdir()
    write_model(base.model, collect_changes(base.model, None), written, base=base, dtype=torch.bfloat16)
    coarse = load_merged(written, recipe, scratch)
    for path in written.iterdir():
        path.unlink()
    write_model(base.model, collect_changes(base.model, None), written, base=base, dtype=torch.float32)
    exact = load_merged(written, recipe, scratch)
    requantized = peft.PeftModel.from_pretrained(load_recipe_base(recipe).model, str(folder)).merge_and_unload()
    rows = []
    ways = {
        "PEFT merge_and_unload, back into NF4": requantized,
        "lora-mm merge, saved in bfloat16": coarse,
        "lora-mm merge, saved in float32": exact,
    }
    for name, merged in ways.items():
        drift = measure_drift(before, compute_probe_logits(merged, batches), bare)
        answers = choose_answers(merged, recipe, collator, pictured)
        equal = sum(answers[key] == want[key] for key in want)
        cells = [f"{drift.largest:.1e}", f"{drift.typical:.1e}", f"{drift.typical / drift.effect:.1%}"]
        rows.append(f"| {name} | {' | '.join(cells)} | {equal:,} of {len(want):,} |")
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def remove_biases(folder: Path) -> None:
    """Remove the biases of a LoRA, because PEFT cannot merge them into layers without bias."""
    tensors = {name: value for name, value in load_file(folder / WEIGHTS).items() if not name.endswith("lora_B.bias")}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    (folder / CONFIG).write_text(json.dumps({**config, "lora_bias": False}), encoding="utf-8")


def main() -> None:
    """Measure, print and write both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        first = [
            row
            for label, settings in {"fp32": [], "nf4": ["base.quantization=nf4"]}.items()
            for row in compare_on_split(arguments.adapter, ["base.dtype=float32", *settings], label, scratch)
        ]
        second = compare_merges_of_nf4(arguments.adapter, scratch)
    text = "\n".join(
        [
            "| base | answered by | max \\|Δlogit\\| text | image | equal answers | accuracy % |",
            "|---|---|---:|---:|---:|---:|",
            *first,
            "",
            "A bias-free stock LoRA on an NF4 base, merged; pictured problems:",
            "",
            "| merged by | max \\|Δlogit\\| | root mean square | of the LoRA's effect | equal answers |",
            "|---|---:|---:|---:|---:|",
            *second,
            "",
            f"{arguments.adapter.name}; Python {platform.python_version()}, "
            + ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "bitsandbytes"))
            + f", {torch.get_num_threads()} CPU threads.",
            "",
        ]
    )
    print(text)
    if arguments.output:
        arguments.output.write_text(f"# Merging\n\n`python {' '.join(sys.argv)}`\n\n{text}", encoding="utf-8")


if __name__ == "__main__":
    main()
