"""Summaries of adapters, compared with the model; and that reading them needs no torch."""

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import lora_mm
from lora_mm.artifact import files
from lora_mm.artifact.folder import load_adapter, save_adapter
from lora_mm.artifact.summary import format_size, format_summary, summarize_adapter
from lora_mm.errors import InputError
from lora_mm.jobs.run_folder import load_scores
from lora_mm.models.anatomy import find_part
from lora_mm.models.loading import load_base


def test_parameters_by_part_are_those_of_the_model(trained: dict[str, Path], base_folder: Path) -> None:
    model = load_adapter(load_base(str(base_folder)), trained["one"])
    expected: dict[str, int] = {}
    for name, parameter in model.get_base_model().named_parameters():
        if "routed_" in name or ".modules_to_save." in name:
            part = find_part(model.get_base_model(), name)
            expected[part] = expected.get(part, 0) + parameter.numel()
    assert set(expected) == {"vision", "connector", "language"}
    assert summarize_adapter(trained["one"])["parameters"] == expected


def test_a_summary_holds_base_placements_and_scores(trained: dict[str, Path], base_folder: Path) -> None:
    folder = trained["one"]
    facts = summarize_adapter(folder)
    assert facts["base"]["name"] == str(base_folder)
    assert facts["base"]["fingerprint"] == load_base(str(base_folder)).fingerprint
    assert facts["placements"] == [
        "mma on language at attn, rank 4, experts 2",
        "mma on vision at attn, rank 4, experts 2",
        "model.multi_modal_projector, trained whole",
    ]
    assert facts["scores"] == load_scores(folder)["scores"]
    assert facts["card"] == (folder / "README.md").read_text()
    assert (facts["dtypes"], facts["licence"], facts["peft_type"]) == (["F32"], "other", "ROUTED")
    lines = "\n".join(format_summary(facts))
    assert f"base        {base_folder}, fingerprint" in lines
    assert f"parameters  {sum(facts['parameters'].values()):,}: " in lines
    accuracy = facts["scores"]["adapter"]["columns"]["AVG"]["accuracy"]
    assert next(line for line in lines.splitlines() if line.startswith("adapter ")).endswith(f"{accuracy:.2f}")


def test_a_summary_of_a_stock_lora(base_folder: Path, tmp_path: Path) -> None:
    base = load_base(str(base_folder))
    model = lora_mm.attach(base.model, [{"method": "lora", "rank": 4, "at": "qkv"}])
    save_adapter(model, tmp_path / "lora", base=base, recipe="name: tiny\n")
    facts = summarize_adapter(tmp_path / "lora")
    assert facts["placements"] == ["lora beside 6 linear layers, rank 4"]
    assert "scores      none" in list(format_summary(facts))
    assert "licence     not stated" in list(format_summary(facts))


def test_figures_other_than_accuracy_and_several_data_sources_are_shown(
    trained: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(trained["one"], tmp_path / "one")
    columns = {"chrF": {"value": 28.094, "total": 8, "interval": None}, "BLEU": {"value": None, "total": 8}}
    (folder / "scores.json").write_text(json.dumps({"scores": {"adapter": {"columns": columns}}}))
    (folder / "recipe.yaml").write_text("data: {path: null, sources: [{path: a.jsonl}, {path: b.csv}]}\n")
    lines = list(format_summary(summarize_adapter(folder)))
    assert "data        a.jsonl, b.csv" in lines
    assert lines[-2:] == ["scores    chrF   BLEU", "adapter  28.09      –"]


@pytest.mark.parametrize("odd", ["1", "[1]", '"x"', "null", '{"a": 1}', '{"a": {"columns": [1]}}'])
def test_any_content_of_the_files_is_survived(trained: dict[str, Path], tmp_path: Path, odd: str) -> None:
    folder = shutil.copytree(trained["one"], tmp_path / "one")
    (folder / "scores.json").write_text(f'{{"scores": {odd}}}')
    (folder / "recipe.yaml").write_text(f"data: {odd}\n")
    facts = json.loads((folder / "preprocessing.json").read_text())
    (folder / "preprocessing.json").write_text(json.dumps({**facts, "base": json.loads(odd)}))
    config = {"placements": json.loads(odd), "target_modules": json.loads(odd), "modules_to_save": json.loads(odd)}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    lines = list(format_summary(summarize_adapter(folder)))
    assert "scores      none" in lines
    assert "data        not stated" in lines


def test_sharing_imports_no_torch(trained: dict[str, Path], tmp_path: Path) -> None:
    """Packed, shown, unpacked: no torch, no transformers, no PEFT."""
    script = """
    import sys
    from lora_mm.cli.main import run

    folder = sys.argv[1]
    for call in (["pack", folder], ["show", "one.tar"], ["show", folder, "--json"], ["pull", "one.tar"]):
        sys.argv = ["lora-mm", "share", *call]
        try:
            run()
        except SystemExit as ended:
            assert not ended.code, call
        assert not {"torch", "transformers", "peft", "accelerate"} & set(sys.modules), call
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(trained["one"])],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(lora_mm.__file__).parents[1]), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    shown = next(json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    assert shown["parameters"] == summarize_adapter(trained["one"])["parameters"]
    assert (tmp_path / "one" / files.WEIGHTS).is_file()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (files.SCORES, "{"),
        (files.SCORES, "[]"),
        (files.RECIPE, "a: ["),
        (files.RECIPE, "text"),
        (files.CARD, "---\nlicense: [\n---\n"),
        (files.WEIGHTS, "cut"),
        (files.CONFIG, ""),
    ],
)
def test_files_that_cannot_be_read_are_named(trained: dict[str, Path], tmp_path: Path, name: str, text: str) -> None:
    folder = shutil.copytree(trained["one"], tmp_path / "adapter")
    (folder / name).write_text(text)
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        summarize_adapter(folder)


def test_control_characters_do_not_reach_the_terminal(trained: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(trained["one"], tmp_path / "adapter")
    recipe = folder / files.RECIPE
    recipe.write_text(recipe.read_text().replace("six steps on a tiny base", '"red \\e[31m and\\nmore"'))
    facts = summarize_adapter(folder)
    assert "\x1b" in facts["summary"]
    assert next(format_summary(facts)) == "adapter: red �[31m and�more"


def test_sizes_are_in_powers_of_1000() -> None:
    assert [format_size(size) for size in (41_000, 7_600_000)] == ["41 KB", "7.6 MB"]
