"""Z-Image on musubi, number by number: teachers are themselves, gradients are right, the rollout is the sampler's."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from danceopd_ext.method import rollout
from tests.integration.musubi import tiny_z_image
from tests.integration.musubi.runs import here, write_preset
from tests.integration.musubi.worlds import World

TEACHERS = "[danceopd.teachers.style]\nlora = {style!r}\n[danceopd.teachers.sketch]\nlora = {sketch!r}\n[danceopd.teachers.base]\n[danceopd.datasets]\nstyle = 1\nsketch = 2\n[danceopd.routes]\nbase = 0\n"  # noqa: E501


def section(world: World) -> str:
    return TEACHERS.format(style=str(world.style), sketch=str(world.sketch))


def alone(world: World, name: str | None, fp8: bool) -> torch.nn.Module:
    """A separate model with only this LoRA on it, loaded and put on by musubi itself."""
    from musubi_tuner.networks import lora_zimage
    from musubi_tuner.zimage import zimage_model

    model = zimage_model.load_zimage_model(
        "cpu", str(world.dit), "torch", False, "cpu", None if fp8 else torch.float32, fp8_scaled=fp8,
        use_16bit_for_attention=True,
    )  # fmt: skip
    if name:
        tensors = load_file(getattr(world, name))
        if name == "sketch":
            tensors = kohya(tensors)
        network = lora_zimage.create_arch_network_from_weights(1.0, tensors, unet=model, for_inference=True)
        network.apply_to(None, model, apply_text_encoder=False, apply_unet=True)
        network.load_state_dict(tensors, strict=True)
        model.keep = network
    return model


def kohya(tensors: dict) -> dict:
    """diffusers' names as musubi's own converter has them."""
    from musubi_tuner.convert_lora import convert_from_diffusers

    return convert_from_diffusers("lora_unet_", tensors)


class Compare:
    """Around each step: every route against a separate model."""

    world: World

    def on_train_start(self, *arguments):
        super().on_train_start(*arguments)
        fp8 = arguments[0].fp8_scaled
        self.separate = {name: alone(self.world, name, fp8) for name in ("style", "sketch", None)}
        self.differences: list[float] = []
        self.compare()

    def on_post_optimizer_step(self, *arguments):
        super().on_post_optimizer_step(*arguments)
        self.compare()

    @torch.no_grad()
    def compare(self):
        batch = {name: entry for name, entry in self.group[0].items() if name != "danceopd_route"}
        condition = self.adapter.condition(batch, ["style"])
        z, sigma = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3)), torch.tensor([0.6])
        answers = {}
        for name, model in self.separate.items():
            self.distiller.switch.to(name, False)
            answers[name] = self.adapter.velocity(self.transformer, z, sigma, condition)
            expected = self.adapter.velocity(model, z, sigma, condition)
            self.differences.append(float((answers[name] - expected).abs().max()))
        assert float((answers["style"] - answers["sketch"]).abs().max()) > 0.05
        assert float((answers["style"] - answers[None]).abs().max()) > 0.05
        self.distiller.switch.restore()


FP8 = {"fp8_base": True, "fp8_scaled": True, "mixed_precision": "bf16"}
AGAIN = {"gradient_checkpointing": True}


@pytest.mark.parametrize("values", [{}, AGAIN, {**FP8, **AGAIN}], ids=["plain", "again", "fp8"])
def test_each_route_is_exactly_a_model_with_only_that_lora(world, tmp_path, values):
    """Also right after a step whose forward was run again in its backward pass, and on a base in fp8."""
    watch = type("Watch", (Compare,), {"world": world})
    preset = write_preset(
        tmp_path / "p.toml", section(world), dit=world.dit, dataset_config=world.data, max_train_steps=2,
        network_dropout=0.5, **values,
    )  # fmt: skip
    assert here(preset, watch).differences == [0.0] * 9


def test_gradient_checkpointing_changes_no_gradient(world, tmp_path):
    """The forward is run again in the backward pass; it must find the same adapter and dropout there."""
    gradients = []
    for checkpointing in (False, True):
        preset = write_preset(
            tmp_path / str(checkpointing) / "p.toml", section(world), dit=world.dit, dataset_config=world.data,
            gradient_checkpointing=checkpointing, network_weights=world.start, max_train_steps=2, network_dropout=0.3,
        )  # fmt: skip
        gradients.append(here(preset).gradients)
    for plain, checkpointed in zip(*gradients, strict=True):
        assert float(plain.norm()) > 1e-4
        assert float((plain - checkpointed).norm() / plain.norm()) < 1e-6


def test_rollout_and_teacher_run_without_the_students_dropout(world, tmp_path):
    """With dropout on, the rollout of a step would not be what the finished LoRA does."""
    states = []
    for dropout in (None, 0.9):
        preset = write_preset(
            tmp_path / str(dropout) / "p.toml", section(world), dit=world.dit, dataset_config=world.data,
            network_weights=world.start, max_train_steps=1, network_dropout=dropout,
        )  # fmt: skip
        trainer = here(preset, Inputs)
        states.append(trainer.inputs)
    assert len(states[0]) == len(states[1])
    assert all(torch.equal(one, other) for one, other in zip(*states, strict=True))


class Inputs:
    """Keeps all latents that the transformer was asked about in the step."""

    def process_batch(self, *arguments):
        self.inputs, self.open = [], True
        answer = super().process_batch(*arguments)
        self.open = False
        return answer

    def call_dit(self, args, accelerator, transformer, latents, *others, **more):
        if getattr(self, "open", False):
            self.inputs.append(latents.detach().clone())
        return super().call_dit(args, accelerator, transformer, latents, *others, **more)


@pytest.mark.parametrize("flow_shift", [None, 5.0])
def test_the_rollout_ends_where_the_sampler_ends(world, flow_shift):
    """Without rounding to bfloat16, musubi's own sampler and the method's rollout make the same picture."""
    from musubi_tuner import zimage_train_network as stock

    from danceopd_ext.toolkits.musubi.adapters.z_image import ZImageAdapter
    from tests.integration.musubi.tiny_case import StandInVae, without_rounding

    model = tiny_z_image.transformer()
    args = SimpleNamespace(mixed_precision="no", gradient_checkpointing=False, split_attn=False)
    accelerator = SimpleNamespace(
        device=torch.device("cpu"), autocast=contextlib.nullcontext, unwrap_model=lambda one: one
    )
    trainer = stock.ZImageNetworkTrainer()
    trainer.handle_model_specific_args(args)
    adapter = ZImageAdapter(trainer, args, flow_shift)
    adapter.accelerator = accelerator
    embed = torch.randn(1, 7, tiny_z_image.CAPTION, generator=torch.Generator().manual_seed(1))
    vae, steps, shift = StandInVae([]), 6, trainer.default_discrete_flow_shift if flow_shift is None else flow_shift
    with without_rounding(stock), torch.no_grad():
        trainer.do_inference(
            accelerator, args, {"cap_feats": embed, "cap_mask": torch.ones(1, 7)}, vae, None, model, shift, steps,
            64, 64, 1, torch.Generator().manual_seed(5), False, guidance_scale=0.0, cfg_scale=1.0,
        )  # fmt: skip
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
        condition = adapter.condition({"llm_embed": [embed[0]]}, ["base"])
        sigmas = adapter.sigmas(steps, (4, 8, 8))

        def field(z_B, sigma_B, condition):
            return adapter.velocity(model, z_B, sigma_B, condition)

        ours = rollout(field, noise, sigmas, condition, torch.tensor([[steps]]))[:, 0]
    theirs = (vae.latents - 0.1159) * 0.3611  # as the decoder gets them: scaled and shifted
    assert sigmas.shape == (steps + 1,)
    assert (float(sigmas[0]), float(sigmas[-1])) == (1.0, 0.0)
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5
    assert float((noise - theirs).norm() / theirs.norm()) > 0.05


def test_compiled_blocks_give_the_same_steps(world, tmp_path):
    """Each adapter gets its own graphs. Two teachers need more than torch's usual eight, where it stops compiling."""
    import torch._dynamo

    files = []
    for compiled in (False, True):
        torch._dynamo.reset()
        preset = write_preset(
            tmp_path / str(compiled) / "p.toml", section(world), dit=world.dit, dataset_config=world.data,
            max_train_steps=3, compile=compiled, compile_backend="eager",
        )  # fmt: skip
        files.append(load_file(here(preset).saved))
    frames = torch._dynamo.utils.counters["frames"]
    assert frames["ok"] == frames["total"] > 8
    assert all(torch.equal(tensor, files[1][name]) for name, tensor in files[0].items())
