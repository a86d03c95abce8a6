"""The mixin that makes a trainer of sd-scripts run DanceOPD: `class X(DanceOPDMixin, Sd3NetworkTrainer)`.

The toolkit's `train(args)` runs as it is, and calls these methods of its own class on the way: data is checked and
balanced in `assert_extra_args`, teachers are attached in `post_process_network`, and each micro-batch's loss is made in
`get_noise_pred_and_target`, where latents and text conditions are known.

An architecture plugs in with an adapter and a row in `registry`:

    @dataclass(frozen=True)
    class MyAdapter:
        def condition(self, texts, routes, empty=None) -> Conditions: ...
        def velocity(self, transformer, z_BCHW, sigma_B, condition) -> torch.Tensor: ...
        def sigmas(self, steps, latent_shape) -> torch.Tensor: ...

`texts`: the toolkit's text_encoder_conds, from its cache or its encoders; `empty`: the same list for one empty prompt,
where guidance needs it. `velocity` runs within the accelerator's autocast.
"""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import torch

from danceopd_ext.config.schema import DanceOPDSection
from danceopd_ext.data.weights import check_weights
from danceopd_ext.toolkits.hosted.conditions import Entry
from danceopd_ext.toolkits.hosted.distiller import Distiller
from danceopd_ext.toolkits.hosted.session import Session
from danceopd_ext.toolkits.hosted.switch import Switch
from danceopd_ext.toolkits.hosted.teachers import autocast_dtype
from danceopd_ext.toolkits.hosted.telling import tell
from danceopd_ext.toolkits.metadata import hosted_entries
from danceopd_ext.toolkits.sd_scripts.attach import attach_teachers
from danceopd_ext.toolkits.sd_scripts.captions import settle_captions
from danceopd_ext.toolkits.sd_scripts.data import TEACHER, assign_routes, balance, forget_pictures, mend_cached_texts
from danceopd_ext.toolkits.sd_scripts.empty_prompt import Watched, encode_empty_prompt, needs_empty_prompt
from danceopd_ext.toolkits.sd_scripts.registry import Architecture
from danceopd_ext.toolkits.sd_scripts.resume import Replay, take_resume
from danceopd_ext.toolkits.sd_scripts.swap import block_swap

#: the toolkit's methods that are overridden or called here -> parameters that are relied on
SEAMS = {
    "assert_extra_args": ("args", "train_dataset_group", "val_dataset_group"),
    "cache_text_encoder_outputs_if_needed": ("args", "accelerator", "text_encoders", "dataset"),
    "post_process_network": ("args", "accelerator", "network", "text_encoders", "unet"),
    "prepare_unet_with_accelerator": ("args", "accelerator", "unet"),
    "process_batch": ("batch", "text_encoders", "network", "accelerator", "args", "is_train"),
    "get_noise_pred_and_target": ("args", "latents", "batch", "text_encoder_conds", "is_train"),  # Lumina: no "unet"
    "get_models_for_text_encoding": ("args", "accelerator", "text_encoders"),
    "sample_images": ("accelerator", "args", "epoch", "global_step"),
    "generate_step_logs": ("args", "current_loss", "avr_loss", "lr_scheduler"),
    "accelerator_logging": ("accelerator", "logs", "step_value", "global_step", "epoch"),
    "update_metadata": ("metadata", "args"),
    "train": ("args",),
}
#: graphs that torch.compile may keep for each voice: it makes one for every size and number of samples
GRAPHS_PER_VOICE = 8


