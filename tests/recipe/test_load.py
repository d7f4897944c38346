"""Recipes are read, extended, overridden and validated, and all faults are reported at once."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from lora_mm.errors import InputError
from lora_mm.recipe.load import load_recipe, recipe_file, recipe_names
from lora_mm.recipe.sections import Recipe
from tests.helpers.tiny import make_recipe

MINIMAL = {"name": "mine", "base": {"model": "pocket"}, "adapters": ["mma"], "data": {"path": "pocket"}}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Write a recipe file; returns its path as ``load_recipe`` takes it."""

    def write(fields: object, name: str = "mine.yaml") -> str:
        text = fields if isinstance(fields, str) else yaml.safe_dump(fields)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write


def faults(name: str, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(InputError) as error:
        load_recipe(name, overrides)
    assert error.value.exit_code == 2
    return error.value.faults


# --- packaged recipes -----------------------------------------------------------------------------------------------


def test_packaged_recipes_are_found() -> None:
    assert {"scienceqa", "scienceqa-pocket"} <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_every_packaged_recipe_is_valid_and_has_a_summary(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.summary


def test_the_pocket_recipe_is_the_real_recipe_on_another_base_with_lora_beside() -> None:
    real, pocket = load_recipe("scienceqa"), load_recipe("scienceqa-pocket")
    assert (pocket.base.model, pocket.data.path) == ("pocket", "pocket")
    *same, beside = [(item.method, item.part) for item in pocket.adapters]
    assert same == [(item.method, item.part) for item in real.adapters]
    assert beside == ("lora", "language")
    assert pocket.training.weight_decay == real.training.weight_decay


@pytest.mark.parametrize("name", recipe_names())
def test_resolved_yaml_loads_to_an_equal_recipe(name: str, write: Any) -> None:
    recipe = load_recipe(name, ["training.learning_rate=3e-4", "data.train_limit=7", "train=[connector]"])
    again = load_recipe(write(recipe.to_yaml()))
    assert again == recipe
    assert again.to_yaml() == recipe.to_yaml()


def test_resolved_yaml_has_every_key() -> None:
    fields = yaml.safe_load(load_recipe("scienceqa").to_yaml())
    assert set(fields) == set(Recipe.model_fields)
    assert fields["adapters"][0]["groups"] == 2
    assert "extends" not in fields


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_minimal_recipe_has_the_defaults(write: Any) -> None:
    recipe = load_recipe(write(MINIMAL))
    assert recipe.adapters[0].temperature == 10.0
    assert recipe.data.train_split == "train"
    assert recipe.training.seed == 0


def test_a_learning_rate_written_1e_3_is_a_number(write: Any) -> None:
    text = yaml.safe_dump(MINIMAL) + "training: {learning_rate: 1e-3}\n"
    assert load_recipe(write(text)).training.learning_rate == 0.001


@pytest.mark.parametrize(
    ("name", "meant"), [("sciencqa", "scienceqa"), ("scienceqa_pocket", "scienceqa-pocket"), ("pocket", "pocket")]
)
def test_an_unknown_name_suggests_the_nearest(name: str, meant: str) -> None:
    (line,) = faults(name)
    assert line.startswith(f"Unknown recipe '{name}'. Known: ")
    assert meant in line.rpartition("Did you mean ")[2]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert faults(str(tmp_path / "none.yaml")) == (f"No recipe file '{tmp_path / 'none.yaml'}'.",)


def test_a_name_cannot_leave_the_recipes_folder() -> None:
    assert "Unknown recipe" in faults("../recipes/scienceqa")[0]
    assert recipe_file("scienceqa").name == "scienceqa.yaml"


@pytest.mark.parametrize(
    ("text", "line"), [("name: mine\nbase: {model: pocket\ndata: x\n", 3), ("name: 'mine\n", 2), ("a: b: c\n", 1)]
)
def test_a_yaml_error_names_file_and_line(write: Any, text: str, line: int) -> None:
    file = write(text)
    (message,) = faults(file)
    assert message.startswith(f"{file}: line {line}, column ")
    assert "invalid YAML" in message


@pytest.mark.parametrize(("text", "kind"), [("- a\n- b\n", "list"), ("words", "str"), ("", "NoneType"), ("3", "int")])
def test_a_file_without_a_mapping_is_refused(write: Any, text: str, kind: str) -> None:
    assert f"must be a mapping of keys, not {kind}" in faults(write(text))[0]


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"name: \xff\xfe")
    assert "not UTF-8 text (byte 6)" in faults(str(tmp_path / "mine.yaml"))[0]


# --- extends ---------------------------------------------------------------------------------------------------------


def test_extends_merges_key_by_key(write: Any) -> None:
    write({**MINIMAL, "training": {"seed": 5, "max_steps": 9}}, "lower.yaml")
    write({"extends": "lower.yaml", "training": {"seed": 6}, "adapters": ["lora"]}, "middle.yaml")
    recipe = load_recipe(write({"extends": "middle.yaml", "name": "top", "base": {"dtype": "float32"}}))
    assert (recipe.name, recipe.base.model, recipe.base.dtype) == ("top", "pocket", "float32")
    assert (recipe.training.seed, recipe.training.max_steps) == (6, 9)
    assert [item.method for item in recipe.adapters] == ["lora"]


def test_extends_accepts_a_packaged_name(write: Any) -> None:
    recipe = load_recipe(write({"extends": "scienceqa-pocket", "name": "mine", "training": {"seed": 4}}))
    assert recipe.training.seed == 4
    assert recipe.base == load_recipe("scienceqa-pocket").base


def test_later_parents_override_earlier_ones(write: Any) -> None:
    write({**MINIMAL, "training": {"seed": 5, "max_steps": 9}}, "first.yaml")
    write({"training": {"seed": 6}, "adapters": ["lora"]}, "second.yaml")
    recipe = load_recipe(write({"extends": ["first.yaml", "second.yaml"], "name": "top"}))
    assert (recipe.training.seed, recipe.training.max_steps, recipe.base.model) == (6, 9, "pocket")
    assert [item.method for item in recipe.adapters] == ["lora"]
    assert "extends itself" in faults(write({"extends": ["first.yaml", "again.yaml"]}, "again.yaml"))[0]


def test_a_cycle_of_extends_is_refused_with_its_path(write: Any) -> None:
    write({"extends": "b.yaml"}, "a.yaml")
    write({"extends": "c.yaml"}, "b.yaml")
    file = write({"extends": "a.yaml"}, "c.yaml")
    (line,) = faults(file)
    assert "extends itself: c.yaml → a.yaml → b.yaml → c.yaml" in line
    assert "extends itself" in faults(write({"extends": "self.yaml"}, "self.yaml"))[0]


def test_a_missing_parent_is_named(write: Any) -> None:
    assert "scienceqqa" in faults(write({"extends": "scienceqqa"}))[0]
    assert "none.yaml" in faults(write({"extends": "none.yaml"}))[0]


# --- faults ----------------------------------------------------------------------------------------------------------


def test_all_faults_are_reported_at_once(write: Any) -> None:
    file = write(
        {
            "nmae": "mine",
            "base": {"model": "pocket", "dtype": "float31"},
            "adapters": [{"method": "mma", "rnak": 4}, {"method": "lorra"}, {"method": "lora", "rank": "many"}],
            "data": {"pth": "pocket", "max_length": 0},
            "training": {"learning_rate": -1, "learnign_rate": 1},
        }
    )
    lines = faults(file, "training.seed", "adapters.9.rank=1")
    starts = [line.split(":")[0].split(";")[0] for line in lines]
    assert starts[0] == "--set training.seed"
    assert starts[1] == "--set adapters.9.rank"
    assert sorted(starts[2:]) == sorted(
        [
            "name",
            "nmae",
            "base.dtype",
            "adapters.0.rnak",
            "adapters.1",
            "adapters.2.rank",
            "data.sources",
            "data.pth",
            "data.max_length",
            "training.learning_rate",
            "training.learnign_rate",
        ]
    )
    assert "training.learnign_rate: unknown key. Did you mean 'learning_rate'?" in lines
    assert "adapters.0.rnak: unknown key. Did you mean 'rank'?" in lines
    assert "nmae: unknown key. Did you mean 'name'?" in lines
    assert "name: is missing." in lines
    assert any(line.startswith("training.learning_rate: ") and line.endswith("not -1.") for line in lines)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.pocket.sede=1", "data.pocket.sede: unknown key. Did you mean 'seed'?"),
        ("data.fromat=QCM-A", "data.fromat: unknown key. Did you mean 'format'?"),
        ("trainig.seed=1", "trainig: unknown key. Did you mean 'training'?"),
        ("training.seed=a", "training.seed: input should be a valid integer"),
        ("training.max_steps=1.5", "training.max_steps: input should be a valid integer"),
        ("training.gradient_checkpointing=3", "training.gradient_checkpointing: input should be a valid boolean"),
        ("base.quantization=nf5", "base.quantization: input should be 'none', 'nf4' or 'int8', not 'nf5'."),
        ("training.max_steps=0", "training.max_steps: 0 steps train nothing; set 1 or more, or -1"),
        ("training.learning_rate=yes", "training.learning_rate: input should be a number, not True"),
        ("training.num_train_epochs=.inf", "training.num_train_epochs: input should be a finite number"),
        ("training.learning_rate=nan", "training.learning_rate: input should be a finite number"),
        (
            "training.per_device_train_batch_size=1000000000000",
            "training.per_device_train_batch_size: input should be less",
        ),
        ("data.sources=[{path: a, weight: 1e308}]", "data.sources.0.weight: input should be less than or equal to"),
        ("adapters.0.rank=100000000", "adapters.0.rank: input should be less than or equal to 65536"),
        ("adapters.0.layers=[true]", "adapters.0.layers: input should be a number, not [True]"),
        ("name=../../x", "name: '../../x' cannot be the name of a folder"),
        ("name=/tmp/x", "name: '/tmp/x' cannot be"),
        ("name=.hidden", "name: '.hidden' cannot be"),
        ("train=[tower]", "train.0: input should be 'connector' or 'head', not 'tower'."),
        ("base.model=null", "base.model: input should be a valid string, not None."),
        ("adapters=3", "adapters: "),
        ("adapters={method: mma}", "adapters: "),
        ("adapters=[3]", "adapters.0: "),
        ("adapters=[[mma]]", "adapters.0: "),
        ("data=pocket", "data: "),
    ],
)
def test_an_invalid_setting_is_reported_with_its_key(setting: str, message: str) -> None:
    lines = faults("scienceqa-pocket", setting)
    assert len(lines) == 1
    assert lines[0].startswith(message)


