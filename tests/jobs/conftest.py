"""What the tests of whole runs share."""

from collections.abc import Iterator

import pytest

from tests.helpers.estimates import share_estimates


@pytest.fixture(scope="session", autouse=True)
def shared_estimates() -> Iterator[None]:
    with share_estimates():
        yield