class DanceOPDMixin:
    """In front of a NetworkTrainer of sd-scripts.

    `options`: [danceopd]. `architecture`: the trainer's row. `asked_for_cache`: the user wrote that texts are cached.
    """

    def __init__(self, options: DanceOPDSection, architecture: Architecture, asked_for_cache: bool = True):
        super().__init__()
        self.options, self.architecture, self.asked_for_cache = options, architecture, asked_for_cache
        self.weights: dict[str, float] = {}
        self.empty: list[Entry] | None = None
        self.distiller: Distiller | None = None
        self.replay: Replay | None = None
        self.session: Session | None = None
        self._loss: torch.Tensor | None = None

    def assert_extra_args(self, args: Namespace, train_dataset_group: Any, val_dataset_group: Any) -> None:
        teachers = list(self.options.teachers)
        self.weights = check_weights(self.options.routes, teachers)
        groups = [group for group in (train_dataset_group, val_dataset_group) if group is not None]
        for group in groups:
            assign_routes(group, teachers)
            forget_pictures(group, self.architecture.latent_channels, self.architecture.latent_scale)
        note = settle_captions(args, groups, self.asked_for_cache, self.architecture.drops_cached)
        for line in filter(None, [note, *balance(train_dataset_group, self.weights, args.seed)]):
            tell(line)
        super().assert_extra_args(args, train_dataset_group, val_dataset_group)
        self.replay = take_resume(args)

    def cache_text_encoder_outputs_if_needed(
        self, args, accelerator, unet, vae, text_encoders, dataset, weight_dtype
    ) -> None:
        def encode(models: list[Any]) -> None:
            self.empty = encode_empty_prompt(args, accelerator, models, cached=True)

        watched = Watched(dataset, encode) if needs_empty_prompt(self.options) else dataset
        super().cache_text_encoder_outputs_if_needed(args, accelerator, unet, vae, text_encoders, watched, weight_dtype)
        mend_cached_texts(dataset)

    def post_process_network(self, args, accelerator, network, text_encoders, unet) -> None:
        super().post_process_network(args, accelerator, network, text_encoders, unet)
        if note := self.architecture.mend(unet):
            tell(note)
        dtype = autocast_dtype(args.mixed_precision)
        teachers = attach_teachers(self.options, self.architecture, text_encoders, unet, accelerator.device, dtype)
        swap = block_swap(unet, getattr(args, "blocks_to_swap", None), self.options.student_guidance_scale)
        self.distiller = Distiller(
            self.options,
            self.architecture.adapter(args, self),
            Switch(network, teachers, swap),
            accelerator,
            args.seed,
            leaf_inputs=args.gradient_checkpointing,
        )
        accelerator.register_for_checkpointing(self.distiller.progress)  # before the toolkit resumes

    def prepare_unet_with_accelerator(self, args, accelerator, unet) -> torch.nn.Module:
        if args.torch_compile:
            allow_graphs((len(self.options.teachers) + 2) * GRAPHS_PER_VOICE)
        return super().prepare_unet_with_accelerator(args, accelerator, unet)

    def process_batch(
        self, batch, text_encoders, unet, network, vae, noise_scheduler, vae_dtype, weight_dtype, accelerator, args,
        text_encoding_strategy, tokenize_strategy, is_train=True, train_text_encoder=True, train_unet=True,
    ) -> torch.Tensor:  # fmt: skip
        """The method's loss, with nothing of the toolkit's own weighting on it."""
        if is_train and self.replay and not self.replay.is_over(args):
            return self.replay.nothing(accelerator.unwrap_model(network))
        if is_train:
            self.session.begin()
        for encoder in text_encoders:
            if encoder is not None and encoder.training:
                encoder.eval()  # with gradient checkpointing the toolkit leaves their dropout on
        if self.empty is None and needs_empty_prompt(self.options):
            models = self.get_models_for_text_encoding(args, accelerator, text_encoders)
            self.empty = encode_empty_prompt(args, accelerator, models, cached=False)
        super().process_batch(
            batch, text_encoders, unet, network, vae, noise_scheduler, vae_dtype, weight_dtype, accelerator, args,
            text_encoding_strategy, tokenize_strategy, is_train, train_text_encoder, train_unet,
        )  # fmt: skip
        loss, self._loss = self._loss, None
        if is_train:
            self.session.end()
        return loss

    def get_noise_pred_and_target(
        self, args, accelerator, noise_scheduler, latents, batch, text_encoder_conds, unet, network, weight_dtype,
        train_unet, is_train=True,
    ):  # fmt: skip
        """Make the loss; what is returned only satisfies the toolkit's own loss, which is not used."""
        routes = [attributes[TEACHER] for attributes in batch["custom_attributes"]]
        condition = self.distiller.adapter.condition(text_encoder_conds, routes, self.empty)
        shape = tuple(latents.shape[1:])
        if is_train:
            self._loss = self.distiller.loss(unet, condition, shape)
        else:  # the toolkit gives the noise level by narrowing the range that it would draw from
            seed = args.seed if args.validation_seed is None else args.validation_seed
            sigma = float(args.min_timestep) / 1000
            self._loss = self.distiller.validation_loss(unet, condition, shape, seed, sigma)
        nothing = latents.new_zeros(len(latents), 1)
        return nothing, nothing, nothing[:, 0], None

    def sample_images(self, accelerator, args, epoch, global_step, *more) -> None:
        if self.replay and self.replay.quiet:
            self.replay.after_step(global_step, accelerator)
            return
        super().sample_images(accelerator, args, epoch, global_step, *more)

    def generate_step_logs(self, *given, **named) -> dict[str, Any]:
        return {**super().generate_step_logs(*given, **named), **self.distiller.logs}

    def accelerator_logging(self, *given, **named) -> None:
        if not (self.replay and self.replay.quiet):
            super().accelerator_logging(*given, **named)

    def update_metadata(self, metadata: dict[str, Any], args: Namespace) -> None:
        super().update_metadata(metadata, args)
        metadata.update(hosted_entries(self.options, self.weights))
        self.session = Session(args, self.distiller)  # the last seam before the loop


def trainer_class(base: type) -> type:
    """The toolkit's trainer class with DanceOPD in front."""
    return type(f"DanceOPD{base.__name__}", (DanceOPDMixin, base), {})


def allow_graphs(count: int) -> None:
    """Let torch.compile keep a graph for every voice; beyond its limit it falls back to slow, uncompiled code."""
    import torch._dynamo

    config = torch._dynamo.config
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    setattr(config, name, max(count, getattr(config, name)))
    total = "accumulated_" + name
    setattr(config, total, max(4 * count, getattr(config, total)))
