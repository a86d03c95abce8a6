"""Functions that watch a run from inside its process; what they return is filled while it runs and saved at its end."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator

from danceopd_ext.toolkits.hosted.active_adapter import STUDENT
from danceopd_ext.toolkits.hosted.distiller import Distiller, HostedField
from danceopd_ext.toolkits.sd_scripts.adapters.sd3 import mend_second_attention
from danceopd_ext.toolkits.sd_scripts.trainer import DanceOPDMixin
from tests.integration.endings import ctrl_c, full_disk, full_memory  # noqa: F401
from tests.integration.sd_scripts.swap_probes import residents, residents_left_alone  # noqa: F401


def nothing() -> None:
    """Watch nothing."""


def steps() -> dict[str, list[Any]]:
    """Of every micro-batch: its loss, routes, step, and the places of its samples."""
    seen: dict[str, list[Any]] = {name: [] for name in ("loss", "routes", "step", "indices", "shape", "logs")}
    loss, batch = Distiller.loss, Distiller.batch

    def watched_loss(self, transformer, condition, shape):
        seen["step"].append(self.progress.step)
        seen["routes"].append(list(condition.routes))
        seen["shape"].append(list(shape))
        value = loss(self, transformer, condition, shape)
        seen["loss"].append(float(value.detach()))
        return value

    def watched_batch(self, condition, shape):
        made = batch(self, condition, shape)
        seen["indices"].append(list(made.indices))
        return made

    def watched_logs(self, *given, **named):
        logs = toolkit_logs(self, *given, **named)
        seen["logs"].append({name: float(value) for name, value in logs.items()})
        return logs

    toolkit_logs = DanceOPDMixin.generate_step_logs
    Distiller.loss, Distiller.batch = watched_loss, watched_batch
    DanceOPDMixin.generate_step_logs = watched_logs
    return seen


def after_backward(look: Callable[[Any, torch.nn.Module], None]) -> None:
    """Call `look(trainer, network)` when the gradients of a step are complete."""

    def watched(self, accelerator, network):
        super(DanceOPDMixin, self).all_reduce_network(accelerator, network)
        look(self, accelerator.unwrap_model(network))

    DanceOPDMixin.all_reduce_network = watched


def gradients() -> dict[str, Any]:
    """`steps`, and the student and its gradient at the first update."""
    seen = steps()

    def look(trainer, network):
        if "gradient" not in seen:
            weights = dict(network.named_parameters())
            seen["gradient"] = {name: weight.grad.clone() for name, weight in weights.items()}
            seen["student"] = {name: weight.detach().clone() for name, weight in weights.items()}

    after_backward(look)
    return seen


def asked() -> dict[str, Any]:
    """`gradients`, and at the first update: the texts, and each adapter's last state, noise level and velocity."""
    seen = gradients()
    field, loss = HostedField.__call__, Distiller.loss

    def watched_field(self, latents, sigma, condition):
        velocity = field(self, latents, sigma, condition)
        if "gradient" not in seen:
            kept = {"z": latents, "sigma": sigma, "velocity": velocity}
            name = "learning" if torch.is_grad_enabled() else str(self.name)
            seen[name] = {key: value.detach().clone() for key, value in kept.items()}
        return velocity

    def watched_loss(self, transformer, condition, shape):
        if "texts" not in seen:
            seen["texts"] = {name: entry.clone() for name, entry in condition.entries.items()}
        return loss(self, transformer, condition, shape)

    HostedField.__call__, Distiller.loss = watched_field, watched_loss
    return seen


def after_step(look: Callable[..., None]) -> None:
    """Call `look(trainer, args, step, transformer, network)` after each optimizer step."""
    sample = DanceOPDMixin.sample_images

    def watched(self, accelerator, args, epoch, global_step, device, vae, tokenizers, text_encoder, unet):
        if global_step and epoch is None:
            look(self, args, global_step, unet)
        sample(self, accelerator, args, epoch, global_step, device, vae, tokenizers, text_encoder, unet)

    DanceOPDMixin.sample_images = watched


