"""These tests run inside a checkout of musubi-tuner, in its own environment: MUSUBI_TUNER_DIR names the checkout.

Those that compare with the native toolkit or with diffusers also need DANCEOPD_NATIVE_PYTHON, the Python of an
environment in which this package is installed with its own requirements.
"""

import os

import pytest

if not os.environ.get("MUSUBI_TUNER_DIR"):
    collect_ignore_glob = ["test_*.py"]
elif not os.environ.get("DANCEOPD_NATIVE_PYTHON"):
    collect_ignore_glob = ["test_*_native.py"]
else:
    collect_ignore_glob = []

if os.environ.get("MUSUBI_TUNER_DIR"):
    from tests.integration.musubi.checkout import prepare

    prepare()


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A tiny Z-Image with data and teachers; tests only read it."""
    from tests.integration.musubi.worlds import make_world

    return make_world(tmp_path_factory.mktemp("world"))
