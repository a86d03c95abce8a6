"""Runs DanceOPD on a trainer of sd-scripts with a mixin: `class X(DanceOPDMixin, Sd3NetworkTrainer)`.

The toolkit's `train(args)` runs unchanged and calls these methods: `assert_extra_args` checks and balances the data,
`post_process_network` attaches the teachers, and `get_noise_pred_and_target`, which knows latents and text conditions,
makes each micro-batch's loss.

A model plugs in with an adapter and its `Architecture`, in one file of `adapters`, and a line in the toolkit's row:

    @dataclass(frozen=True)
    class MyAdapter:
        def condition(self, texts, routes, empty=None) -> Conditions: ...
        def velocity(self, transformer, z_BCHW, sigma_B, condition) -> torch.Tensor: ...
        def sigmas(self, steps, latent_shape) -> torch.Tensor: ...

`texts`: the toolkit's text_encoder_conds, from its cache or its encoders; `empty`: the same list for one empty prompt,
if guidance needs it. `velocity` runs within the accelerator's autocast.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from danceopd_ext.config.schema import DanceOPDSection
from danceopd_ext.data.route_weights import check_weights
from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.hosted.active_adapter import Switch
from danceopd_ext.toolkits.hosted.architecture import Architecture
from danceopd_ext.toolkits.hosted.conditions import Entry
from danceopd_ext.toolkits.hosted.console import tell
from danceopd_ext.toolkits.hosted.distiller import Distiller
from danceopd_ext.toolkits.hosted.resume import Replay, take_resume
from danceopd_ext.toolkits.hosted.seams import SeamCall
from danceopd_ext.toolkits.hosted.session import Session
from danceopd_ext.toolkits.hosted.teacher_files import autocast_dtype
from danceopd_ext.toolkits.hosted.teacher_networks import attach_teachers
from danceopd_ext.toolkits.metadata import hosted_entries
from danceopd_ext.toolkits.sd_scripts.block_swap import block_swap
from danceopd_ext.toolkits.sd_scripts.captions import settle_captions
from danceopd_ext.toolkits.sd_scripts.empty_prompt import Watched, encode_empty_prompt, needs_empty_prompt
from danceopd_ext.toolkits.sd_scripts.routed_datasets import (
    TEACHER,
    assign_routes,
    balance,
    forget_pictures,
    mend_cached_texts,
)
from danceopd_ext.toolkits.sd_scripts.teacher_network import network_maker

#: graphs that torch.compile may keep for each adapter: it makes one for every size and number of samples
GRAPHS_PER_ADAPTER = 8


class DanceOPDMixin:
    """Put it before a NetworkTrainer of sd-scripts (see `trainer_class`).

    `options`: [danceopd]. `architecture`: the trainer's row. `asked_for_cache`: the user asked for a cache of texts.
    """

    def __init__(self, options: DanceOPDSection, architecture: Architecture, asked_for_cache: bool = True):
        super().__init__()
        self.options, self.architecture, self.asked_for_cache = options, architecture, asked_for_cache
        self.weights: dict[str, float] = {}
        self.preset_as_used, self.save_preset = "", lambda: None
        self.empty: list[Entry] | None = None
        self.distiller: Distiller | None = None
        self.replay: Replay | None = None
        self.session: Session | None = None
        self._loss: torch.Tensor | None = None

    def assert_extra_args(self, *given, **named) -> None:
        call = SeamCall(super().assert_extra_args, given, named)
        args, training, validation = call.several("args", "train_dataset_group", "val_dataset_group")
        teachers = list(self.options.teachers)
        self.weights = check_weights(self.options.routes, teachers)
        groups = [group for group in (training, validation) if group is not None]
        for group in groups:
            assign_routes(group, teachers)
            forget_pictures(group, self.architecture.latent_channels, self.architecture.latent_scale)
        note = settle_captions(args, groups, self.asked_for_cache, self.architecture.drops_cached)
        for line in filter(None, [note, *balance(training, self.weights, args.seed)]):
            tell(line)
        call.call_original()
        self.replay = take_resume(args)

    def cache_text_encoder_outputs_if_needed(self, *given, **named) -> None:
        call = SeamCall(super().cache_text_encoder_outputs_if_needed, given, named)
        args, accelerator, dataset = call.several("args", "accelerator", "dataset")

        def encode(models: list[Any]) -> None:
            self.empty = encode_empty_prompt(args, accelerator, models, cached=True)

        watched = Watched(dataset, encode) if needs_empty_prompt(self.options) else dataset
        call.call_original(dataset=watched)
        mend_cached_texts(dataset)

    def post_process_network(self, *given, **named) -> None:
        call = SeamCall(super().post_process_network, given, named)
        call.call_original()
        args, accelerator, unet = call.several("args", "accelerator", "unet")
        if not getattr(call["network"], "unet_loras", True):
            raise UserError(
                f"network_args = {args.network_args} leaves the student without a layer to train. Change it."
            )
        if note := self.architecture.mend(unet):
            tell(note)
        dtype = autocast_dtype(args.mixed_precision)
        encoders = call["text_encoders"]
        make = network_maker(self.architecture, encoders, unet)
        teachers = attach_teachers(self.options, self.architecture, make, unet, accelerator.device, dtype, encoders)
        swap = block_swap(unet, getattr(args, "blocks_to_swap", None), self.options.student_guidance_scale)
        self.distiller = Distiller(
            self.options,
            self.architecture.adapter(self, args),
            Switch(call["network"], teachers, swap),
            accelerator,
            args.seed,
            leaf_inputs=args.gradient_checkpointing,
        )
        accelerator.register_for_checkpointing(self.distiller.progress)  # before the toolkit resumes

    def prepare_unet_with_accelerator(self, *given, **named) -> torch.nn.Module:
        call = SeamCall(super().prepare_unet_with_accelerator, given, named)
        args = call["args"]
        if args.torch_compile or getattr(args, "compile", False):
            allow_graphs((len(self.options.teachers) + 2) * GRAPHS_PER_ADAPTER)
        return call.call_original()

    def process_batch(self, *given, **named) -> torch.Tensor:
        """Return the method's loss, without the toolkit's own weighting."""
        call = SeamCall(super().process_batch, given, named)
        args, accelerator, text_encoders = call.several("args", "accelerator", "text_encoders")
        if call["is_train"] and self.replay and not self.replay.is_over(args, accelerator):
            return self.replay.zero_loss(accelerator.unwrap_model(call["network"]))
        if call["is_train"]:
            self.session.begin()
        for encoder in text_encoders:
            if encoder is not None and encoder.training:
                encoder.eval()  # with gradient checkpointing the toolkit leaves their dropout on
        if self.empty is None and needs_empty_prompt(self.options):
            models = self.get_models_for_text_encoding(args, accelerator, text_encoders)
            self.empty = encode_empty_prompt(args, accelerator, models, cached=False)
        # a copy: some versions change the same batch repeatedly in validation
        call.call_original(batch=dict(call["batch"]))
        loss, self._loss = self._loss, None
        if call["is_train"]:
            self.session.end()
        return loss

    def get_noise_pred_and_target(self, *given, **named) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        """Make the loss. The result only satisfies the toolkit's own loss, which is not used."""
        call = SeamCall(super().get_noise_pred_and_target, given, named)
        args, latents, transformer = call.several("args", "latents", "unet|dit")
        routes = [attributes[TEACHER] for attributes in call["batch"]["custom_attributes"]]
        condition = self.distiller.adapter.condition(call["text_encoder_conds"], routes, self.empty)
        captions = call["batch"].get("captions") or ()
        condition = replace(condition, captions=captions if len(captions) == len(routes) else ())
        shape = tuple(latents.shape[1:])
        if call["is_train"]:
            self._loss = self.distiller.loss(transformer, condition, shape)
        else:  # the toolkit sets the noise level by narrowing its range of timesteps
            seed = args.seed if args.validation_seed is None else args.validation_seed
            sigma = float(args.min_timestep) / 1000
            self._loss = self.distiller.validation_loss(transformer, condition, shape, seed, sigma)
        nothing = latents.new_zeros(len(latents), 1, 1, 1)  # older versions take the mean over exactly three axes
        return nothing, nothing, nothing.flatten(), None

    def sample_images(self, *given, **named) -> None:
        call = SeamCall(super().sample_images, given, named)
        if self.replay and self.replay.quiet:
            self.replay.after_step(call["global_step"], call["accelerator"])
            return
        with self.session.drawing.pictures():
            call.call_original()

    def generate_step_logs(self, *given, **named) -> dict[str, Any]:
        return {**super().generate_step_logs(*given, **named), **self.distiller.logs}

    def accelerator_logging(self, *given, **named) -> None:
        if not (self.replay and self.replay.quiet):
            super().accelerator_logging(*given, **named)

    def update_metadata(self, *given, **named) -> None:
        call = SeamCall(super().update_metadata, given, named)
        call.call_original()
        call["metadata"].update(hosted_entries(self.options, self.weights, self.preset_as_used))
        self.save_preset()
        self.session = Session(call["args"], self.distiller)  # the last seam before the loop


def trainer_class(base: type) -> type:
    """Return the toolkit's trainer class with DanceOPD before it."""
    return type(f"DanceOPD{base.__name__}", (DanceOPDMixin, base), {})


def allow_graphs(count: int) -> None:
    """Let torch.compile keep a graph for every adapter; above its limit it falls back to slow, uncompiled code."""
    import torch._dynamo

    config = torch._dynamo.config
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    setattr(config, name, max(count, getattr(config, name)))
    total = "accumulated_" + name
    setattr(config, total, max(4 * count, getattr(config, total)))