def test_the_name_of_a_method_is_a_list_of_one_adapter(write: Any) -> None:
    recipe = load_recipe(write({**MINIMAL, "adapters": "mma"}))
    assert recipe.adapters == load_recipe(write(MINIMAL)).adapters


def test_nothing_to_train_is_refused(write: Any) -> None:
    (line,) = faults(write({**MINIMAL, "adapters": []}))
    assert "nothing to train" in line
    assert load_recipe(write({**MINIMAL, "adapters": [], "train": ["connector"]})).train == ["connector"]


# --- --set -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "section", "key", "value"),
    [
        ("training.learning_rate=1e-3", "training", "learning_rate", 0.001),
        ("training.learning_rate=1E-3", "training", "learning_rate", 0.001),
        ("training.learning_rate=5", "training", "learning_rate", 5.0),
        ("training.seed=7", "training", "seed", 7),
        ("training.gradient_checkpointing=true", "training", "gradient_checkpointing", True),
        ("training.save_total_limit=null", "training", "save_total_limit", None),
        ("training.report_to=tensorboard", "training", "report_to", "tensorboard"),
        ("data.path=/some where/a=b", "data", "path", "/some where/a=b"),
        ("data.captions=yes", "data", "captions", True),
        ("base.full_precision=[vision, head]", "base", "full_precision", ["vision", "head"]),
        ("base.full_precision=[]", "base", "full_precision", []),
        ("base.revision=12e4567", "base", "revision", "12e4567"),
        ("base.model=org/model-1e5", "base", "model", "org/model-1e5"),
        (" training.seed =7", "training", "seed", 7),
    ],
)
def test_a_setting_is_typed_as_in_yaml(setting: str, section: str, key: str, value: object) -> None:
    found = getattr(getattr(load_recipe("scienceqa-pocket", [setting]), section), key)
    assert found == value
    assert type(found) is type(value)


