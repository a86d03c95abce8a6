"""Memory by part and by phase, from what was counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import torch

from danceopd_ext.config.method_options import method_options
from danceopd_ext.data.resolutions import Size
from danceopd_ext.models.decoding import tile
from danceopd_ext.planning.blueprint import Blueprint, bytes_of
from danceopd_ext.planning.count import Inputs, Need, Passes
from danceopd_ext.planning.gpu_autocast import GpuAutocast
from danceopd_ext.planning.paper import Paper
from danceopd_ext.planning.tally import Tally
from danceopd_ext.planning.weights import (
    Base,
    Held,
    held_bytes,
    held_of,
    state_bytes,
    step_bytes,
    student_numbers,
)
from danceopd_ext.planning.work import Forwards, Work, forwards_of

GIB = 2**30
#: the words for the parts, in the order in which they are shown
PARTS = ("base", "teachers", "student", "gradients", "optimizer", "activations", "latents", "text encoder", "VAE")
#: what Python, torch, CUDA's libraries and the model's code take of main memory
PROGRAM = int(3.0 * GIB)


@dataclass(frozen=True)
class Phase:
    """A phase of the run. `parts`: part -> bytes on the GPU at its peak. `main`: bytes of main memory."""

    name: str
    parts: Mapping[str, int]
    main: int = 0
    note: str = ""

    @property
    def total(self) -> int:
        return sum(self.parts.values())


class Memory:
    """The memory of a run. Passes are counted when they are asked for, once."""

    def __init__(self, work: Work, counts: Counts | None = None):
        self.work, self.preset = work, work.preset
        self.counts = counts or Counts(work.blueprint)

    def with_work(self, work: Work) -> Memory:
        """Return the memory of another run of the same model; what is counted already is used again."""
        return Memory(work, self.counts)

    @cached_property
    def base(self) -> Base:
        held = self.counts.held(self.work.dtype, self.preset.quantize)
        return held.swapped(self.preset.training.blocks_to_swap)

    @property
    def forwards(self) -> Forwards:
        """The forwards of a step, on average."""
        return self.counts.forwards(self.work)

    @cached_property
    def numbers(self) -> int:
        return student_numbers(self.counts.shapes, self.work.student)

    def need(self, kind: str) -> Need:
        """Return what a pass needs: "rollout" of the samples that roll out together, or "gradient" of a piece."""
        samples = self.work.together if kind == "rollout" else self.work.matched
        return self.counts.need(kind, self.work, samples)

    @cached_property
    def resident(self) -> dict[str, int]:
        """The parts that stay on the GPU while the run learns."""
        teachers = [teacher for teacher in self.work.teachers.values() if not teacher.checkpoint]
        return {
            "base": self.base.device,
            "teachers": sum(teacher.bytes for teacher in teachers),
            "student": self.numbers * 4,
            "optimizer": state_bytes(self.preset.optimizer.optimizer_type or "AdamW8bit", self.numbers),
            "latents": self.latents,
        }

    @cached_property
    def latents(self) -> int:
        """Noise, states and targets of a step in float32, and the conditions of its samples."""
        options, work = self.preset.danceopd, self.work
        queries = options.rollout_steps if options.method == "diffusionopd" else options.num_queries
        shape = work.blueprint.latent_shape(*work.largest)
        condition = sum(prod(s) for s in self.counts.inputs(work).condition.values()) * work.dtype.itemsize
        return work.samples * ((2 * queries + 1) * prod(shape) * 4 + condition)

    def phases(self) -> list[Phase]:
        """Return the phases of the run in their order."""
        return [
            self.encoding(), self.loading(), self.rolling(), self.asking(), self.matching(), self.stepping(),
            *([self.previewing()] if self.work.preview else []), self.saving(),
        ]  # fmt: skip

    @property
    def peak(self) -> Phase:
        """The phase that decides whether the run fits.

        Text encoders that do not fit are streamed and previews that do not are turned off.
        """
        return max((self.loading(), self.rolling(), self.asking(), self.matching(), self.stepping()), key=_total)

    def encoding(self) -> Phase:
        size = self.counts.encoders(self.work.dtype, self.preset.model.quantize_text_encoders)
        tokens = self.preset.dataset.text_encoder_batch_size * max(
            self.work.tokens, self.work.blueprint.family.longest_text
        )
        activations = tokens * self.counts.encoder_width * self.work.dtype.itemsize
        parts = {"text encoder": size, "activations": activations}
        if self.work.sources:
            vae, encode = self.counts.vae(max(self.work.sources, key=prod), torch.float32, encode=True)
            if vae + encode > size + activations:
                parts = {"VAE": vae, "activations": encode}
        return Phase("encode", parts, PROGRAM + size)

    def loading(self) -> Phase:
        kept = {"base", "teachers", "student"}
        whole = self.counts.held(self.work.dtype, self.preset.quantize).whole
        checkpoints = sum(one.checkpoint for one in self.work.teachers.values())
        others = checkpoints * bytes_of(self.counts.transformer, self.work.dtype)
        parts = {name: size for name, size in self.resident.items() if name in kept}
        return Phase("load", parts, PROGRAM + max(whole, self.base.main) + others)

    def rolling(self) -> Phase:
        several = len(self.work.sizes) > 1  # a step's second size rolls out when the first has left its gradients
        gradients = {"gradients": self.numbers * 4} if several else {}
        return self._learning("rollout", self._activations("rollout"), gradients)

    def asking(self) -> Phase:
        streamed = self.counts.largest_layer * self.work.dtype.itemsize
        teacher = streamed if any(one.checkpoint for one in self.work.teachers.values()) else 0
        return self._learning("teacher", self._activations("rollout") + teacher, {})

    def matching(self) -> Phase:
        return self._learning("gradient", self._activations("gradient"), {"gradients": self.numbers * 4})

    def stepping(self) -> Phase:
        way = step_bytes(self.preset.optimizer.optimizer_type or "AdamW8bit", self.numbers)
        return self._learning("optimizer", way, {"gradients": self.numbers * 4})

    def previewing(self) -> Phase:
        tiled = self.preset.model.vae_tiling
        vae, decode = self.counts.vae(self.work.preview, self.work.dtype, encode=False, tiled=tiled)
        drawing = self.counts.need("rollout", replace(self.work, sizes=(self.work.preview,)), 1).memory
        drawing += self.base.unpacked
        parts = {"VAE": vae, "activations": decode} if vae + decode > drawing else {"activations": drawing}
        return self._learning("preview", parts.pop("activations"), parts)

    def saving(self) -> Phase:
        return Phase("save", self.resident, self._main + self.numbers * 12)

    def _activations(self, kind: str) -> int:
        return self.need(kind).memory + self.base.unpacked

    @property
    def _main(self) -> int:
        checkpoints = sum(one.checkpoint for one in self.work.teachers.values())
        own = self.base.main + checkpoints * bytes_of(self.counts.transformer, self.work.dtype)
        vae = self.counts.vae_weights(self.work.dtype) if self.work.preview else 0
        return PROGRAM + own + vae

    def _learning(self, name: str, activations: int, more: Mapping[str, int]) -> Phase:
        return Phase(name, {**self.resident, **more, "activations": activations}, self._main)


class Counts:
    """What was counted of one model, so that it is counted once."""

    def __init__(self, blueprint: Blueprint):
        self.blueprint = blueprint
        self._needs: dict[tuple, Need] = {}
        self._held: dict[tuple, Held] = {}
        self._forwards: dict[str, Forwards] = {}
        self._vaes: dict[tuple, tuple[int, int]] = {}

    @cached_property
    def transformer(self) -> torch.nn.Module:
        return self.blueprint.transformer()

    @property
    def shapes(self) -> Mapping[str, tuple[int, int]]:
        return self.blueprint.shapes

    @cached_property
    def largest_layer(self) -> int:
        return max(outputs * inputs for outputs, inputs in self.shapes.values())

    @cached_property
    def parameters(self) -> int:
        return sum(weight.numel() for weight in self.transformer.parameters())

    def held(self, dtype: torch.dtype, quantize: str | None) -> Held:
        """Return how the base is held."""
        if (dtype, quantize) not in self._held:
            self._held[dtype, quantize] = held_of(self.blueprint.family, self.transformer, dtype, quantize)
        return self._held[dtype, quantize]

    def forwards(self, work: Work) -> Forwards:
        """Return the forwards of a step, on average."""
        scales = {name: one.guidance_scale for name, one in work.teachers.items()}
        key = repr((method_options(work.preset.danceopd), work.samples, work.matched, work.together, scales))
        if key not in self._forwards:
            self._forwards[key] = forwards_of(work)
        return self._forwards[key]

    def inputs(self, work: Work) -> Inputs:
        """Return the shapes of what a pass is asked about."""
        model, config = work.blueprint, work.blueprint.whole_config
        sources = [model.latent_shape(*size) for size in work.sources]
        item = model.family.condition_shapes(config, work.tokens, sources)
        empty = model.family.condition_shapes(config, 1, sources) if model.family.text_sees_sources else {}
        return Inputs(model.latent_shape(*work.largest), item, empty or model.family.condition_shapes(config, 32))

    def need(self, kind: str, work: Work, samples: int) -> Need:
        """Count a pass ("rollout" or "gradient"), unless it was counted before."""
        options, training = work.preset.danceopd, work.preset.training
        scale = options.student_guidance_scale
        teacher = max((one.layers for one in work.teachers.values()), key=len, default={})
        key = (kind, work.largest, tuple(work.sources), work.tokens, samples, scale == 1, work.dtype,
               training.gradient_checkpointing, max(work.student.values(), default=0), bool(teacher))  # fmt: skip
        if key not in self._needs:
            paper = Paper(torch.nn.Module.to(self.blueprint.transformer(), work.dtype), work.student, teacher)
            passes = Passes(self.blueprint.family, paper, work.dtype, training.gradient_checkpointing, scale)
            self._needs[key] = getattr(passes, kind)(self.inputs(work), samples)
        return self._needs[key]

    def encoders(self, dtype: torch.dtype, quantize: str | None = None) -> int:
        """Return the bytes of all text encoders."""
        return sum(held_bytes(encoder, dtype, quantize, inside=True) for encoder in self._encoders)

    @cached_property
    def _encoders(self) -> list[torch.nn.Module]:
        return [self.blueprint.encoder(part) for part in self.blueprint.encoders]

    @cached_property
    def encoder_width(self) -> int:
        """Numbers that the widest text encoder keeps of a token: the hidden states of all layers, and an MLP's."""
        widths = [0]
        for _, config in self.blueprint.encoders.values():
            own = config.get("text_config") or config
            hidden = own.get("hidden_size") or own.get("d_model") or 0
            layers = own.get("num_hidden_layers") or own.get("num_layers") or 0
            widths.append(hidden * (layers + 4) + 3 * (own.get("intermediate_size") or own.get("d_ff") or 0))
        return max(widths)

    def vae_weights(self, dtype: torch.dtype) -> int:
        """Return the bytes of the VAE."""
        return bytes_of(self.blueprint.vae(), dtype)

    def vae(self, size: Size, dtype: torch.dtype, encode: bool, tiled: bool = False) -> tuple[int, int]:
        """Return the bytes of the VAE, and what it needs to encode or decode a picture of this size."""
        key = size, dtype, encode, tiled
        if key not in self._vaes:
            self._vaes[key] = self.vae_weights(dtype), self._vae_pass(*key)
        return self._vaes[key]

    def _vae_pass(self, size: Size, dtype: torch.dtype, encode: bool, tiled: bool) -> int:
        vae, tally, scale = torch.nn.Module.to(self.blueprint.vae(), dtype), Tally(), self.blueprint.family.latent_scale
        if tiled:
            tile(vae)
        latents = torch.empty(1, *self.blueprint.latent_shape(*size), dtype=dtype, device="meta")
        pixels = torch.empty(1, 3, size[1], size[0], dtype=dtype, device="meta")
        with torch.no_grad(), GpuAutocast(torch.float32), tally:
            scale.encode(vae, pixels) if encode else scale.decode(vae, latents)
        return tally.peak


def _total(phase: Phase) -> int:
    return phase.total
