"""Keeps the libraries' notes about themselves off the screen; what a user can act on, we say ourselves."""

from __future__ import annotations

import warnings


def silence_libraries() -> None:
    """No progress bars and no warnings of diffusers, transformers and peft; errors still show."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message="Already found a `peft_config`")
    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
