"""Loads a model's parts one by one, from a hub id, a diffusers folder or a single .safetensors file.

Text encoders, transformer and VAE are never in memory together: each is loaded when it is needed. A hub model is
downloaded in two steps: `find_model_files` gets a few small files, enough for all checks, and `fetch` gets the rest.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.hooks import apply_group_offloading
from huggingface_hub import snapshot_download

from danceopd_ext.errors import UserError
from danceopd_ext.finite import broken_weight
from danceopd_ext.foreign.files import check_file
from danceopd_ext.foreign.hub import hub_refusal, no_such_file, repository_of
from danceopd_ext.foreign.json import read_object
from danceopd_ext.foreign.tensors import read_header, read_tensors
from danceopd_ext.models.configuration import (
    REMEDY,
    built_from,
    check_text_encoder,
    on_paper,
    read_configuration,
    within_limits,
)
from danceopd_ext.models.family import Family, PromptTensors, Sources, flow_match_shift
from danceopd_ext.models.layout import Layout
from danceopd_ext.models.limited_process import limit_tokenizers, load_tokenizers
from danceopd_ext.models.model_folder import INDEX, check_folder
from danceopd_ext.models.registry import FAMILIES, family_of_checkpoint, family_of_pipeline

SCHEDULER = "scheduler_config.json"
#: tokens of a large picture, with which a scheduler is tested, and the largest width of a latent in pixels
LONG_SEQUENCE, MOST_PIXELS = 16384, 1024
#: what tells a model's family, layers and sizes; its pipeline uses these files too, so that none is fetched in vain
CHECKED_FILES = (INDEX, "transformer/config.json", "vae/config.json")

#: what the transformer's tensors are called in files that hold more than it
PREFIXES = ("model.diffusion_model.", "diffusion_model.")


@dataclass(frozen=True)
class ModelFiles:
    """Where a model comes from. `transformer`: a diffusers folder or a single file. `components`: a diffusers folder
    with everything else. `name`: for messages and metadata, never a local path. `hub`: the id of a model of which only
    CHECKED_FILES are sure to be in its folder; `fetch` brings the rest. None where everything is here."""

    family: Family
    transformer: Path
    components: Path
    name: str
    hub: str | None = None

    @property
    def text_files(self) -> list[Path]:
        """Return the folders that determine the text encoders' output; a cache is keyed by their content."""
        return [self.components / part for part in self.family.text_parts if (self.components / part).is_dir()]

    @property
    def vae_scale_factor(self) -> int:
        """Return the pixels per latent, from the VAE's configuration alone."""
        config = read_configuration(self.components, "vae", library_class(self.family.vae_class))
        with built_from(self.components / "vae" / "config.json"):
            pixels = self.family.latent_scale.pixels_per_latent(config)
            if not 0 < pixels <= MOST_PIXELS:
                raise ValueError(f"one latent is {pixels:.0e} pixels wide")
            return pixels


def find_model_files(
    where: str,
    model_type: str | None = None,
    components_from: str | None = None,
    key: str = "pretrained_model_name_or_path",
) -> ModelFiles:
    """Locate a model and its family without loading or downloading weights.

    where: hub id, diffusers folder or .safetensors file. components_from: what supplies text encoders, VAE, scheduler
    and configuration for a single file; by default the family's own hub model. key: what the user calls `where`.
    Raises UserError if nothing is found, if the family is unknown, or if `model_type` contradicts what was found.
    """
    path = Path(where)
    if os.path.isfile(path):  # os.path, here and below: Path.is_file raises for a name that is too long
        family = _family_of_file(path, model_type)
        _check_type(family, model_type, where)
        others = components_from or family.default_components
        return ModelFiles(family, path, _folder(others, "components_from"), path.stem, _hub_id(others))
    if os.path.exists(path) and not os.path.isdir(path):  # a pipe or a device, which could block forever
        check_file(path, f"model ({key})")
    folder, hub = _folder(where, key), _hub_id(where)
    family = _family_of_folder(folder, where)
    _check_type(family, model_type, where)
    return ModelFiles(family, folder, folder, hub or folder.name, hub)


