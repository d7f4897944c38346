"""Mixtures: counts that add up to an epoch, rows drawn equally often, the same for the same seed."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lora_mm.data.example import Example
from lora_mm.data.mixture import SourceCounts, allocate_counts, cap_rows, draw_rows, format_counts, hold_out_rows
from lora_mm.data.selection import Selection

sizes = st.lists(st.integers(0, 1000), min_size=1, max_size=5)
samplings = st.sampled_from(["proportional", "sqrt", "weights"])


@given(sizes, samplings, st.data())
def test_counts_add_up_to_an_epoch(sizes: list[int], sampling: str, data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.floats(0.1, 10), min_size=len(sizes), max_size=len(sizes)))
    taken = allocate_counts(sizes, weights, sampling)  # type: ignore[arg-type]
    assert sum(taken) == sum(sizes)
    assert all(take >= 0 and (size or not take) for take, size in zip(taken, sizes, strict=True))


def test_counts_follow_instructblip() -> None:
    assert allocate_counts([100, 400], [1, 1], "proportional") == [100, 400]
    assert allocate_counts([100, 400], [1, 1], "sqrt") == [167, 333]
    assert allocate_counts([100, 400], [2, 1], "sqrt") == [250, 250]
    assert allocate_counts([100, 400], [1, 3], "weights") == [125, 375]
    assert allocate_counts([100, 400], [0, 1], "weights") == [0, 500]


@given(st.integers(1, 50), st.integers(0, 200), st.integers(0, 9))
def test_every_row_is_drawn_as_often_as_another(size: int, count: int, seed: int) -> None:
    rows = np.arange(size) * 3
    taken = draw_rows(rows, count, seed)
    assert len(taken) == count
    times = np.array([(taken == row).sum() for row in rows])
    assert times.max() - times.min() <= 1
    assert (draw_rows(rows, count, seed) == taken).all()


@given(st.integers(0, 50), st.integers(1, 60), st.integers(0, 9))
def test_a_cap_samples_rows_and_keeps_their_order(size: int, cap: int, seed: int) -> None:
    taken = cap_rows(np.arange(size), cap, seed)
    assert len(taken) == min(size, cap)
    assert (np.diff(taken) > 0).all()
    assert (cap_rows(np.arange(size), cap, seed) == taken).all()


@given(st.lists(st.integers(0, 20), min_size=1, max_size=60), st.floats(0.01, 0.9), st.integers(0, 9))
def test_what_is_held_out_is_never_trained_on(hashes: list[int], share: float, seed: int) -> None:
    content = np.array(hashes, dtype=np.uint64)
    train, test = hold_out_rows(content, share, seed)
    assert sorted([*train, *test]) == list(range(len(hashes)))
    assert not set(content[train]) & set(content[test])
    assert 0 not in content[test], "what cannot be read is not held out"
    if content.any():
        assert len(test) >= min(max(1, round(share * len(hashes))), (content > 0).sum())
    again = hold_out_rows(content, share, seed)
    assert (again[0] == train).all()


def test_counts_are_a_table() -> None:
    lines = format_counts(
        [SourceCounts("a.jsonl", "caption", 1000, 3, 997, 500, 600), SourceCounts("b", "messages", 10, 0, 10, 10, 200)]
    )
    assert lines[0].split() == ["source", "layout", "rows", "faulty", "usable", "chosen", "drawn", "share"]
    assert lines[1].split() == ["a.jsonl", "caption", "1,000", "3", "997", "500", "600", "75.0%"]
    assert lines[3].split() == ["total", "1,010", "3", "1,007", "510", "800"]


# --- core sets -----------------------------------------------------------------------------------------------------


def chosen(answers: list[str], **how: object) -> list[int]:
    selection = Selection(**({"concepts": [], "keep": None, "yes_no": False, "seed": 0} | how))  # type: ignore[arg-type]
    for number, answer in enumerate(answers):
        selection.add(Example(str(number), "Is it?", answer))
    return [int(number) for number in selection.choose()]


def test_examples_with_most_concepts_are_kept() -> None:
    answers = ["nothing", "A red bus.", "A red bus on a street", "a busy redhead", "Street."]
    assert chosen(answers, concepts=["red", "bus", "street"], keep=2) == [1, 2]
    assert chosen(answers, concepts=["red", "bus", "street"], keep=3) == [1, 2, 4], "whole words only"
    assert chosen(answers, concepts=["On a street"], keep=1) == [2]


@given(
    st.lists(st.sampled_from(["Yes.", "yes, so", "No", "no!", "maybe", "Nobody"]), max_size=30),
    st.none() | st.integers(1, 30),
    st.integers(0, 5),
)
def test_yes_and_no_are_equally_many(answers: list[str], keep: int | None, seed: int) -> None:
    numbers = chosen(answers, yes_no=True, keep=keep, seed=seed)
    left = [answers[number].lower() for number in numbers]
    sides = [sum(answer.rstrip(".!").split(",")[0] == side for answer in left) for side in ("yes", "no")]
    assert sides[0] == sides[1]
    assert len(numbers) <= (keep or 30)
    assert numbers == sorted(set(numbers))
    if keep is None:
        every = [answer.lower() for answer in answers]
        fewer = min(sum(a.startswith("yes") for a in every), sum(a in ("no", "no!") for a in every))
        assert sides[0] == fewer
        assert sum(answer in ("maybe", "nobody") for answer in left) == sum(a in ("maybe", "nobody") for a in every)


def test_another_seed_chooses_others_among_equals() -> None:
    answers = ["yes"] * 20 + ["no"] * 5
    assert chosen(answers, yes_no=True) == chosen(answers, yes_no=True)
    assert chosen(answers, yes_no=True) != chosen(answers, yes_no=True, seed=1)
