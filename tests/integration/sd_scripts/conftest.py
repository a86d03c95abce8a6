"""These tests run inside a checkout of sd-scripts, in its own environment: SD_SCRIPTS_DIR names the checkout."""

import os

collect_ignore_glob = [] if os.environ.get("SD_SCRIPTS_DIR") else ["test_*.py"]

if not collect_ignore_glob:
    from tests.integration.sd_scripts.checkout import has, prepare

    prepare()
    # versions of 2025 do not have it; test_contract.py holds that this is said
    collect_ignore_glob = [] if has("hunyuan_image") else ["test_hunyuan_image.py"]
