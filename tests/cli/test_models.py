"""``lora-mm models``: the families as a user sees them, without torch."""

import json
import subprocess
import sys
import textwrap

import pytest
import yaml
from typer.testing import CliRunner

from lora_mm.adapters.methods import METHODS
from lora_mm.adapters.support import list_methods
from lora_mm.cli.main import app
from lora_mm.errors import InputError
from lora_mm.models.families import FAMILIES

HEAVY = ("torch", "transformers", "peft", "datasets", "numpy", "PIL")


def printed(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["models", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_models_list_and_show_import_nothing_heavy() -> None:
    script = f"""
    import sys
    from lora_mm.cli.main import app
    for call in (["list"], ["list", "--json"], ["show", "mllama"], ["show", "fuyu", "--json"]):
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


@pytest.mark.parametrize("family", list(FAMILIES))
def test_show_tells_parts_roles_placeholders_and_methods(family: str) -> None:
    row, facts = FAMILIES[family], json.loads(printed("show", family, "--json"))
    assert facts["model_type"] == family
    assert facts["parts"] == {part: list(paths) for part, paths in row.parts.items()}
    assert list(facts["layers"]["language"]["roles"]) == list(row.language.roles)
    assert (facts["layers"]["vision"] is None) is (row.vision is None)
    assert set(facts["placeholders"]) == set(row.placeholders)
    assert (facts["crops"], facts["packed"], facts["visual_tokens"]) == (row.crops, row.packed, row.visual_tokens)
    assert set(facts["methods"]) == set(METHODS)
    shown = yaml.safe_load(printed("show", family))
    assert shown.pop("methods").keys() == facts.pop("methods").keys()
    assert shown == facts


def test_show_gives_the_reason_where_a_method_does_not_apply() -> None:
    methods = yaml.safe_load(printed("show", "fuyu"))["methods"]
    assert methods["mma"] == {"language": "applies", "vision": "does not apply, it has no vision tower"}


def test_show_of_an_unknown_type_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"No anatomy for models of type 'lava'.* Did you mean 'llava'\?"):
        printed("show", "lava")
