"""Makes a dataset of sd-scripts from prompt files, without pictures.

Imported only inside the toolkit. Its trainer calls `prompt_group` by name (`--dataset_class`) without our data, which
`hand_over` stores before.
"""

from __future__ import annotations

import hashlib
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from library import config_util, train_util

from danceopd_ext.config.schema import DanceOPDSection
from danceopd_ext.data.items import Item, Size
from danceopd_ext.data.prompts import read_prompts
from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.hosted.architecture import Architecture
from danceopd_ext.toolkits.hosted.console import tell
from danceopd_ext.toolkits.hosted.seams import supported, unpacked
from danceopd_ext.toolkits.launched import is_first_process
from danceopd_ext.toolkits.sd_scripts.routed_datasets import TEACHER
from danceopd_ext.toolkits.sd_scripts.text_cache_files import remove_damaged

#: the function that the toolkit calls
CALLED = f"{__name__}.prompt_group"
#: keys of the preset, as in sd-scripts
CAPTION_KEYS = (
    "shuffle_caption", "caption_separator", "keep_tokens", "keep_tokens_separator", "secondary_separator",
    "enable_wildcard", "caption_dropout_rate", "caption_dropout_every_n_epochs", "caption_tag_dropout_rate",
    "caption_prefix", "caption_suffix", "token_warmup_min", "token_warmup_step",
)  # fmt: skip
#: arguments, of all architectures, that change the outputs of text encoders
TEXT_OPTIONS = (
    "t5xxl_max_token_length", "gemma2_max_token_length", "system_prompt", "qwen3_max_token_length",
    "t5_max_token_length",
)  # fmt: skip


@dataclass(frozen=True)
class PromptFile:
    """The items of one file, and their teacher."""

    path: Path
    teacher: str
    items: tuple[Item, ...]


_waiting: list[tuple[tuple[PromptFile, ...], Namespace, Path]] = []


def hand_over(options: DanceOPDSection, architecture: Architecture, args: Namespace, sizes: Sequence[Size]) -> None:
    """Read the prompt files now; the toolkit makes the dataset later. Raises UserError."""
    files = []
    for teacher, paths in options.prompts.items():
        for path in [paths] if isinstance(paths, str) else paths:
            items, notes = read_prompts(path, sizes or ((1024, 1024),))
            for note in notes:
                print(note)
            _check_sizes(items, architecture)
            files.append(PromptFile(Path(path), teacher, tuple(items)))
    _waiting[:] = [(tuple(files), args, cache_folder(args, architecture))]


def _check_sizes(items: Sequence[Item], architecture: Architecture) -> None:
    multiple = architecture.size_multiple
    for item in items:
        if item.width % multiple or item.height % multiple:
            raise UserError(
                f"{item.where}: {architecture.title} does not support {item.width}x{item.height}: width and height "
                "must "
                f"be multiples of {multiple}. Change resolution, or the size in the prompt file."
            )


def cache_folder(args: Namespace, architecture: Architecture) -> Path:
    """Return the folder of encoded prompts (cache_text_encoder_outputs_to_disk), one for each set of encoders."""
    options = (getattr(args, name, None) for name in TEXT_OPTIONS)
    words = [architecture.model_type, *options, *(getattr(args, name) for name in architecture.files)]
    digest = hashlib.sha256(repr(words).encode("utf-8", "backslashreplace")).hexdigest()[:12]
    return Path(args.output_dir).absolute() / "cache" / f"{architecture.model_type}-{digest}"


def prompt_group(*given: Any, **named: Any) -> Any:
    """Return the prompts and the datasets of dataset_config, if there is one; the toolkit calls this.

    Its arguments depend on the toolkit's version and are not used.
    """
    files, args, cache = _waiting.pop()
    return train_util.DatasetGroup([*_datasets(args), PromptDataset(files, args, cache)])


def _datasets(args: Namespace) -> list[Any]:
    """Return the datasets of dataset_config, made as the toolkit's trainer makes them."""
    if not args.dataset_config:
        return []
    sanitizer = config_util.ConfigSanitizer(
        support_dreambooth=True, support_finetuning=True, support_controlnet=args.masked_loss, support_dropout=True
    )
    blueprint = config_util.BlueprintGenerator(sanitizer).generate(
        config_util.load_user_config(args.dataset_config), args
    )
    made = config_util.generate_dataset_group_by_blueprint(blueprint.dataset_group)
    group, validation = unpacked(made, 2, "generate_dataset_group_by_blueprint")
    if validation is not None:
        raise UserError(
            "validation_split: the toolkit cannot validate a dataset together with prompt files. Remove one of them."
        )
    return list(group.datasets)