def test_settings_reach_nested_sections_lists_and_new_sections(write: Any) -> None:
    recipe = load_recipe(
        write({**MINIMAL, "adapters": [{"method": "mma"}, {"method": "lora"}]}),
        ["data.pocket.size=200", "adapters.1.rank=4", "evaluation.answer=generate", "train=[connector, head]"],
    )
    assert recipe.data.pocket.size == 200
    assert [item.rank for item in recipe.adapters] == [8, 4]
    assert recipe.evaluation.answer == "generate"
    assert recipe.train == ["connector", "head"]


def test_a_setting_may_replace_a_whole_section_or_list() -> None:
    recipe = load_recipe("scienceqa-pocket", ["adapters=[{method: lora, at: all, rank: 2}]", "data.pocket={seed: 3}"])
    assert [(item.method, item.at, item.rank) for item in recipe.adapters] == [("lora", "all", 2)]
    assert recipe.data.pocket.seed == 3


def test_a_setting_reaches_a_section_that_a_saved_recipe_leaves_out(write: Any) -> None:
    saved = write(load_recipe("scienceqa-pocket").to_yaml())
    assert "slicing: null" in Path(saved).read_text()
    slicing = load_recipe(saved, ["data.slicing.rows=3"]).data.slicing
    assert slicing is not None
    assert (slicing.rows, slicing.columns) == (3, 2)


