"""The command line as a user meets it: exit codes, messages without tracebacks, JSON alone on standard output."""

import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from lora_mm.evaluation.scienceqa import read_results
from lora_mm.recipe.load import load_recipe, recipe_names
from tests.cli.conftest import Cli

HEAVY = {"torch", "transformers", "peft", "datasets", "accelerate", "bitsandbytes", "numpy", "PIL", "pandas"}

# --- start-up ----------------------------------------------------------------------------------------------------


def test_help_and_recipes_import_nothing_heavy() -> None:
    script = """
    import sys
    from lora_mm.cli.main import run

    calls = ["--help", "finetune --help", "recipes list", "recipes show scienceqa", "recipes check scienceqa-pocket"]
    for call in calls:
        sys.argv = ["lora-mm", *call.split()]
        try:
            run()
        except SystemExit as ended:
            assert not ended.code, call
        print(call, sorted(set(sys.modules) & set(sys.stdin.readline().split())), file=sys.stderr)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        input=5 * (" ".join(HEAVY) + "\n"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert [line.rpartition(" ")[2] for line in done.stderr.splitlines()] == ["[]"] * 5


def test_the_installed_command_shows_its_verbs_in_little_time() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = Path(sys.executable).parent / "lora-mm"
    done = subprocess.run([str(command), "--help"], capture_output=True, text=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    for verb in ("finetune", "evaluate", "score", "recipes", "data", "env"):
        assert verb in done.stdout
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used < 1.0, "seconds of CPU; 0.3 on a machine that does nothing else"


def test_python_m_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "lora_mm", "recipes", "list"], capture_output=True, text=True)
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == recipe_names()


# --- input that cannot be used -----------------------------------------------------------------------------------


def test_an_unknown_recipe_is_one_line_with_the_nearest_name(cli: Cli) -> None:
    code, out, err = cli("finetune", "--recipe", "scienceqa-poket")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "Did you mean 'scienceqa-pocket'?" in err


def test_every_fault_of_a_recipe_has_its_line(cli: Cli, tmp_path: Path) -> None:
    settings = ["training.sed=1", "base.dtype=float31", "adapters.0.rnak=3", "training"]
    flags = [part for setting in settings for part in ("--set", setting)]
    code, out, err = cli("finetune", "--recipe", "scienceqa-pocket", "--output", tmp_path / "run", *flags)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 4
    for name in ("training.sed", "base.dtype", "adapters.0.rnak", "--set training"):
        assert name in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("data.path=/no/such/folder", "/no/such/folder"),
        ("base.model=/no/such/base", "base.model: no folder '/no/such/base'."),
        ("data.train_split=trian", "Did you mean 'train'?"),
        ("adapters.0.layers=[9]", "layers [9] do not exist"),
        ("training.lr_scheduler_type=cosinus", "lr_scheduler_type"),
        ("training.report_to=tensorbord", "report_to"),
        ("base.attention=flesh", "attention"),
    ],
)
def test_a_setting_that_names_nothing_ends_with_2_and_writes_nothing(
    cli: Cli, recipe_file: Path, tmp_path: Path, setting: str, told: str
) -> None:
    code, _, err = cli("finetune", "--recipe", recipe_file, "--output", tmp_path / "run", "--set", setting)
    assert code == 2
    assert told in err
    assert len(err.splitlines()) <= 2
    assert not (tmp_path / "run").exists()


def test_without_network_the_real_recipe_says_what_is_missing_and_what_works(cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli("finetune", "--recipe", "scienceqa", "--output", tmp_path / "run")
    assert (code, out) == (2, "")
    missing, way_out = err.splitlines()
    assert "llava-hf/llava-1.5-7b-hf" in missing
    assert "derek-thomas/ScienceQA" in missing
    assert "scienceqa-pocket" in way_out
    assert "--set base.model=FOLDER" in way_out


@pytest.mark.parametrize("spoil", ["cut", "picture", "no picture", "answer"])
def test_damaged_data_ends_with_2_and_names_the_place(
    cli: Cli, recipe_file: Path, scienceqa_folder: Path, tmp_path: Path, spoil: str
) -> None:
    data = shutil.copytree(scienceqa_folder, tmp_path / "data")
    problems, picture = data / "problems.json", data / "images" / "train" / "4" / "image.png"
    if spoil == "cut":
        problems.write_text(problems.read_text()[:2000])
    elif spoil == "picture":
        picture.write_bytes(picture.read_bytes()[:60])
    elif spoil == "no picture":
        picture.unlink()
    else:
        fields = json.loads(problems.read_text())
        fields["4"]["answer"] = 7
        problems.write_text(json.dumps(fields))
    output = tmp_path / "run"
    code, _, err = cli("finetune", "--recipe", recipe_file, "--output", output, "--set", f"data.path={data}")
    assert code == 2
    assert ("problems.json" if spoil == "cut" else "4") in err
    assert not output.exists()


@pytest.mark.parametrize(("verb", "rest"), [("evaluate", []), ("evaluate", ["--base-only"])])
def test_an_unknown_adapter_folder_is_one_line(cli: Cli, tmp_path: Path, verb: str, rest: list[str]) -> None:
    code, out, err = cli(verb, tmp_path / "nowhere", *rest)
    assert (code, out) == (2, "")
    assert err == f"No adapter folder '{tmp_path / 'nowhere'}'.\n"
    (tmp_path / "empty").mkdir()
    code, _, err = cli(verb, tmp_path / "empty")
    assert code == 2
    assert "not an adapter folder" in err


def test_an_adapter_of_another_base_ends_with_2(cli: Cli, adapter: Path, tmp_path: Path) -> None:
    from tests.helpers.tiny import make_base

    other = make_base(tmp_path / "other", seed=1)
    code, _, err = cli("evaluate", adapter, "--set", f"base.model={other}")
    assert code == 2
    assert "fingerprint" in err
    assert len(err.splitlines()) == 2


def test_an_output_in_use_is_left_alone(cli: Cli, recipe_file: Path, adapter: Path) -> None:
    before = (adapter / "adapter_model.safetensors").read_bytes()
    code, _, err = cli("finetune", "--recipe", recipe_file, "--output", adapter)
    assert code == 2
    assert "--overwrite" in err
    assert (adapter / "adapter_model.safetensors").read_bytes() == before


def test_an_output_that_cannot_be_written_ends_with_1(cli: Cli, recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    code, out, err = cli("finetune", "--recipe", recipe_file, "--output", tmp_path / "file" / "run")
    assert (code, out) == (1, ""), "before anything is loaded"
    assert "cannot be written" in err


@pytest.mark.parametrize(
    "arguments", [["finetune"], ["finetune", "--recipe"], ["finetun"], ["evaluate"], ["finetune", "-r", "x", "--stop"]]
)
def test_a_wrong_call_ends_with_2(cli: Cli, arguments: list[str]) -> None:
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert "Error" in err


# --- recipes -----------------------------------------------------------------------------------------------------


def test_recipes_list_names_each_with_its_summary(cli: Cli) -> None:
    code, out, _ = cli("recipes", "list")
    assert code == 0
    width = max(map(len, recipe_names()))
    assert out.splitlines() == [f"{name:{width}}  {load_recipe(name).summary}" for name in recipe_names()]
    code, out, _ = cli("recipes", "list", "--json")
    assert json.loads(out) == {name: load_recipe(name).summary for name in recipe_names()}


def test_recipes_show_prints_a_recipe_that_loads_equal(cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli("recipes", "show", "scienceqa-pocket", "--set", "training.seed=4")
    assert (code, err) == (0, "")
    (tmp_path / "shown.yaml").write_text(out)
    assert load_recipe(str(tmp_path / "shown.yaml")) == load_recipe("scienceqa-pocket", ["training.seed=4"])


def test_recipes_copy_starts_ones_own_and_never_overwrites(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    assert cli("recipes", "copy", "scienceqa-pocket", file)[0] == 0
    assert load_recipe(str(file)) == load_recipe("scienceqa-pocket")
    assert file.read_text().startswith("#"), "comments included"
    file.write_text("mine")
    code, _, err = cli("recipes", "copy", "scienceqa", file)
    assert (code, file.read_text()) == (2, "mine")
    assert "exists" in err
    assert cli("recipes", "copy", "scienceqa", tmp_path / "mine.txt")[0] == 2
    assert cli("recipes", "copy", "scienceqa", tmp_path / "none" / "mine.yaml")[0] == 1


def test_recipes_check_tells_what_is_wrong(cli: Cli, tmp_path: Path) -> None:
    code, out, _ = cli("recipes", "check", "scienceqa")
    assert code == 0
    assert "valid" in out
    (tmp_path / "mine.yaml").write_text("extends: scienceqa\ntraining: {sed: 1}\ndata: {path: 3}\n")
    code, out, err = cli("recipes", "check", tmp_path / "mine.yaml")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "data.path: input should be a valid string, not 3.",
        "training.sed: unknown key. Did you mean 'seed'?",
    ]


# --- the job, and JSON -------------------------------------------------------------------------------------------


def one_object(out: str) -> Any:
    """Standard output as JSON; fails unless it is one object on one line and nothing else."""
    (line,) = out.splitlines()
    found = json.loads(line)
    assert isinstance(found, dict)
    return found


def test_env_json_is_one_object(cli: Cli) -> None:
    code, out, _ = cli("env", "--json")
    assert code == 0
    facts = one_object(out)
    assert facts["python"].count(".") == 2
    assert facts["packages"]["torch"][0].isdigit()
    code, out, _ = cli("env")
    assert f"torch: {facts['packages']['torch']}" in out


def test_finetune_json_is_one_object_and_the_rest_goes_to_standard_error(
    cli: Cli, recipe_file: Path, tmp_path: Path
) -> None:
    code, out, err = cli("finetune", "--recipe", recipe_file, "--output", tmp_path / "run", "--json")
    assert code == 0
    found = one_object(out)
    assert found["folder"] == str(tmp_path / "run")
    assert found["figures"]["steps"] == 2
    assert set(found["scores"]) >= {"random choice", "frozen base", "adapter"}
    assert "training: 2/2 steps" in err
    saved = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert saved["scores"] == found["scores"]


def test_finetune_prints_table_and_size(cli: Cli, recipe_file: Path, tmp_path: Path) -> None:
    code, out, _ = cli(
        "finetune", "--recipe", recipe_file, "--output", tmp_path / "run", "--set", "evaluation.base=false"
    )
    assert code == 0
    kilobytes = round((tmp_path / "run" / "adapter_model.safetensors").stat().st_size / 1000)
    assert f"adapter {kilobytes} KB in {tmp_path / 'run'}" in " ".join(out.split())
    assert "G1-6" in out
    assert "frozen base" not in out


def test_a_dry_run_ends_with_0_and_writes_nothing(cli: Cli, recipe_file: Path, tmp_path: Path) -> None:
    code, out, _ = cli("finetune", "--recipe", recipe_file, "--output", tmp_path / "run", "--dry-run")
    assert code == 0
    assert "What trains" in out
    assert not (tmp_path / "run").exists()


def test_evaluate_json_is_one_object_with_the_scores_of_the_run(cli: Cli, adapter: Path, tmp_path: Path) -> None:
    answers = tmp_path / "answers.json"
    code, out, _ = cli("evaluate", adapter, "--json", "--predictions", answers)
    assert code == 0
    found, saved = one_object(out), json.loads((adapter / "scores.json").read_text())
    assert found["scores"]["adapter"] == saved["scores"]["adapter"]
    assert read_results(answers) == read_results(adapter / "predictions-adapter.json")
    code, out, _ = cli("evaluate", adapter, "--json", "--base-only")
    assert one_object(out)["scores"]["frozen base"] == saved["scores"]["frozen base"]


def test_evaluate_asks_as_many_as_told_of_the_split_told(cli: Cli, adapter: Path, tmp_path: Path) -> None:
    answers = tmp_path / "answers.json"
    code, out, _ = cli("evaluate", adapter, "--split", "train", "--limit", "5", "--predictions", answers)
    assert code == 0
    assert list(read_results(answers).predictions) == ["1", "2", "3", "4", "5"]
    assert "ScienceQA train" in out


def test_answers_that_cannot_be_written_end_with_1(cli: Cli, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    answers = tmp_path / "file" / "answers.json"
    report = tmp_path / "file" / "report.html"
    code, out, err = cli("evaluate", adapter, "--limit", "2", "--predictions", answers, "--report", report)
    assert (code, out) == (1, ""), "before anything is scored"
    assert [line.split(": ")[0] for line in err.splitlines()] == [str(answers), str(report)]
    code, out, err = cli("evaluate", adapter, "--predictions", tmp_path / "a", "--report", tmp_path / "a")
    assert (code, out) == (2, "")
    assert "name two files" in err


# --- two models, and a page -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of another run of the same recipe."""
    from rich.console import Console

    from lora_mm.jobs.finetune import finetune

    folder = tmp_path_factory.mktemp("runs") / "other"
    finetune(load_recipe(str(recipe_file), ["training.seed=9"]), folder, Console(quiet=True))
    return folder


