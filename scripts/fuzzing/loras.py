"""LoRA files of every dialect: `inspect`, `convert` and training's reader."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from random import Random
from typing import Any

import torch

from danceopd_ext import cli
from danceopd_ext.lora.read import read_lora
from fuzzing.octets import damaged, replace_file
from fuzzing.targets import Case, Stage, target
from fuzzing.tensors import Entries, bombs, with_odd_tensors, write_safetensors
from fuzzing.trees import as_json, changed
from fuzzing.values import ENDLESS_PATTERNS, NUMBERS, PATTERNS
from fuzzing.worlds import World

METADATA = {
    "ss_network_module": "networks.lora", "ss_network_dim": "2", "ss_network_alpha": "2",
    "modelspec.title": "a style",
    "ss_tag_frequency": '{"a": {"circle": 3}}', "format": "pt",
}  # fmt: skip
KINDS = ("lora", "lora", "lora", "dora", "lokr", "loha", "diff", "text", "peft", "folder", "pickle", "bomb")


def lycoris(entries: Entries, kind: str, rng: Random) -> Entries:
    """A LoKr, a LoHa, a DoRA or whole differences with the sizes of a LoRA in kohya's names."""
    down, up = ".lora_down.weight", ".lora_up.weight"
    found: Entries = {}
    for key in [key for key in entries if key.endswith(down)]:
        layer = key.removesuffix(down)
        inputs, outputs = entries[key].shape[1], entries[layer + up].shape[0]
        if kind == "dora":
            scale = torch.ones(rng.choice(((outputs, 1), (1, inputs), (outputs,), (inputs,))))
            found |= {key: entries[key], layer + up: entries[layer + up], f"{layer}.dora_scale": scale}
        elif kind == "loha":
            found |= {f"{layer}.hada_w{i}_a": torch.ones(outputs, 2) * 0.1 for i in (1, 2)}
            found |= {f"{layer}.hada_w{i}_b": torch.ones(2, inputs) * 0.1 for i in (1, 2)}
        elif kind == "lokr":
            found[f"{layer}.lokr_w1"] = torch.ones(2, 2)
            if rng.random() < 0.5:
                found[f"{layer}.lokr_w2"] = torch.ones(outputs // 2, inputs // 2) * 0.1
            else:
                found |= {
                    f"{layer}.lokr_w2_a": torch.ones(outputs // 2, 2),
                    f"{layer}.lokr_w2_b": torch.ones(2, inputs // 2),
                }
        else:
            found[f"{layer}.diff"] = entries[layer + up] @ entries[key]
        found[f"{layer}.alpha"] = torch.tensor(float(rng.choice((1, 2, 0))))
    return {key: tensor.clone() for key, tensor in found.items()}


def adapter_config(entries: Entries, rng: Random, odd: bool) -> dict[str, Any]:
    """The adapter_config.json of a PEFT folder, with patterns of ranks and alphas."""
    layers = list({key.removeprefix("base_model.model.").partition(".lora_")[0] for key in entries}) or ["to_v"]
    config: dict[str, Any] = {
        "peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["to_q", "to_k"], "rank_pattern": {},
        "alpha_pattern": {rng.choice(layers): 4, "to_k": 1}, "use_rslora": False, "use_dora": False, "bias": "none",
    }  # fmt: skip
    if odd and rng.random() < 0.5:
        config["alpha_pattern"] = {
            rng.choice((*ENDLESS_PATTERNS, *PATTERNS, *PATTERNS, *layers)): rng.choice((4, *NUMBERS)) for _ in range(2)
        }
    return config


@target("lora", share=34)
def lora_case(rng: Random, world: World, folder: Path) -> Case:
    """A file or folder of any dialect, with odd tensors, an odd header, damaged bytes, or replaced by no file."""
    family, dialect = rng.choice(list(world.loras))
    kind = rng.choice(KINDS)
    if kind in ("dora", "lokr", "loha", "diff", "text"):
        dialect = "kohya"
    if kind == "peft":
        dialect = "diffusers"
    entries = dict(world.loras[family, dialect])
    told = [f"{family}, {dialect}, {kind}"]
    if kind in ("dora", "lokr", "loha", "diff"):
        entries = lycoris(entries, kind, rng)
    if kind == "text":
        entries |= {
            f"lora_te1_text_model_encoder_layers_0_mlp_fc1.{end}": torch.ones(2, 2)
            for end in ("lora_down.weight", "lora_up.weight")
        }
    if kind == "bomb":
        entries, bomb = bombs(rng)
        told.append(bomb)
    if kind == "peft":
        entries = {f"base_model.model.{key.removeprefix('transformer.')}": tensor for key, tensor in entries.items()}
    where = rng.random()
    if where < 0.55 and kind != "bomb":
        entries, more = with_odd_tensors(entries, rng)
        told += more
    place, more = _write(folder, kind, entries, rng, odd=0.55 <= where < 0.85)
    told += more
    if where >= 0.85:
        told.append(_damage(place if place.is_file() else rng.choice(list(place.iterdir())), rng))
    flags = [*rng.choice((["--ignore_text_encoder", "--ignore_other_parts"], ["--dtype", "fp16"], ["--rank", "1"], []))]
    if rng.random() < 0.7:
        flags += ["--family", family]
    return Case(_reader(world, family, place, rng.choice(("kohya", "diffusers", "comfyui")), flags), told, ["style"])


def _reader(world: World, family: str, place: Path, to: str, flags: list[str]):
    def run(stage: Stage) -> None:
        stage("inspect")
        cli._layouts = lambda name: {name: world.references[name]} if name in world.references else world.references
        cli.main(["inspect", place.name])
        problems = []
        for name, read in (
            ("convert", lambda: cli.main(["convert", place.name, "out.safetensors", "--to", to, *flags])),
            ("train", lambda: read_lora(place.name, world.layouts[family])),
            (
                "train, all ignored",
                lambda: read_lora(place.name, world.layouts[family], ignore_text_encoder=True, ignore_other_parts=True),
            ),
        ):
            stage(name)
            try:
                read()
            except cli.UserError as problem:
                problems.append(problem)
        if problems:
            raise problems[0]

    return run


def _write(folder: Path, kind: str, entries: Entries, rng: Random, odd: bool) -> tuple[Path, list[str]]:
    """Write the file or folder; its place, and what is odd about it."""
    if kind == "pickle":
        return _write_pickle(folder, entries, rng, odd)
    if kind not in ("peft", "folder"):
        place = folder / "style.safetensors"
        return place, write_safetensors(place, entries, METADATA if rng.random() < 0.7 else None, rng, odd)
    place = folder / "style"
    place.mkdir()
    if kind == "folder":
        metadata = dict(METADATA)
        if rng.random() < 0.5:
            settings = adapter_config(entries, rng, odd)
            metadata["lora_adapter_metadata"] = as_json(
                changed({f"transformer.{k}": v for k, v in settings.items()}, rng)[0]
            )
        return place, write_safetensors(place / "pytorch_lora_weights.safetensors", entries, metadata, rng, odd)
    told = write_safetensors(place / "adapter_model.safetensors", entries, METADATA, rng, odd and rng.random() < 0.3)
    config, more = adapter_config(entries, rng, odd), []
    if odd:
        config, more = changed(config, rng)
    (place / "adapter_config.json").write_bytes(as_json(config).encode("utf-8", "surrogatepass"))
    return place, told + more


def _write_pickle(folder: Path, entries: Entries, rng: Random, odd: bool) -> tuple[Path, list[str]]:
    place = folder / f"style{rng.choice(('.pt', '.pth', '.bin', '.ckpt'))}"
    content: Any = entries if rng.random() < 0.5 else {"state_dict": entries, "epoch": 3}
    if not odd:
        torch.save(content, place)
        return place, []
    odd_content = rng.choice(
        (
            [1], 5, None, "x", torch.ones(3), {}, {1: torch.ones(2)}, {("a",): torch.ones(2)}, {"state_dict": []},
            {"state_dict": None},
            {**entries, "x": 3}, {key: tensor.to_sparse() for key, tensor in entries.items()}, {"x": {"y": entries}},
            {key: torch.nn.Parameter(tensor) for key, tensor in entries.items()}, {None: torch.ones(2), **entries},
            {key: tensor.to("meta") for key, tensor in entries.items()}, {"\x1b[2J": torch.ones(1), **entries},
            {key: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8) for key, tensor in entries.items()},
            {key: tensor[:1].expand(10**6, *tensor.shape[1:]) for key, tensor in entries.items() if tensor.ndim},
            {key: torch.zeros(1).expand(10**5, 10**5) for key in entries},
            {key: torch.complex(tensor, tensor) for key, tensor in entries.items()},
        )
    )  # fmt: skip
    if rng.random() < 0.2:
        place.write_bytes(pickle.dumps(rng.choice(({"a": 1}, json.loads, {"x": Path("x")}, [[[[]]]] * 5))))
        return place, ["a plain pickle"]
    torch.save(odd_content, place)
    return place, [f"a pickle of {type(odd_content).__name__}"]


def _damage(path: Path, rng: Random) -> str:
    if rng.random() < 0.2:
        return replace_file(path, rng)
    data, told = damaged(path.read_bytes(), rng)
    path.write_bytes(data)
    return f"{path.name}: {told}"
