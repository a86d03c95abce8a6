"""Encodes fixed captions once; for captions that change, the text encoders stay in memory."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from danceopd_ext.errors import UserError


def settle_captions(args: Namespace, groups: list[Any], asked_for: bool, drops_cached: bool = False) -> str | None:
    """Use the cache of text encoder outputs only if captions do not change; return a note if it is not used.

    The toolkit caches a caption as it is in the file, without prefix, suffix or wildcards, so fixed captions are
    completed first. `asked_for`: the user asked for the cache. `drops_cached`: the architecture can also drop whole
    captions from its cache. Raises UserError if captions change and the user asked for the cache.
    """
    if not args.cache_text_encoder_outputs:
        return None
    reason = next((why for group in groups if (why := _variation(group, drops_cached))), None)
    if reason is None:
        for group in groups:
            _complete(group)
        return None
    if asked_for:
        raise UserError(
            f"cache_text_encoder_outputs = true, but {reason}, so captions change from step to step. Remove one of "
            "the two settings. Without the cache the text encoders stay in memory."
        )
    args.cache_text_encoder_outputs = args.cache_text_encoder_outputs_to_disk = False
    return f"note: {reason}, so texts are encoded at every step and the text encoders stay in memory"


def _variation(group: Any, drops_cached: bool) -> str | None:
    """Return why captions of the group change; None if they do not."""
    for dataset in group.datasets:
        for subset in dataset.subsets:
            for name in ("shuffle_caption", "token_warmup_step", "caption_tag_dropout_rate"):
                if getattr(subset, name):
                    return f"{name} is on"
            for name in ("caption_dropout_rate", "caption_dropout_every_n_epochs"):
                if getattr(subset, name) and not (drops_cached and name == "caption_dropout_rate"):
                    return f"{name} is on"
        for key, info in dataset.image_data.items():
            subset = dataset.image_to_subset[key]
            text = f"{subset.caption_prefix or ''}{info.caption or ''}{subset.caption_suffix or ''}"
            if subset.enable_wildcard and ("{" in text or "\n" in text):
                return "a caption has wildcards"
    return None


def _complete(group: Any) -> None:
    for dataset in group.datasets:
        for key, info in dataset.image_data.items():
            subset = dataset.image_to_subset[key]
            rate, subset.caption_dropout_rate = subset.caption_dropout_rate, 0.0
            info.caption = dataset.process_caption(subset, info.caption or "")
            subset.caption_dropout_rate = rate
