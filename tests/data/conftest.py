"""The tiny base of every family, with its real processor."""

import pytest

from lora_mm.models.loading import Base, load_base
from tests.helpers.bases import PROCESSORS, make_family_base


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Base]:
    folder = tmp_path_factory.mktemp("bases")
    return {family: load_base(str(make_family_base(folder / family, family))) for family in PROCESSORS}