class PromptDataset(train_util.BaseDataset):
    """A dataset in which every prompt is an image without pixels, in a bucket of its size."""

    def __init__(self, files: Sequence[PromptFile], args: Namespace, cache: Path):
        sizes = sorted({item.size for file in files for item in file.items})
        largest = max(sizes, key=lambda size: size[0] * size[1])
        more = supported(super().__init__, train_inpainting=False)  # since v0.10.4
        super().__init__(resolution=largest, network_multiplier=1.0, debug_dataset=False, **more)
        self.batch_size, self.prior_loss_weight = args.train_batch_size, 1.0
        self.enable_bucket = True
        if args.cache_text_encoder_outputs_to_disk:
            cache.mkdir(parents=True, exist_ok=True)
            for note in remove_damaged(cache) if is_first_process() else []:
                tell(f"note: {note}")
        for number, file in enumerate(files):
            self._add(file, subset_of(file, args), number, cache)
        self._fill(sizes)
        self.num_train_images, self.num_reg_images = len(self.image_data), 0
        self.set_seed(args.seed)

    def _add(self, file: PromptFile, subset: Any, number: int, cache: Path) -> None:
        self.subsets.append(subset)
        for line, item in enumerate(file.items):
            digest = hashlib.sha256(item.text.encode("utf-8", "surrogatepass")).hexdigest()[:24]
            info = train_util.ImageInfo(
                image_key=f"{number}/{line}", num_repeats=1, caption=item.text, is_reg=False,
                absolute_path=str(cache / f"{digest}.txt"),
            )  # fmt: skip
            info.image_size = info.bucket_reso = info.resized_size = item.size
            self.register_image(info, subset)
        self.set_tag_frequency(file.path.name, [item.text for item in file.items])

    def _fill(self, sizes: Sequence[Size]) -> None:
        """One bucket for each size."""
        self.bucket_manager = train_util.BucketManager(
            no_upscale=False, max_reso=None, min_size=None, max_size=None, reso_steps=None
        )
        for size in sizes:
            self.bucket_manager.add_if_new_reso(size)
        for key, info in self.image_data.items():
            self.bucket_manager.add_image(info.bucket_reso, key)
        buckets = self.bucket_manager.buckets
        self.bucket_info = {
            "buckets": {b: {"resolution": sizes[b], "count": len(keys)} for b, keys in enumerate(buckets)}
        }
        self.buckets_indices = [
            train_util.BucketBatchIndex(bucket_index=b, bucket_batch_size=self.batch_size, batch_index=i)
            for b, keys in enumerate(buckets)
            for i in range(-(-len(keys) // self.batch_size))
        ]
        self._length = len(self.buckets_indices)

    def new_cache_text_encoder_outputs(self, *given: Any, **named: Any) -> None:
        """Encode every caption once, however many sizes and routes use it."""
        everything = self.image_data
        first: dict[str, str] = {}
        for key, info in everything.items():
            first.setdefault(info.caption, key)
        self.image_data = {key: everything[key] for key in first.values()}
        try:
            super().new_cache_text_encoder_outputs(*given, **named)
        finally:
            self.image_data = everything
        for info in everything.values():
            encoded = everything[first[info.caption]]
            info.text_encoder_outputs = encoded.text_encoder_outputs
            info.text_encoder_outputs_npz = encoded.text_encoder_outputs_npz


def subset_of(file: PromptFile, args: Namespace) -> Any:
    """Return the toolkit's subset for a prompt file, with the preset's caption rules and the teacher."""
    rules = {name: getattr(args, name) for name in CAPTION_KEYS}
    subset = train_util.DreamBoothSubset(
        image_dir=file.path.name, is_reg=False, class_tokens=None, caption_extension=file.path.suffix,
        cache_info=False, alpha_mask=False, num_repeats=1, color_aug=False, flip_aug=False, face_crop_aug_range=None,
        random_crop=False, custom_attributes={TEACHER: file.teacher}, **rules,
    )  # fmt: skip
    subset.img_count = len(file.items)
    subset.metadata_file = file.path.name  # the toolkit's metadata needs it if a dataset has no folder
    return subset
