"""Runs the method's update on musubi-tuner's trainers with a mixin.

`class DanceOPD(DanceOPDMixin, ZImageNetworkTrainer)` runs through musubi's own `train(args)`. The methods below are
musubi's seams, in the order in which it calls them.
"""

from __future__ import annotations

from typing import Any

import torch

from danceopd_ext.data.route_weights import check_weights
from danceopd_ext.method import derive_seed
from danceopd_ext.toolkits.hosted.active_adapter import Switch
from danceopd_ext.toolkits.hosted.console import tell
from danceopd_ext.toolkits.hosted.distiller import Distiller, Progress
from danceopd_ext.toolkits.hosted.resume import Replay, take_resume
from danceopd_ext.toolkits.hosted.seams import SeamCall, ToolkitChanged, unpacked
from danceopd_ext.toolkits.hosted.session import Session
from danceopd_ext.toolkits.hosted.teacher_files import autocast_dtype
from danceopd_ext.toolkits.hosted.teacher_networks import attach_teachers
from danceopd_ext.toolkits.metadata import hosted_entries
from danceopd_ext.toolkits.musubi.block_swap import block_swap
from danceopd_ext.toolkits.musubi.compile_limit import allow_graphs
from danceopd_ext.toolkits.musubi.routed_group import ROUTE
from danceopd_ext.toolkits.musubi.run_data import RunData
from danceopd_ext.toolkits.musubi.settings import Settings
from danceopd_ext.toolkits.musubi.teacher_network import network_maker


class DanceOPDMixin:
    """Put it before one of musubi's NetworkTrainer classes; see `trainer_class`."""

    def __init__(self, settings: Settings):
        super().__init__()
        self.settings = settings
        self.weights = check_weights(settings.options.routes, list(settings.options.teachers))
        self.progress = Progress()
        self.preset_as_used, self.save_preset = "", lambda: None
        self.session: Session | None = None
        self.replay: Replay | None = None

    def _validate_args_and_init(self, *given: Any, **named: Any) -> bool:
        call = SeamCall(super()._validate_args_and_init, given, named)
        args = call["args"]
        self.replay = take_resume(args)
        if args.dataset_config is None and self.settings.options.prompts:
            args.dataset_config = ""  # musubi only asks whether it is None
        return call.call_original()

    def handle_model_specific_args(self, *given: Any, **named: Any) -> None:
        call = SeamCall(super().handle_model_specific_args, given, named)
        call.call_original()
        self.adapter = self.settings.architecture.adapter(self, call["args"], self.settings.flow_shift)

    def _build_dataset(self, *given: Any, **named: Any):
        call = SeamCall(super()._build_dataset, given, named)
        args = call["args"]
        self.run_data = RunData(self.settings, self.weights, self.adapter)
        theirs = (lambda args: call.call_original(args=args)) if args.dataset_config else None
        group, collator, epoch = self.run_data.build(args, theirs)
        for note in self.run_data.notes:
            tell(note)
        return group, collator, epoch

    def _prepare_sampling(self, *given: Any, **named: Any):
        call = SeamCall(super()._prepare_sampling, given, named)
        self.adapter.accelerator = call["accelerator"]
        self.run_data.encode(call["accelerator"])
        return call.call_original()

    def on_transformer_loaded(self, *given: Any, **named: Any) -> None:
        call = SeamCall(super().on_transformer_loaded, given, named)
        call.call_original()
        args, accelerator, transformer = call.several("args", "accelerator", "transformer")
        self.teachers = attach_teachers(
            self.settings.options,
            self.settings.architecture,
            network_maker(transformer),
            transformer,
            accelerator.device,
            autocast_dtype(accelerator.mixed_precision),
        )
        for name, network in self.teachers.items():
            accelerator.print(f"teacher {name}: {len(network.unet_loras)} layers")
        allow_graphs(args, len(self.teachers))

    def _build_optimizer_and_dataloader(self, *given: Any, **named: Any):
        call = SeamCall(super()._build_optimizer_and_dataloader, given, named)
        made = unpacked(call.call_original(), 8, "_build_optimizer_and_dataloader")
        # its own seed: a resumed run reads its data in the order of the run that was stopped
        made[-1].sampler.generator = torch.Generator().manual_seed(derive_seed(call["args"].seed, "order"))
        return made

    def _prepare_with_accelerator(self, *given: Any, **named: Any):
        made = unpacked(super()._prepare_with_accelerator(*given, **named), 7, "_prepare_with_accelerator")
        self.adapter.network_dtype = made[6]
        if not isinstance(self.adapter.network_dtype, torch.dtype):
            raise ToolkitChanged("_prepare_with_accelerator returns the network's dtype in another place")
        return made

    def _register_hooks_and_resume(self, *given: Any, **named: Any):
        call = SeamCall(super()._register_hooks_and_resume, given, named)
        call["accelerator"].register_for_checkpointing(self.progress)
        return call.call_original()

    def on_train_start(self, *given: Any, **named: Any):
        call = SeamCall(super().on_train_start, given, named)
        call.call_original()
        args, accelerator, network, transformer = call.several("args", "accelerator", "network", "transformer")
        self.adapter.empty = self.run_data.empty(accelerator.device)
        swap = block_swap(accelerator.unwrap_model(transformer), args.blocks_to_swap)
        self.distiller = Distiller(
            self.settings.options,
            self.adapter,
            Switch(accelerator.unwrap_model(network), self.teachers, swap),
            accelerator,
            args.seed,
            progress=self.progress,
        )
        self.save_preset()
        self.session = Session(args, self.distiller)

    def process_batch(self, *given: Any, **named: Any) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the loss of a micro-batch and what to log of it."""
        call = SeamCall(super().process_batch, given, named)
        transformer, batch, latents = call.several("transformer", "batch", "latents")
        args, accelerator = call.several("args", "accelerator")
        if self.replay and not self.replay.is_over(args, accelerator):
            return self.replay.zero_loss(accelerator.unwrap_model(call["network"])), {}
        self.session.begin()
        routes = list(self.settings.options.teachers)
        conditions = {name: entry for name, entry in batch.items() if name != ROUTE}
        condition = self.adapter.condition(conditions, [routes[batch[ROUTE]]] * len(latents))
        loss = self.distiller.loss(transformer, condition, latents.shape[1:])
        self.session.end()
        return loss, dict(self.distiller.logs)

    def on_post_optimizer_step(self, *given: Any, **named: Any) -> None:
        call = SeamCall(super().on_post_optimizer_step, given, named)
        call.call_original()
        accelerator, has_stepped, steps_before = call.several("accelerator", "sync_gradients", "global_step")
        if self.replay and has_stepped:
            self.replay.after_step(steps_before + 1, accelerator)

    def sample_images(self, *given: Any, **named: Any) -> None:
        call = SeamCall(super().sample_images, given, named)
        accelerator, transformer = call.several("accelerator", "transformer")
        if self.replay and self.replay.quiet:
            return

        def back_to_training() -> None:
            prepare = getattr(accelerator.unwrap_model(transformer), "switch_block_swap_for_training", None)
            if prepare:
                prepare()

        with self.session.drawing.pictures(back_to_training):
            call.call_original()

    def extra_metadata(self, *given: Any, **named: Any) -> dict[str, Any]:
        entries = hosted_entries(self.settings.options, self.weights, self.preset_as_used)
        return {**super().extra_metadata(*given, **named), **entries}


def trainer_class(theirs: type) -> type:
    """Return the trainer that runs the method in place of musubi's `theirs`."""
    return type("DanceOPDTrainer", (DanceOPDMixin, theirs), {})
