"""Encodes the empty prompt for guidance while the toolkit's text encoders are on the device."""

from __future__ import annotations

import importlib
import inspect
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import torch

from danceopd_ext.config.schema import DanceOPDSection
from danceopd_ext.toolkits.hosted.conditions import Entry
from danceopd_ext.toolkits.hosted.seams import SeamCall


def needs_empty_prompt(options: DanceOPDSection) -> bool:
    """Return whether the student or a teacher uses guidance."""
    scales = [options.student_guidance_scale, *(teacher.guidance_scale for teacher in options.teachers.values())]
    return any(scale != 1 for scale in scales)


@torch.no_grad()
def encode_empty_prompt(args: Namespace, accelerator: Any, encoders: list[Any], cached: bool) -> list[Entry]:
    """Return the encoding of "" by the toolkit's strategy, B = 1.

    `cached`: encode as for the toolkit's cache, so that texts and empty prompt are encoded alike. Without a cache some
    strategies take no attention mask, and keep the encoders' dtype.
    """
    strategies = importlib.import_module("library.strategy_base")
    tokenizer = strategies.TokenizeStrategy.get_strategy()
    encoder = strategies.TextEncodingStrategy.get_strategy()
    known = inspect.signature(encoder.encode_tokens).parameters
    options = {"enable_dropout": False} if "enable_dropout" in known else {}
    if cached:
        masks = ("apply_lg_attn_mask", "apply_t5_attn_mask")
        options |= {name: getattr(args, name) for name in masks if name in known and hasattr(args, name)}
    # Lumina's sampler leaves its system prompt out of a negative prompt
    negative = {"is_negative": True} if "is_negative" in inspect.signature(tokenizer.tokenize).parameters else {}
    with accelerator.autocast():
        entries = encoder.encode_tokens(tokenizer, encoders, tokenizer.tokenize("", **negative), **options)
    return [_placed(entry, accelerator.device, cached) for entry in entries]


def _placed(entry: Entry, device: torch.device, cached: bool) -> Entry:
    if not isinstance(entry, torch.Tensor):
        return entry
    # the data loader converts all cached texts to float32
    return entry.to(device, dtype=torch.float32 if cached else None)


class Watched:
    """A dataset that calls `then` with the text encoders after its own texts are encoded."""

    def __init__(self, dataset: Any, then: Callable[[list[Any]], None]):
        self._dataset, self._then = dataset, then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)

    def new_cache_text_encoder_outputs(self, *given: Any, **named: Any) -> None:
        call = SeamCall(self._dataset.new_cache_text_encoder_outputs, given, named)
        call.call_original()
        self._then(call["models"])