def test_compare_asks_both_the_same_and_tests_the_difference(cli: Cli, adapter: Path, other: Path) -> None:
    code, out, _ = cli("evaluate", adapter, "--compare", other, "--json")
    assert code == 0
    found = one_object(out)
    for folder in (adapter, other):
        saved = json.loads((folder / "scores.json").read_text())
        assert found["scores"][folder.name] == saved["scores"]["adapter"]
    compared = found["comparison"]
    assert compared["of"] == ["adapter", "other"]
    right = compared["right"]
    assert sum(right.values()) == 12
    assert compared["difference"] == pytest.approx(100 * (right["only_first"] - right["only_second"]) / 12, abs=1e-3)
    code, out, _ = cli("evaluate", adapter, "--compare", other)
    assert "adapter minus other: " in out
    assert "exact McNemar, p = " in out


def test_compare_base_is_the_run_that_scores_the_base_alone(cli: Cli, adapter: Path) -> None:
    code, out, _ = cli("evaluate", adapter, "--compare", "base", "--json")
    assert code == 0
    found, saved = one_object(out), json.loads((adapter / "scores.json").read_text())
    assert found["scores"] == saved["scores"]
    assert found["comparison"] == saved["comparison"]


def test_what_cannot_be_compared_is_one_line_before_any_model_is_loaded(
    cli: Cli, adapter: Path, other: Path, tmp_path: Path
) -> None:
    from tests.helpers.tiny import make_scienceqa

    elsewhere = shutil.copytree(other, tmp_path / "elsewhere")
    questions = make_scienceqa(tmp_path / "questions", seed=3)
    recipe = (elsewhere / "recipe.yaml").read_text()
    path = load_recipe(str(elsewhere / "recipe.yaml")).data.path
    (elsewhere / "recipe.yaml").write_text(recipe.replace(str(path), str(questions)))
    for arguments, told in (
        (["--compare", adapter], "the same adapter"),
        (["--compare", tmp_path / "none"], "No adapter folder"),
        (["--compare", "base", "--base-only"], "compares the frozen base with itself"),
        (["--compare", elsewhere], "have different questions"),
    ):
        code, out, err = cli("evaluate", adapter, *arguments)
        assert (code, out) == (2, ""), arguments
        assert told in err
        assert len(err.splitlines()) == 1
        assert "scoring" not in err