def fetch(files: ModelFiles) -> ModelFiles:
    """Return the same model with local weights: download what is still on the hub. Raises UserError."""
    if files.hub is None:
        return files
    try:
        folder = Path(diffusers.DiffusionPipeline.download(files.hub, use_safetensors=True, trust_remote_code=False))
    except Exception as error:  # the hub client raises its own, transport and OS errors
        raise UserError(
            f"{files.hub}: the model could not be downloaded completely ({_first_line(error)}). Check your "
            "connection and the free disk space; finished downloads are kept."
        ) from error
    check_folder(folder)  # the rest of it, and perhaps a newer index
    transformer = files.transformer if files.transformer.is_file() else folder
    return replace(files, transformer=transformer, components=folder, hub=None)


def load_transformer(files: ModelFiles, dtype: torch.dtype) -> torch.nn.Module:
    """Return the transformer in eval mode without gradients, on the CPU.

    Raises UserError if the weights cannot be loaded, or are not finite.
    """
    cls = library_class(files.family.transformer_class)
    missing: list[str] = []
    try:
        if files.transformer.is_file():
            model = cls.from_single_file(
                _own_names(files.transformer),
                config=str(files.components),
                subfolder="transformer",
                torch_dtype=dtype,
            )
        else:
            model, info = cls.from_pretrained(
                files.transformer,
                subfolder="transformer",
                torch_dtype=dtype,
                output_loading_info=True,
                use_safetensors=True,
            )
            missing += info["missing_keys"]
    except Exception as error:
        raise UserError(
            f"{files.transformer}: the transformer cannot be loaded ({_first_line(error)}). "
            f"Check that the file is complete and is a {files.family.title} model."
        ) from error
    # diffusers leaves missing tensors uninitialised
    missing += [name for name, weight in model.named_parameters() if weight.is_meta]
    if missing:
        count = len(set(missing))
        raise UserError(
            f"{files.transformer}: missing tensors of the transformer: {count}, such as {missing[0]}. "
            f"Check that the file is complete and is a {files.family.title} model."
        )
    if broken := broken_weight(model):
        raise UserError(
            f"{files.transformer}: the transformer's {broken} holds NaN or infinite numbers. The file is damaged, or "
            f"{_narrow(dtype)}its training diverged: download it again, or use another one."
        )
    return model.eval().requires_grad_(False)


def _narrow(dtype: torch.dtype) -> str:
    """Return a reason that applies to float16 only, whose largest number is 65,504."""
    return (
        'its values exceed the range of fp16 (then set mixed_precision = "bf16"), or ' if dtype == torch.float16 else ""
    )


def _own_names(path: Path) -> str | dict[str, torch.Tensor]:
    """The file; where the transformer's names have a prefix, which diffusers does not know in every family, its tensors
    without it and without those of other parts."""
    names = read_header(path, "checkpoint").shapes
    prefix = next((p for p in PREFIXES if any(name.startswith(p) for name in names)), "")
    if not prefix:
        return str(path)
    tensors, _ = read_tensors(path, "checkpoint", lambda name: name.startswith(prefix))
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def load_text_pipeline(files: ModelFiles, dtype: torch.dtype, device: torch.device | str) -> Any:
    """Return the family's pipeline with text encoders and tokenizers only, ready to encode on the device.

    Encoders that do not fit into the device's memory (T5-XXL alone has 9 GiB) are streamed through it.
    """
    cls = library_class(files.family.pipeline_class)
    load_tokenizers(files.components)
    pipeline = _load_part(
        files,
        lambda: cls.from_pretrained(
            files.components,
            transformer=None,
            vae=None,
            torch_dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
        ),
    )
    _keep_within_positions(pipeline)
    limit_tokenizers(pipeline, files.components)
    try:
        return pipeline.to(device)
    except torch.OutOfMemoryError:
        pipeline.to("cpu")
        torch.cuda.empty_cache()
    for name, part in pipeline.components.items():
        if name in files.family.text_parts and isinstance(part, torch.nn.Module):
            stream(part, torch.device(device))
    return pipeline


