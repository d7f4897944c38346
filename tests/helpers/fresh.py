"""Adapters loaded in a process of its own, onto a family's tiny model that is built anew there."""

import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

_SCRIPT = """
import sys
import torch
torch.set_num_threads(1)
import peft
import lora_mm
from tests.helpers.families import family_model

for name, (family, folder, batch) in torch.load(sys.argv[1]).items():
    model = peft.PeftModel.from_pretrained(family_model(family), folder, adapter_name="another").eval()
    assert not any(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        torch.save(model(**batch, use_cache=False).logits, folder + "/logits.pt")
"""


@dataclass(frozen=True)
class Saved:
    """An adapter folder, the family that it goes on, and what to ask."""

    family: str
    folder: Path
    batch: dict[str, Tensor]


def logits_in_another_process(cases: dict[str, Saved], folder: Path) -> dict[str, Tensor]:
    """What each adapter answers there; ``folder`` is for what passes between."""
    plain = {name: (case.family, str(case.folder), case.batch) for name, case in cases.items()}
    torch.save(plain, folder / "cases.pt")
    call = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(_SCRIPT), str(folder / "cases.pt")]
    done = subprocess.run(call, capture_output=True, text=True, timeout=600, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: torch.load(case.folder / "logits.pt") for name, case in cases.items()}
