"""Draws a caption from an item's text, as sd-scripts does.

Semantics: library/train_util.py, BaseDataset.process_caption. Random numbers are drawn in the same order, so the same
generator state gives the same caption. The order is: prefix and suffix, dropout, one of several lines,
wildcards, shuffling and tag dropout, secondary separator.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from danceopd_ext.data.items import CaptionRules, Item
from danceopd_ext.errors import counted, few

_WILDCARD = re.compile(r"\{([^}]+)\}")
# Placeholders for {{ and }} during the replacement of wildcards; these code points have no meaning in any text.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"


def caption_is_fixed(item: Item) -> bool:
    """Return whether drawing this item's caption needs no random number."""
    rules = item.rules
    chance = rules.shuffle_caption or rules.caption_dropout_rate > 0 or rules.caption_tag_dropout_rate > 0
    words = item.text + rules.caption_prefix + rules.caption_suffix
    return not chance and not (rules.enable_wildcard and ("\n" in words or "{" in words))


def draw_caption(item: Item, rng: random.Random, epoch: int = 1) -> str:
    """Return a caption for `item`; dropout gives the empty string.

    `epoch` is the epoch of the item's route, counted from 1 (it matters for caption_dropout_every_n_epochs only).
    """
    rules = item.rules
    # As in sd-scripts, the prefix goes before the first line of the text and the suffix after the last.
    prefix = rules.caption_prefix + " " if rules.caption_prefix else ""
    suffix = " " + rules.caption_suffix if rules.caption_suffix else ""
    caption = prefix + item.text + suffix
    if _dropped(rules, rng, epoch):
        return ""
    if rules.enable_wildcard:
        caption = _fill_wildcards(rng.choice(caption.split("\n")) if "\n" in caption else caption, rng)
    else:
        caption = caption.split("\n")[0]
    if rules.shuffle_caption or rules.caption_tag_dropout_rate > 0:
        caption = _shuffle_tags(caption, rules, rng)
    if rules.secondary_separator:
        caption = caption.replace(rules.secondary_separator, rules.caption_separator)
    return caption


def unused_lines_note(where: str, names: Sequence[str]) -> list[str]:
    """Return a note on the captions of these names, of which only the first line is ever drawn, or none."""
    if not names:
        return []
    count = counted(len(names), "caption")
    return [
        f"{where}: {count} with several lines, of which only the first is used ({few(names)}). With enable_wildcard "
        "= true one "
        "line is drawn each time"
    ]


def _dropped(rules: CaptionRules, rng: random.Random, epoch: int) -> bool:
    by_chance = rules.caption_dropout_rate > 0 and rng.random() < rules.caption_dropout_rate
    every = rules.caption_dropout_every_n_epochs
    return by_chance or (every > 0 and epoch % every == 0)


def _fill_wildcards(caption: str, rng: random.Random) -> str:
    """Replace every {a|b|c} by one of its words; {{ and }} stand for the braces themselves."""
    caption = caption.replace("{{", _OPEN).replace("}}", _CLOSE)
    caption = _WILDCARD.sub(lambda found: rng.choice(found.group(1).split("|")), caption)
    return caption.replace(_OPEN, "{").replace(_CLOSE, "}")


def _shuffle_tags(caption: str, rules: CaptionRules, rng: random.Random) -> str:
    """Shuffle and drop the tags between the kept ones; tags are joined by a comma and a blank whatever they were."""
    first, middle, last = _split_tags(caption, rules)
    if rules.shuffle_caption:
        rng.shuffle(middle)
    if rules.caption_tag_dropout_rate > 0:
        middle = [tag for tag in middle if rng.random() >= rules.caption_tag_dropout_rate]
    return ", ".join(first + middle + last)


def _split_tags(caption: str, rules: CaptionRules) -> tuple[list[str], list[str], list[str]]:
    """Return the tags kept in front, those that may move, and those kept at the end."""
    mark = rules.keep_tokens_separator
    if mark and mark in caption:
        parts = caption.split(mark, 2)
        front, middle, end = (_tags(part, rules) for part in (*parts, "")[:3])
        return [t for t in front if t], [t for t in middle if t], [t for t in end if t]
    tags = _tags(caption, rules)
    return tags[: rules.keep_tokens], tags[rules.keep_tokens :], []


def _tags(text: str, rules: CaptionRules) -> list[str]:
    return [tag.strip() for tag in text.strip().split(rules.caption_separator)]
