"""``lora-mm models``: the families as a user sees them."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from lora_mm.adapters.methods import METHODS
from lora_mm.adapters.support import list_methods
from lora_mm.cli.main import app
from lora_mm.errors import InputError
from lora_mm.models.anatomy import get_anatomy
from lora_mm.models.families import FAMILIES
from tests.helpers.families import family_model

HEAVY = ("torch", "transformers", "peft", "datasets", "numpy", "PIL")


def printed(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["models", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_models_list_imports_nothing_heavy() -> None:
    script = f"""
    import sys
    from lora_mm.cli.main import app
    for call in (["list"], ["list", "--json"]):
        app(["models", *call], standalone_mode=False)
    print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"


def test_list_has_a_line_for_every_family_with_its_methods() -> None:
    expected = {
        name: [method for method, no in list_methods(row).items() if no is None] for name, row in FAMILIES.items()
    }
    assert json.loads(printed("list", "--json")) == expected
    lines = [line.split() for line in printed("list").splitlines()]
    assert {name: methods for name, *methods in lines} == expected


@pytest.mark.parametrize("family", ["llava", "mllama", "qwen2_vl", "fuyu"])
def test_show_tells_parts_roles_placeholders_and_methods(family: str, tmp_path: Path) -> None:
    family_model(family).config.save_pretrained(tmp_path)
    anatomy, facts = get_anatomy(family_model(family)), json.loads(printed("show", "--model", str(tmp_path), "--json"))
    assert (facts["model_type"], facts["tested"]) == (family, True)
    assert facts["parts"] == {part: list(paths) for part, paths in anatomy.parts.items()}
    assert anatomy.language is not None
    kinds = facts["layers"]["language"]["kinds"]
    assert {role for kind in kinds for role in kind["roles"]} == set(anatomy.language.known_roles)
    assert [kind["layers"] for kind in kinds] == (["0", "1"] if family == "mllama" else ["0 to 1"])
    assert (facts["layers"]["vision"] is None) is (anatomy.vision is None)
    assert set(facts["placeholders"]) == set(FAMILIES[family].placeholders)
    assert set(facts["methods"]) == set(METHODS)
    shown = yaml.safe_load(printed("show", "--model", str(tmp_path)))
    assert shown.pop("methods").keys() == facts.pop("methods").keys()
    assert shown == facts


def test_show_of_a_type_takes_its_default_configuration() -> None:
    facts = json.loads(printed("show", "vipllava", "--json"))
    assert facts["tested"] is ("vipllava" in FAMILIES)
    assert facts["layers"]["vision"]["read"] == 23, "of 24, the deepest that is read is the second last"
    assert facts["placeholders"]["image"] == 32000


def test_show_gives_the_reason_where_a_method_does_not_apply() -> None:
    methods = yaml.safe_load(printed("show", "fuyu"))["methods"]
    assert methods["mma"] == {"language": "applies", "vision": "does not apply, it has no vision tower"}


def test_show_of_an_unknown_type_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"knows no models of type 'lava'\. Did you mean 'llava'\?"):
        printed("show", "lava")
    for words in ((), ("llava", "--model", "pocket")):
        with pytest.raises(InputError, match="Name a model type, or a base with --model"):
            printed("show", *words)
