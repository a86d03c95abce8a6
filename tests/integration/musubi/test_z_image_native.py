"""The native toolkit and musubi do the same step; and what musubi saved is what the UIs read.

diffusers pads a caption and a picture with learnt tokens to multiples of 32, musubi at batch size 1 does not. So the
captions and pictures here have such lengths.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.integration.musubi import tiny_z_image
from tests.integration.musubi.runs import here, write_preset
from tests.integration.musubi.worlds import dataset

ROOT = Path(__file__).parents[3]
CAPTIONS = ["thirty-one characters of caption"[:31], "and another with as many of them"[:31]]


class Step:
    """Keeps what the transformer was asked and answered last in the first step, and the student's gradient."""

    def on_train_start(self, args, accelerator, network, transformer, optimizer):
        super().on_train_start(args, accelerator, network, transformer, optimizer)
        self.exchange: dict[str, torch.Tensor] = {}
        self.answers: list[torch.Tensor] = []
        step = optimizer.step

        def watched(*arguments):
            grads = {f"grad.{name}": p.grad.clone() for name, p in network.named_parameters()}
            self.exchange.update(grads, teacher=-self.answers[-2], student=-self.answers[-1])
            return step(*arguments)

        optimizer.step = watched

    def call_dit(self, args, accelerator, transformer, latents, batch, noise, noisy, timesteps, dtype):
        output = super().call_dit(args, accelerator, transformer, latents, batch, noise, noisy, timesteps, dtype)
        if not hasattr(self, "after") and getattr(self, "exchange", None) == {}:
            self.asked = {"z": noisy.detach().clone(), "sigma": timesteps / 1000}
            self.asked["caption"] = batch["llm_embed"][0].detach().float().clone()
            self.answers.append(output.pred.detach().clone())
        return output


def native(*arguments: str) -> dict[str, float]:
    """Run native_z_image.py in the environment that DANCEOPD_NATIVE_PYTHON names."""
    script = Path(__file__).with_name("native_z_image.py")
    result = subprocess.run(
        [os.environ["DANCEOPD_NATIVE_PYTHON"], str(script), *arguments], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, timeout=200,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.split("RESULT ")[1])


def one_step(world, tmp_path: Path, **values):
    data = tiny_z_image.write_dataset(tmp_path / "data", CAPTIONS, side=128)
    (tmp_path / "data.toml").write_text(dataset(data))
    danceopd = f'[danceopd.teachers.style]\nlora = "{world.style}"\n'
    preset = write_preset(
        tmp_path / "p.toml", danceopd, dit=world.dit, dataset_config=tmp_path / "data.toml", max_train_steps=1,
        network_weights=world.start, **values,
    )  # fmt: skip
    return here(preset, Step)


def test_the_native_toolkit_does_the_same_step(world, tmp_path):
    trainer = one_step(world, tmp_path, max_grad_norm=0.0)
    files = {"dit": str(world.dit), "teacher": str(world.style), "start": str(world.start)}
    save_file({**trainer.exchange, **trainer.asked}, tmp_path / "exchange.safetensors", metadata=files)
    answer = native("step", str(tmp_path / "exchange.safetensors"))
    print(answer)
    assert answer["gradient_norm"] > 1e-3
    assert max(answer["teacher"], answer["student"], answer["gradient"]) < 1e-4


def test_diffusers_draws_with_what_musubi_saved(world, tmp_path):
    """Trained and saved by musubi, read again strictly by musubi, converted, and loaded by diffusers' pipeline."""
    from musubi_tuner.networks import lora_zimage

    trainer = one_step(world, tmp_path, learning_rate=0.05)
    tensors, model = load_file(trainer.saved), tiny_z_image.transformer()
    network = lora_zimage.create_arch_network_from_weights(1.0, tensors, unet=model, for_inference=True)
    network.apply_to(None, model, apply_text_encoder=False, apply_unet=True)
    assert str(network.load_state_dict(tensors, strict=True)) == "<All keys matched successfully>"
    condition = trainer.adapter.condition({"llm_embed": [trainer.asked["caption"]]}, ["style"])
    with torch.no_grad():
        fused = trainer.adapter.velocity(model, trainer.asked["z"], trainer.asked["sigma"], condition)
    converted = tmp_path / "converted.safetensors"
    subprocess.run(
        [os.environ["DANCEOPD_NATIVE_PYTHON"], "-m", "danceopd_ext", "convert", str(trainer.saved), str(converted),
         "--to", "diffusers"], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=200,
    )  # fmt: skip
    files = {"dit": str(world.dit), "fused": str(converted)}
    save_file({"fused": fused, **trainer.asked}, tmp_path / "exchange.safetensors", metadata=files)
    answer = native("pipeline", str(tmp_path / "exchange.safetensors"))
    print(answer)
    assert answer["change"] > 0.01
    assert answer["fused"] < 1e-4
