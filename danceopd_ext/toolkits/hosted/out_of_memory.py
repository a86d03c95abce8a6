"""Explains that memory ran out inside a toolkit: what to try, in the toolkit's own arguments, and what was saved."""

from __future__ import annotations

import traceback
from argparse import Namespace
from collections.abc import Mapping

import torch

from danceopd_ext.toolkits.hosted.saved_files import Saved

#: what torch, its libraries and its CPU allocator say, in lower case
WORDS = ("out of memory", "can't allocate memory", "not enough memory", "cublas_status_alloc_failed")

#: names of functions, the toolkits' and ours -> the work that they do
WORK = {
    "sample_images": "drawing previews",
    "encode_texts": "encoding the prompts",
    "encode_empty_prompt": "encoding the prompts",
    "cache_text_encoder_outputs_if_needed": "encoding the prompts",
    "_prepare_sampling": "encoding the preview prompts",
    "process_batch": "step {step}",
    "_run_training_loop": "step {step}",
}
LOADING = "loading the model and its teachers"

#: switches for text encoders in fp8, of both toolkits; a trainer has at most one of them
FP8_TEXT = ("fp8_llm", "fp8_vl", "fp8_t5", "fp8_text_encoder")
#: remedies in training, the cheapest first: argument -> how to write it
SWITCHES = {
    "gradient_checkpointing": "gradient_checkpointing = true",
    "fp8_base": "fp8_base = true",
    "fp8_scaled": "fp8_scaled = true (with fp8_base)",
    "cache_text_encoder_outputs": "cache_text_encoder_outputs = true",
}


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, on any device."""
    kinds = (MemoryError, getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError))
    text = str(error).lower()
    return isinstance(error, kinds) or (isinstance(error, RuntimeError) and any(word in text for word in WORDS))


def out_of_memory(error: BaseException, args: Namespace, step: int, training: bool, saved: Saved) -> str:
    """Return the message. step: in or before which it happened; training: whether the loop was reached."""
    where = work_of(error, training)
    given = vars(args)
    if where == "drawing previews":
        remedies = ["smaller pictures (--w and --h in sample_prompts)", "no sample_prompts"]
    elif where.startswith("encoding"):
        remedies = _encoding(given)
    else:
        remedies = _training(given, loading=where == LOADING)
    parts = [f"out of memory while {where}." if not where.startswith("step") else f"out of memory in {where}."]
    parts[0] = parts[0].format(step=step)
    parts.append(f"Try: {', '.join(remedies)}. Close other programs that use the GPU.")
    if training:
        parts.append(_kept(given, saved))
    return " ".join(parts)


def work_of(error: BaseException, training: bool) -> str:
    """Return what the run was doing when memory ran out, by the innermost known function in the traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    known = [WORK[frame.name] for frame in frames if frame.name in WORK]
    return known[-1] if known else "step {step}" if training else LOADING


def _encoding(given: Mapping[str, object]) -> list[str]:
    switches = [name for name in FP8_TEXT if given.get(name) is False]
    if given.get("text_encoder_cpu") is False:
        switches.append("text_encoder_cpu")
    remedies = [f"{name} = true" for name in switches]
    return remedies or ["a smaller text encoder file (fp8)"]


def _training(given: Mapping[str, object], loading: bool) -> list[str]:
    wanted = [text for name, text in SWITCHES.items() if given.get(name) is False]
    if loading:
        wanted = [text for text in wanted if text.startswith("fp8")]
    if "blocks_to_swap" in given:
        more = f"blocks_to_swap above {given['blocks_to_swap']}" if given["blocks_to_swap"] else "blocks_to_swap"
        wanted.append(more)
    if loading:
        return wanted or ["a smaller model file"]
    return [*wanted, "a smaller resolution", "a smaller batch size", f"network_dim below {given.get('network_dim')}"]


def _kept(given: Mapping[str, object], saved: Saved) -> str:
    if saved.lora or saved.state:
        what = f"The last saved LoRA is {saved.lora}. " if saved.lora else ""
        return f"{what}{saved.how_to_continue()}"
    every = given.get("save_every_n_steps")
    when = f"save_every_n_steps = {every} was not reached" if every else "set save_every_n_steps"
    return f"Nothing was saved yet: {when}."
