"""A recipe's rows as examples: what is used, what is left out and counted, what is held out, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lora_mm.data.data_split import check_disjoint
from lora_mm.data.splits import load_split
from lora_mm.errors import InputError
from lora_mm.recipe.sections import Recipe
from tests.helpers.own import BREAKAGES, Broken, sound_row, write_rows

Make = Callable[..., Recipe]


def recipe(**data: Any) -> Recipe:
    return Recipe.model_validate({"name": "own", "base": {"model": "pocket"}, "train": ["connector"], "data": data})


def faults(**data: Any) -> str:
    with pytest.raises((InputError, ValueError)) as caught:
        load_split(recipe(**data), "train")
    return str(caught.value)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path, [sound_row(tmp_path, number) for number in range(20)])


def test_rows_are_read_when_they_are_asked_for(rows: Path) -> None:
    split = load_split(recipe(path=str(rows)), "train")
    assert split.account() == "train: 20 of 20 rows used (question_answer)"
    assert [example.id for example in split.examples] == [f"r{number}" for number in range(20)]
    assert split.problems is None
    rows.write_text(rows.read_text().replace("Which is 3", "Which is 9"))
    assert "9" in split.examples[3].prompt, "not kept"


def test_a_limit_looks_at_no_more_rows(rows: Path) -> None:
    rows.write_text(rows.read_text() + "broken\n")
    split = load_split(recipe(path=str(rows)), "train", 5)
    assert len(split.examples) == 5
    assert split.account() == "train: 5 of 21 rows used (question_answer); 16 beyond the limit"


def test_a_share_is_held_out_by_seed_and_never_trained_on(rows: Path) -> None:
    first = json.loads(rows.read_text().splitlines()[0])
    rows.write_text(rows.read_text() + "".join(json.dumps(first | {"id": f"again{n}"}) + "\n" for n in range(4)))
    seen: set[tuple[str, ...]] = set()
    for seed in range(6):
        told = recipe(path=str(rows), eval_share=0.2, seed=seed)
        train, test = load_split(told, "train"), load_split(told, "test")
        names = [[example.id for example in split.examples] for split in (train, test)]
        assert sorted(names[0] + names[1]) == sorted([f"r{n}" for n in range(20)] + [f"again{n}" for n in range(4)])
        assert 5 <= len(names[1]) <= 9, "equal examples stay together"
        check_disjoint(train, test)
        assert [example.id for example in load_split(told, "test").examples] == names[1]
        seen.add(tuple(names[1]))
    assert len(seen) > 1


def test_ids_that_come_again_are_faults_whichever_side_they_are_on(rows: Path) -> None:
    made = [json.loads(line) for line in rows.read_text().splitlines()]
    made[17]["id"] = "r2"
    write_rows(rows.parent, made)
    for seed in range(5):
        found = recipe(path=str(rows), eval_share=0.3, seed=seed, faulty_rows="drop")
        told = [fault for split in ("train", "test") for fault in load_split(found, split).faults]
        assert told == ["rows.jsonl:18: id: 'r2' is already the id of rows.jsonl:3"]


def test_rows_to_be_asked_have_a_file_or_a_split_of_their_own(rows: Path, tmp_path: Path) -> None:
    other = write_rows(tmp_path, [sound_row(tmp_path, number) for number in range(100, 103)], "other.csv")
    told = recipe(path=str(rows), eval_path=str(other))
    assert [len(load_split(told, split).examples) for split in ("train", "test")] == [20, 3]
    with pytest.raises(InputError, match=r"has no split 'test'.* --set data.eval_share=0.1"):
        load_split(recipe(path=str(rows)), "test")
    rows.rename(tmp_path / "train.jsonl")
    other.rename(tmp_path / "test.csv")
    assert len(load_split(recipe(path=str(tmp_path)), "test").examples) == 3


def test_what_is_in_both_is_refused(rows: Path) -> None:
    told = recipe(path=str(rows), eval_path=str(rows))
    with pytest.raises(InputError, match=r"20 examples are in both .*, for example r0"):
        check_disjoint(load_split(told, "train"), load_split(told, "test"))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({}, "set data.path or data.sources"),
        ({"path": "a", "sources": [{"path": "b"}]}, "data.path=a is set too"),
        ({"path": "a", "columns": {"qestion": "x"}}, "Did you mean 'question'?"),
        ({"path": "a", "eval_path": "b", "eval_share": 0.1}, "eval_path=b is set too; use one of them"),
        ({"sources": [{"path": "b", "weight": 0}], "sampling": "weights"}, "sources with a weight above 0"),
        ({"sources": [{"path": "b"}], "response": "short"}, "response: not used with sources"),
        ({"sources": [{"path": "b", "layout": "scienceqa"}]}, "scienceqa cannot be mixed"),
        ({"path": "a", "streaming": True}, "needs train_limit and eval_limit"),
        ({"path": "a", "select": {"concepts": ["x"]}}, "selects nothing"),
    ],
)
def test_contradictions_are_told(data: dict[str, Any], said: str) -> None:
    assert said in faults(**data)


def test_keys_of_own_rows_say_nothing_of_scienceqa(scienceqa_folder: Path) -> None:
    told = faults(path=str(scienceqa_folder), response="short", eval_share=0.1)
    assert told.splitlines() == [
        "data.response: has no effect on ScienceQA problems; remove it.",
        "data.eval_share: has no effect on ScienceQA problems; remove it.",
    ]


def test_scienceqa_is_one_more_layout(scienceqa_folder: Path) -> None:
    split = load_split(recipe(path=str(scienceqa_folder), format="QCM-A"), "train")
    assert split.problems is not None
    assert [example.id for example in split.examples] == [problem.id for problem in split.problems]
    first, problem = split.examples[0], split.problems[0]
    assert first.answer == problem.answer
    assert first.references == (first.candidates[problem.answer],) == (first.target,)


# --- mixtures ------------------------------------------------------------------------------------------------------


def test_sources_mix_as_said_and_are_counted(tmp_path: Path) -> None:
    for name, count in (("big", 64), ("small", 16)):
        rows = [sound_row(tmp_path, number) | {"question": f"{name} {number}?"} for number in range(count)]
        write_rows(tmp_path, rows, f"{name}.jsonl")
    big, small = ({"path": str(tmp_path / f"{name}.jsonl")} for name in ("big", "small"))
    sources = [big | {"cap": 40, "response": "short"}, small]
    told = recipe(sources=sources, sampling="sqrt", seed=3)
    split = load_split(told, "train")
    names = [example.id for example in split.examples]
    assert len(names) == 56
    assert sum(name.startswith("0/") for name in names) == round(56 * 40**0.5 / (40**0.5 + 16**0.5))
    assert len({name for name in names if name.startswith("1/")}) == 16, "each of the smaller, some again"
    assert names != sorted(names), "mixed"
    for example in split.examples:
        assert example.prompt.endswith("phrase.") is example.id.startswith("0/")
    assert split.account_lines[0] == "train: 56 of 80 rows used; 24 left out by selection and cap"
    assert split.account_lines[2].split()[1:] == ["question_answer", "64", "0", "64", "40", "34", "60.7%"]
    assert [example.id for example in load_split(told, "train").examples] == names
    other = recipe(sources=sources, sampling="sqrt", seed=4)
    assert [example.id for example in load_split(other, "train").examples] != names
    with pytest.raises(InputError, match=r"data.sources: none has rows of split 'test' .* data.eval_share=0.1"):
        load_split(told, "test")


def test_a_source_without_rows_to_evaluate_on_is_for_training_only_and_told(tmp_path: Path) -> None:
    for name, count in (("task", 20), ("replay", 10)):
        rows = [sound_row(tmp_path, number) | {"question": f"{name} {number}?"} for number in range(count)]
        write_rows(tmp_path, rows, f"{name}.jsonl")
    asked = write_rows(tmp_path, [{"question": "And this?", "answer": "a"}], "asked.jsonl")
    task, replay = ({"path": str(tmp_path / f"{name}.jsonl")} for name in ("task", "replay"))
    told = f"test: 1 source without rows to evaluate on, for training only: {replay['path']}"
    for data, held_out in (
        ({"sources": [task | {"eval_path": str(asked)}, replay]}, 0),
        ({"sources": [task | {"eval_share": 0.2}, replay]}, 4),
        ({"sources": [task, replay | {"eval_share": 0}], "eval_share": 0.2}, 4),
    ):
        train, test = (load_split(recipe(**data), split) for split in ("train", "test"))
        assert len(train.examples) == 30 - held_out
        assert len(test.examples) == (held_out or 1)
        assert all(example.id.startswith("0/") for example in test.examples)
        assert told in test.account_lines
        assert not any("training only" in line for line in train.account_lines)
    only = faults(sources=[task | {"eval_share": 0, "eval_path": str(asked)}, replay])
    assert "sources.0.eval_share: eval_path=" in only


def test_a_divided_source_without_the_evaluation_split_is_for_training_only(tmp_path: Path) -> None:
    folder = tmp_path / "replay"
    folder.mkdir()
    write_rows(folder, [sound_row(folder, number) for number in range(6)], "train.jsonl")
    asked = write_rows(tmp_path, [{"question": "And this?", "answer": "a"}], "asked.jsonl")
    task = {"path": str(write_rows(tmp_path, [{"question": "What?", "answer": "a"}])), "eval_path": str(asked)}
    test = load_split(recipe(sources=[task, {"path": str(folder)}]), "test")
    assert len(test.examples) == 1
    assert test.account_lines[-1].endswith(f"for training only: {folder}")
    with pytest.raises(InputError, match="no file of split 'test'"):  # alone, it is an error
        load_split(recipe(path=str(folder)), "test")


def test_a_core_set_is_chosen_of_the_rows_to_train_on_only(tmp_path: Path) -> None:
    rows = [sound_row(tmp_path, n) | {"answer": ("Yes.", "No.", "Yes, a bus.")[n % 3]} for n in range(30)]
    file = write_rows(tmp_path, rows)
    told = recipe(path=str(file), eval_path=str(file), select={"yes_no": True, "concepts": ["bus"], "keep": 12})
    answers = [example.target for example in load_split(told, "train").examples]
    assert answers.count("No.") == 6
    assert answers.count("Yes, a bus.") == 6, "those that say most"
    assert len(load_split(told, "test").examples) == 30


# --- nothing is lost in silence ------------------------------------------------------------------------------------

quiet = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quiet
@given(
    breaks=st.lists(st.sampled_from([None, None, *BREAKAGES]), min_size=1, max_size=12),
    kind=st.sampled_from(["rows.jsonl", "rows.json"]),
)
def test_every_broken_row_is_named_or_counted_and_no_other_is_touched(
    breaks: list[str | None], kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("broken")
    made = Broken.of(folder, ["sound", *breaks], kind)
    if not made.broken:
        assert len(load_split(recipe(path=str(made.file)), "train").examples) == len(breaks) + 1
        return
    with pytest.raises(InputError) as caught:
        load_split(recipe(path=str(made.file)), "train")
    told = caught.value.faults
    named = {line.split(": ")[0] for line in told if line.startswith(kind)}
    assert named <= set(made.broken)
    assert len(told) - 1 >= min(len(made.broken), 10), "all at once"
    for where, words in made.broken.items():
        if where in named:
            assert any(line.startswith(f"{where}: ") and words in line for line in told), (where, words, told)

    split = load_split(recipe(path=str(made.file), faulty_rows="drop"), "train")
    assert [example.id for example in split.examples] == made.sound
    assert f"; {len(made.broken)} faulty row{'s' * (len(made.broken) != 1)} dropped" in split.account()
    assert {line.split(": ")[0] for line in split.faults} == set(made.broken)
    assert np.unique(split.hashes).size == len(made.sound)


def test_captions_are_asked_something(tmp_path: Path) -> None:
    row = sound_row(tmp_path, 1)
    file = write_rows(tmp_path, [{"file_name": row["image"], "text": "A colour."}])
    with pytest.raises(InputError, match=r"captions without questions; set data\.question"):
        load_split(recipe(path=str(file)), "train")
    [example] = load_split(recipe(path=str(file), question="What is there?"), "train").examples
    assert (example.prompt, example.target) == ("What is there?", "A colour.")
