"""Files from strangers, damaged at random: ten inputs of each kind of ``benchmarks/fuzz_files.py``, without a fault."""

from pathlib import Path

import pytest

from benchmarks.fuzz_files import KINDS, Materials, fuzz, make_materials


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Materials:
    return make_materials(tmp_path_factory.mktemp("materials"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_accepted_or_refused_in_our_words(materials: Materials, tmp_path: Path, kind: str) -> None:
    count = fuzz(kind, range(10), materials, tmp_path)
    assert not count.faults
    assert count.accepted + count.refused == 10
    assert count.refused
