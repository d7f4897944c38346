"""Tries every method on every family, and writes the table of what works into the docs.

    python -m benchmarks.families [FAMILY …]

Each cell of the table has a letter for each thing that was done on a tiny random model and came out right; see
:data:`CHECKS`. With names of families, prints their rows and writes nothing. If anything fails, the page stays.
"""

import io
import json
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from torch import nn
from transformers import AutoModelForImageTextToText
from transformers.utils import logging

import lora_mm
from lora_mm.adapters.config import RoutedConfig
from lora_mm.adapters.methods import METHODS
from lora_mm.adapters.support import find_obstacle
from lora_mm.cli.main import app
from lora_mm.errors import InputError
from lora_mm.merging.collect import collect_changes
from lora_mm.merging.mergeable import check_mergeable
from lora_mm.merging.writers import write_model
from lora_mm.models.anatomy import get_anatomy, list_modalities
from lora_mm.models.families import FAMILIES
from lora_mm.models.loading import Base
from lora_mm.models.weightless import META, count_usage
from lora_mm.pocket.world import make_world
from tests.adapters.test_families import greedy, new_tokens
from tests.helpers.bases import LACKING, PROCESSORS, make_family_base
from tests.helpers.families import family_batch, family_model
from tests.helpers.tiny import perturb

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "methods.md"
BEGIN, END = "<!-- families: written by benchmarks/families.py -->\n", "<!-- families: end -->\n"


@dataclass(frozen=True)
class Cell:
    """A method on a family.

    Attributes:
        family: model type.
        method: name of the method.
        part: the first part where it can be placed.
        folder: an empty folder.
        world: a folder of pocket problems.
    """

    family: str
    method: str
    part: str
    folder: Path
    world: Path

    @property
    def placement(self) -> dict[str, Any]:
        """A small placement of the method, at a site whose adapter merges where one does."""
        fields: dict[str, Any] = {"method": self.method, "part": self.part, "rank": 2, "dropout": 0, "bias": False}
        return fields | ({"experts": 4} if self.method in ("crop_lora", "moe_lora") else {})

    @property
    def batch(self) -> dict[str, torch.Tensor]:
        """A row with a picture and a row without; for crops, what 2 × 2 crops and an overview of a picture are."""
        whole = self.method != "crop_lora" or FAMILIES[self.family].crops == "overview_first"  # whose picture is cut
        return family_batch(self.family, (1, 0) if whole else (5, 0))

    def attach(self, *, trained: bool = True) -> peft.PeftModel:
        """The tiny model with the adapter on it, perturbed as if trained."""
        torch.manual_seed(0)
        model = lora_mm.attach(family_model(self.family), [self.placement]).eval()
        if trained:
            perturb(model, size=0.1)
        return model


@torch.no_grad()
def compute_logits(model: nn.Module, family: str) -> torch.Tensor:
    """Logits of a row with a picture and a row without."""
    logits: torch.Tensor = model(**family_batch(family), use_cache=False).logits
    return logits


def check_attached(cell: Cell) -> None:
    """Attached: it computes what the base computes, to the bit."""
    assert torch.equal(
        compute_logits(cell.attach(trained=False), cell.family), compute_logits(family_model(cell.family), cell.family)
    )


def check_step(cell: Cell) -> None:
    """A step: every tensor of the adapter gets a gradient, and steps lower the loss."""
    model = cell.attach()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-3)
    losses = []
    for _ in range(5):
        loss = model(**cell.batch, use_cache=False).logits.float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert [name for name, p in trained.items() if p.grad is None or not p.grad.any()] == []
    assert losses[-1] < losses[0]


def check_generation(cell: Cell) -> None:
    """Generates: with a key-value cache it writes what whole forwards write, token after token."""
    model, batch = cell.attach(), family_batch(cell.family)
    assert torch.equal(new_tokens(model, batch, 4), greedy(model, cell.family, batch, 4))


def check_saved(cell: Cell) -> None:
    """Saved and loaded: on a fresh base it computes the same, to the bit."""
    model = cell.attach()
    model.save_pretrained(str(cell.folder / "adapter"), save_embedding_layers=False)
    loaded = peft.PeftModel.from_pretrained(family_model(cell.family), str(cell.folder / "adapter")).eval()
    assert torch.equal(compute_logits(loaded, cell.family), compute_logits(model, cell.family))


def check_merged(cell: Cell) -> None:
    """Merged: the checkpoint without lora-mm computes the same, to rounding."""
    model = cell.attach()
    base: Any = model.get_base_model()
    modality = list_modalities(base)[1] if METHODS[cell.method].router == "modality" else None
    target = cell.folder / "merged"
    target.mkdir()
    processor = type("NoProcessor", (), {"save_pretrained": lambda self, folder: None})()
    made = Base("tiny", base, processor, None, "")
    write_model(base, collect_changes(base, modality), target, base=made, dtype=torch.float32)
    merged = AutoModelForImageTextToText.from_pretrained(target).eval()
    pictured = family_batch(cell.family, (1,))
    with torch.no_grad():
        want, found = (one(**pictured, use_cache=False).logits for one in (model, merged))
    torch.testing.assert_close(found, want, rtol=1e-3, atol=2e-3)


