"""A whole training run of the toolkit on tiny models, in a process of its own.

`train_tiny.py MODEL_TYPE FOLDER STEPS LEARNING_RATE GUIDANCE [MORE...]`: a LoRA teacher with this guidance scale, and
the base. FOLDER/result.json: each route's loss before and after on fixed captions, noise and noise levels. MORE:
further arguments for the toolkit.
"""

from __future__ import annotations

import importlib
import json
import sys
from argparse import Namespace
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from danceopd_ext.config.schema import DanceOPDSection, Teacher
from danceopd_ext.toolkits.hosted.architecture import Architecture
from danceopd_ext.toolkits.sd_scripts.defaults import completed
from danceopd_ext.toolkits.sd_scripts.registry import ARCHITECTURES
from danceopd_ext.toolkits.sd_scripts.trainer import trainer_class
from tests.integration.sd_scripts.checkout import prepare
from tests.integration.sd_scripts.stand_ins import MODELS, STAND_INS

SIZE = 64
CAPTIONS = {"base": ["a red fox", "a house"], "style": ['inked "ox"', "an inked pear"]}
WEIGHTS = {"base": 1.0, "style": 7.0}
SEED, SIGMAS = 11, (0.9, 0.5)


def write_dataset(folder: Path, batch_size: int = 2) -> Path:
    """A subset of two pictures for each route; nobody looks at the pictures."""
    subsets = []
    for route, captions in CAPTIONS.items():
        for number, caption in enumerate(captions):
            place = folder / "data" / route
            place.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (SIZE, SIZE)).save(place / f"{number}.png")
            (place / f"{number}.txt").write_text(caption, encoding="utf-8")
        subsets.append(
            f'[[datasets.subsets]]\nimage_dir = "{place}"\ncaption_extension = ".txt"\n'
            f'custom_attributes.teacher = "{route}"\n'
        )
    path = folder / "dataset.toml"
    head = f"[[datasets]]\nresolution = {SIZE}\nbatch_size = {batch_size}\n"
    path.write_text(head + "\n".join(subsets), encoding="utf-8")
    return path


def write_teacher(architecture: Architecture, model: torch.nn.Module, path: Path) -> Path:
    """A LoRA made by the toolkit's own network module, with random ups."""
    network = importlib.import_module(architecture.network_module).create_network(
        1.0, 4, 4.0, None, [torch.nn.Identity()], model
    )
    network.apply_to([torch.nn.Identity()], model, False, True)
    rng = torch.Generator().manual_seed(3)
    tensors = {}
    for name, tensor in network.state_dict().items():
        if name.endswith("lora_up.weight"):
            tensor = torch.randn(tensor.shape, generator=rng) * 0.15
        tensors[name] = tensor.contiguous()
    save_file(tensors, path)
    return path


def arguments(script, folder: Path, architecture: Architecture, model: dict[str, str], *more: str) -> Namespace:
    given = {
        **model, "dataset_config": write_dataset(folder), "output_dir": folder, "output_name": "fused",
        "network_module": architecture.network_module, "network_dim": 8, "network_alpha": 8,
        "optimizer_type": "AdamW", "lr_scheduler": "cosine", "mixed_precision": "no", "seed": 1,
        "save_model_as": "safetensors",
        "max_data_loader_n_workers": 0, "loss_type": "l2", "save_precision": "float",
    }  # fmt: skip
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    words += ["--cache_text_encoder_outputs", "--sdpa", *more]
    args = script.setup_parser().parse_args(words)
    return Namespace(**completed(vars(args), vars(args), architecture))


def measured(base: type) -> type:
    """The trainer that can also evaluate itself, as it is and as it began."""

    class Measured(base):
        seen = None

        def get_noise_pred_and_target(
            self, args, accelerator, scheduler, latents, batch, conds, unet, network, *more, **named
        ):  # fmt: skip
            if self.seen is None:
                self.seen, self.unet, self.network, self.shape = {}, unet, network, tuple(latents.shape[1:])
                self.first = {name: tensor.clone() for name, tensor in network.state_dict().items()}
            routes = [attributes["teacher"] for attributes in batch["custom_attributes"]]
            condition = self.distiller.adapter.condition(conds, routes, self.empty)
            for row, caption in enumerate(batch["captions"]):
                self.seen.setdefault(caption, condition.select([row]))
            return super().get_noise_pred_and_target(
                args, accelerator, scheduler, latents, batch, conds, unet, network, *more, **named
            )

        def evaluate(self) -> dict[str, float]:
            """Each route's mean loss over its own captions and some noise levels, with the same noise every time."""
            losses = {}
            for route, captions in CAPTIONS.items():
                each = [
                    self.distiller.validation_loss(self.unet, self.seen[caption], self.shape, SEED, sigma)
                    for caption in captions
                    if caption in self.seen
                    for sigma in SIGMAS
                ]
                losses[route] = float(sum(each)) / max(len(each), 1)
            return losses

        def evaluate_as_begun(self) -> dict[str, float]:
            self.network.load_state_dict(self.first)
            return self.evaluate()

    return Measured


def empty_prompt_difference(trainer) -> float | None:
    """How far our empty prompt is from the one that the toolkit encoded for its own sampler; None without either."""
    if trainer.empty is None or trainer.sample_prompts_te_outputs is None:
        return None
    theirs = trainer.sample_prompts_te_outputs[""]
    pairs = [(a.double(), b.double()) for a, b in zip(trainer.empty, theirs, strict=True) if a is not None]
    return max(float((a - b).abs().max()) for a, b in pairs)


def main() -> None:
    prepare()
    torch.manual_seed(0)
    model_type, folder, steps, rate, guidance, *more = sys.argv[1:]
    folder = Path(folder)
    architecture = ARCHITECTURES[model_type]
    script = importlib.import_module(architecture.script)
    model = STAND_INS[model_type](folder)
    teacher = write_teacher(architecture, MODELS[model_type](), folder / "style.safetensors")
    options = DanceOPDSection(
        toolkit="sd-scripts", rollout_steps=4, query="uniform", routes=WEIGHTS,
        teachers={"base": Teacher(), "style": Teacher(lora=str(teacher), guidance_scale=float(guidance))},
    )  # fmt: skip
    args = arguments(script, folder, architecture, model, "--max_train_steps", steps, "--learning_rate", rate, *more)
    trainer = measured(trainer_class(getattr(script, architecture.trainer)))(options, architecture)
    trainer.train(args)
    result = {
        "steps": trainer.distiller.progress.step,
        "captions": len(trainer.seen),
        "after": trainer.evaluate(),
        "before": trainer.evaluate_as_begun(),
        "empty_prompt_difference": empty_prompt_difference(trainer),
    }
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
