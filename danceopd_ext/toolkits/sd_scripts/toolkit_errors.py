"""Turns the toolkit's own errors about its input into messages without a traceback."""

from __future__ import annotations

import traceback
from pathlib import Path

from safetensors import SafetensorError

from danceopd_ext.errors import UserError, shorten

#: what the toolkit raises for input that it cannot use
KINDS = (AssertionError, ValueError, ImportError, ModuleNotFoundError, NotImplementedError)
#: what missing or unexpected files raise, anywhere in the toolkit
FILES = (FileNotFoundError, NotADirectoryError, IsADirectoryError, SafetensorError)
#: packages that download files
NETWORK = ("requests", "huggingface_hub", "httpx", "urllib3")
#: the start of torch's message about weights that do not fit
NO_FIT = "Error(s) in loading state_dict"


def as_user_error(error: Exception, checkout: Path, preset: Path, dataset_config: str | None) -> UserError | None:
    """Return a message that the user can act on; None if the input did not cause the error."""
    text = _english(str(error))
    library = type(error).__module__.partition(".")[0]
    if library == "voluptuous":
        return UserError(f"{dataset_config}: {text}.")
    if library == "toml":
        return UserError(
            f"{dataset_config}: {text}. For example, the toolkit's reader does not accept lists of mixed types."
        )
    if library in NETWORK:
        return UserError(
            f"{preset}: sd-scripts cannot download a tokenizer or a model from huggingface.co "
            f"({type(error).__name__}). "
            "Check the connection, or name a folder that contains it with tokenizer_cache_dir."
        )
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if checkout in Path(frame.filename).parents]
    if not text or not inside:
        return None
    if isinstance(error, FILES) or (isinstance(error, RuntimeError) and text.startswith(NO_FIT)):
        first = shorten(" ".join(text.split()), 300)
        return UserError(f"{preset}: sd-scripts cannot load a file in {inside[-1].name}: {first}")
    if type(error) in KINDS and frames[-1] is inside[-1]:
        return UserError(f"{preset}: sd-scripts refuses these settings: {text}")
    return None


def _english(text: str) -> str:
    """Return the English part: the toolkit says most things in English and in Japanese."""
    first, _, second = text.partition(" / ")
    return first.strip() if second and not second.isascii() else text.strip()
