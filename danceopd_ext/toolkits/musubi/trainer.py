"""The method's update on musubi-tuner's trainers: a mixin in front of any of them.

`class DanceOPD(DanceOPDMixin, ZImageNetworkTrainer)` runs through musubi's own `train(args)`. The methods below are
musubi's seams, in the order in which it calls them.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from danceopd_ext.config.schema import DanceOPDSection
from danceopd_ext.data.items import Size
from danceopd_ext.data.weights import check_weights
from danceopd_ext.method import derive_seed
from danceopd_ext.toolkits.hosted.distiller import Distiller, Progress
from danceopd_ext.toolkits.hosted.session import Session
from danceopd_ext.toolkits.hosted.switch import Switch
from danceopd_ext.toolkits.hosted.telling import tell
from danceopd_ext.toolkits.metadata import hosted_entries
from danceopd_ext.toolkits.musubi.attach import attach_teachers
from danceopd_ext.toolkits.musubi.compiling import allow_voices
from danceopd_ext.toolkits.musubi.data import ROUTE
from danceopd_ext.toolkits.musubi.registry import Architecture
from danceopd_ext.toolkits.musubi.resume import FastForward, check_state
from danceopd_ext.toolkits.musubi.sources import Sources
from danceopd_ext.toolkits.musubi.swap import block_swap


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What musubi's arguments do not say.

    resolutions, batch_size: of prompt-only data (musubi's datasets have their own). cache: folder of encoded texts.
    flow_shift: the discrete_flow_shift that the user gave; None: the sampler's own.
    """

    options: DanceOPDSection
    architecture: Architecture
    resolutions: tuple[Size, ...] = ((1024, 1024),)
    batch_size: int = 1
    cache: Path = Path("cache")
    flow_shift: float | None = None


class DanceOPDMixin:
    """Put it before one of musubi's NetworkTrainer classes; see `trainer_class`."""

    def __init__(self, settings: Settings):
        super().__init__()
        self.settings = settings
        self.weights = check_weights(settings.options.routes, list(settings.options.teachers))
        self.progress = Progress()
        self.session: Session | None = None

    def _validate_args_and_init(self, args: argparse.Namespace) -> bool:
        check_state(args)
        if args.dataset_config is None and self.settings.options.prompts:
            args.dataset_config = ""  # musubi only asks whether it is None
        return super()._validate_args_and_init(args)

    def handle_model_specific_args(self, args: argparse.Namespace) -> None:
        super().handle_model_specific_args(args)
        self.adapter = self.settings.architecture.adapter(self, args, self.settings.flow_shift)

    def _build_dataset(self, args: argparse.Namespace):
        self.sources = Sources(self.settings, self.weights, self.adapter)
        theirs = super()._build_dataset if args.dataset_config else None
        group, collator, epoch = self.sources.build(args, theirs)
        for note in self.sources.notes:
            tell(note)
        return group, collator, epoch

    def _prepare_sampling(self, args: argparse.Namespace, accelerator: Any, vae_dtype: torch.dtype):
        self.adapter.accelerator = accelerator
        self.sources.encode(accelerator)
        return super()._prepare_sampling(args, accelerator, vae_dtype)

    def on_transformer_loaded(self, args: argparse.Namespace, accelerator: Any, transformer: torch.nn.Module) -> None:
        super().on_transformer_loaded(args, accelerator, transformer)
        architecture = self.settings.architecture
        self.teachers = attach_teachers(
            self.settings.options, architecture.names, architecture.title, transformer, accelerator
        )
        allow_voices(args, len(self.teachers))

    def _build_optimizer_and_dataloader(self, args: argparse.Namespace, *others: Any):
        made = super()._build_optimizer_and_dataloader(args, *others)
        # Of its own seed, so that a resumed run reads its data in the order of the run that was stopped.
        made[-1].sampler.generator = torch.Generator().manual_seed(derive_seed(args.seed, "order"))
        return made

    def _prepare_with_accelerator(self, args: argparse.Namespace, *others: Any):
        made = super()._prepare_with_accelerator(args, *others)
        self.lr_scheduler, self.adapter.network_dtype = made[4], made[6]
        return made

    def _register_hooks_and_resume(self, args: argparse.Namespace, accelerator: Any, network: torch.nn.Module):
        accelerator.register_for_checkpointing(self.progress)
        return super()._register_hooks_and_resume(args, accelerator, network)

    def on_train_start(
        self, args: argparse.Namespace, accelerator: Any, network: Any, transformer: Any, optimizer: Any
    ):
        super().on_train_start(args, accelerator, network, transformer, optimizer)
        self.adapter.empty = self.sources.empty(accelerator.device)
        swap = block_swap(accelerator.unwrap_model(transformer), args.blocks_to_swap)
        self.distiller = Distiller(
            self.settings.options,
            self.adapter,
            Switch(accelerator.unwrap_model(network), self.teachers, swap),
            accelerator,
            args.seed,
            progress=self.progress,
        )
        self.fast_forward = FastForward(self.progress.step, args, accelerator, optimizer, self.lr_scheduler)
        self.session = Session(args, self.distiller)

    def process_batch(
        self, args: argparse.Namespace, accelerator: Any, transformer: Any, network: Any, batch: dict[str, Any],
        latents: torch.Tensor, *others: Any,
    ) -> tuple[torch.Tensor, dict[str, float]]:  # fmt: skip
        """musubi's seam of a micro-batch: its loss, and what to log of it."""
        skipped = self.fast_forward.skip()
        if skipped is not None:
            return skipped, {}
        self.session.begin()
        routes = list(self.settings.options.teachers)
        conditions = {name: entry for name, entry in batch.items() if name != ROUTE}
        condition = self.adapter.condition(conditions, [routes[batch[ROUTE]]] * len(latents))
        loss = self.distiller.loss(transformer, condition, latents.shape[1:])
        self.session.end()
        return loss, dict(self.distiller.logs)

    def extra_metadata(self, args: argparse.Namespace) -> dict[str, Any]:
        return {**super().extra_metadata(args), **hosted_entries(self.settings.options, self.weights)}


def trainer_class(theirs: type) -> type:
    """The trainer that runs the method in the place of musubi's `theirs`."""
    return type("DanceOPDTrainer", (DanceOPDMixin, theirs), {})
