"""Turns off the libraries' own warnings and progress bars; this package reports what the user can act on."""

from __future__ import annotations

import warnings


def silence_libraries() -> None:
    """Turn off progress bars and warnings of diffusers, transformers and peft; errors are still shown."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message="Already found a `peft_config`")
    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
