"""Checks the keys of a kohya dataset configuration, the level that each belongs to, and their values.

Source: sd-scripts library/config_util.py (ConfigSanitizer) and docs/config_README-en.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from danceopd_ext.data.foreign_config import is_training, renamed
from danceopd_ext.data.user_paths import breaks
from danceopd_ext.errors import UserError, nearest
from danceopd_ext.ranges import PIXELS, SAMPLES, STEPS, Range, shown, written

Check = Callable[[object], "str | None"]
"""Returns what is expected if a value is wrong, else None."""


def _is(kind: type, expected: str) -> Check:
    return lambda value: None if isinstance(value, kind) else expected


NUMBERS: dict[str, Range] = {
    "batch_size": SAMPLES,
    "bucket_reso_steps": PIXELS,
    "min_bucket_reso": PIXELS,
    "max_bucket_reso": PIXELS,
    "keep_tokens": Range(minimum=0, maximum=100_000, usual="usual values are 0 to 5"),
    "caption_dropout_every_n_epochs": Range(minimum=0, maximum=STEPS.maximum, usual="0 turns it off"),
    "caption_dropout_rate": Range(minimum=0, maximum=1),
    "caption_tag_dropout_rate": Range(minimum=0, maximum=1),
    "num_repeats": Range(minimum=0, maximum=10_000, usual="usual values are 1 to 100"),
}
"""The keys for numbers. Each has a limit at both ends."""


def _integer(key: str) -> Check:
    within = NUMBERS[key]

    def check(value: object) -> str | None:
        if not isinstance(value, int) or isinstance(value, bool) or value < within.minimum:
            return f"an integer of at least {within.minimum}"
        if within.wrong(value):
            return f"an integer of at most {shown(within.maximum)}{within.usual and f'; {within.usual}'}"
        return None

    return check


def _rate(key: str) -> Check:
    def check(value: object) -> str | None:
        good = isinstance(value, int | float) and not isinstance(value, bool) and not NUMBERS[key].wrong(value)
        return None if good else f"a number {NUMBERS[key].words()}"

    return check


def _word(value: object) -> str | None:
    return None if isinstance(value, str) and value else "a string that is not empty"


def _path(value: object) -> str | None:
    if isinstance(value, str) and breaks(value):
        return "a path without line breaks and tabs. Write paths with / or in 'single quotes'"
    return _word(value)


def _anything(value: object) -> None:
    return None


_TEXT, _SWITCH = _is(str, "a string"), _is(bool, "true or false")

DATASET_KEYS: dict[str, Check] = {
    "resolution": _anything,  # read by resolutions.parse_resolution
    "batch_size": _integer("batch_size"),
    "enable_bucket": _SWITCH,
    "bucket_reso_steps": _integer("bucket_reso_steps"),
    "min_bucket_reso": _integer("min_bucket_reso"),
    "max_bucket_reso": _integer("max_bucket_reso"),
    "bucket_no_upscale": _SWITCH,
}
"""Keys of [general] and [[datasets]]: one value for a whole dataset."""

RULE_KEYS: dict[str, Check] = {
    "caption_prefix": _TEXT,
    "caption_suffix": _TEXT,
    "shuffle_caption": _SWITCH,
    "keep_tokens": _integer("keep_tokens"),
    "keep_tokens_separator": _TEXT,
    "caption_separator": _word,
    "secondary_separator": _TEXT,
    "enable_wildcard": _SWITCH,
    "caption_dropout_rate": _rate("caption_dropout_rate"),
    "caption_dropout_every_n_epochs": _integer("caption_dropout_every_n_epochs"),
    "caption_tag_dropout_rate": _rate("caption_tag_dropout_rate"),
}
"""The fields of items.CaptionRules."""

INHERITED_KEYS: dict[str, Check] = {
    **RULE_KEYS,
    "num_repeats": _integer("num_repeats"),
    "caption_extension": _word,
    "class_tokens": _TEXT,
    "recursive": _SWITCH,
    "custom_attributes": _is(dict, 'a table such as { teacher = "style" }'),
}
"""Keys of a subset that may also stand in its dataset or in [general]."""

SOURCE_KEYS = ("conditioning_data_dir", "control_directory")
"""The folder with the source images of edits: sd-scripts' name, and musubi-tuner's."""

SUBSET_KEYS: dict[str, Check] = dict.fromkeys(("image_dir", "metadata_file", *SOURCE_KEYS), _path)
"""Keys of [[datasets.subsets]] alone."""

MAY_BE_EMPTY = ("metadata_file", *SOURCE_KEYS, "caption_extension", "class_tokens")
"""Keys that count as not set if their text is empty."""

IGNORED_KEYS = (
    *("color_aug", "flip_aug", "face_crop_aug_range", "random_crop", "alpha_mask", "resize_interpolation"),
    *("cache_info", "is_reg", "token_warmup_min", "token_warmup_step", "network_multiplier", "prior_loss_weight"),
    *("validation_split", "validation_seed", "debug_dataset", "max_token_length"),
    *("skip_image_resolution", "train_inpainting"),
)
"""Keys of sd-scripts without effect here: images are used unchanged, if at all. Accepted everywhere, with a note."""

_SUBSETS = _is(list, "tables written with double brackets, [[datasets.subsets]]")
_LEVELS = {
    "[general]": DATASET_KEYS | INHERITED_KEYS,
    "[[datasets]]": DATASET_KEYS | INHERITED_KEYS | {"subsets": _SUBSETS},
    "[[datasets.subsets]]": INHERITED_KEYS | SUBSET_KEYS,
}


def check_table(table: object, level: str) -> tuple[list[str], list[str]]:
    """Check one table of a dataset configuration; return the keys that are ignored, and what is wrong, as sentences.

    `level` is "[general]", "[[datasets]]" or "[[datasets.subsets]]". A key that is switched off (false, 0, empty) is
    not reported as ignored. Unknown keys, keys of another level and values of the wrong type are wrong.
    """
    if not isinstance(table, dict):
        return [], [f"expected a table of keys, got {table!r}."]
    known = _LEVELS[level]
    ignored = [key for key, value in table.items() if key in IGNORED_KEYS and value]
    wrong = []
    for key, value in table.items():
        if key in known:
            wrong += wrong_value(key, value, known[key])
        elif key not in IGNORED_KEYS:
            wrong.append(_unknown(key, level))
    return ignored, wrong


def check_top(config: Mapping[str, object]) -> list[str]:
    """Return what is wrong with the names at the top of a dataset configuration, as sentences."""
    wrong, others = [], []
    training = is_training(config)
    for key, value in config.items():
        homes = [name for name, keys in _LEVELS.items() if key in keys] or ["[general]"] * (key in IGNORED_KEYS)
        kind = "table" if isinstance(value, dict | list) else "key"
        if key in ("general", "datasets"):
            continue
        if homes:
            wrong.append(f'"{key}" does not belong at the top; move it to {homes[0]}.')
        elif renamed(key):
            wrong.append(f'unknown {kind} "{key}": {renamed(key)}.')
        elif training:
            others.append(key)
        else:
            wrong.append(f'unknown {kind} "{key}".{nearest(key, ("general", "datasets"))}')
    if others:
        wrong.append(f"These keys belong in the preset, the file given as --config: {', '.join(others)}.")
    return wrong


def wrong_value(key: str, value: object, check: Check) -> list[str]:
    """Return a sentence if `value` is not what `check` expects, else nothing."""
    expected = check(value)
    return [] if expected is None else [f"{key} = {written(value)} is wrong: expected {expected}."]


def check_defaults(defaults: Mapping[str, object]) -> None:
    """Check the values of a preset that replace keys missing from the dataset configuration."""
    known = DATASET_KEYS | INHERITED_KEYS
    for key, value in defaults.items():
        if key not in known:
            raise ValueError(f"{key} is not a key of a dataset")
        for wrong in wrong_value(key, value, known[key]) if value is not None else []:
            raise UserError(f"the preset: {wrong}")


def _unknown(key: str, level: str) -> str:
    homes = [name for name, keys in _LEVELS.items() if key in keys]
    if homes:
        return f'"{key}" does not belong in {level}; move it to {" or ".join(homes)}.'
    if renamed(key):
        return f'unknown key "{key}" in {level}: {renamed(key)}.'
    return f'unknown key "{key}" in {level}.{nearest(key, (*_LEVELS[level], *IGNORED_KEYS))}'
