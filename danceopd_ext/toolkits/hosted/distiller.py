"""Runs the method's update on a borrowed trainer.

The toolkit owns data, optimizer, accumulation, saving and sampling. For each micro-batch it needs one loss for its
backward pass, and `Distiller.loss` returns it: steps 2 to 5 of the method (`method.distil`) on samples whose routes the
data has decided.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from danceopd_ext.config.method_options import method_options
from danceopd_ext.config.schema import DanceOPDSection
from danceopd_ext.errors import TrainingError
from danceopd_ext.method import (
    Batch,
    Field,
    Outcome,
    Step,
    Student,
    by_route,
    distil,
    guided,
    rollout,
    sample_noise,
    velocity_mse,
)
from danceopd_ext.method.records import Backward, Stage, unmeasured
from danceopd_ext.toolkits.hosted.active_adapter import STUDENT, Switch
from danceopd_ext.toolkits.hosted.adapter import Adapter
from danceopd_ext.toolkits.hosted.conditions import Conditions, routes_of
from danceopd_ext.toolkits.hosted.nan_search import blame

#: (name, field) -> the field that is called in its place
Watch = Callable[[str, Field], Field]

#: weight of the earlier micro-batches in the running mean of the loss
RUNNING = 0.98


def unwatched(who: str, field: Field) -> Field:
    """Return the field itself."""
    return field


@dataclass
class Progress:
    """How far the run is. Our random numbers need only this: they are drawn from (seed, step, sample).

    accelerate saves it with the state (`register_for_checkpointing`) and restores it on resume. `loss`: a running
    mean, for messages.
    """

    step: int = 0
    micro_batch: int = 0
    loss: float | None = None

    def next(self, is_update: bool, loss: float) -> None:
        """Count a micro-batch with this loss; `is_update`: it was the last one of an optimizer step."""
        self.step, self.micro_batch = (self.step + 1, 0) if is_update else (self.step, self.micro_batch + 1)
        self.loss = loss if self.loss is None else RUNNING * self.loss + (1 - RUNNING) * loss

    def state_dict(self) -> dict[str, float | None]:
        return {"step": self.step, "micro_batch": self.micro_batch, "loss": self.loss}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step, self.micro_batch, self.loss = state["step"], state["micro_batch"], state["loss"]


@dataclass
class HostedField:
    """The velocity of the toolkit's transformer with one adapter active (see Switch). It stays active after the call.

    `leaf_inputs`: in training the latents require a gradient; without it reentrant gradient checkpointing gives none.
    """

    adapter: Adapter
    switch: Switch
    name: str | None
    transformer: torch.nn.Module
    autocast: Callable[[], AbstractContextManager] = nullcontext
    leaf_inputs: bool = False

    def __call__(self, latents: torch.Tensor, sigma: torch.Tensor, condition: Conditions) -> torch.Tensor:
        training = torch.is_grad_enabled()
        self.switch.to(self.name, training)
        if training and self.leaf_inputs:
            latents = latents.detach().requires_grad_(True)
        with self.autocast():
            return self.adapter.velocity(self.transformer, latents, sigma, condition).float()


@dataclass
class Distiller:
    """One run's method on a toolkit's trainer.

    `accelerator`: the toolkit's own. `seed`: of the run. `leaf_inputs`: see HostedField.
    """

    options: DanceOPDSection
    adapter: Adapter
    switch: Switch
    accelerator: Any
    seed: int
    leaf_inputs: bool = False
    progress: Progress = field(default_factory=Progress)
    logs: dict[str, float] = field(default_factory=dict)
    """Of the last micro-batch: the loss of each route in it, and the mean noise level of its queries."""
    outcome: Outcome | None = None
    routes: Sequence[str] = ()
    """The result of the last micro-batch, and the route of each of its samples."""
    stage: Stage = unmeasured
    """The context in which each stage of an update runs."""

    def __post_init__(self) -> None:
        self.method_options = method_options(self.options)
        self._pieces: list[torch.Tensor] = []
        self._grids: dict[tuple[int, ...], torch.Tensor] = {}

    def loss(self, transformer: torch.nn.Module, condition: Conditions, latent_shape: Sequence[int]) -> torch.Tensor:
        """Return the loss of this micro-batch, for the toolkit's own backward, which must follow immediately."""
        is_update = self.accelerator.sync_gradients
        batch, self._pieces = self.batch(condition, latent_shape), []
        outcome = self.distil(batch, transformer, self._backward)
        loss = float(outcome.loss_B.mean())
        if not math.isfinite(loss):
            self.stop_for_nan(transformer, condition, batch)
        self.progress.next(is_update, loss)
        self.logs = route_logs(outcome, condition.routes)
        self.outcome, self.routes = outcome, condition.routes
        pieces, self._pieces = self._pieces, []
        return sum(pieces[:-1], start=pieces[-1])  # the backward of the others is done: they only add to the value

    @torch.no_grad()
    def validation_loss(
        self, transformer: torch.nn.Module, condition: Conditions, latent_shape: Sequence[int], seed: int, sigma: float
    ) -> torch.Tensor:
        """Return the loss at the state nearest to noise level `sigma`, in the rollout from the noise of `seed`.

        It does not depend on the step, so the values of a run can be compared.
        """
        batch = self.batch(condition, latent_shape)
        samples = list(range(len(condition)))
        index = int((batch.sigmas[:-1] - sigma).abs().argmin())
        teacher, student = self.fields(transformer)
        try:
            noise = sample_noise(seed, 0, samples, batch.latent_shape).to(self.accelerator.device)
            query, solver = torch.tensor([[index]] * len(samples)), self.method_options.rollout_solver
            z_B = rollout(student, noise, batch.sigmas, condition, query, solver)[:, 0]
            sigma_B = batch.sigmas[index].to(z_B).expand(len(samples))
            loss_B = velocity_mse(student(z_B, sigma_B, condition), teacher(z_B, sigma_B, condition))
        finally:
            self.switch.restore()
        return loss_B.mean()

    def stop_for_nan(self, transformer: torch.nn.Module, condition: Conditions, batch: Batch) -> None:
        """Raise TrainingError that says which part broke. Training on would only damage the student's weights."""
        names = ", ".join(dict.fromkeys(condition.routes))
        why = blame(self, transformer, condition, batch)
        raise TrainingError(
            f"the loss of step {self.progress.step + 1} (route {names}) is NaN: {why}. Files saved before this step "
            "are not affected."
        )

    def batch(self, condition: Conditions, latent_shape: Sequence[int]) -> Batch:
        """Return the batch, with places in the whole step that are unique also if micro-batches differ in size."""
        count, world = len(condition), self.accelerator.num_processes
        batches = world * self.accelerator.gradient_accumulation_steps
        place = self.progress.micro_batch * world + self.accelerator.process_index
        return Batch(
            condition=condition,
            indices=[row * batches + place for row in range(count)],
            total=count * batches,
            latent_shape=tuple(latent_shape),
            sigmas=self._grid(tuple(latent_shape)),
            match_batch_size=self.options.match_batch_size or count,
        )

    def _grid(self, latent_shape: tuple[int, ...]) -> torch.Tensor:
        """Return the toolkit's sampling grid, made once for each size, since it builds a scheduler every time."""
        if latent_shape not in self._grids:
            self._grids[latent_shape] = self.adapter.sigmas(self.method_options.rollout_steps, latent_shape)
        return self._grids[latent_shape]

    def field_of(self, name: str | None, transformer: torch.nn.Module) -> HostedField:
        """Return the field of a teacher, STUDENT or the base, without guidance."""
        own = name if name == STUDENT or name in self.switch.teachers else None
        return HostedField(self.adapter, self.switch, own, transformer, self.accelerator.autocast, self.leaf_inputs)

    def fields(self, transformer: torch.nn.Module, watch: Watch = unwatched) -> tuple[Field, Field]:
        """Return (teacher, student); the teacher uses the field of each sample's route."""
        guide = getattr(self.adapter, "guided", guided)
        teachers = {
            name: watch(name, guide(self.field_of(name, transformer), teacher.guidance_scale))
            for name, teacher in self.options.teachers.items()
        }
        student = guide(self.field_of(STUDENT, transformer), self.options.student_guidance_scale)
        return by_route(teachers, routes_of), watch(STUDENT, student)

    def distil(
        self, batch: Batch, transformer: torch.nn.Module, backward: Backward, watch: Watch = unwatched
    ) -> Outcome:
        """Run steps 2 to 5 of the method; `watch(name, field)` may wrap the field of each teacher and the student."""
        teacher, student = self.fields(transformer, watch)
        try:
            return distil(self.step(), batch, teacher, Student(field=student, backward=backward))
        finally:
            self.switch.restore()

    def step(self) -> Step:
        """Return the next step, as the method needs it."""
        number, device = self.progress.step, self.accelerator.device
        return Step(options=self.method_options, seed=self.seed, number=number, device=device, stage=self.stage)

    def _backward(self, loss: torch.Tensor) -> None:
        """Keep the last piece for the toolkit's own backward; run that of earlier ones (num_queries > 1) here."""
        self._pieces.append(loss)
        if len(self._pieces) < self.method_options.num_queries:
            self.accelerator.backward(loss)
            self._pieces[-1] = loss.detach()


def route_logs(outcome: Outcome, routes: Sequence[str]) -> dict[str, float]:
    """Return `loss/NAME` for each route of a batch, and the mean noise level of the queries."""
    of: dict[str, list[float]] = {}
    for route, loss in zip(routes, outcome.loss_B.tolist(), strict=True):
        of.setdefault(route, []).append(loss)
    logs = {f"loss/{route}": sum(losses) / len(losses) for route, losses in of.items()}
    return {**logs, "danceopd/query_sigma": float(outcome.sigma_BK.mean())}
