import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "omniedit_routes.py"


@pytest.fixture(scope="session")
def omniedit():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("omniedit_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