def check_plan(cell: Cell) -> None:
    """Planned: without weights a step computes as much as with them."""
    counts = []
    for device in ("cpu", META):
        model: Any = cell.attach(trained=False).to(device)
        with count_usage() as usage:
            model(**family_batch(cell.family), use_cache=False).logits.float().square().mean().backward()
        counts.append(usage.flops)
    assert abs(counts[1] / counts[0] - 1) < 0.01


def check_run(cell: Cell) -> None:
    """A whole run: ``lora-mm finetune`` from its own processor to its score."""
    base = cell.folder / "base"
    make_family_base(base, cell.family)
    crops = cell.method == "crop_lora" and FAMILIES[cell.family].crops == "none"
    settings = {
        "base": {"model": str(base), "dtype": "float32", "quantization": "none"},
        "adapters": [cell.placement],
        "data.path": str(cell.world),
        "data.train_limit": 8,
        "data.eval_limit": 4,
        "data.max_length": 4000,
        "training.max_steps": 2,
        "training.per_device_train_batch_size": 4,
        **({"data.slicing": {"rows": 2, "columns": 2, "window": 16}} if crops else {}),
    }
    flags = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    arguments = ["finetune", "--recipe", "scienceqa-pocket", "--output", str(cell.folder / "run"), *flags]
    app(arguments, standalone_mode=False)


CHECKS: dict[str, tuple[str, Callable[[Cell], None]]] = {
    "a": ("attached, it computes what the base computes", check_attached),
    "s": ("steps reach every tensor and lower the loss", check_step),
    "g": ("generates with a cache what whole forwards generate", check_generation),
    "l": ("saved and loaded, it computes the same", check_saved),
    "m": ("merged into base weights, they compute the same", check_merged),
    "p": ("planned without weights", check_plan),
    "r": ("a whole run from its own processor to its score", check_run),
}
"""Letter of the table → what it means, and the check."""


def applies(letter: str, family: str, method: str) -> bool:
    """Whether a check can be made: some methods do not merge, and some processors are not here."""
    if letter == "m":
        try:
            check_mergeable({method: RoutedConfig(placements=[method])}, "image")
        except InputError:
            return False
        return True
    return letter != "r" or family in PROCESSORS


def try_cell(family: str, method: str, world: Path) -> tuple[str, list[str]]:
    """Make all checks of a cell.

    Returns:
        The cell, and a line for each check that failed.
    """
    parts = [part for part in METHODS[method].parts if find_obstacle(method, FAMILIES[family], part) is None]
    if find_obstacle(method, FAMILIES[family]) is not None or not parts:
        return "–", []
    passed, failed = "", []
    for letter, (meaning, check) in CHECKS.items():
        if not applies(letter, family, method):
            continue
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            try:
                check(Cell(family, method, parts[0], Path(folder), world))
                passed += letter
            except Exception as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                failed.append(f"{family}, {method}, {meaning}: {type(error).__name__} {str(error)[:300]} {place.name}")
    return f"`{passed}`", failed


def describe_layers(family: str) -> str:
    """Describe the layers of the tiny model: how many kinds there are, and what they mix tokens with."""
    anatomy = get_anatomy(family_model(family))
    assert anatomy.language is not None
    kinds = len({tuple(roles) for roles in anatomy.language.roles})
    return "layers of several kinds" if kinds > 1 else ""


def main() -> int:
    """Make the table; return the exit code."""
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    os.environ["HF_HUB_OFFLINE"] = "1"
    chosen = sys.argv[1:] or list(FAMILIES)
    lines = [f"| model type | {' | '.join(f'`{method}`' for method in METHODS)} | remarks |"]
    lines.append("|---" + "|:-:" * len(METHODS) + "|---|")
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder) / "world"
        make_world(world, size=200)
        for family in chosen:
            cells = []
            for method in METHODS:
                cell, failed = try_cell(family, method, world)
                cells.append(cell)
                failures += failed
            lacks = f"no run: {LACKING[family]}" if family in LACKING else ""
            remarks = "; ".join(filter(None, (describe_layers(family), lacks)))
            lines.append(f"| `{family}` | {' | '.join(cells)} | {remarks} |")
            print(lines[-1], flush=True)
    for failure in failures:
        print(failure, file=sys.stderr)
    if failures or sys.argv[1:]:
        return int(bool(failures))
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(before + BEGIN + "\n".join(lines) + "\n" + END + after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
