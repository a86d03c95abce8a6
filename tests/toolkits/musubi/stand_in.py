"""A stand-in of musubi-tuner: a trainer with its seams, in its order, around a model of one attention layer.

tests/integration/musubi/test_contract.py holds the signatures against the real ones.
"""

from __future__ import annotations

import random
import sys
from argparse import Namespace
from multiprocessing import Value
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from tqdm import tqdm

WIDTH = 8


class Toy(torch.nn.Module):
    """layers.0.attention.to_q: [B, 1, 8] -> [B, 1, 8]."""

    def __init__(self, seed: int = 0):
        super().__init__()
        block = torch.nn.Module()
        block.attention = torch.nn.Module()
        block.attention.to_q = torch.nn.Linear(WIDTH, WIDTH, bias=False)
        self.layers = torch.nn.ModuleList([block])
        weight = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(seed))
        block.attention.to_q.weight.data = weight / WIDTH**0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[0].attention.to_q(x)


class LoraLayer(torch.nn.Module):
    """Wraps a linear layer. `enabled` counts for inference only, as musubi has it."""

    def __init__(self, name: str, linear: torch.nn.Linear, rank: int, for_inference: bool):
        super().__init__()
        self.lora_name, self.inference, self.enabled, self.multiplier = name, for_inference, True, 1.0
        self.lora_down = torch.nn.Linear(linear.in_features, rank, bias=False)
        self.lora_up = torch.nn.Linear(rank, linear.out_features, bias=False)
        self.register_buffer("alpha", torch.tensor(float(rank)))
        torch.nn.init.zeros_(self.lora_up.weight)
        self.linear = [linear]

    def apply_to(self) -> None:
        self.below, self.linear[0].forward = self.linear[0].forward, self.forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.inference and not self.enabled:
            return self.below(x)
        return self.below(x) + self.lora_up(self.lora_down(x)) * self.multiplier


class LoraNetwork(torch.nn.Module):
    def __init__(self, unet: torch.nn.Module, ranks: dict[str, int], for_inference: bool):
        super().__init__()
        self.multiplier, self.unet_loras = 1.0, []
        for name, module in unet.named_modules():
            rank = ranks.get("lora_unet_" + name.replace(".", "_"))
            if rank:
                self.unet_loras.append(LoraLayer("lora_unet_" + name.replace(".", "_"), module, rank, for_inference))

    def apply_to(self, text_encoders, unet, apply_text_encoder=True, apply_unet=True) -> None:
        for layer in self.unet_loras:
            layer.apply_to()
            self.add_module(layer.lora_name, layer)

    def set_multiplier(self, multiplier: float) -> None:
        self.multiplier = multiplier
        for layer in self.unet_loras:
            layer.multiplier = multiplier

    def set_enabled(self, is_enabled: bool) -> None:
        for layer in self.unet_loras:
            layer.enabled = is_enabled

    def save_weights(self, file, dtype, metadata):
        """In place, as both toolkits do."""
        save_file({key: value.clone() for key, value in self.state_dict().items()}, file, metadata)


def create_network_from_weights(
    target_replace_modules, multiplier, weights_sd, text_encoders=None, unet=None, for_inference=False, **kwargs
) -> LoraNetwork:
    ranks = {key.split(".")[0]: len(value) for key, value in weights_sd.items() if "lora_down" in key}
    return LoraNetwork(unet, ranks, for_inference)


class ItemInfo:
    def __init__(
        self, item_key, caption, original_size, bucket_size=None, frame_count=None, content=None, latent_cache_path=None
    ):
        self.caption, self.latent_cache_path = caption, latent_cache_path
        self.text_encoder_output_cache_path: str | None = None


class BucketBatchManager:
    def __init__(self, bucketed_item_info, batch_size, num_timestep_buckets=None):
        self.buckets, self.batch_size, self.bucket_resos = bucketed_item_info, batch_size, sorted(bucketed_item_info)
        self.batches = [
            items[i : i + batch_size] for items in bucketed_item_info.values() for i in range(0, len(items), batch_size)
        ]

    def shuffle(self) -> None:
        random.shuffle(self.batches)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, Any]:
        items = self.batches[index]
        files = [
            {**load_file(item.latent_cache_path), **load_file(item.text_encoder_output_cache_path)} for item in items
        ]
        latents = [t for file in files for name, t in file.items() if name.startswith("latents_")]
        batch = {"llm_embed": [file["varlen_llm_embed_float32"] for file in files], "timesteps": None}
        return {**batch, "latents": torch.stack(latents)} if latents else batch


class Collator:
    def __init__(self, epoch, dataset):
        self.current_epoch, self.dataset = epoch, dataset

    def __call__(self, examples):
        self.dataset.set_current_epoch(self.current_epoch.value)
        return examples[0]


