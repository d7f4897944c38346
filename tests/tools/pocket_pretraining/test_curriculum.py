"""The curriculum: its stages, and its samples by seed."""

import pytest

from tools.pocket_pretraining.curriculum import CURVES, STAGES, iterate_batches, make_held_out


def test_the_seed_determines_the_curriculum() -> None:
    assert sum(stage.share for stage in STAGES) == pytest.approx(1)
    one, same, other = ([[s.pieces for s in batch] for _, batch in iterate_batches(seed, 10)] for seed in (1, 1, 2))
    assert one == same != other


def test_the_stages_have_the_steps_of_their_shares() -> None:
    names = [name for name, _ in iterate_batches(0, 100)]
    assert {stage.name: names.count(stage.name) for stage in STAGES} == {
        stage.name: round(100 * stage.share) for stage in STAGES
    }


def test_every_curve_has_held_out_samples() -> None:
    samples = make_held_out(seed=0, size=3)
    assert tuple(samples) == CURVES
    assert {len(kind) for kind in samples.values()} == {3}
