"""The order of training examples, grouped by length and by modality."""

from hypothesis import given
from hypothesis import strategies as st

from lora_mm.training.samplers import LengthGroupedSampler


def test_grouped_by_length_every_example_comes_once_and_neighbours_are_similar() -> None:
    lengths = [20 + number * 7 % 40 for number in range(400)]
    sampler = LengthGroupedSampler(lengths, 4, seed=0)
    order = list(sampler)
    assert sorted(order) == list(range(400))
    batches = [[lengths[index] for index in order[start : start + 4]] for start in range(0, 400, 4)]
    spread = sum(max(batch) - min(batch) for batch in batches) / len(batches)
    ungrouped = [lengths[start : start + 4] for start in range(0, 400, 4)]
    assert spread < 0.2 * sum(max(batch) - min(batch) for batch in ungrouped) / len(ungrouped)
    assert list(LengthGroupedSampler(lengths, 4, seed=0)) == order, "the order depends on the seed"
    assert list(LengthGroupedSampler(lengths, 4, seed=1)) != order
    sampler.set_epoch(1)
    assert sorted(sampler) == sorted(order)
    assert list(sampler) != order, "and on the epoch"


@given(st.lists(st.tuples(st.integers(1, 50), st.booleans()), min_size=1, max_size=90), st.integers(1, 8))
def test_grouped_by_modality_every_example_comes_once_and_batches_have_one_modality(
    rows: list[tuple[int, bool]], size: int
) -> None:
    lengths, pictured = [length for length, _ in rows], [shown for _, shown in rows]
    sampler = LengthGroupedSampler(lengths, size, 0, pictured)
    order = list(sampler)
    assert sorted(order) == list(range(len(rows)))
    assert list(sampler) == order
    full = sum(sum(shown is kind for shown in pictured) // size for kind in (True, False))
    for start in range(0, full * size, size):
        assert len({pictured[number] for number in order[start : start + size]}) == 1