def test_report_writes_one_page(cli: Cli, adapter: Path, tmp_path: Path) -> None:
    page = tmp_path / "pages" / "report.html"
    code, _, _ = cli("evaluate", adapter, "--compare", "base", "--report", page)
    assert code == 0
    text = page.read_text(encoding="utf-8")
    for part in ("Routing", "Training", "adapter minus frozen base", "ScienceQA test, accuracy in %"):
        assert part in text


def test_answers_as_json_lines_or_in_the_official_format(cli: Cli, adapter: Path, tmp_path: Path) -> None:
    from lora_mm.evaluation.answers import load_answers

    lines = tmp_path / "answers.jsonl"
    assert cli("evaluate", adapter, "--predictions", lines)[0] == 0
    assert load_answers(lines) == load_answers(adapter / "predictions-adapter.jsonl")
    exact = ["--set", "evaluation.metric=exact", "--set", "evaluation.max_new_tokens=2"]
    code, _, err = cli("evaluate", adapter, "--predictions", tmp_path / "answers.json", *exact)
    assert code == 2
    assert "name the file answers.jsonl" in err
    code, out, _ = cli("evaluate", adapter, "--json", *exact)
    assert code == 0
    assert list(one_object(out)["scores"]["adapter"]["columns"]) == ["accuracy", "image", "text"]


