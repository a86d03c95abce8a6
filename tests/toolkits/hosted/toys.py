"""A borrowed trainer in a few lines: one linear transformer, LoRA networks around it, an accelerator."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import torch

from danceopd_ext.config.schema import DanceOPDSection, Teacher
from danceopd_ext.toolkits.hosted.active_adapter import Switch
from danceopd_ext.toolkits.hosted.conditions import Conditions
from danceopd_ext.toolkits.hosted.distiller import Distiller

WIDTH, SHAPE = 6, (1, 1, 6)


class Network(torch.nn.Module):
    """A LoRA around a linear layer, as the toolkits chain them; only a teacher can be disabled."""

    def __init__(self, linear: torch.nn.Linear, seed: int, teacher: bool, dropout: float = 0.0):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.down = torch.nn.Parameter(torch.randn(2, WIDTH, generator=rng) / 2)
        self.up = torch.nn.Parameter(torch.randn(WIDTH, 2, generator=rng) / 2)
        self.teacher, self.enabled, self.multiplier, self.dropout = teacher, True, 1.0, dropout
        self.below, linear.forward = linear.forward, self.forward
        self.requires_grad_(not teacher)

    def set_enabled(self, is_enabled: bool) -> None:
        self.enabled = is_enabled

    def set_multiplier(self, multiplier: float) -> None:
        self.multiplier = multiplier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.teacher and not self.enabled:
            return self.below(x)
        low = torch.nn.functional.dropout(x @ self.down.T, self.dropout, self.training)
        return self.below(x) + (low @ self.up.T) * self.multiplier


class Adapter:
    """dz/dsigma is a linear layer of the latents, times sigma, and the text."""

    def condition(self, texts, routes, empty=None) -> Conditions:
        return Conditions({"text": texts}, routes, {"text": torch.zeros(1, *SHAPE)} if empty is None else empty)

    def velocity(self, transformer, z_B, sigma_B, condition) -> torch.Tensor:
        return transformer(z_B * sigma_B.view(-1, 1, 1, 1) + condition["text"])

    def sigmas(self, steps, latent_shape) -> torch.Tensor:
        return torch.linspace(1, 0, steps + 1)


class Swap:
    """Block swap that only records its calls."""

    def __init__(self):
        self.told: list[str] = []

    def for_inference(self) -> None:
        self.told.append("inference")

    def for_training(self) -> None:
        self.told.append("training")


def accelerator(**more) -> SimpleNamespace:
    backwards: list[float] = []

    def backward(loss: torch.Tensor) -> None:
        backwards.append(float(loss.detach()))
        loss.backward()

    facts = {
        "device": torch.device("cpu"), "autocast": nullcontext, "sync_gradients": True, "num_processes": 1,
        "process_index": 0, "gradient_accumulation_steps": 1, "backward": backward, "backwards": backwards,
    }  # fmt: skip
    return SimpleNamespace(**{**facts, **more})


class Toys:
    """transformer, student, teachers a and b (LoRAs) and base, and their Distiller."""

    def __init__(self, teachers: dict[str, Teacher] | None = None, dropout=0.0, leaf_inputs=False, **options):
        self.transformer = torch.nn.Linear(WIDTH, WIDTH, bias=False).requires_grad_(False)
        torch.nn.init.orthogonal_(self.transformer.weight, generator=torch.Generator().manual_seed(0))
        self.weight = self.transformer.weight
        self.teachers = {name: Network(self.transformer, seed, True) for seed, name in enumerate(("a", "b"), 1)}
        self.student, self.swap = Network(self.transformer, 9, False, dropout), Swap()
        self.switch = Switch(self.student, self.teachers, self.swap)
        section = {"toolkit": "sd-scripts", "rollout_steps": 4, "query": "uniform", **options}
        named = teachers or {"a": Teacher(lora="a"), "b": Teacher(lora="b"), "base": Teacher()}
        self.accelerator = accelerator()
        self.distiller = Distiller(
            DanceOPDSection(teachers=named, **section), Adapter(), self.switch, self.accelerator, 5, leaf_inputs
        )

    def condition(self, *routes: str) -> Conditions:
        rng = torch.Generator().manual_seed(len(routes))
        return Adapter().condition(torch.randn(len(routes), *SHAPE, generator=rng), list(routes))

    def loss(self, *routes: str) -> torch.Tensor:
        return self.distiller.loss(self.transformer, self.condition(*routes), SHAPE)

    def matrix(self, name: str | None) -> torch.Tensor:
        """The linear map of the model with one adapter active, by its definition."""
        network = self.student if name == "student" else self.teachers.get(name)
        change = network.up @ network.down if network is not None else 0
        return (self.weight + change).detach()

    def velocity(self, name: str | None, z: torch.Tensor, sigma: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return (z * sigma.view(-1, 1, 1, 1) + text) @ self.matrix(name).T