class Pictures(torch.utils.data.Dataset):
    """One of musubi's datasets: `count` batches of latents that are all `mark`."""

    def __init__(self, cache_directory: str, count: int, mark: float):
        self.cache_directory, self.num_train_items, self.mark, self.batch_size = cache_directory, count, mark, 1

    def __len__(self) -> int:
        return self.num_train_items

    def __getitem__(self, index: int) -> dict[str, Any]:
        embed = torch.full((3, WIDTH), self.mark)
        return {"latents": torch.full((1, 1, WIDTH), self.mark), "llm_embed": [embed], "timesteps": None}

    def set_current_epoch(self, epoch) -> None: ...

    def set_max_train_steps(self, max_train_steps) -> None: ...

    def get_metadata(self) -> dict:
        return {}


class Schedule:
    def step(self) -> None: ...


class StandInTrainer:
    """musubi's NetworkTrainer as the mixin sees it. `datasets`: what its dataset_config would hold."""

    architecture = "zi"
    default_discrete_flow_shift = 3.0

    def __init__(self):
        self.datasets: list[Pictures] = []
        self.calls: list[str] = []

    def train(self, args):
        self._validate_args_and_init(args)
        torch.manual_seed(args.seed)
        group, collator, epoch = self._build_dataset(args)
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=args.gradient_accumulation_steps)
        self._prepare_sampling(args, accelerator, torch.float32)
        transformer = Toy()
        self.on_transformer_loaded(args, accelerator, transformer)
        transformer.requires_grad_(False)
        network = LoraNetwork(transformer, {"lora_unet_layers_0_attention_to_q": 4}, False)
        network.apply_to(None, transformer, apply_text_encoder=False, apply_unet=True)
        optimizer, *_, loader = self._build_optimizer_and_dataloader(
            args, accelerator, network, group, collator, transformer
        )
        made = self._prepare_with_accelerator(
            args, accelerator, transformer, network, optimizer, loader, Schedule(),
            torch.float32, torch.float32, torch.float32,
        )  # fmt: skip
        transformer, network, optimizer, loader, lr_scheduler, _, network_dtype = made
        self._register_hooks_and_resume(args, accelerator, network)
        self.on_train_start(args, accelerator, network, transformer, optimizer)
        self.metadata = {key: str(value) for key, value in self.extra_metadata(args).items()}
        self.loop(args, accelerator, transformer, network, optimizer, lr_scheduler, loader, epoch, network_dtype)

    def loop(self, args, accelerator, transformer, network, optimizer, lr_scheduler, loader, epoch, network_dtype):
        self.global_step, self.losses, self.metrics = 0, [], []
        bar = self.bar = tqdm(range(args.max_train_steps), disable=not accelerator.is_local_main_process, desc="steps")
        while self.global_step < args.max_train_steps:
            epoch.value += 1
            for batch in loader:
                with accelerator.accumulate(network):
                    latents = batch["latents"]
                    noise = torch.randn_like(latents)
                    loss, metrics = self.process_batch(
                        args, accelerator, transformer, network, batch, latents, noise, None, torch.float32,
                        network_dtype, None, self.global_step,
                    )  # fmt: skip
                    accelerator.backward(loss)
                    if accelerator.sync_gradients and args.max_grad_norm != 0.0:
                        accelerator.clip_grad_norm_(network.parameters(), args.max_grad_norm)
                    optimizer.step()
                    lr_scheduler.step()
                    optimizer.zero_grad(set_to_none=True)
                    self.on_post_optimizer_step(
                        args, accelerator, network, transformer, accelerator.sync_gradients, self.global_step
                    )
                self.global_step += int(accelerator.sync_gradients)
                self.losses.append(float(loss.detach()))
                self.metrics.append(metrics)
                every = args.save_every_n_steps
                if accelerator.sync_gradients and every is not None and self.global_step % every == 0:
                    self.save(args, accelerator, network)
                bar.set_postfix(avr_loss=self.losses[-1])
                if accelerator.sync_gradients:
                    self.sample_images(accelerator, args, None, self.global_step, None, transformer, [], torch.float32)
                if self.global_step >= args.max_train_steps:
                    break
        bar.close()
        if accelerator.is_main_process:
            accelerator.unwrap_model(network).save_weights(
                f"{args.output_dir}/{args.output_name}.safetensors", None, {}
            )

    def save(self, args, accelerator, network):
        """The LoRA of this step, and the state where save_state is on, under musubi's names."""
        accelerator.wait_for_everyone()
        if not accelerator.is_main_process:
            return
        folder = Path(args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{args.output_name}-step{self.global_step:08d}"
        accelerator.unwrap_model(network).save_weights(str(folder / f"{name}.safetensors"), None, {})
        if args.save_state:
            accelerator.save_state(str(folder / f"{name}-state"))

    # the seams, with musubi's signatures

    def _validate_args_and_init(self, args):
        if args.dataset_config is None:
            raise ValueError("dataset_config is required")
        self.handle_model_specific_args(args)
        return True

    def handle_model_specific_args(self, args):
        self.calls.append("handle_model_specific_args")

    def _build_dataset(self, args):
        group = SimpleNamespace(datasets=self.datasets)
        return group, Collator(Value("i", 0), group), Value("i", 0)

    def _prepare_sampling(self, args, accelerator, vae_dtype):
        self.calls.append("_prepare_sampling")

    def on_transformer_loaded(self, args, accelerator, transformer):
        self.calls.append("on_transformer_loaded")

    def _build_optimizer_and_dataloader(self, args, accelerator, network, train_dataset_group, collator, transformer):
        loader = torch.utils.data.DataLoader(train_dataset_group, batch_size=1, shuffle=True, collate_fn=collator)
        train_dataset_group.set_max_train_steps(args.max_train_steps)
        optimizer = torch.optim.AdamW(network.parameters(), lr=args.learning_rate)
        return optimizer, "AdamW", "", None, None, Schedule(), [], loader

    def _prepare_with_accelerator(
        self, args, accelerator, transformer, network, optimizer, train_dataloader, lr_scheduler, weight_dtype,
        dit_dtype, dit_weight_dtype,
    ):  # fmt: skip
        transformer = accelerator.prepare(transformer)
        network, optimizer, loader = accelerator.prepare(network, optimizer, train_dataloader)
        return transformer, network, optimizer, loader, lr_scheduler, network, torch.float32

    def _register_hooks_and_resume(self, args, accelerator, network):
        if args.resume:
            accelerator.load_state(args.resume)

    def on_train_start(self, args, accelerator, network, transformer, optimizer):
        self.calls.append("on_train_start")

    def on_post_optimizer_step(self, args, accelerator, network, transformer, sync_gradients, global_step):
        """Nothing is due."""

    def process_batch(
        self, args, accelerator, transformer, network, batch, latents, noise, noise_scheduler, dit_dtype,
        network_dtype, vae, global_step,
    ):  # fmt: skip
        raise AssertionError("the toolkit's own loss was asked for")

    def call_dit(
        self,
        args,
        accelerator,
        transformer,
        latents,
        batch,
        noise,
        noisy_model_input,
        timesteps,
        network_dtype,
        **kwargs,
    ):
        text = torch.stack([embed.mean(dim=0, keepdim=True) for embed in batch["llm_embed"]])
        moment = (timesteps / 1000).reshape(-1, 1, 1)
        pred = -transformer(noisy_model_input + 0.1 * text * moment)
        return SimpleNamespace(pred=pred, target=noise - latents)

    def sample_images(self, accelerator, args, epoch, steps, vae, transformer, sample_parameters, dit_dtype):
        """Nothing is due."""

    def extra_metadata(self, args):
        return {}


def install(monkeypatch) -> None:
    """Put the stand-ins where musubi's modules would be imported from."""
    contents = {
        "musubi_tuner": {},
        "musubi_tuner.training": {},
        "musubi_tuner.training.accelerator_setup": {"collator_class": Collator},
        "musubi_tuner.dataset": {},
        "musubi_tuner.dataset.image_video_dataset": {"BucketBatchManager": BucketBatchManager, "ItemInfo": ItemInfo},
        "musubi_tuner.networks": {},
        "musubi_tuner.networks.lora": {"create_network_from_weights": create_network_from_weights},
        "voluptuous": {"Invalid": type("Invalid", (Exception,), {})},
    }
    for name, members in contents.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def write_texts(items: list[ItemInfo]) -> None:
    """What an architecture's text encoder does: a cache file for each caption."""
    for item in items:
        embed = torch.full((len(item.caption) + 1, WIDTH), float(len(item.caption)))
        save_file({"varlen_llm_embed_float32": embed}, item.text_encoder_output_cache_path)


def arguments(folder: Path, **values: Any) -> Namespace:
    """What musubi's parser would give."""
    given = {
        "dataset_config": str(folder / "data.toml"), "max_train_steps": 3, "gradient_accumulation_steps": 1, "seed": 1,
        "learning_rate": 1e-2, "max_data_loader_n_workers": 0, "blocks_to_swap": None, "compile": False, "resume": None,
        "resume_from_huggingface": False, "max_train_epochs": None, "save_every_n_steps": None,
        "save_every_n_epochs": None, "sample_every_n_steps": None, "sample_every_n_epochs": None,
        "scale_weight_norms": None, "max_grad_norm": 1.0, "sample_at_first": False, "output_dir": str(folder / "out"),
        "output_name": "fused", "save_state": True,
    }  # fmt: skip
    return Namespace(**{**given, **values})
