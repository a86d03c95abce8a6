"""What the native trainer, and diffusers itself, make of the same files: run by native.py in their environment."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from safetensors.torch import load_file

from danceopd_ext.engine.fields import AdapterField
from danceopd_ext.lora.adapters import Adapters
from danceopd_ext.lora.read import read_lora
from danceopd_ext.method import Batch, MethodOptions, Step, Student, distil
from danceopd_ext.models.family import TextConditions
from danceopd_ext.models.loading import load_transformer
from danceopd_ext.models.model_files import ModelFiles
from danceopd_ext.models.registry import FAMILIES

SD3 = FAMILIES["sd3"]
TEACHER, STUDENT = "teacher", "student"


def transformer(checkpoint: str, folder: Path) -> torch.nn.Module:
    """The single file of sd-scripts, loaded as the native trainer loads it; the configuration is diffusers' own."""
    SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=16, num_layers=2, attention_head_dim=64, num_attention_heads=2,
        joint_attention_dim=4096, caption_projection_dim=128, pooled_projection_dim=96, out_channels=16,
        pos_embed_max_size=16, dual_attention_layers=(0,), qk_norm="rms_norm",
    ).save_config(folder / "config" / "transformer")  # fmt: skip
    return load_transformer(ModelFiles(SD3, Path(checkpoint), folder / "config", "tiny"), torch.float32)


def convert(checkpoint: str, lora: str, out: str) -> dict[str, torch.Tensor]:
    """Convert the LoRA with the command, load it with diffusers, ask for a velocity."""
    command = [sys.executable, "-m", "danceopd_ext", "convert", lora, out, "--to", "diffusers"]
    subprocess.run(command, check=True, capture_output=True)
    model = transformer(checkpoint, Path(out).parent)
    model.load_lora_adapter(load_file(out), prefix="transformer")
    rng = torch.Generator().manual_seed(9)
    asked = {
        "z": torch.randn(2, 16, 8, 8, generator=rng),
        "sigma": torch.tensor([0.8, 0.2]),
        "context": torch.randn(2, 20, 4096, generator=rng),
        "pooled": torch.randn(2, 96, generator=rng),
    }
    with torch.no_grad():
        velocity = SD3.velocity(model, asked["z"], asked["sigma"], texts(asked))
    return {**asked, "velocity": velocity}


def texts(entries: dict[str, torch.Tensor]) -> TextConditions:
    pairs = zip(entries["context"], entries["pooled"], strict=True)
    items = [{"embeds": context, "pooled": pooled} for context, pooled in pairs]
    return TextConditions(items, items[0])


def update(checkpoint: str, teacher: str, toolkit: str, seed: str, steps: str, out: str) -> dict[str, torch.Tensor]:
    """The first update of the run that `toolkit` tells of, by the native parts: the same texts and student."""
    seen = torch.load(toolkit, weights_only=True)
    model = transformer(checkpoint, Path(out).parent)
    layout = SD3.layout(model)
    adapters = Adapters(model)
    adapters.add(TEACHER, read_lora(teacher, layout))
    fused = fused_layers(layout, seen["student"])
    rank = len(seen["student"][f"{next(iter(fused))}.lora_down.weight"])
    adapters.add_student(STUDENT, rank, float(rank), [part for parts in fused.values() for part in parts])
    factors = adapters.state_dict(STUDENT)
    for key, parts in fused.items():
        down, up = (seen["student"][f"{key}.lora_{name}.weight"] for name in ("down", "up"))
        for part, rows in zip(parts, native_rows(layout, parts, up), strict=True):
            factors[f"{part}.down"].data.copy_(down)
            factors[f"{part}.up"].data.copy_(rows)
    asked: dict[str, torch.Tensor] = {}
    fields = {name: AdapterField(SD3, adapters, name, nullcontext) for name in (TEACHER, STUDENT)}
    condition = texts(seen["texts"])
    count = len(condition)
    grid = SD3.sigmas(FlowMatchEulerDiscreteScheduler(shift=3.0), model.config, int(steps), (8, 8))
    batch = Batch(condition, list(range(count)), count, (16, 8, 8), grid, count)
    step = Step(options=MethodOptions(rollout_steps=int(steps)), seed=int(seed), number=0)
    teacher, student = (watched(fields[name], name, asked) for name in (TEACHER, STUDENT))
    distil(step, batch, teacher, Student(field=student, backward=torch.Tensor.backward))
    gradient = {}
    for key, parts in fused.items():
        gradient[f"{key}.lora_down.weight"] = sum(factors[f"{part}.down"].grad for part in parts)
        ups = [factors[f"{part}.up"].grad for part in parts]
        gradient[f"{key}.lora_up.weight"] = torch.cat(native_rows(layout, parts, torch.cat(ups)))
    return {**asked, **{f"gradient/{name}": value for name, value in gradient.items()}, "grid": grid}


def fused_layers(layout, student: dict[str, torch.Tensor]) -> dict[str, tuple[str, ...]]:
    """The toolkit's LoRA module -> the diffusers layers that it changes, in order."""
    keys = {"lora_unet_" + name.replace(".", "_"): parts for name, parts in layout.native.items()}
    return {key: keys[key] for key in sorted({name.partition(".")[0] for name in student})}


def native_rows(layout, parts: tuple[str, ...], up: torch.Tensor) -> list[torch.Tensor]:
    """The rows of a fused up for each of its parts; scale and shift change places where diffusers has them so."""
    outputs, inputs = layout.shapes[parts[0]]
    if parts[0] in layout.swapped and outputs == 2 * inputs:
        return [torch.cat(up.chunk(2)[::-1])]
    return list(up.split([layout.shapes[part][0] for part in parts]))


def watched(field, name: str, asked: dict[str, torch.Tensor]):
    def ask(z, sigma, condition):
        velocity = field(z, sigma, condition)
        who = "learning" if torch.is_grad_enabled() else name
        asked[f"{who}/z"], asked[f"{who}/sigma"] = z.detach().clone(), sigma.clone()
        asked[f"{who}/velocity"] = velocity.detach().clone()
        return velocity

    return ask


if __name__ == "__main__":
    command, *words, result = sys.argv[1:]
    torch.save({"convert": convert, "update": update}[command](*words), result)
