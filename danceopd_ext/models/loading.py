"""Loads a model's parts one by one, and what is known of them before that.

Text encoders (text_pipeline.py), transformer and VAE are never in memory together: each is loaded when it is needed.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.hooks import apply_group_offloading
from diffusers.models.model_loading_utils import load_gguf_checkpoint

from danceopd_ext.errors import UserError, first_line
from danceopd_ext.finite import broken_weight
from danceopd_ext.foreign.tensors import read_header, read_tensors
from danceopd_ext.models.configuration import (
    built_from,
    check_text_encoder,
    library_class,
    on_paper,
    read_configuration,
    within_limits,
)
from danceopd_ext.models.family import flow_match_shift
from danceopd_ext.models.gguf_files import gguf_configuration, gguf_names, hold_gguf, is_gguf
from danceopd_ext.models.layout import Layout
from danceopd_ext.models.model_files import ModelFiles
from danceopd_ext.models.part_modules import part_module
from danceopd_ext.models.quantised_files import as_float8
from danceopd_ext.models.quantising import Holding, let_go
from danceopd_ext.models.scaled_weights import dequantised

SCHEDULER = "scheduler_config.json"
#: tokens of a large picture, with which a scheduler is tested
LONG_SEQUENCE = 16384

#: what the transformer's tensors are called in files that hold more than it
PREFIXES = ("model.diffusion_model.", "diffusion_model.")


def load_transformer(
    files: ModelFiles, dtype: torch.dtype, quantize: str | None = None, device: torch.device | None = None
) -> torch.nn.Module:
    """Return the transformer in eval mode without gradients, on the CPU.

    `quantize`: a word of held_linear.PACKINGS for the layers in its blocks, which are packed on `device` one by one.
    What a file has quantised already stays so. Raises UserError if the weights cannot be loaded, or are not finite.
    """
    cls = library_class(files.family.transformer_class)
    how = Holding(quantize, dtype, device or torch.device("cpu"))
    missing: list[str] = []
    try:
        if files.transformer.is_file():
            model = _from_single_file(cls, files, how)
        else:
            model, info = cls.from_pretrained(
                files.transformer,
                subfolder="transformer",
                torch_dtype=dtype,
                output_loading_info=True,
                use_safetensors=True,
                **_quantised(how),
            )
            missing += info["missing_keys"]
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{files.transformer}: the transformer cannot be loaded ({first_line(error)}). "
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
    if broken := let_go(model) or broken_weight(model):
        raise UserError(
            f"{files.transformer}: the transformer's {broken} holds NaN or infinite numbers. The file is damaged, or "
            f"{_narrow(dtype)}its training diverged: download it again, or use another one."
        )
    return model.eval().requires_grad_(False)


def _from_single_file(cls: Any, files: ModelFiles, how: Holding) -> torch.nn.Module:
    """Load a single file, in float8 or GGUF as it is."""
    path, place = files.transformer, {"config": str(files.components), "subfolder": "transformer"}
    if is_gguf(path):
        config = gguf_configuration(how.dtype)
        weights = _own_gguf_names(path)
        model = cls.from_single_file(weights, torch_dtype=how.dtype, quantization_config=config, **place)
        hold_gguf(model, how.dtype)
        return model
    weights, scales = as_float8(path, _own_names(path), lambda: load_layout(files)[0], how.dtype)
    how = replace(how, scales=scales or {}, in_float8=scales is not None)
    return cls.from_single_file(weights, torch_dtype=how.dtype, **_quantised(how), **place)


def _quantised(how: Holding) -> dict[str, Holding]:
    """Return diffusers' argument for the quantizer, if anything is quantised."""
    return {"quantization_config": how} if how.word or how.in_float8 else {}


def _narrow(dtype: torch.dtype) -> str:
    """Return a reason that applies to float16 only, whose largest number is 65,504."""
    return (
        'its values exceed the range of fp16 (then set mixed_precision = "bf16"), or ' if dtype == torch.float16 else ""
    )


def _own_names(path: Path) -> str | dict[str, torch.Tensor]:
    """Return the file, or the transformer's tensors in it under diffusers' names.

    The latter if its names have a prefix, which diffusers does not know in every family, and for an .sft file, which
    diffusers would unpickle.
    """
    prefix = _prefix(read_header(path, "checkpoint").shapes)
    if not prefix and path.suffix == ".safetensors":
        return str(path)
    tensors, _ = read_tensors(path, "checkpoint", lambda name: name.startswith(prefix))
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _own_gguf_names(path: Path) -> str | dict[str, torch.Tensor]:
    """Do the same as `_own_names` for a GGUF file."""
    prefix = _prefix(gguf_names(path))
    if not prefix:
        return str(path)
    tensors = load_gguf_checkpoint(str(path))
    return {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}


def _prefix(names: Iterable[str]) -> str:
    """Return the one of PREFIXES that the transformer's names have, or ""."""
    names = list(names)
    return next((prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in names)), "")


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
    for folder in text_encoders(files):
        check_text_encoder(folder)


def text_encoders(files: ModelFiles) -> list[Path]:
    """Return the folders of the text encoders that the model has."""
    names = (part for part in files.family.text_parts if part.startswith("text_encoder"))
    return [files.components / name for name in names if (files.components / name).is_dir()]


def load_vae(files: ModelFiles, dtype: torch.dtype) -> Any:
    """Return the VAE in eval mode without gradients, on the CPU. Its `latent_scale` is the family's (see decoding)."""
    cls = library_class(files.family.vae_class)
    vae = load_split(files, "vae", dtype)
    if vae is None:
        vae = load_part(
            files.components,
            lambda: cls.from_pretrained(files.components, subfolder="vae", torch_dtype=dtype, use_safetensors=True),
        )
    vae.latent_scale = files.family.latent_scale
    return vae.eval().requires_grad_(False)


def load_split(files: ModelFiles, component: str, dtype: torch.dtype) -> Any:
    """Return a component whose weights are a file; None if they are in the components' folder. Raises UserError."""
    part = files.part(component)
    if part is None:
        return None

    def load() -> torch.nn.Module:
        tensors = dequantised(part.path, part.tensors(), dtype)
        module = part_module(files.family, part.spec, files.components, tensors)
        return module.load(module.own_names(tensors), dtype)

    return load_part(part.path, load)


def load_part(where: Path, load: Callable[[], Any]) -> Any:
    """Return what `load` loads. Raises UserError that names `where`, the folder or file, if a file is damaged."""
    try:
        with within_limits(where):
            return load()
    except UserError:
        raise
    except Exception as error:  # damaged files cause any error of diffusers, transformers and torch
        raise UserError(f"{where}: a part of the model cannot be loaded ({first_line(error)}).") from error


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