def encode_prompts(
    files: ModelFiles, pipeline: Any, prompts: list[str], sources: Sequence[Sources] | None = None
) -> list[PromptTensors]:
    """Return the encoded prompts with the text pipeline of `files` (see Family.encode_prompts).

    Raises UserError that names the model if its tokenizers or text encoders fail.
    """
    with asked_of(files):
        return files.family.encode_prompts(pipeline, prompts, sources)


@contextmanager
def asked_of(files: ModelFiles) -> Iterator[None]:
    """Turn errors of a model's tokenizers and text encoders inside the block into a UserError that names the model."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise UserError(
            f"{files.components}: the model's tokenizers or text encoders fail ({_first_line(error)}). {REMEDY}"
        ) from error


def _keep_within_positions(pipeline: Any) -> None:
    """Limit each CLIP tokenizer to the positions of its encoder, which would fail on a longer prompt."""
    for end in ("", "_2"):
        words, encoder = (getattr(pipeline, f"{part}{end}", None) for part in ("tokenizer", "text_encoder"))
        places = getattr(getattr(encoder, "config", None), "max_position_embeddings", None)
        if type(encoder).__name__.startswith("CLIP") and places and words.model_max_length > places:
            words.model_max_length = places
            pipeline.tokenizer_max_length = min(pipeline.tokenizer_max_length, places)


def stream(module: torch.nn.Module, device: torch.device) -> None:
    """Keep the module's weights in main memory and move them to the device layer by layer when they are used."""
    apply_group_offloading(module, onload_device=device, offload_device=torch.device("cpu"), offload_type="leaf_level")


def load_scheduler(files: ModelFiles) -> Any:
    """Return the model's own FlowMatchEulerDiscreteScheduler. Raises UserError."""
    cls = diffusers.FlowMatchEulerDiscreteScheduler
    config = read_configuration(files.components, "scheduler", cls, SCHEDULER)
    with built_from(files.components / "scheduler" / SCHEDULER):
        scheduler = cls.from_config(config)
        tried = copy.deepcopy(scheduler)
        tried.set_timesteps(sigmas=[1.0, 0.5], mu=flow_match_shift(tried.config, LONG_SEQUENCE, 1.15))
        if not (tried.sigmas.isfinite().all() and (tried.sigmas.diff() <= 0).all()):
            raise ValueError("its noise levels do not decrease")
        return scheduler


def check_parts(files: ModelFiles) -> None:
    """Raise UserError if the scheduler, VAE or text encoders cannot be built from their configuration."""
    load_scheduler(files)
    vae = library_class(files.family.vae_class)
    on_paper(vae, read_configuration(files.components, "vae", vae), files.components / "vae" / "config.json")
    for folder in files.text_files:
        if folder.name.startswith("text_encoder"):
            check_text_encoder(folder)


def load_vae(files: ModelFiles, dtype: torch.dtype) -> Any:
    """Return the VAE in eval mode without gradients, on the CPU. Its `latent_scale` is the family's (see decoding)."""
    cls = library_class(files.family.vae_class)
    vae = _load_part(
        files,
        lambda: cls.from_pretrained(files.components, subfolder="vae", torch_dtype=dtype, use_safetensors=True),
    )
    vae.latent_scale = files.family.latent_scale
    return vae.eval().requires_grad_(False)


def library_class(name: str) -> Any:
    """Return a class of diffusers. Raises UserError if the installed version does not have it."""
    try:
        return getattr(diffusers, name)
    except AttributeError as error:
        raise UserError(
            f"diffusers {diffusers.__version__} does not include {name}. Install a newer version (pip install -U "
            "diffusers)."
        ) from error


def _load_part(files: ModelFiles, load: Any) -> Any:
    try:
        with within_limits(files.components):
            return load()
    except UserError:
        raise
    except Exception as error:  # damaged files cause any error of diffusers, transformers and torch
        raise UserError(f"{files.components}: a part of the model cannot be loaded ({_first_line(error)}).") from error


