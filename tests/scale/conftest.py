"""What several tests of processes compare with."""

import pytest

from tests.scale.kills import Undisturbed


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Undisturbed:
    """A run of one process that nobody disturbed."""
    return Undisturbed.of(tmp_path_factory.mktemp("undisturbed"), steps=30)
