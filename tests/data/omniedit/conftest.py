import pytest

from danceopd_ext.data.omniedit import command


@pytest.fixture
def omniedit():
    """The command of `scripts/omniedit_routes.py`."""
    return command