def _folder(where: str, key: str) -> Path:
    """Return the local folder of a diffusers pipeline: `where` itself, or that of its CHECKED_FILES from the hub."""
    path = Path(where)
    if os.path.isdir(path):
        if (path / INDEX).is_file():
            check_folder(path)
            return path
        raise UserError(f"{where} ({key}) is not a diffusers pipeline folder: {INDEX} is missing.")
    if path.suffix in (".ckpt", ".pt", ".bin", ".pth"):
        raise UserError(
            f"{where} ({key}): a {path.suffix} file can run code when opened; use its .safetensors version."
        )
    if not _hub_id(where):
        hint = no_such_file(path).partition("no such file or folder")[2].lstrip(";. ")
        raise UserError(
            f"{where} ({key}) was not found. Give a hub id, a diffusers folder or a .safetensors file. {hint}".strip()
        )
    return _checked_files(where, key)


def _hub_id(where: str) -> str | None:
    """Return `where` if it can be a model on the hub and nothing local has this name."""
    return where if repository_of(where) == where and not os.path.lexists(where) else None


def _checked_files(where: str, key: str) -> Path:
    """Return the folder of a hub model with its CHECKED_FILES (a few kilobytes) and earlier downloads."""
    try:
        folder = Path(snapshot_download(where, allow_patterns=list(CHECKED_FILES)))
    except Exception as error:  # the hub client raises its own, transport and OS errors
        raise UserError(
            f"{where} ({key}) is not a local file or folder, and it could not be downloaded from the hub "
            f"({hub_refusal(error, where)}). If it is local, check the path (the current folder is {Path.cwd()}). If "
            "it is on the hub, check the spelling and your connection; a gated model needs `hf auth login` first."
        ) from error
    if not (folder / INDEX).is_file():
        raise UserError(
            f"{where} ({key}): its {INDEX} is not on the hub. It is not a diffusers pipeline; or, if you have no "
            "connection, it has not been downloaded yet."
        )
    check_folder(folder)
    return folder


def _family_of_folder(folder: Path, where: str) -> Family:
    class_name = read_object(folder / INDEX, "model index")["_class_name"]  # check_folder has checked that it is text
    family = family_of_pipeline(class_name)
    if family is None:
        known = ", ".join(f"{f.title} ({f.pipeline_class})" for f in FAMILIES.values())
        raise UserError(f"{where} is a {class_name}; the native toolkit trains {known}.")
    return family


def checkpoint_keys(path: Path) -> list[str]:
    """Return the tensor names of a .safetensors file. Raises UserError if it is another kind of file or damaged."""
    if path.suffix != ".safetensors":
        raise UserError(
            f"{path}: a checkpoint must be a .safetensors file; a {path.suffix or 'nameless'} file "
            "can run code when opened. Convert it to .safetensors first."
        )
    return list(read_header(path, "checkpoint").shapes)


def _family_of_file(path: Path, model_type: str | None) -> Family:
    keys = checkpoint_keys(path)
    family = family_of_checkpoint(keys, model_type)
    if family is None:
        known = ", ".join(f.title for f in FAMILIES.values())
        raise UserError(
            f"{path} is not a checkpoint of {known} (its first tensor is {keys[0] if keys else 'missing'})."
        )
    return family


def _check_type(family: Family, model_type: str | None, where: str) -> None:
    if model_type and model_type != family.name:
        raise UserError(f'model_type = "{model_type}", but {where} is {family.title} (model_type = "{family.name}").')


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def load_layout(files: ModelFiles) -> tuple[Layout, dict]:
    """Return LoRA names and shapes of the model, and the transformer's configuration, without loading a weight."""
    cls, family = library_class(files.family.transformer_class), files.family
    file = files.components / "transformer" / "config.json"
    transformer = on_paper(cls, read_configuration(files.components, "transformer", cls), file)
    config = dict(transformer.config)
    with built_from(file):
        if os.path.exists(files.components / "vae" / "config.json"):  # a teacher's folder may have no VAE
            _check_sizes(files, config)
        return family.layout(transformer), config


def _check_sizes(files: ModelFiles, config: dict) -> None:
    """Raise ValueError for a model that cannot draw a picture of any size."""
    limits = files.family.size_limits(config, files.vae_scale_factor)
    if not 0 < limits.multiple <= limits.maximum:
        raise ValueError(f"it cannot draw any size: multiples of {limits.multiple} up to {limits.maximum} pixels")
