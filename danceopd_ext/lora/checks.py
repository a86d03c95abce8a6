"""Checks which parts of a LoRA file can be used, and reports what is refused or ignored."""

from __future__ import annotations

from collections.abc import Iterable

from danceopd_ext.errors import UserError, shorten
from danceopd_ext.lora.dialects import OTHER_PARTS, Parsed, is_zero, not_a_lora
from danceopd_ext.lora.families import guess_family, looks_like_model, title
from danceopd_ext.lora.lora_file import LoraFile
from danceopd_ext.models.layout import Layout


def few(keys: Iterable[str], count: int = 3) -> str:
    """Return the first keys, for a message."""
    keys = [shorten(key, 160) for key in keys]
    return ", ".join(keys[:count]) + (f", … ({len(keys)} in all)" if len(keys) > count else "")


def no_lora(file: LoraFile) -> str:
    """Return the message for a file without a LoRA key."""
    keys = list(file.tensors)
    if not keys:
        return f"{file.path}: holds no tensors. Download or copy it again."
    if method := file.config.get("peft_type"):
        return f"{file.path}: PEFT's method {shorten(str(method))} is not supported. Use a plain LoRA."
    what = f"{file.path}: not a LoRA: it has no LoRA tensors (first keys: {few(keys)})."
    if looks_like_model(keys):
        return f'{what} If it is a whole model, use checkpoint = "{file.path}" instead of lora.'
    return f"{what} Use a LoRA file for the base model that you train."


def check_keys(
    file: LoraFile, parsed: Parsed, layout: Layout, ignore_text_encoder: bool, ignore_other_parts: bool = False
) -> None:
    """Raise UserError unless every key belongs to a complete change of a linear layer, or may be left out."""
    path, keys = file.path, file.tensors
    ours = title(layout)
    looks = guess_family(keys)
    alike = looks is None or ours.startswith(looks) or ours in looks
    other_family = "" if alike else f" It looks like a LoRA for {looks}."
    if parsed.empty:
        raise UserError(no_lora(file))
    for name, own in parsed.methods.items():
        raise UserError(f"{path}: made with {name} ({few(own, 1)}). {not_a_lora(name)}")
    if not parsed.groups and parsed.unknown_layers:
        raise UserError(
            f"{path}: no key fits {ours} (first keys: {few(keys)}).{other_family} Use a LoRA made for the base model"
            " that you train."
        )
    unfit = [group.layer for group in parsed.unknown_layers] + parsed.other
    if unfit:
        raise UserError(
            f"{path}: {len(unfit)} of {len(unfit) + len(parsed.groups)} layers do not fit {ours}: {few(unfit, 6)}."
            f"{other_family} Use a LoRA made for exactly the base model that you train."
        )
    if not parsed.groups:
        raise UserError(f"{path}: {_changes_only(parsed)}; there is nothing to learn.")
    asked = []
    if parsed.text_encoder and not ignore_text_encoder:
        asked.append(
            f"also changes text encoders ({few(parsed.text_encoder)}), which are not trained. To use only its"
            " transformer part, set ignore_text_encoder = true (on a command line: --ignore_text_encoder)."
        )
    if (others := _other_parts(parsed)) and not ignore_other_parts:
        asked.append(
            f"also changes {others}, but a LoRA can only hold changes of linear layers' weights: a change of a norm "
            "or a bias is not low-rank. To use only the rest, set ignore_other_parts = true (on a command line:"
            " --ignore_other_parts)."
        )
    if asked:
        raise UserError(f"{path}: {' It '.join(asked)}")


def _other_parts(parsed: Parsed) -> str:
    """Return the changes that a LoRA cannot hold, counted and with examples; empty if there are no such changes."""
    found = [(*names, parsed.not_linear[kind]) for kind, names in OTHER_PARTS.items() if kind in parsed.not_linear]
    return " and ".join(
        f"{one if len(keys) == 1 else f'{len(keys)} {several}'} ({keys[0]})" for one, several, keys in found
    )


def _changes_only(parsed: Parsed) -> str:
    if parsed.text_encoder:
        return f"only changes text encoders ({few(parsed.text_encoder)})"
    keys = [key for keys in parsed.not_linear.values() for key in keys]
    return f"changes no linear layer ({few(keys)})"


def left_out(file: LoraFile, parsed: Parsed) -> tuple[str, ...]:
    """Return what is not used of the file, or not as in other programs, one sentence each."""
    notes, not_linear = [], parsed.not_linear
    if count := _zero_alphas(file, parsed):
        notes.append(
            f"alpha is 0 in {count} layers: they are applied at full strength, as in sd-scripts and LyCORIS. ComfyUI,"
            " diffusers and peft ignore these layers"
        )
    if parsed.text_encoder:
        notes.append(f"its changes of text encoders are ignored ({few(parsed.text_encoder, 1)})")
    if others := _other_parts(parsed):
        notes.append(f"its changes of {others} are ignored, so pictures differ slightly from those of other programs")
    if "zero" in not_linear:
        notes.append(
            f"differences that are all zero have no effect and are ignored: {few(not_linear['zero'], 1)} (a change "
            "of a norm or a bias is not low-rank)"
        )
    if "convolution" in not_linear:
        notes.append(
            f"its change of the patch embedding, a convolution, is ignored ({few(not_linear['convolution'], 1)})"
        )
    if "embedding" in not_linear:
        words = dict.fromkeys(key.removeprefix("bundle_emb.").rpartition(".")[0] for key in not_linear["embedding"])
        notes.append(
            f"it contains a text encoder embedding ({few(words)}), which is ignored. The layers of the LoRA are"
            " used. Leave that word out of prompts, or describe what it means"
        )
    unused = not_linear.get("auxiliary", []) + not_linear.get("marker", [])
    if unused:
        notes.append(f"entries that have no effect are ignored ({few(unused)})")
    return tuple(f"{file.path.name}: {note}" for note in notes)


def _zero_alphas(file: LoraFile, parsed: Parsed) -> int:
    """Return how many layers have an alpha of 0."""
    alphas = [file.tensors[group.parts["alpha"]] for group in parsed.groups if "alpha" in group.parts]
    return sum(alpha.numel() > 0 and is_zero(alpha) for alpha in alphas)
