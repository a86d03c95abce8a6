"""Checks numbers that both toolkits accept, and that fail in the middle of a run or leave it without effect."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

from danceopd_ext.data.dataset_schema import NUMBERS
from danceopd_ext.errors import UserError
from danceopd_ext.ranges import PIXELS, RANK, SAMPLES, STEPS, Range, every, shown, written

_EPOCHS = Range(minimum=1, maximum=100_000, usual="usual values are 1 to 100")
_TOKENS = Range(minimum=1, maximum=4096, usual="usual values are 77 to 512")
_TOGETHER = Range(minimum=1, maximum=1024, usual="usual values are 1 to 32")
_RATE = Range(above=0, maximum=100, usual="usual values are 1e-5 to 1e-3, and 1 for Prodigy and D-Adaptation")
_SHARE = Range(minimum=0, maximum=1)
_SAVE, _SAMPLE = every("to save only at the end, leave it out"), every("to draw no pictures, leave it out")
_VALIDATE = every("to skip validation, leave it out")
_KEEP = Range(minimum=0, maximum=STEPS.maximum, usual="to keep all, leave it out")

#: argument -> its allowed numbers
LIMITS: dict[str, Range] = {
    "learning_rate": _RATE, "unet_lr": _RATE, "text_encoder_lr": Range(minimum=0, maximum=100),
    "network_alpha": Range(above=0, maximum=1e5, usual="usual values are 1 to network_dim"), "network_dim": RANK,
    "network_dropout": Range(minimum=0, maximum=0.99), "scale_weight_norms": Range(minimum=0, maximum=1e6),
    "max_grad_norm": Range(minimum=0, maximum=1e6, usual="the usual value is 1; 0 turns clipping off"),
    "train_batch_size": SAMPLES, "gradient_accumulation_steps": SAMPLES,
    "text_encoder_batch_size": _TOGETHER, "vae_batch_size": _TOGETHER, "sample_batch_size": _TOGETHER,
    "max_train_steps": STEPS, "max_train_epochs": _EPOCHS, "initial_step": _KEEP, "initial_epoch": _EPOCHS,
    "lr_warmup_steps": Range(minimum=0, maximum=STEPS.maximum), "lr_decay_steps": _KEEP,
    "lr_scheduler_num_cycles": Range(minimum=0, maximum=10_000, usual="usual values are 1 to 10"),
    "lr_scheduler_power": Range(minimum=0, maximum=100, usual="usual values are 1 to 3"),
    "lr_scheduler_timescale": _KEEP, "lr_scheduler_min_lr_ratio": _SHARE,
    "save_every_n_steps": _SAVE, "save_every_n_epochs": _SAVE, "save_n_epoch_ratio": _SAVE,
    "save_last_n_steps": _KEEP, "save_last_n_steps_state": _KEEP, "save_last_n_epochs": _KEEP,
    "save_last_n_epochs_state": _KEEP, "sample_every_n_steps": _SAMPLE, "sample_every_n_epochs": _SAMPLE,
    "validate_every_n_steps": _VALIDATE, "validate_every_n_epochs": _VALIDATE, "max_validation_steps": STEPS,
    "validation_split": _SHARE, "validation_seed": Range(minimum=0, maximum=2**32 - 1),
    "seed": Range(minimum=0, maximum=2**32 - 1),
    "max_data_loader_n_workers": Range(minimum=0, maximum=256, usual="usual values are 0 to 8"),
    "max_token_length": _TOKENS, "t5xxl_max_token_length": _TOKENS, "gemma2_max_token_length": _TOKENS,
    "qwen3_max_token_length": _TOKENS, "t5_max_token_length": _TOKENS,
    "min_bucket_reso": PIXELS, "max_bucket_reso": PIXELS, "bucket_reso_steps": PIXELS,
    "dataset_repeats": Range(minimum=1, maximum=10_000), "keep_tokens": Range(minimum=0, maximum=100_000),
    "token_warmup_min": Range(minimum=0, maximum=100_000), "token_warmup_step": _KEEP,
    "caption_dropout_rate": _SHARE, "caption_tag_dropout_rate": _SHARE, "caption_dropout_every_n_epochs": _KEEP,
    "blocks_to_swap": Range(minimum=0, maximum=1000), "block_swap_ring_size": Range(minimum=1, maximum=1000),
    "guidance_scale": Range(minimum=0, maximum=100, usual="usual values are 1 to 5"),
    "discrete_flow_shift": Range(minimum=0, maximum=1000, usual="usual values are 1 to 7"),
    "training_shift": Range(minimum=0, maximum=1000, usual="usual values are 1 to 7"),
    "compile_cache_size_limit": Range(minimum=1, maximum=100_000), "ddp_timeout": _KEEP,
}  # fmt: skip
#: of all other arguments
ANY = Range(minimum=-1e9, maximum=1e9)
#: for these, user interfaces write 0 for "not set"
UNSET_BY_ZERO = (
    "max_train_epochs", "save_every_n_steps", "save_every_n_epochs", "sample_every_n_steps", "sample_every_n_epochs",
    "save_n_epoch_ratio", "validate_every_n_steps", "validate_every_n_epochs", "text_encoder_batch_size", "unet_lr",
)  # fmt: skip


def check_numbers(args: Namespace, given: Mapping[str, str], defaults: Mapping[str, object], preset: Path) -> None:
    """Check the given numbers, and replace a 0 that means "not set" by the toolkit's default.

    given: what the user wrote, by argument. Raises UserError that names key and limit.
    """
    for name, text in given.items():
        value = getattr(args, name, None)
        if value == 0 and value is not False and name in UNSET_BY_ZERO:
            setattr(args, name, defaults.get(name))
            continue
        for number in value if isinstance(value, (list, tuple)) else [value]:
            is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
            if is_number and (wanted := wanted_number(LIMITS.get(name, ANY), number)):
                raise UserError(f"{preset}: {text}: {wanted}.")


def check_dataset_numbers(where: str, document: object) -> None:
    """Check the numbers of a toolkit's dataset configuration, in all its tables. Raises UserError that names the key.

    The toolkits repeat an image without a limit, and make a bucket for every size between the limits.
    """
    for key, value in document.items() if isinstance(document, Mapping) else ():
        for one in value if isinstance(value, list) else [value]:
            check_dataset_numbers(where, one)
            is_number = isinstance(one, (int, float)) and not isinstance(one, bool)
            within = PIXELS if key == "resolution" else NUMBERS.get(key, ANY)
            if is_number and (wanted := wanted_number(within, one)):
                raise UserError(f"{where}: {key} = {written(value)}: {wanted}.")


def wanted_number(within: Range, number: float) -> str:
    """Return what to write instead of a number outside the range, such as "write a number above 0"."""
    if within.above is not None and not number > within.above:
        return f"write a number above {shown(within.above)}"
    if within.minimum is not None and not number >= within.minimum:
        return f"write a number of at least {shown(within.minimum)}"
    if not number <= within.maximum:
        return f"write a number of at most {shown(within.maximum)}{within.usual and f'; {within.usual}'}"
    return ""
