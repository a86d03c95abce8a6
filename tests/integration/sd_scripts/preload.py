"""What a run imports, for the server that runs are forked from: so a run costs seconds instead of ten."""

from tests.integration.sd_scripts.checkout import prepare

prepare()

import sd3_train_network  # noqa: E402, F401
from library import config_util, sd3_train_utils, train_util  # noqa: E402, F401
from networks import lora_sd3  # noqa: E402, F401

import danceopd_ext.toolkits.sd_scripts.run  # noqa: E402, F401
