"""A stand-in of sd-scripts: a trainer with its seams, in its order, around a model of one attention layer.

tests/integration/sd_scripts/test_contract.py holds the signatures against the real ones.
"""

from __future__ import annotations

import random
import sys
from types import ModuleType, SimpleNamespace

import torch
from accelerate import Accelerator
from tqdm import tqdm

from tests.toolkits.musubi.stand_in import WIDTH, LoraNetwork, Toy
from tests.toolkits.sd_scripts.datasets import DatasetGroup

MODULE = "lora_unet_layers_0_attention_to_q"


def create_network_from_weights(
    multiplier, file, ae, text_encoders, flux, weights_sd=None, for_inference=False, **kwargs
) -> tuple[LoraNetwork, dict]:
    ranks = {key.split(".")[0]: len(value) for key, value in weights_sd.items() if "lora_down" in key}
    return LoraNetwork(flux, ranks, for_inference), weights_sd


class Strategy:
    """Letters as numbers, and these as a text's embedding."""

    def tokenize(self, text: str | list[str]) -> list[torch.Tensor]:
        texts = [text] if isinstance(text, str) else text
        return [torch.tensor([[float(sum(map(ord, one)) % 97)] for one in texts])]

    def encode_tokens(self, tokenize_strategy, models, tokens, enable_dropout=True) -> list[torch.Tensor]:
        assert not models[0].training  # a text encoder's dropout would make two fields of one
        place = torch.arange(WIDTH)
        return [torch.sin(tokens[0] + place).view(-1, 1, 1, WIDTH)]

    def concat_encodings(self, first, second, pooled):
        return first, pooled


class Schedule:
    def get_last_lr(self) -> list[float]:
        return [0.1]


