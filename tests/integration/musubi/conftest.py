"""These tests run inside a checkout of musubi-tuner, in its own environment: MUSUBI_TUNER_DIR names the checkout."""

import os

collect_ignore_glob = [] if os.environ.get("MUSUBI_TUNER_DIR") else ["test_*.py"]

if not collect_ignore_glob:
    from tests.integration.musubi.checkout import prepare

    prepare()
