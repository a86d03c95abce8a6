"""In the native environment: the numbers of a step that musubi did, by diffusers' model and our own adapters.

`native_z_image.py EXCHANGE`: a safetensors file with what musubi was asked and answered; its metadata names the model
and LoRA files. Prints the relative differences as JSON. `--pipeline FILE`: can diffusers' ZImagePipeline load the LoRA,
and does it change the transformer as musubi's does?
"""

from __future__ import annotations

import json
import sys

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from danceopd_ext.lora.adapters import Adapters
from danceopd_ext.lora.read import read_lora
from danceopd_ext.models.family import TextConditions
from danceopd_ext.models.registry import FAMILIES
from tests.tiny.families.z_image import z_image_pipeline, z_image_transformer


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def step(tensors: dict, files: dict) -> dict[str, float]:
    """Teacher's and student's velocity, and the gradient of their mean squared difference."""
    model, family = z_image_transformer(), FAMILIES["z_image"]
    model.load_state_dict(load_file(files["dit"]), strict=True)
    layout, adapters = family.layout(model), Adapters(model)
    start = read_lora(files["start"], layout)
    adapters.add("teacher", read_lora(files["teacher"], layout))
    adapters.add_student("student", 4, 4.0, list(start.modules), init=start)
    condition = TextConditions([{"embeds": tensors["caption"]}], {})

    def velocity(name: str) -> torch.Tensor:
        with adapters.use(name):
            return family.velocity(model, tensors["z"], tensors["sigma"], condition)

    with torch.no_grad():
        target = velocity("teacher")
    with adapters.use("student"):
        student = family.velocity(model, tensors["z"], tensors["sigma"], condition)
        (student - target).square().mean().backward()
    answers = {"teacher": apart(tensors["teacher"], target), "student": apart(tensors["student"], student.detach())}
    ours, theirs = gradients(adapters, tensors)
    return {**answers, "gradient": apart(theirs, ours), "gradient_norm": float(ours.norm())}


def gradients(adapters: Adapters, tensors: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Native and musubi's, flat, in the same order."""
    ours, theirs = [], []
    for name, parameter in sorted(adapters.state_dict("student").items()):
        layer, _, part = name.rpartition(".")  # "down" or "up"
        ours.append(parameter.grad.flatten())
        theirs.append(tensors[f"grad.lora_unet_{layer.replace('.', '_')}.lora_{part}.weight"].flatten())
    assert len(ours) == sum(name.startswith("grad.") for name in tensors)
    return torch.cat(ours), torch.cat(theirs)


def pipeline(tensors: dict, files: dict) -> dict[str, float]:
    """What musubi's transformer said with the fused LoRA, against diffusers' pipeline with the converted file."""
    made, family = z_image_pipeline(), FAMILIES["z_image"]
    made.transformer.load_state_dict(load_file(files["dit"]), strict=True)
    condition = TextConditions([{"embeds": tensors["caption"]}], {})
    with torch.no_grad():
        bare = family.velocity(made.transformer, tensors["z"], tensors["sigma"], condition)
        made.load_lora_weights(files["fused"])
        fused = family.velocity(made.transformer, tensors["z"], tensors["sigma"], condition)
    return {"fused": apart(fused, tensors["fused"]), "change": apart(fused, bare)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with safe_open(sys.argv[2], "pt") as file:
        given = file.metadata()
    print("RESULT " + json.dumps({"step": step, "pipeline": pipeline}[sys.argv[1]](load_file(sys.argv[2]), given)))
