"""``lora-mm merge`` as a user meets it."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli


def test_a_model_and_a_lora_are_written_and_their_figures_printed(cli: Cli, adapter: Path, tmp_path: Path) -> None:
    code, out, err = cli("merge", adapter, "--output", tmp_path / "model", "--modality", "image")
    assert (code, err) == (0, "")
    assert "image: max |Δlogit|" in out
    assert out.splitlines()[-1] == f"Wrote {tmp_path / 'model'}."
    assert (tmp_path / "model" / "model.safetensors").is_file()

    code, out, err = cli(
        "merge", adapter, "--output", tmp_path / "lora", "--modality", "text", "--as", "lora", "--json"
    )
    assert code == 0
    result = json.loads(out)
    assert result["output"] == str(tmp_path / "lora")
    assert result["dtype"] == "float32"
    assert result["drift"]["text"]["largest"] < 1e-4
    assert "text: max |Δlogit|" in err
    assert json.loads((tmp_path / "lora" / "adapter_config.json").read_text())["peft_type"] == "LORA"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--modality image or --modality text"),
        (["--modality", "imge"], "Did you mean 'image'?"),
        (["--modality", "image", "--as", "modle"], "modle"),
        (["--modality", "image", "--dtype", "float8"], "float8"),
        (["--modality", "image", "--no-verify"], "--no-verify"),
    ],
)
def test_what_cannot_be_merged_exits_with_2_and_leaves_nothing(
    cli: Cli,
    adapter: Path,
    tmp_path: Path,
    options: list[str],
    words: str,
) -> None:
    code, _, err = cli("merge", adapter, "--output", tmp_path / "out", *options)
    assert code == 2
    assert words in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_adapter_and_an_existing_output_exit_with_2(cli: Cli, adapter: Path, tmp_path: Path) -> None:
    code, _, err = cli("merge", tmp_path / "nowhere", "--output", tmp_path / "out", "--modality", "image")
    assert (code, len(err.splitlines())) == (2, 1)
    code, _, err = cli("merge", adapter, "--output", adapter, "--modality", "image")
    assert code == 2
    assert "exists" in err
