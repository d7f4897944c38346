"""Every row of a split is used, counted under a policy, or named in an error; prompts are ScienceQA's to the letter."""

import io
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lora_mm.data.example import ImageCell, open_image
from lora_mm.data.scienceqa import FORMATS, Problem, check_images, format_answer, load_problems, to_example
from lora_mm.errors import InputError
from lora_mm.evaluation.scienceqa import READERS
from lora_mm.recipe.data_section import DataSection
from tests.helpers.sample import SAMPLE, needs_sample


def png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(buffer, "PNG")
    return buffer.getvalue()


def fields(split: str = "train", **changes: Any) -> dict[str, Any]:
    row = {
        "question": "Which is larger?",
        "choices": ["a pond", "an ocean"],
        "answer": 1,
        "hint": "",
        "image": None,
        "task": "closed choice",
        "grade": "grade2",
        "subject": "natural science",
        "topic": "earth-science",
        "category": "Water",
        "skill": "Compare sizes",
        "lecture": "Ponds are small.",
        "solution": "An ocean is larger.",
        "split": split,
    }
    return {name: value for name, value in {**row, **changes}.items() if value is not ...}


class Folder:
    """An official folder on disk, from rows."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, problems: dict[str, Any], splits: dict[str, Any] | None = None, images: str = "images") -> Path:
        if splits is None:
            splits = {
                name: [id for id, row in problems.items() if row["split"] == name] for name in ("train", "val", "test")
            }
        (self.root / "problems.json").write_text(json.dumps(problems))
        (self.root / "pid_splits.json").write_text(json.dumps(splits))
        for id, row in problems.items():
            if isinstance(row, dict) and row.get("image") == "image.png":
                self.picture(id, row["split"], images)
        return self.root

    def picture(self, id: str, split: str, images: str = "images", content: bytes | None = None) -> Path:
        place = self.root / images / split / id / "image.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(png() if content is None else content)
        return place


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def problem(**changes: Any) -> Problem:
    row = {**fields(), "id": "1", "caption": "", "has_image": False, "image": None, **changes}
    return Problem(**{**row, "choices": tuple(row["choices"])})


def faults(*args: Any, **options: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        load_problems(*args, **options)
    return list(caught.value.faults)


# ------------------------------------------------------------------------------------------------------ official folder


@pytest.mark.parametrize("images", ["images", "."])
def test_pictures_lie_in_the_folder_of_the_problems_own_split(folder: Folder, images: str) -> None:
    rows = {"1": fields("train", image="image.png"), "2": fields("val", image="image.png"), "3": fields("val")}
    root = folder.write(rows, {"train": ["1"], "trainval": ["1", "2", "3"], "minival": ["2"]}, images)
    loaded = load_problems(root, "trainval")
    assert [p.image for p in loaded.problems] == [
        root / images / "train/1/image.png",
        root / images / "val/2/image.png",
        None,
    ]
    assert [p.split for p in loaded.problems] == ["train", "val", "val"]
    assert [p.id for p in load_problems(str(root), "minival").problems] == ["2"]


def test_texts_are_kept_as_they_are(folder: Folder) -> None:
    row = fields(hint=" two  spaces\n", question="Which?\nThis one — or that?", choices=["Best wishes,\nHelen", "x"])
    [loaded] = load_problems(folder.write({"7": row}), "train").problems
    assert (loaded.hint, loaded.question, loaded.choices) == (row["hint"], row["question"], tuple(row["choices"]))


@pytest.mark.parametrize(("policy", "used", "skipped"), [("skip", ["1", "4"], 2), ("text", ["1", "2", "3", "4"], 0)])
def test_missing_pictures_are_counted_under_a_policy(folder: Folder, policy: str, used: list, skipped: int) -> None:
    root = folder.write({str(n): fields(image="image.png" if n < 4 else None) for n in range(1, 5)})
    for id in "23":
        (root / "images/train" / id / "image.png").unlink()
    loaded = load_problems(root, "train", missing_images=policy)
    assert [p.id for p in loaded.problems] == used
    assert (loaded.rows, loaded.missing, loaded.skipped, loaded.beyond_limit) == (4, ("2", "3"), skipped, 0)
    assert [p.id for p in loaded.problems if p.has_image] == [id for id in used if id != "4"]
    assert [p.id for p in loaded.problems if p.image] == ["1"]


def test_missing_pictures_stop_by_default_and_say_what_to_choose(folder: Folder) -> None:
    root = folder.write({str(n): fields(image="other.png") for n in range(8)})
    [fault] = faults(root, "train")
    assert "pictures missing in split 'train': 8, of problems 0, 1, 2, 3, 4, … (expected" in fault
    assert str(root / "images/train/0/other.png") in fault
    assert "--set data.missing_images=skip" in fault
    assert load_problems(root, "train", pictures=False).used == 8


@given(
    rows=st.lists(st.booleans(), min_size=1, max_size=12),
    limit=st.integers(1, 14),
    policy=st.sampled_from(["skip", "text"]),
)
@settings(max_examples=25, deadline=None)
def test_the_account_adds_up(
    tmp_path_factory: pytest.TempPathFactory, rows: list[bool], limit: int, policy: str
) -> None:
    problems = {str(n): fields(image="image.png" if named else None) for n, named in enumerate(rows)}
    root = Folder(tmp_path_factory.mktemp("account")).write(problems, images="elsewhere")
    if policy == "skip" and all(rows):
        assert "no usable rows" in faults(root, "train", missing_images=policy, limit=limit)[0]
        return
    loaded = load_problems(root, "train", missing_images=policy, limit=limit)
    assert loaded.used + loaded.skipped + loaded.beyond_limit == loaded.rows == len(rows)
    assert loaded.used <= limit
    assert loaded.beyond_limit == 0 or loaded.used == limit
    assert f"{loaded.used} of {len(rows)} rows used" in loaded.account()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": ...}, "question: the field is missing"),
        ({"lecture": None}, "lecture: null is not text"),
        ({"question": " \n"}, "question: empty"),
        ({"hint": 3}, "hint: 3 is not text"),
        ({"choices": ["a"], "answer": 0}, "choices: 1 given, must be 2 to 26"),
        ({"choices": [str(n) for n in range(27)]}, "choices: 27 given, must be 2 to 26"),
        ({"choices": "ab"}, 'choices: "ab" is not a list'),
        ({"choices": ["a", 5]}, "choices: number 1: 5 is not text"),
        ({"choices": ["a", ""]}, "choices: number 1: empty"),
        ({"choices": ["a", "b\ufffc"]}, "choices: number 1: contains U+FFFC"),
        ({"lecture": "a\x07b"}, "lecture: contains the control character U+0007 at position 2"),
        ({"solution": "\ud83d"}, "solution: contains the control character U+D83D"),
        ({"choices": ...}, "choices: the field is missing"),
        ({"answer": 2}, "answer: 2 is out of range, there are 2 choices (0 to 1)"),
        ({"answer": -1}, "answer: -1 is out of range"),
        ({"answer": True}, "answer: true is not an integer"),
        ({"answer": "1"}, 'answer: "1" is not an integer'),
        ({"answer": 1.0}, "answer: 1.0 is not an integer"),
        ({"answer": ...}, "answer: the field is missing"),
        ({"image": ...}, "image: the field is missing"),
        ({"image": 4}, "image: 4 is neither a file name nor null"),
        ({"image": "../../../secret.png"}, "is outside the problem's own folder"),
        ({"split": "trian"}, "split: unknown split 'trian'. Known: train, val, test. Did you mean 'train'?"),
        ({"split": "test"}, "split: 'test', but pid_splits.json lists it in 'train'"),
        ({"split": ["train"]}, 'split: ["train"] is not text'),
    ],
)
def test_a_fault_is_told_with_row_field_and_cause(folder: Folder, changes: dict, message: str) -> None:
    root = folder.write({"11": fields(), "12": fields(**changes)}, {"train": ["11", "12"]})
    [fault] = faults(root, "train")
    assert fault.startswith(f"{root / 'problems.json'}, problem 12: ")
    assert message in fault


def test_all_faults_of_all_rows_are_told_at_once(folder: Folder) -> None:
    rows = {str(n): fields(answer=9, question="") for n in range(6)} | {"6": fields(image="image.png"), "7": "text"}
    root = folder.write(rows, {"train": [*rows, "ghost", "0", 5]}, images="elsewhere")
    told = faults(root, "train")
    assert len(told) == 11
    assert "pictures missing in split 'train': 1," in told[0]
    assert 'problem 7: "text" is not an object' in told[1]
    assert "id ghost is not in problems.json" in told[2]
    assert "id 0 is listed twice" in told[3]
    assert "id 5 is not text" in told[4]
    assert told[-1] == "… and 7 more"


def test_a_test_problem_listed_for_training_is_a_fault(folder: Folder) -> None:
    root = folder.write({"1": fields("test")}, {"minitrain": ["1"], "trainval": ["1"], "mine": ["1"]})
    for split in ("minitrain", "trainval"):
        assert f"split: 'test', but pid_splits.json lists it in '{split}'" in faults(root, split)[0]
    assert load_problems(root, "mine").used == 1


def test_rows_of_other_splits_do_not_matter(folder: Folder) -> None:
    root = folder.write({"1": fields(), "2": fields("val", answer=7)})
    assert load_problems(root, "train").used == 1


def test_an_unknown_split_names_the_nearest_and_all(folder: Folder) -> None:
    [fault] = faults(folder.write({"1": fields()}), "trian")
    assert "no split 'trian'. Did you mean 'train'? It has: train, val, test" in fault


def test_zero_rows_are_an_error(folder: Folder) -> None:
    root = folder.write({"1": fields(image="image.png")}, images="elsewhere")
    assert "no usable rows in split 'val' (val: 0 of 0 rows used)" in faults(root, "val")[0]
    assert "1 left out for missing pictures" in faults(root, "train", missing_images="skip")[0]


@pytest.mark.parametrize(
    ("options", "message"), [({"limit": 0}, "limit: 0"), ({"missing_images": "skp"}, "Did you mean 'skip'?")]
)
def test_wrong_options_are_told(folder: Folder, options: dict, message: str) -> None:
    assert message in faults(folder.write({"1": fields()}), "train", **options)[0]


@given(part=st.floats(0.001, 0.99))
@settings(max_examples=20, deadline=None)
def test_a_cut_problems_file_is_told_with_its_place(tmp_path_factory: pytest.TempPathFactory, part: float) -> None:
    root = Folder(tmp_path_factory.mktemp("cut")).write({str(n): fields() for n in range(3)})
    text = (root / "problems.json").read_text()
    (root / "problems.json").write_text(text[: int(part * len(text))])
    [fault] = faults(root, "train")
    assert re.search(r"problems\.json: not JSON: .* at line \d+ column \d+", fault)


def test_a_cut_file_is_said_to_be_cut(folder: Folder) -> None:
    root = folder.write({"1": fields()})
    (root / "problems.json").write_text('{"1": {"question": "Which is')
    assert "line 1 column 20; the text is cut off" in faults(root, "train")[0]


def test_a_problem_written_twice_is_told(folder: Folder) -> None:
    root = folder.write({"1": fields()})
    row = json.dumps(fields())
    (root / "problems.json").write_text(f'{{"1": {row}, "1": {row}}}')
    assert faults(root, "train") == [f"{root / 'problems.json'}: duplicate key '1'"]


def test_a_missing_folder_or_file_says_what_was_looked_for(tmp_path: Path) -> None:
    assert "no such folder; expected problems.json, pid_splits.json" in faults(tmp_path / "nowhere", "train")[0]
    assert "expected problems.json and pid_splits.json, or Parquet files" in faults(tmp_path, "train")[0]
    (tmp_path / "problems.json").write_text("{}")
    assert f"{tmp_path / 'pid_splits.json'}: No such file" in faults(tmp_path, "train")[0]
    assert "give the folder that holds problems.json" in faults(tmp_path / "problems.json", "train")[0]


@pytest.mark.parametrize("content", ["[]", "3"])
def test_json_of_another_shape_is_told(folder: Folder, content: str) -> None:
    root = folder.write({"1": fields()})
    (root / "problems.json").write_text(content)
    assert "must be an object from problem id to problem" in faults(root, "train")[0]


def test_captions_come_from_the_folder_or_from_a_file(folder: Folder, tmp_path: Path) -> None:
    root = folder.write({"1": fields(image="image.png"), "2": fields()})
    (root / "captions.json").write_text('{"captions": {"1": "A red square."}}')
    assert [p.caption for p in load_problems(root, "train").problems] == ["A red square.", ""]
    other = tmp_path / "other.json"
    other.write_text('{"captions": {"1": "Red."}}')
    assert load_problems(root, "train", captions=other).problems[0].caption == "Red."
    other.write_text('{"captions": {"77": "Red."}}')
    assert "no caption for any problem of split 'train'" in faults(root, "train", captions=other)[0]
    other.write_text('{"1": "Red."}')
    assert "must hold" in faults(root, "train", captions=other)[0]


def test_every_damaged_picture_is_found_before_training(folder: Folder) -> None:
    root = folder.write({str(n): fields(image="image.png") for n in range(5)})
    buffer = io.BytesIO()
    Image.frombytes("RGB", (64, 64), os.urandom(64 * 64 * 3)).save(buffer, "PNG")
    cut_off = buffer.getvalue()[:6000]
    folder.picture("1", "train", content=cut_off)
    folder.picture("3", "train", content=b"")
    told = check_images(load_problems(root, "train").problems)
    assert [line.split(":")[0] for line in told] == ["problem 1", "problem 3"]
    assert "cut off or damaged" in told[0]
    assert "empty" in told[1]


# ----------------------------------------------------------------------------------------------------------- Hub layout


@pytest.fixture
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables made in a test go to its own folder, not to the user's cache."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def write_parquet(file: Path, rows: list[dict[str, Any]], *, typed: bool = True) -> Path:
    import datasets

    columns = [{name: value for name, value in row.items() if name != "split"} for row in rows]
    table = datasets.Dataset.from_list(columns)
    if typed:  # as the Hub's copy: the image column by its feature, the answer in 8 bits
        table = table.cast_column("image", datasets.Image()).cast_column("answer", datasets.Value("int8"))
    file.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(file)
    return file


def cell(colour: str) -> dict[str, Any]:
    return {"bytes": png(colour), "path": "image.png"}


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize(
    "names",
    [
        ("data/train-00000-of-00001-1028f23e.parquet", "data/validation-00000-of-00001.parquet"),
        ("train/0000.parquet", "validation/0000.parquet"),
        ("train.parquet", "val.parquet"),
    ],
)
def test_parquet_files_are_read_with_their_pictures(tmp_path: Path, names: tuple[str, str], typed: bool) -> None:
    write_parquet(tmp_path / names[0], [fields(image=cell("red")), fields(image=None, answer=0)], typed=typed)
    write_parquet(tmp_path / names[1], [fields(image=None, hint="H"), fields(image=cell("blue"))], typed=typed)
    loaded = load_problems(tmp_path, "trainval")
    assert [p.id for p in loaded.problems] == ["train-0", "train-1", "val-0", "val-1"]
    assert [p.split for p in loaded.problems] == ["train", "train", "val", "val"]
    assert [p.answer for p in loaded.problems] == [1, 0, 1, 1]
    assert [p.has_image for p in loaded.problems] == [True, False, False, True]
    colours = [open_image(p.image).getpixel((0, 0)) for p in loaded.problems if p.image]
    assert colours == [(255, 0, 0), (0, 0, 255)]
    assert check_images(loaded.problems) == []
    assert [p.id for p in load_problems(tmp_path / names[1], "val").problems] == ["val-0", "val-1"]


@pytest.mark.usefixtures("own_cache")
def test_shards_follow_each_other_in_order(tmp_path: Path) -> None:
    for shard in (1, 0):
        write_parquet(
            tmp_path / f"test-0000{shard}-of-00002.parquet",
            [fields(question=f"{shard}{n}?", image=cell("red")) for n in range(2)],
        )
    loaded = load_problems(tmp_path, "test").problems
    assert [(p.id, p.question) for p in loaded] == [
        ("test-0", "00?"),
        ("test-1", "01?"),
        ("test-2", "10?"),
        ("test-3", "11?"),
    ]


@pytest.mark.usefixtures("own_cache")
def test_pictures_stay_in_the_table_until_opened(tmp_path: Path) -> None:
    write_parquet(
        tmp_path / "train.parquet", [fields(image={"bytes": os.urandom(200_000), "path": None}) for _ in range(3)]
    )
    [first, *_] = load_problems(tmp_path, "train").problems
    assert isinstance(first.image, ImageCell)
    assert len(pickle.dumps(first)) < 20_000  # goes to a worker as a reference, not as bytes
    assert len(pickle.loads(pickle.dumps(first)).image.read()) == 200_000
    assert f"problem train-0: picture train-0 in {tmp_path}: not a picture" in check_images([first])[0]


@pytest.mark.usefixtures("own_cache")
def test_a_cell_without_bytes_is_a_missing_picture(tmp_path: Path) -> None:
    write_parquet(
        tmp_path / "train.parquet",
        [fields(image={"bytes": None, "path": "a.png"}), fields(image=cell("red"))],
        typed=False,
    )
    assert "pictures missing in split 'train': 1, of problems train-0" in faults(tmp_path, "train")[0]
    assert load_problems(tmp_path, "train", missing_images="skip").missing == ("train-0",)
    assert [p.image for p in load_problems(tmp_path, "train", pictures=False).problems] == [None, None]


@pytest.mark.usefixtures("own_cache")
def test_faults_in_parquet_are_told_by_row_and_column(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [fields(image=cell("red"), answer=5), fields(image=None, hint=None)])
    told = faults(tmp_path, "train")
    assert "problem train-0: answer: 5 is out of range" in told[0]
    assert "problem train-1: hint: null is not text" in told[1]
    write_parquet(tmp_path / "val.parquet", [fields(image=cell("red"), lecture=..., skill=...)])
    assert [line.split("'")[-2] for line in faults(tmp_path, "val")] == ["skill", "lecture"]


@pytest.mark.usefixtures("own_cache")
def test_parquet_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "train.parquet", [fields(image=cell("red"))])
    assert "no Parquet file of split 'test'. Found: train" in faults(tmp_path, "test")[0]
    assert "only the official folder has the mini splits" in faults(tmp_path, "minitest")[0]
    (tmp_path / "val.parquet").write_bytes(file.read_bytes()[:-100])
    assert f"{tmp_path / 'val.parquet'}: not a complete Parquet file" in faults(tmp_path, "val")[0]
    write_parquet(tmp_path / "test.parquet", [fields(image=7)], typed=False)
    assert f"{tmp_path}: cannot be read as ScienceQA" in faults(tmp_path, "test")[0]
    (tmp_path / "questions.parquet").write_bytes(file.read_bytes())
    assert "no split in its name" in faults(tmp_path, "train")[0]


def test_offline_a_hub_id_ends_in_two_lines(tmp_path: Path) -> None:
    code = (
        "from lora_mm.data.scienceqa import load_problems\nfrom lora_mm.errors import InputError\n"
        "try:\n    load_problems('derek-thomas/ScienceQA', 'test')\nexcept InputError as error:\n    print(error)"
    )
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=offline, capture_output=True, text=True, check=True)
    told = done.stdout.splitlines()
    assert len(told) == 2
    assert "'derek-thomas/ScienceQA' is not a local folder and cannot be loaded from the Hugging Face Hub" in told[0]
    assert "HF_HUB_OFFLINE" in told[0]
    assert "--set data.path=FOLDER" in told[1]
    assert "scienceqa-pocket" in told[1]


# -------------------------------------------------------------------------------------------------------------- prompts


def test_the_prompt_to_the_letter() -> None:
    example = to_example(problem(hint="A  hint."))
    assert example.prompt == (
        "Question: Which is larger?\nContext: A hint.\nOptions: (A) a pond (B) an ocean\nResponse:"
    )
    assert example.target == "The answer is B. BECAUSE: Ponds are small. An ocean is larger."
    assert example.candidates == ("The answer is A.", "The answer is B.")
    assert example.images == ()


@pytest.mark.parametrize(
    ("lecture", "solution", "target"),
    [
        ("", "Since.", "The answer is B. BECAUSE: Since."),
        ("A rule.  ", "", "The answer is B. BECAUSE: A rule."),
        (" ", "\n", "The answer is B."),
        ("One.\nTwo.", "So.", "The answer is B. BECAUSE: One.\nTwo. So."),
    ],
)
def test_the_explanation_is_tidy(lecture: str, solution: str, target: str) -> None:
    assert to_example(problem(lecture=lecture, solution=solution)).target == target


def test_the_plain_form_and_the_caption() -> None:
    shown = problem(hint="", caption="A red square.", image=Path("image.png"), has_image=True)
    assert to_example(shown, format="QCM-A").target == "The answer is B."
    assert "Context: N/A\n" in to_example(shown).prompt
    assert "Context: A red square.\n" in to_example(shown, caption=True).prompt
    assert (
        "Context: Look. A red square.\n"
        in to_example(problem(hint="Look.", caption="A red square."), caption=True).prompt
    )
    assert to_example(shown).images == (Path("image.png"),)


def test_the_prompt_of_llava_asks_for_a_letter() -> None:
    example = to_example(problem(hint="A  hint."), format="CQM-A")
    assert example.prompt == (
        "Context: A hint.\nQuestion: Which is larger?\nOptions: (A) a pond (B) an ocean\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert (example.target, example.candidates, example.references) == ("B", ("A", "B"), ("B",))


def test_the_recipe_knows_every_format() -> None:
    assert get_args(DataSection.model_fields["format"].annotation) == tuple(FORMATS) == tuple(READERS)


words = st.text(st.characters(categories=["L", "N", "P", "Zs"], include_characters="\n"), max_size=30)


@given(hint=words, lecture=words, solution=words, count=st.integers(2, 26), data=st.data())
def test_every_target_begins_with_one_of_its_candidates(
    hint: str, lecture: str, solution: str, count: int, data: st.DataObject
) -> None:
    answer = data.draw(st.integers(0, count - 1))
    choices = tuple(f"choice {n}" for n in range(count))
    example = to_example(problem(hint=hint, lecture=lecture, solution=solution, choices=choices, answer=answer))
    assert len(set(example.candidates)) == count
    assert example.target.startswith(example.candidates[answer])
    assert (
        example.candidates[answer]
        == format_answer(answer)
        == to_example(problem(choices=choices, answer=answer), format="QCM-A").target
    )
    assert "  " not in example.prompt + example.target
    assert example.target == example.target.strip()


# ------------------------------------------------------------------------------------------------------ the real sample


@needs_sample
@pytest.mark.parametrize(
    ("split", "rows", "images"),
    [
        ("train", 713, 345),
        ("val", 246, 121),
        ("test", 241, 112),
        ("trainval", 959, 466),
        ("minitrain", 68, None),
        ("minival", 21, None),
        ("minitest", 20, None),
    ],
)
def test_the_real_splits_have_their_rows(split: str, rows: int, images: int | None) -> None:
    loaded = load_problems(SAMPLE, split, pictures=False)
    assert (loaded.rows, loaded.used) == (rows, rows)
    if images is not None:
        assert sum(p.has_image for p in loaded.problems) == images


@needs_sample
def test_the_real_test_pictures_all_open() -> None:
    problems = load_problems(SAMPLE, "test").problems
    assert sum(p.image is not None for p in problems) == 112
    assert check_images(problems) == []
    assert all(p.caption for p in problems if p.has_image)


@needs_sample
def test_the_real_training_rows_without_pictures_are_told_or_counted() -> None:
    [fault] = faults(SAMPLE, "train")
    assert "pictures missing in split 'train': 345" in fault
    loaded = load_problems(SAMPLE, "train", missing_images="skip")
    assert (loaded.rows, loaded.used, loaded.skipped) == (713, 368, 345)
    assert load_problems(SAMPLE, "train", missing_images="text").used == 713
    assert loaded.account() == "train: 368 of 713 rows used; 345 left out for missing pictures"