def exact_routes() -> dict[str, Any]:
    """After every step: how far each adapter is from a model of its own that has only that adapter's LoRA.

    `adapters`: the largest difference for each; `apart`: how far they are from the base, which must not be 0.
    """
    seen: dict[str, Any] = {"adapters": [], "apart": []}

    def look(trainer, args, step, transformer):
        distiller = trainer.distiller
        rng = torch.Generator().manual_seed(step)
        z, sigma = torch.randn(2, 16, 8, 8, generator=rng), torch.tensor([0.9, 0.3])
        entries = {
            "context": torch.randn(2, 20, 4096, generator=rng),
            "pooled": torch.randn(2, 96, generator=rng),
        }
        from danceopd_ext.toolkits.hosted.conditions import Conditions

        condition = Conditions(entries, ["x", "x"])
        files = {name: teacher.loras[0] for name, teacher in trainer.options.teachers.items() if teacher.loras}
        mine = {name: value.clone() for name, value in distiller.switch.student.state_dict().items()}
        found = {}
        for adapter, lora in {**files, None: None, STUDENT: mine}.items():
            own = HostedField(distiller.adapter, distiller.switch, adapter, transformer, distiller.accelerator.autocast)
            alone = separate_model(args.pretrained_model_name_or_path, lora)
            with torch.no_grad():
                found[str(adapter)] = own(z, sigma, condition), distiller.adapter.velocity(alone, z, sigma, condition)
        distiller.switch.restore()
        base = found["None"][1]
        seen["adapters"].append({name: float((ours - theirs).abs().max()) for name, (ours, theirs) in found.items()})
        seen["apart"].append({name: float((theirs - base).abs().max()) for name, (_, theirs) in found.items()})

    after_step(look)
    return seen


def separate_model(checkpoint: str, lora: Any) -> torch.nn.Module:
    """The checkpoint with one LoRA (a file, a state dict or none), made by the toolkit as it does for inference."""
    from library import sd3_utils
    from networks import lora_sd3
    from safetensors.torch import load_file

    model = sd3_utils.load_mmdit(load_file(checkpoint), torch.float32, "cpu")
    model.set_pos_emb_random_crop_rate(0.0)
    mend_second_attention(model)
    if lora is not None:
        tensors = load_file(lora) if isinstance(lora, str) else lora
        network, _ = lora_sd3.create_network_from_weights(
            1.0, None, None, [], model, weights_sd=tensors, for_inference=True
        )
        network.apply_to([], model, False, True)
        network.load_state_dict(tensors, strict=True)
    return model.eval()


def learning_and_gradients() -> dict[str, Any]:
    """`exact_routes` and `gradients` of one run."""
    return {"routes": exact_routes(), "steps": gradients()}


def validation() -> dict[str, Any]:
    """The noise levels and losses of validation, and the steps."""
    seen: dict[str, Any] = {"sigma": [], "validated": [], **steps()}
    loss = Distiller.validation_loss

    def watched(self, transformer, condition, shape, seed, sigma):
        value = loss(self, transformer, condition, shape, seed, sigma)
        seen["sigma"].append(sigma)
        seen["validated"].append(float(value))
        return value

    Distiller.validation_loss = watched
    return seen


def ranks() -> None:
    """Of each process, in a file of its own ($SEEN and its rank): the steps, its first noise, its last student."""
    seen = steps()

    def watched(self, args):
        super(DanceOPDMixin, self).train(args)
        seen["student"] = {name: w.detach().clone() for name, w in self.distiller.switch.student.state_dict().items()}
        torch.save(seen, f"{os.environ['SEEN']}{os.environ['RANK']}.pt")

    def noisy(*given, **named):
        noise = draw(*given, **named)
        seen.setdefault("noise", noise.clone())
        return noise

    def frozen_as_it_is(self, model, *more, **named):
        """Accelerate wraps only what is trained, but on the CPU it wraps everything, which torch then refuses."""
        trained = any(weight.requires_grad for weight in model.parameters())
        return prepare(self, model, *more, **named) if trained else model

    prepare, Accelerator.prepare_model = Accelerator.prepare_model, frozen_as_it_is
    update = importlib.import_module("danceopd_ext.method.update")
    draw, update.sample_noise = update.sample_noise, noisy
    DanceOPDMixin.train = watched