def test_a_recipe_with_a_byte_order_mark_and_windows_lines_is_read(tmp_path: Path) -> None:
    text = load_recipe("scienceqa-pocket").to_yaml().replace("\n", "\r\n")
    (tmp_path / "mine.yaml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_recipe(str(tmp_path / "mine.yaml")) == load_recipe("scienceqa-pocket")


@pytest.mark.parametrize("name", ["a\0.yaml", "~nobody-of-this-name/a.yaml", "a" * 5000 + ".yaml", "\udcff.yaml"])
def test_a_name_that_no_file_can_have_is_refused(write: Any, name: str) -> None:
    assert faults(name)[0].startswith("recipe: ")
    if name.isprintable():
        assert faults(write({"extends": name}))


def test_the_last_setting_of_a_key_wins() -> None:
    assert load_recipe("scienceqa-pocket", ["training.seed=1", "training.seed=2"]).training.seed == 2


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.seed", "--set training.seed: write it as key=value"),
        ("=3", "--set =3: write it as key=value"),
        ("name.sub=3", "--set name.sub: 'name' is a value and has no keys."),
        ("adapters.5.rank=3", "--set adapters.5.rank: no item '5'; the list has 3 items, counted from 0."),
        ("adapters.first.rank=3", "--set adapters.first.rank: no item 'first'"),
        ("adapters.².rank=3", "--set adapters.².rank: no item '²'"),
        ("training={seed: 1, seed: 2}", "--set training: line 1, column 11: invalid YAML: duplicate key 'seed'"),
        ("a." * 1000 + "b=3", "--set a.a.a"),
        ("train=[connector", "--set train: line 1, column 11: invalid YAML: "),
    ],
)
def test_a_setting_without_a_target_is_refused(setting: str, message: str) -> None:
    lines = faults("scienceqa-pocket", setting)
    assert lines[0].startswith(message)


def test_the_recipe_of_the_tests_is_valid(tmp_path: Path) -> None:
    file = make_recipe(tmp_path / "tiny.yaml", Path("base"), Path("data"), training={"max_steps": 2})
    assert load_recipe(str(file)).training.save_steps == 3
