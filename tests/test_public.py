"""The public interface: what ``import lora_mm`` offers, what it costs, and that PEFT knows our adapters after it."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import lora_mm
from tests.helpers.tiny import perturb, tiny_batch, tiny_model

ROOT = Path(__file__).parents[1]


def run_fresh(code: str, *arguments: str) -> str:
    """What ``code`` prints in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


@pytest.mark.parametrize("name", [name for name in lora_mm.__all__ if name != "__version__"])
def test_every_public_name_is_a_documented_function(name: str) -> None:
    function = getattr(lora_mm, name)
    assert callable(function)
    assert "Args:" in (function.__doc__ or "")
    assert function.__name__ == name


def test_public_names_are_listed_and_others_are_refused() -> None:
    assert set(lora_mm.__all__) <= set(dir(lora_mm))
    assert set(lora_mm.__all__) - set(lora_mm._MODULES) == {"__version__"}
    with pytest.raises(AttributeError, match="module 'lora_mm' has no attribute 'atach'"):
        lora_mm.atach  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, lora_mm; dir(lora_mm); print({'torch', 'peft', 'transformers', 'pydantic'} & set(sys.modules))"
    assert run_fresh(code) == "set()"


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "lora_mm" / "py.typed").is_file()


def test_the_command_line_says_its_version() -> None:
    code = """
    import sys
    sys.argv = ["lora-mm", "--version"]
    from lora_mm.cli.main import run
    try:
        run()
    finally:
        assert not {"torch", "peft"} & set(sys.modules)
    """
    assert run_fresh(code) == f"lora-mm {lora_mm.__version__}"


# --- PEFT's own way to load ----------------------------------------------------------------------------------------

LOAD = """
import sys
import torch
from tests.helpers.tiny import tiny_batch, tiny_model

torch.set_num_threads(1)
assert ("lora_mm.adapters.attach" in sys.modules) is False
model = peft.PeftModel.from_pretrained(tiny_model(), sys.argv[1]).eval()
with torch.no_grad():
    torch.save(model(**tiny_batch(), use_cache=False).logits, sys.argv[2])
"""


@pytest.mark.parametrize("imports", ["import lora_mm\nimport peft\n", "import peft\nimport lora_mm\n"])
def test_peft_loads_our_adapters_after_import_lora_mm_in_either_order(imports: str, tmp_path: Path) -> None:
    model = lora_mm.attach(tiny_model(), ["mma"], train=["connector"]).eval()
    perturb(model)
    model.save_pretrained(str(tmp_path / "adapter"))
    run_fresh(imports + textwrap.dedent(LOAD), str(tmp_path / "adapter"), str(tmp_path / "logits.pt"))
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "logits.pt"), model(**tiny_batch(), use_cache=False).logits)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="imports are tried in forks, so that torch is imported once")
def test_our_type_is_known_whichever_module_of_ours_imports_peft_first() -> None:
    code = """
    import importlib.util, os, pkgutil, sys
    import peft, torch

    for name in [name for name in sys.modules if name.split(".")[0] == "peft"]:
        del sys.modules[name]  # what PEFT itself imports stays, which takes most of the time
    import lora_mm.adapters

    for info in pkgutil.iter_modules(lora_mm.adapters.__path__, "lora_mm.adapters."):
        if "peft" not in importlib.util.find_spec(info.name).loader.get_source(info.name):
            continue
        child = os.fork()
        if not child:
            try:
                importlib.import_module(info.name)
                from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

                os._exit("ROUTED" not in PEFT_TYPE_TO_TUNER_MAPPING)
            except BaseException as error:
                print(repr(error), file=sys.stderr)
                os._exit(2)
        if os.waitpid(child, 0)[1]:
            print(info.name)
    """
    assert run_fresh(code) == ""
