"""The pocket world: layout, fields, determinism, no overlap of splits, and no way to guess answers."""

import hashlib
import json
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from lora_mm.errors import InputError, LoraMMError
from lora_mm.pocket.scenes import SCENES
from lora_mm.pocket.templates import TEMPLATES
from lora_mm.pocket.world import MAX_PROBLEMS, MIN_PROBLEMS_PER_TEMPLATE, describe_content, draw_problems, make_world

FIELDS = {
    "question", "choices", "answer", "hint", "image", "task", "grade", "subject",
    "topic", "category", "skill", "lecture", "solution", "split",
}  # fmt: skip
SPLITS = ("train", "val", "test")
SMALLEST = MIN_PROBLEMS_PER_TEMPLATE * len(TEMPLATES)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pocket") / "world"
    make_world(folder, seed=0)
    return folder


@pytest.fixture(scope="module")
def problems(world: Path) -> dict[str, dict]:
    return json.loads((world / "problems.json").read_text())


def files(folder: Path) -> dict[str, str]:
    return {
        str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.rglob("*") if f.is_file()
    }


def test_layout_and_fields(world: Path, problems: dict[str, dict]) -> None:
    lists = json.loads((world / "pid_splits.json").read_text())
    captions = json.loads((world / "captions.json").read_text())
    assert set(lists) == {*SPLITS, "trainval", "minitrain", "minival", "minitest"}
    assert sorted(lists["train"] + lists["val"], key=int) == lists["trainval"]
    assert len(lists["test"]) >= 700
    for split in SPLITS:
        assert set(lists[f"mini{split}"]) < set(lists[split])
        assert {i for i, p in problems.items() if p["split"] == split} == set(lists[split])
    assert set(captions) == {"version", "captions"}
    for key, problem in problems.items():
        assert set(problem) == FIELDS
        assert key == str(int(key))
        assert 2 <= len(problem["choices"]) <= 5
        assert len(set(problem["choices"])) == len(problem["choices"])
        assert 0 <= problem["answer"] < len(problem["choices"])
        assert problem["subject"] in ("natural science", "social science", "language science")
        assert 1 <= int(problem["grade"].removeprefix("grade")) <= 12
        assert problem["lecture"]
        assert problem["solution"]
        picture = world / "images" / problem["split"] / key / "image.png"
        assert picture.exists() == (problem["image"] == "image.png") == (key in captions["captions"])
    with Image.open(next(world.glob("images/test/*/image.png"))) as image:
        assert image.size == (144, 144)


def test_every_column_of_the_official_table_has_problems(problems: dict[str, dict]) -> None:
    columns: Counter[str] = Counter()
    for p in problems.values():
        if p["split"] == "test":
            columns[p["subject"]] += 1
            columns["TXT"] += bool(p["hint"])
            columns["IMG"] += bool(p["image"])
            columns["NO"] += not p["hint"] and not p["image"]
            columns["G1-6" if int(p["grade"][5:]) <= 6 else "G7-12"] += 1
    assert len(columns) == 8
    assert min(columns.values()) >= 100


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        make_world(tmp_path / name, seed=seed, size=300)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert files(tmp_path / "a") != files(tmp_path / "c")


def test_splits_share_no_problem_and_no_picture(world: Path, problems: dict[str, dict]) -> None:
    seen: dict[object, str] = {}
    pictures: dict[str, str] = {}
    for key, p in problems.items():
        drawn = ""
        if p["image"]:
            with Image.open(world / "images" / p["split"] / key / "image.png") as image:
                drawn = hashlib.sha256(image.tobytes()).hexdigest()
            assert drawn not in pictures
            pictures[drawn] = key
        same = (p["question"], p["hint"], tuple(sorted(p["choices"])), drawn)
        assert same not in seen
        seen[same] = key


def test_answers_are_uniform_over_letters(problems: dict[str, dict]) -> None:
    for split in SPLITS:
        count: dict[int, Counter[int]] = defaultdict(Counter)
        for p in problems.values():
            if p["split"] == split:
                count[len(p["choices"])][p["answer"]] += 1
        for choices, letters in count.items():
            share = sum(letters.values()) / choices
            assert all(abs(letters[n] - share) <= max(10, 0.1 * share) for n in range(choices))


def test_no_choice_is_right_more_often_than_by_chance() -> None:
    for template in TEMPLATES:
        right: Counter[str] = Counter()
        fair: Counter[str] = Counter()
        spread: Counter[str] = Counter()
        rng = Random(template.name)
        for _ in range(2000):
            draft = template.draft(rng)
            share = 1 / len(draft.choices)
            right[draft.choices[0]] += 1
            for choice in draft.choices:
                fair[choice] += share
                spread[choice] += share * (1 - share)
        for choice in fair:
            assert abs(right[choice] - fair[choice]) <= 5 * spread[choice] ** 0.5 + 2, (template.name, choice)


def test_alphabetical_order_does_not_give_answers_away() -> None:
    for template in TEMPLATES:
        rng = Random(template.name)
        drafts = [template.draft(rng) for _ in range(1500)]
        fair = sum(1 / len(d.choices) for d in drafts)
        for pick in (min, max):
            assert abs(sum(pick(d.choices) == d.choices[0] for d in drafts) - fair) < 130, template.name


@pytest.mark.parametrize("size", [0, -5, SMALLEST - 1, MAX_PROBLEMS + 1, True, 2.5])
def test_sizes_out_of_range_are_refused(tmp_path: Path, size: object) -> None:
    with pytest.raises(InputError, match="size"):
        make_world(tmp_path / "w", size=size)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [SMALLEST, SMALLEST + 7])
def test_smallest_world_has_every_split_of_every_template(tmp_path: Path, size: int) -> None:
    make_world(tmp_path / "w", size=size)
    problems = json.loads((tmp_path / "w" / "problems.json").read_text())
    assert len(problems) == size
    assert len({(p["skill"], p["split"]) for p in problems.values()}) == 3 * len(TEMPLATES)


def test_a_folder_with_files_is_refused_and_an_empty_one_is_used(tmp_path: Path) -> None:
    full, empty = tmp_path / "full", tmp_path / "empty"
    full.mkdir()
    empty.mkdir()
    (full / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="exists; name another folder"):
        make_world(full, size=SMALLEST)
    assert [f.name for f in full.iterdir()] == ["mine.txt"]
    with pytest.raises(InputError, match="exists; name another folder"):
        make_world(full / "mine.txt", size=SMALLEST)
    assert make_world(empty, size=SMALLEST).problems["train"] > 0


def test_a_folder_that_cannot_be_written_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LoraMMError, match="cannot be written") as error:
        make_world(tmp_path / "file" / "w", size=SMALLEST)
    assert "\n" not in str(error.value)


def test_equal_scenes_draw_equal_pictures_and_content_sees_the_picture() -> None:
    for scene in SCENES:
        one, same, other = (scene.random(Random(seed)) for seed in (1, 1, 2))
        assert one == same
        assert one.draw().tobytes() == same.draw().tobytes() != other.draw().tobytes()
    drafts = [d for _, t, d in draw_problems(0, SMALLEST) if t.name == "magnets"]
    assert len({describe_content(d) for d in drafts}) == len(drafts)
    assert len({describe_content(d)[:3] for d in drafts}) == 1


def test_drawing_needs_no_torch() -> None:
    code = "import sys, lora_mm.pocket.world; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