# --- loggers --------------------------------------------------------------------------------------------------------


def test_a_logger_that_is_not_installed_says_how_to_get_it(cli: Cli, recipe_file: Path, tmp_path: Path) -> None:
    code, out, err = cli("finetune", "--recipe", recipe_file, "--output", tmp_path / "run", "--report-to", "swanlab")
    assert (code, out) == (2, "")
    assert err == "training.report_to: swanlab is not installed; `pip install swanlab`, or set it to none.\n"
    code, _, err = cli("finetune", "--recipe", recipe_file, "--output", tmp_path / "run", "--report-to", "tensorbord")
    assert code == 2
    assert "Did you mean 'tensorboard'?" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(
    not any(importlib.util.find_spec(name) for name in ("tensorboard", "tensorboardX")),
    reason="TensorBoard is not installed",
)
def test_what_is_logged_reaches_tensorboard(cli: Cli, recipe_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert cli("finetune", "--recipe", recipe_file, "--output", run, "--report-to", "tensorboard")[0] == 0
    (events,) = run.rglob("events.out.tfevents.*")
    written = events.read_bytes()
    for tag in (b"train/loss", b"train/learning_rate", b"train/samples_per_second", b"train/memory_bytes"):
        assert tag in written
    assert load_recipe(str(run / "recipe.yaml")).training.report_to == "tensorboard"


# --- shell completion -----------------------------------------------------------------------------------------------


def completed(*words: str) -> list[str]:
    """What bash offers for the last of ``words``, as the installed command itself says."""
    command = Path(sys.executable).parent / "lora-mm"
    asked = {"_LORA_MM_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run([str(command)], env={**os.environ, **asked}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    "words", [("finetune", "--recipe"), ("finetune", "-r"), ("recipes", "show"), ("recipes", "copy")]
)
def test_the_shell_completes_names_of_recipes(words: tuple[str, ...]) -> None:
    assert completed("lora-mm", *words, "scienceqa-s") == ["scienceqa-smolvlm", "scienceqa-smolvlm-pocket"]


def test_the_shell_completes_verbs_families_and_loggers() -> None:
    assert "finetune" in completed("lora-mm", "f")
    assert completed("lora-mm", "models", "show", "qwen2_5") == ["qwen2_5_vl"]
    assert completed("lora-mm", "finetune", "--report-to", "tens") == ["tensorboard"]
