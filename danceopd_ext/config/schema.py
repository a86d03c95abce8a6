"""Defines the preset as one typed schema. Keys have sd-scripts' names if it has them; [danceopd] contains the others.

Sections are only for the reader: keys are flat, as in sd-scripts, so each name is unique.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from danceopd_ext.config.danceopd import DanceOPDSection
from danceopd_ext.config.danceopd import Teacher as Teacher  # part of the schema, in a separate file
from danceopd_ext.config.fields import check_ranges, key, one_of
from danceopd_ext.config.learning_rate import default_rate
from danceopd_ext.errors import UserError
from danceopd_ext.models.number_formats import NUMBER_FORMATS, OTHER_WORDS
from danceopd_ext.models.registry import FAMILIES
from danceopd_ext.ranges import PIXELS, RANK, SAMPLES, SEED, STEPS, Range, every

#: the keys that name a part of the model as a file; which part, is the family's fact (PartFile.keys)
PART_KEYS = ("vae", "ae", "text_encoder", "qwen3", "clip_l", "clip_g", "t5xxl", "text_encoder1", "text_encoder2")


@dataclass(kw_only=True, frozen=True)
class ModelSection:
    """Which model is trained, and how it runs."""

    model_type: one_of(FAMILIES) | None = key(None, "Model family; detected from the model if left out.")
    pretrained_model_name_or_path: str = key(
        "", "The base model: a hub id, a diffusers folder or a single .safetensors file.", path="found"
    )
    components_from: str | None = key(
        None,
        "For a single file: the hub id or diffusers folder that supplies text encoders, VAE, scheduler and "
        "configuration. Default: the family's own hub model.",
        path="found",
    )
    vae: str | None = key(
        None,
        "The VAE as a .safetensors file, so that it is not downloaded: ComfyUI's models/vae/ae.safetensors. "
        "[Which files](../danceopd_ext/models/README.md#files-that-you-already-have) each family takes.",
        path="found",
    )
    ae: str | None = key(None, "sd-scripts' other name of vae.", path="found")
    text_encoder: str | None = key(
        None, "The text encoder as a .safetensors file, for families with one.", path="found"
    )
    qwen3: str | None = key(None, "sd-scripts' name of text_encoder, if that is a Qwen3.", path="found")
    clip_l: str | None = key(None, "CLIP-L as a .safetensors file.", path="found")
    clip_g: str | None = key(None, "CLIP-G as a .safetensors file.", path="found")
    t5xxl: str | None = key(None, "T5-XXL as a .safetensors file.", path="found")
    text_encoder1: str | None = key(None, "musubi's name of t5xxl.", path="found")
    text_encoder2: str | None = key(None, "musubi's name of clip_l.", path="found")
    attn_mode: str = key(
        "sdpa", 'Attention backend: "sdpa", "xformers", or another backend of diffusers ("flash", "sage", ...).'
    )
    quantize: one_of(NUMBER_FORMATS) | None = key(
        None,
        "Hold the transformer's weights in 4 (nf4) or 8 bits (int8, fp8), which saves memory; teachers and student "
        "stay as they are. int8 is the most accurate, nf4 the smallest; nf4 needs bitsandbytes.",
        meant=OTHER_WORDS,
    )
    fp8_base: bool = key(False, 'The same as quantize = "fp8" (kohya\'s flag).')
    quantize_text_encoders: one_of(NUMBER_FORMATS) | None = key(
        None, "The same for the text encoders while prompts are encoded.", meant=OTHER_WORDS
    )
    vae_tiling: bool = key(
        False, "Decode previews in tiles of 512 pixels: a quarter of the memory, and small differences at their edges."
    )
    sdpa: bool = key(False, 'The same as attn_mode = "sdpa" (kohya\'s flag).')
    xformers: bool = key(False, 'The same as attn_mode = "xformers" (kohya\'s flag).')

    @property
    def part_files(self) -> dict[str, str]:
        """Return the parts that are given as files: key -> path."""
        return {name: place for name in PART_KEYS if (place := getattr(self, name))}


@dataclass(kw_only=True, frozen=True)
class DatasetSection:
    """The data of the routes; prompt files are in [danceopd.prompts]."""

    dataset_config: str | None = key(
        None,
        "A dataset TOML in kohya's format; a subset names its teacher with `custom_attributes.teacher`.",
        path="found",
    )
    resolution: int | str | list[int] | list[str] = key(
        1024,
        'Picture size for prompt files: 1024, "1024,768" (width,height), or a list of sizes that take turns.',
        within=PIXELS,
    )
    text_encoder_cache_dir: str | None = key(
        None, "Folder for encoded prompts and pictures. Default: `cache` in output_dir.", path="made"
    )
    text_encoder_batch_size: int = key(
        4,
        "Prompts that are encoded together before training.",
        within=Range(minimum=1, maximum=1024, usual="usual values are 1 to 32"),
        zero="unset",
    )


@dataclass(kw_only=True, frozen=True)
class NetworkSection:
    """The student LoRA."""

    network_dim: int = key(128, "Rank of the student LoRA.", within=RANK)
    network_alpha: float | None = key(
        None,
        "Alpha of the student LoRA during training. Default: network_dim.",
        within=Range(minimum=1e-4, maximum=1e5, usual="usual values are 1 to network_dim"),
    )
    network_dropout: float | None = key(
        None,
        "Dropout on the student's inputs in the gradient pass.",
        within=Range(minimum=0, below=1, usual="usual values are 0 to 0.3"),
    )
    network_weights: str | None = key(None, "Continue from this LoRA file instead of a fresh student.", path="found")


@dataclass(kw_only=True, frozen=True)
class OptimizerSection:
    """How the student learns."""

    optimizer_type: str = key(
        "",
        "AdamW8bit, PagedAdamW8bit, AdamW, Lion8bit, Lion, Adafactor, Prodigy, AdamWScheduleFree, ... (sd-scripts' "
        "names) or the dotted path of a class in an installed package. Default: AdamW8bit if bitsandbytes works, "
        "else AdamW.",
    )
    optimizer_args: list[str] = key(
        [], 'Arguments of the optimizer, such as ["betas=0.9,0.99"]. weight_decay is 0 unless given.'
    )
    learning_rate: float | None = key(
        None,
        "Learning rate. Default: 2e-4; 1 for Prodigy and D-Adaptation, which multiply it by the rate that they find.",
        within=Range(above=0, maximum=100, usual="usual values are 1e-5 to 1e-3, and 1 for Prodigy and D-Adaptation"),
        zero="wrong",
    )
    lr_scheduler: str = key(
        "constant",
        "constant, constant_with_warmup, linear, cosine, cosine_with_restarts, polynomial, inverse_sqrt, "
        "cosine_with_min_lr, warmup_stable_decay, ... (transformers' names).",
    )
    lr_scheduler_args: list[str] = key([], 'Further arguments of the schedule, such as ["min_lr_rate=0.1"].')
    lr_warmup_steps: int | float = key(
        0,
        "Warm-up steps, or a share of max_train_steps if below 1.",
        within=Range(minimum=0, maximum=STEPS.maximum, usual="usual values are 0 to 500, or a share such as 0.05"),
    )
    lr_scheduler_num_cycles: int = key(
        1,
        "Restarts of cosine_with_restarts.",
        within=Range(minimum=1, maximum=10_000, usual="usual values are 1 to 10"),
        zero="unset",
    )
    lr_scheduler_power: float = key(
        1.0,
        "Power of the polynomial scheduler.",
        within=Range(above=0, maximum=100, usual="usual values are 1 to 3"),
        zero="unset",
    )
    max_grad_norm: float = key(
        1.0,
        "Largest norm of the gradient: a larger one is clipped to it; 0 turns clipping off.",
        within=Range(minimum=0, maximum=1e6, usual="the usual value is 1; 0 turns clipping off"),
    )

    def __post_init__(self) -> None:
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", default_rate(self.optimizer_type))


def words_for(float32: str) -> dict[str, str]:
    """Return other programs' words for precisions -> the word here. `float32`: this key's word for it."""
    words = dict.fromkeys(("fp32", "float32", "float", "full", "32", "no", "none"), float32)
    words |= {"float16": "fp16", "half": "fp16", "16": "fp16", "bfloat16": "bf16"}
    return words | dict.fromkeys(("fp8", "float8", "fp8_e4m3fn", "fp8_e5m2", "int8", "nf4"), "")


@dataclass(kw_only=True, frozen=True)
class TrainingSection:
    """The run."""

    max_train_steps: int = key(3000, "Optimizer steps.", within=STEPS)
    train_batch_size: int = key(1, "Samples per micro-batch on each process.", within=SAMPLES)
    gradient_accumulation_steps: int = key(4, "Micro-batches per optimizer step, all of one route.", within=SAMPLES)
    mixed_precision: Literal["no", "fp16", "bf16"] = key(
        "bf16", "Precision of the base model and of the computation; no means float32.", meant=words_for(float32="no")
    )
    gradient_checkpointing: bool = key(False, "Recompute activations in the gradient pass: slower, much less memory.")
    blocks_to_swap: int = key(
        0,
        "Transformer blocks whose weights stay in main memory and travel to the GPU when they compute; needs "
        "gradient_checkpointing.",
        within=Range(minimum=0, maximum=1000, usual="usual values are a third to all but two of the model's blocks"),
    )
    torch_compile: bool = key(
        False, "Compile the transformer's blocks (torch.compile): the first steps take minutes, the others less time."
    )
    seed: int = key(42, "Seed for everything random.", within=SEED)


@dataclass(kw_only=True, frozen=True)
class SavingSection:
    """What is written, and when."""

    output_dir: str = key("output", "Folder for everything that the run writes.", path="made")
    output_name: str = key("danceopd_lora", "Name of the LoRA files, without extension.")
    save_every_n_steps: int | None = key(
        None, "Also save the LoRA every N steps.", within=every("to save only at the end, leave it out")
    )
    save_last_n_steps: int | None = key(
        None,
        "Of those, keep only the ones from the last N steps (as in sd-scripts).",
        within=every("to keep all, leave it out"),
    )
    save_model_as: Literal["auto", "safetensors", "kohya", "diffusers", "comfyui"] = key(
        "auto", "LoRA dialect; auto (or safetensors) is the one that most UIs load for the family."
    )
    save_precision: Literal["float", "fp16", "bf16"] = key(
        "bf16", "Number format of the saved LoRA.", meant=words_for(float32="float")
    )
    save_state: bool = key(False, "Save the whole training state with each LoRA, for resume.")
    save_state_on_train_end: bool = key(False, "Save the training state at the end of the run.")
    save_last_n_steps_state: int | None = key(
        None, "Like save_last_n_steps, for states.", within=every("to keep all, leave it out")
    )
    resume: str | None = key(
        None,
        "Continue from this state folder as if the run had not stopped; only the learning rate and its schedule, "
        "max_train_steps, and what is saved, drawn and logged may change.",
        path="found",
    )
    metadata_title: str | None = key(None, "Title in the LoRA's metadata. Default: output_name.")
    metadata_author: str | None = key(None, "Author in the metadata.")
    metadata_description: str | None = key(None, "Description in the metadata.")
    metadata_license: str | None = key(None, "Licence in the metadata.")
    metadata_tags: str | None = key(None, "Tags in the metadata, separated by commas.")
    metadata_trigger_phrase: str | None = key(None, "Trigger words, shown by SwarmUI.")
    training_comment: str | None = key(None, "A comment in the metadata (ss_training_comment).")


@dataclass(kw_only=True, frozen=True)
class SamplingSection:
    """Pictures of base, teachers and student, side by side, during training."""

    sample_prompts: str | None = key(
        None,
        "File with one prompt per line: `a cat --n blurry --w 1024 --h 1024 --d 1 --l 4.5 --s 28`; `--ci photo.png` "
        "edits; "
        "or sd-scripts' .toml or .json. The default size is resolution, for an edit in its source image's proportions.",
        path="found",
    )
    sample_every_n_steps: int | None = key(
        None, "Draw pictures every N steps and at the end.", within=every("to draw none, leave it out")
    )
    sample_at_first: bool = key(False, "Also draw pictures before the first step.")


@dataclass(kw_only=True, frozen=True)
class LoggingSection:
    """Logs. A JSONL log is always written to output_dir."""

    logging_dir: str | None = key(None, "Folder of TensorBoard's logs. Default: `logs` in output_dir.", path="made")
    log_with: Literal["tensorboard", "wandb", "all"] | None = key(None, "Also log to TensorBoard, W&B or both.")
    log_tracker_name: str = key("danceopd", "Project name in W&B.")
    wandb_run_name: str | None = key(None, "Run name in W&B. Default: output_name.")


SECTIONS = {
    "model": ModelSection,
    "dataset": DatasetSection,
    "network": NetworkSection,
    "optimizer": OptimizerSection,
    "training": TrainingSection,
    "saving": SavingSection,
    "sampling": SamplingSection,
    "logging": LoggingSection,
    "danceopd": DanceOPDSection,
}


#: Windows' names of devices, with any extension
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}
#: bytes of UTF-8; file systems accept 255, and suffixes such as -step00000300-state are appended
LONGEST_NAME = 150


def check_name(name: str) -> None:
    """Raise UserError for an output_name that cannot be a file name on Windows, Linux and macOS."""
    marks = any(mark in '/\\:*?"<>|' or ord(mark) < 32 for mark in name)
    if not name or name.startswith(".") or name != name.strip() or marks or name.split(".")[0].lower() in DEVICES:
        raise UserError(
            f"output_name = {name!r} cannot be a file name: write it without folders (see output_dir) and without an "
            "extension."
        )
    if (length := len(name.encode("utf-8"))) > LONGEST_NAME:
        raise UserError(f"output_name has {length} bytes: at most {LONGEST_NAME} leave room for step numbers.")


@dataclass(kw_only=True, frozen=True)
class Preset:
    """A checked preset as it was read; it does not change afterwards."""

    model: ModelSection
    dataset: DatasetSection
    network: NetworkSection
    optimizer: OptimizerSection
    training: TrainingSection
    saving: SavingSection
    sampling: SamplingSection
    logging: LoggingSection
    danceopd: DanceOPDSection
    notes: Sequence[str] = field(default=(), compare=False)
    """Notes to print before the run: keys that were left out, values without effect."""
    allow_local_code: bool = field(default=False, compare=False)
    """Whether the command line allows code from outside the installed packages to run (see local_code.py)."""

    def __post_init__(self) -> None:
        for name in SECTIONS:
            check_ranges(getattr(self, name))
        if not self.model.pretrained_model_name_or_path:
            raise UserError("pretrained_model_name_or_path is missing: name the base model in [model].")
        self.danceopd.require_teachers()
        check_name(self.saving.output_name)
        if self.model.fp8_base and self.model.quantize not in (None, "fp8"):
            raise UserError(f'fp8_base is true and quantize = "{self.model.quantize}": choose one.')
        if self.model.xformers and self.model.sdpa:
            raise UserError("sdpa and xformers are both true: choose one.")
        self._check_samples()
        if self.danceopd.student_init != "fresh" and self.network.network_weights:
            raise UserError("student_init and network_weights both set what the student starts from: give only one.")

    def _check_samples(self) -> None:
        """Raise UserError for an optimizer step with more samples than a run can handle."""
        batch, count = self.training.train_batch_size, self.training.gradient_accumulation_steps
        if wrong := SAMPLES.wrong(batch * count):
            raise UserError(
                f"train_batch_size = {batch} times gradient_accumulation_steps = {count} gives {batch * count:,} "
                "samples "
                f"per optimizer step: this number {wrong}."
            )

    @property
    def quantize(self) -> str | None:
        """The number format in which the base is held, None for that of mixed_precision."""
        return "fp8" if self.model.fp8_base else self.model.quantize

    @property
    def attention(self) -> str:
        return "xformers" if self.model.xformers else self.model.attn_mode