class StandInTrainer:
    """The toolkit's NetworkTrainer as the mixin sees it. `group`, `validation`: its datasets."""

    def __init__(self):
        self.group: DatasetGroup | None = None
        self.validation: DatasetGroup | None = None
        self.calls: list[str] = []

    def train(self, args):
        torch.manual_seed(args.seed)
        random.seed(args.seed)
        self.assert_extra_args(args, self.group, self.validation)
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=args.gradient_accumulation_steps)
        unet, encoders = Toy(), [torch.nn.Dropout(0.5).eval()]
        self.group.new_cache_latents(None, accelerator)
        self.cache_text_encoder_outputs_if_needed(args, accelerator, unet, None, encoders, self.group, torch.float32)
        torch.manual_seed(args.seed)
        network = LoraNetwork(unet, {MODULE: 4}, False)
        self.post_process_network(args, accelerator, network, encoders, unet)
        network.apply_to(None, unet, False, True)
        optimizer = torch.optim.SGD(network.parameters(), lr=args.learning_rate)
        loader = torch.utils.data.DataLoader(self.group, batch_size=1, shuffle=True, collate_fn=lambda found: found[0])
        unet.requires_grad_(False)
        unet = self.prepare_unet_with_accelerator(args, accelerator, unet)
        network, optimizer, loader = accelerator.prepare(network, optimizer, loader)
        if args.gradient_checkpointing:
            encoders[0].train()  # as the toolkit does
        if args.resume:
            accelerator.load_state(args.resume)
        self.metadata = {}
        self.update_metadata(self.metadata, args)
        self.loop(args, accelerator, unet, network, optimizer, loader, encoders)

    def loop(self, args, accelerator, unet, network, optimizer, loader, encoders):
        self.losses, self.logs, self.saved = [], [], {}
        bar = self.bar = tqdm(range(args.max_train_steps), disable=not accelerator.is_local_main_process, desc="steps")
        step = 0
        self.sample_images(accelerator, args, 0, step, accelerator.device, None, [], encoders, unet)
        while step < args.max_train_steps:
            for batch in loader:
                with accelerator.accumulate(network):
                    loss = self.ask(args, accelerator, unet, network, batch, encoders, is_train=True)
                    accelerator.backward(loss)
                    if accelerator.sync_gradients and args.max_grad_norm != 0.0:
                        accelerator.clip_grad_norm_(network.parameters(), args.max_grad_norm)
                    optimizer.step()
                    optimizer.zero_grad()
                self.losses.append(float(loss.detach()))
                if accelerator.sync_gradients:
                    step += 1
                    self.sample_images(accelerator, args, None, step, accelerator.device, None, [], encoders, unet)
                    if args.save_every_n_steps and step % args.save_every_n_steps == 0:
                        self.save(args, accelerator, network, step)
                    bar.set_postfix(avr_loss=self.losses[-1])
                    logs = self.generate_step_logs(args, self.losses[-1], 0.0, Schedule(), None)
                    self.accelerator_logging(accelerator, logs, step, step, 1)
                if step >= args.max_train_steps:
                    break
        bar.close()
        self.validate(args, accelerator, unet, network, encoders)
        if accelerator.is_main_process:
            accelerator.unwrap_model(network).save_weights(
                f"{args.output_dir}/{args.output_name}.safetensors", None, {}
            )
        self.last = {name: value.clone() for name, value in accelerator.unwrap_model(network).state_dict().items()}

    def save(self, args, accelerator, network, step):
        """The LoRA of this step, and the state where save_state is on, under the toolkit's names."""
        name = f"{args.output_dir}/{args.output_name}-step{step:08d}"
        accelerator.unwrap_model(network).save_weights(f"{name}.safetensors", None, {})
        if args.save_state:
            accelerator.save_state(f"{name}-state")

    def validate(self, args, accelerator, unet, network, encoders):
        self.validated = []
        for index in range(len(self.validation or [])):
            for timestep in (200, 800):
                args.min_timestep = args.max_timestep = timestep
                batch = self.validation[index]
                with torch.no_grad():
                    loss = self.ask(args, accelerator, unet, network, batch, encoders, is_train=False)
                self.validated.append(float(loss))

    def ask(self, args, accelerator, unet, network, batch, encoders, is_train):
        strategies = sys.modules["library.strategy_base"]
        return self.process_batch(
            batch, encoders, unet, network, None, None, torch.float32, torch.float32, accelerator, args,
            strategies.TextEncodingStrategy.get_strategy(), strategies.TokenizeStrategy.get_strategy(),
            is_train=is_train, train_text_encoder=False, train_unet=True,
        )  # fmt: skip

    # what the mixin overrides or calls

    def assert_extra_args(self, args, train_dataset_group, val_dataset_group):
        self.calls.append("assert_extra_args")

    def cache_text_encoder_outputs_if_needed(self, args, accelerator, unet, vae, text_encoders, dataset, weight_dtype):
        if args.cache_text_encoder_outputs:
            dataset.new_cache_text_encoder_outputs(text_encoders, accelerator)

    def post_process_network(self, args, accelerator, network, text_encoders, unet):
        self.calls.append("post_process_network")

    def prepare_unet_with_accelerator(self, args, accelerator, unet):
        return unet

    def get_models_for_text_encoding(self, args, accelerator, text_encoders):
        return text_encoders

    def process_batch(
        self, batch, text_encoders, unet, network, vae, noise_scheduler, vae_dtype, weight_dtype, accelerator, args,
        text_encoding_strategy, tokenize_strategy, is_train=True, train_text_encoder=True, train_unet=True,
    ) -> torch.Tensor:  # fmt: skip
        texts = batch["text_encoder_outputs_list"]
        if texts is None:
            models = self.get_models_for_text_encoding(args, accelerator, text_encoders)
            texts = text_encoding_strategy.encode_tokens(tokenize_strategy, models, batch["input_ids_list"])
        ours, theirs, timesteps, weighting = self.get_noise_pred_and_target(
            args, accelerator, noise_scheduler, batch["latents"], batch, texts, unet, network, weight_dtype, train_unet,
            is_train=is_train,
        )  # fmt: skip
        loss = torch.nn.functional.mse_loss(ours.float(), theirs.float(), reduction="none")
        assert weighting is None
        assert timesteps.shape == (len(batch["captions"]),)
        return (loss.mean(dim=list(range(1, loss.ndim))) * batch["loss_weights"]).mean() * 1000  # its own weights

    def get_noise_pred_and_target(
        self, args, accelerator, noise_scheduler, latents, batch, text_encoder_conds, unet, network, weight_dtype,
        train_unet, is_train=True,
    ):  # fmt: skip
        raise AssertionError("the toolkit's own loss is not asked for")

    def sample_images(self, accelerator, args, epoch, global_step, device, vae, tokenizers, text_encoder, unet):
        self.calls.append(f"sample {global_step}")

    def generate_step_logs(
        self, args, current_loss, avr_loss, lr_scheduler, lr_descriptions, optimizer=None, keys_scaled=None,
        mean_norm=None, maximum_norm=None, mean_grad_norm=None, mean_combined_norm=None,
    ):  # fmt: skip
        return {"loss/current": current_loss}

    def accelerator_logging(self, accelerator, logs, step_value, global_step, epoch, val_step=None):
        self.logs.append((global_step, logs))

    def update_metadata(self, metadata, args):
        metadata["ss_weighting_scheme"] = "none"


def install(monkeypatch) -> None:
    """Let the toolkit's modules be found for the length of a test."""
    strategy = Strategy()
    base = ModuleType("library.strategy_base")
    for name in ("TokenizeStrategy", "TextEncodingStrategy"):
        setattr(base, name, SimpleNamespace(get_strategy=lambda: strategy))
    network = ModuleType("networks.toy")
    network.create_network_from_weights = create_network_from_weights
    found = {"library": ModuleType("library"), "library.strategy_base": base}
    found |= {"networks": ModuleType("networks"), "networks.toy": network}
    for name, module in found.items():
        monkeypatch.setitem(sys.modules, name, module)
