"""Loads a pipeline's tokenizers and text encoders, and encodes prompts with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from danceopd_ext.errors import UserError, first_line
from danceopd_ext.models.configuration import REMEDY, library_class
from danceopd_ext.models.family import PromptTensors, Sources
from danceopd_ext.models.limited_process import limit_tokenizers, load_tokenizers
from danceopd_ext.models.loading import load_part, load_split, stream
from danceopd_ext.models.model_files import ModelFiles
from danceopd_ext.models.quantising import quantise


def load_text_pipeline(
    files: ModelFiles, dtype: torch.dtype, device: torch.device | str, quantize: str | None = None
) -> Any:
    """Return the family's pipeline with text encoders and tokenizers only, ready to encode on the device.

    `quantize`: a word of held_linear.PACKINGS for the linear layers of the text encoders.
    Encoders that do not fit into the device's memory (T5-XXL alone has 9 GiB) are streamed through it.
    """
    cls = library_class(files.family.pipeline_class)
    load_tokenizers(files.components)
    names = [part.spec.component for part in files.parts if part.spec.component in files.family.text_parts]
    given = {name: load_split(files, name, dtype) for name in names}
    pipeline = load_part(
        files.components,
        lambda: cls.from_pretrained(
            files.components,
            transformer=None,
            vae=None,
            **given,
            torch_dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
        ),
    )
    _keep_within_positions(pipeline)
    limit_tokenizers(pipeline, files.components)
    encoders = [
        part
        for name, part in pipeline.components.items()
        if name in files.family.text_parts and isinstance(part, torch.nn.Module)
    ]
    if quantize:
        for encoder in encoders:
            quantise(encoder, quantize, torch.device(device))
    try:
        return pipeline.to(device)
    except torch.OutOfMemoryError:
        pipeline.to("cpu")
        torch.cuda.empty_cache()
    for encoder in encoders:
        stream(encoder, torch.device(device))
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
            f"{files.components}: the model's tokenizers or text encoders fail ({first_line(error)}). {REMEDY}"
        ) from error


def _keep_within_positions(pipeline: Any) -> None:
    """Limit each CLIP tokenizer to the positions of its encoder, which would fail on a longer prompt."""
    for end in ("", "_2"):
        words, encoder = (getattr(pipeline, f"{part}{end}", None) for part in ("tokenizer", "text_encoder"))
        places = getattr(getattr(encoder, "config", None), "max_position_embeddings", None)
        if type(encoder).__name__.startswith("CLIP") and places and words.model_max_length > places:
            words.model_max_length = places
            pipeline.tokenizer_max_length = min(pipeline.tokenizer_max_length, places)
