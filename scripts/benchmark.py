"""Seconds, transformer forwards and memory of an update, ours against the plain way, on this machine.

    python scripts/benchmark.py                                                       # the embedded demo
    python scripts/benchmark.py --model random --family sd3 --size real --updates 3   # SD3.5 medium's size: for a GPU

The plain way: one sample at a time, whole rollouts whatever is asked about, a merged copy of the transformer for every
teacher, text encoders that stay and encode every prompt of every step. Both ways have the same base, teachers, student,
prompts, noise and queries, hence the same gradient, which is checked. They take turns, each in a process of its own.
Random models have text encoders of a few layers, whatever --size says.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from danceopd_ext import machine
from danceopd_ext.cli import whole
from danceopd_ext.config.load import Preset, build_preset
from danceopd_ext.demo import LORAS, PIPELINE, PROMPTS
from danceopd_ext.demo.pretrain.pipeline import build_tokenizer
from danceopd_ext.lora.adapters import Adapters
from danceopd_ext.lora.weights import Lora, LowRank
from danceopd_ext.lora.write import write_lora
from danceopd_ext.method import CountedField, Field, Method, draw_query_indices, draw_route, sample_noise, update
from danceopd_ext.models.family import TextConditions
from danceopd_ext.models.loading import load_text_pipeline, load_transformer
from danceopd_ext.models.registry import FAMILIES
from danceopd_ext.ranges import PIXELS, RANK, SAMPLES, STEPS, Range
from danceopd_ext.toolkits.native.batches import StepData
from danceopd_ext.toolkits.native.build import add_student, build_fields
from danceopd_ext.toolkits.native.prepare import STUDENT, Prepared, prepare, torch_dtype
from danceopd_ext.toolkits.native.texts import encode_texts, open_cache

SAME = 1e-4  # gradients that differ by a smaller share differ by the order of roundings alone
TEACHERS = ("hollow", "checkered")
THREADS = Range(minimum=1, maximum=1024)
SIZES = {"demo": (64, 32), "small": (128, 8), "real": (1024, 128)}  # pixels, rank of the student
TRANSFORMERS: dict[tuple[str, str], dict[str, Any]] = {
    ("sd3", "small"): {
        "num_layers": 4, "num_attention_heads": 3, "caption_projection_dim": 192, "pos_embed_max_size": 32,
        "joint_attention_dim": 64, "pooled_projection_dim": 64, "dual_attention_layers": (0, 1), "qk_norm": "rms_norm",
    },
    ("sd3", "real"): {
        "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 384,
        "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm",
    },
    ("z_image", "small"): {
        "dim": 192, "n_layers": 4, "n_heads": 3, "n_kv_heads": 3, "cap_feat_dim": 64, "axes_dims": [16, 24, 24],
    },
}  # fmt: skip
Measurement = dict[str, float]  # the keys of ROWS
ROWS = {
    "seconds": "seconds per update", "rollout_forwards": "rollout forwards per update",
    "teacher_forwards": "teacher forwards per update", "student_forwards": "student forwards per update",
    "peak_mb": "peak memory, MiB", "work_mb": "peak memory above the imports, MiB",
    "parameters_mb": "parameters held, MiB", "setup_seconds": "seconds before the first update",
}  # fmt: skip
COUNTS = tuple(key for key in ROWS if key.endswith("_forwards"))


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """The command line, with what depends on the model and the device filled in."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", choices=("demo", "random"), default="demo")
    add(
        "--family",
        choices=tuple(dict.fromkeys(family for family, _ in TRANSFORMERS)),
        default="sd3",
        help="of the random model",
    )
    add("--size", choices=("small", "real"), default="small", help="of the random model")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--precision", choices=("no", "bf16"), help="default: no (float32) on a CPU, bf16 on a GPU")
    add("--threads", type=whole(THREADS), default=os.cpu_count(), help="of each process")
    add("--batch", type=whole(SAMPLES), default=4, help="samples an update")
    add(
        "--micro-batch",
        type=whole(SAMPLES),
        help="ours: samples in one gradient pass; default: all, 1 where --size is real",
    )
    add("--resolution", type=whole(PIXELS, 1024), help="pixels; default: 64 (demo), 128 (small), 1024 (real)")
    add("--rank", type=whole(RANK), help="of the student; default: 32 (demo), 8 (small), 128 (real)")
    add("--updates", type=whole(STEPS), default=10, help="timed updates of each measurement")
    add("--repeats", type=whole(THREADS), default=3, help="measurements of each way")
    add("--json", type=Path, metavar="FILE", help="also write all measurements there")
    add("--worker", choices=("make", *WAYS), help=argparse.SUPPRESS)
    add("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    resolution, rank = SIZES[args.size if args.model == "random" else "demo"]
    args.resolution, args.rank = args.resolution or resolution, args.rank or rank
    args.micro_batch = args.micro_batch or (1 if args.model == "random" and args.size == "real" else args.batch)
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    args.precision = args.precision or ("bf16" if args.device == "cuda" else "no")
    if args.batch % args.micro_batch:
        parser.error("--batch is a multiple of --micro-batch")
    return args


def text_encoders(family: str, real: bool) -> dict[str, Any]:
    """The text part of a pipeline: few layers, of the widths that the transformer expects."""
    if family == "z_image":
        shape = dict.fromkeys(("hidden_size", "intermediate_size"), 2560 if real else 64) | {"num_hidden_layers": 3}
        config = transformers.Qwen3Config(vocab_size=64, num_attention_heads=2, num_key_value_heads=2, **shape)
        return {"text_encoder": transformers.Qwen3Model(config), "tokenizer": build_tokenizer()}
    parts: dict[str, Any] = {name: build_tokenizer() for name in ("tokenizer", "tokenizer_2", "tokenizer_3")}
    parts["tokenizer"].model_max_length = parts["tokenizer_2"].model_max_length = 77
    for name, width in {"text_encoder": 768 if real else 32, "text_encoder_2": 1280 if real else 32}.items():
        shape = dict.fromkeys(("hidden_size", "intermediate_size", "projection_dim"), width)
        config = transformers.CLIPTextConfig(vocab_size=64, num_hidden_layers=3, num_attention_heads=2, **shape)
        parts[name] = transformers.CLIPTextModelWithProjection(config)
    t5 = transformers.T5Config(vocab_size=64, d_model=4096 if real else 64, d_ff=64, num_layers=2, num_heads=2)
    return {**parts, "text_encoder_3": transformers.T5EncoderModel(t5)}


def make_random(args: argparse.Namespace) -> Path:
    """Write a random pipeline and its two teachers to the folder, and return it."""
    torch.manual_seed(0)
    family = FAMILIES[args.family]
    with torch.device(args.device):
        transformer = getattr(diffusers, family.transformer_class)(**TRANSFORMERS.get((family.name, args.size), {}))
    for parameter in transformer.parameters():
        if parameter.ndim > 1:  # fresh transformers end in zeros
            torch.nn.init.normal_(parameter, std=0.7 * parameter[0].numel() ** -0.5)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = diffusers.AutoencoderKL(latent_channels=16, block_out_channels=(4,) * 4, norm_num_groups=2, **blocks)
    parts = text_encoders(family.name, args.size == "real") | {"transformer": transformer, "vae": vae}
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipeline = getattr(diffusers, family.pipeline_class)(scheduler=scheduler, **parts)
    pipeline.to(torch_dtype(args.precision)).save_pretrained(args.folder / "pipeline")
    layout = family.layout(transformer)
    for name in TEACHERS:
        modules = {}
        for layer, (outputs, inputs) in layout.shapes.items():
            if layer.endswith(family.lora_targets):
                down, up = torch.randn(args.rank, inputs), torch.randn(outputs, args.rank)
                modules[layer] = LowRank(down / inputs**0.5, up * 0.1 / args.rank**0.5)
        write_lora(args.folder / LORAS[name].name, Lora(modules), layout, "diffusers", dtype=torch.float32)
    return args.folder


def preset_of(args: argparse.Namespace) -> Preset:
    """The run as a creator would write it; the student starts as the mean of its teachers, not as the base."""
    demo = args.model == "demo"
    return build_preset({
        "pretrained_model_name_or_path": str(PIPELINE if demo else args.folder / "pipeline"),
        "resolution": args.resolution, "network_dim": args.rank, "optimizer_type": "AdamW",
        "max_train_steps": args.updates + 1, "train_batch_size": args.micro_batch,
        "gradient_accumulation_steps": args.batch // args.micro_batch, "mixed_precision": args.precision,
        "output_dir": str(args.folder), "student_init": "merge_average",
        "teachers": {
            name: {"lora": str(LORAS[name] if demo else args.folder / LORAS[name].name)} for name in TEACHERS
        },
        "prompts": {name: str(PROMPTS[name]) for name in TEACHERS},
    }, args.folder)  # fmt: skip


class Ours:
    """The native toolkit: prompts encoded once, one transformer with adapters, the package's own update."""

    def __init__(self, prepared: Prepared, accelerator: Accelerator, folder: str):
        self.device, cache = accelerator.device, open_cache(prepared, folder)
        encode_texts(prepared, cache, accelerator, lambda line: None)
        self.data = StepData(prepared, cache, accelerator)
        self.fields = build_fields(prepared, accelerator, lambda line: None)
        self.adapters, self.held = self.fields.adapters, [self.fields.adapters.transformer]

    def update(self, step: int) -> tuple[int, ...]:
        """Accumulate the gradient of a step; return the forwards that COUNTS names."""
        who = (self.fields.teachers, self.fields.student, torch.Tensor.backward, self.device)
        report = update(Method(), step, self.data.plan.seed, self.data.plan.weights, self.data, *who)
        return tuple(getattr(report, key) for key in COUNTS)


class Plain:
    """One sample at a time, whole rollouts, a merged transformer for each teacher, text encoders always there."""

    def __init__(self, prepared: Prepared, accelerator: Accelerator, folder: str):
        self.plan, self.family, self.accelerator = prepared.plan, prepared.family, accelerator
        self.device, dtype = accelerator.device, torch_dtype(prepared.preset.training.mixed_precision)
        self.encoders = load_text_pipeline(prepared.source, dtype, self.device)
        data = StepData(prepared, open_cache(prepared, folder), accelerator)  # of which no text is asked
        size = (prepared.preset.dataset.resolution,) * 2
        self.latent_shape, self.sigmas = data.latent_shape(*size), data.sigmas(*size, Method().rollout_steps).tolist()
        base = load_transformer(prepared.source, dtype).to(self.device)
        loras = {name: found.lora for name, found in prepared.teachers.items()}
        copies = {name: merged(base, lora) for name, lora in loras.items()}
        self.adapters = Adapters(base)
        add_student(self.adapters, prepared, list(loras.values()), print)
        self.adapters.activate(STUDENT)
        prepared.forget_loras()
        self.student, self.teachers = self.field(base), {name: self.field(copied) for name, copied in copies.items()}
        parts = [base, *copies.values(), *self.encoders.components.values()]
        self.held = [part for part in parts if isinstance(part, torch.nn.Module)]

    def field(self, transformer: torch.nn.Module) -> Field:
        def velocity(latents: torch.Tensor, sigma: torch.Tensor, condition: TextConditions) -> torch.Tensor:
            with self.accelerator.autocast():
                return self.family.velocity(transformer, latents, sigma, condition).float()

        return velocity

    @torch.no_grad()
    def encode(self, text: str) -> TextConditions:
        return TextConditions(self.family.encode_prompts(self.encoders, [text]), {}).to(self.device)

    @torch.no_grad()
    def roll_out(self, field: Field, noise: torch.Tensor, condition: TextConditions) -> list[torch.Tensor]:
        """Every state of the student's trajectory, from noise to the clean end."""
        states = [noise]
        for sigma, after in zip(self.sigmas[:-1], self.sigmas[1:], strict=True):
            velocity = field(states[-1], torch.full((1,), sigma, device=self.device), condition)
            states.append(states[-1] + (after - sigma) * velocity)
        return states

    def update(self, step: int) -> tuple[int, ...]:
        """Accumulate the gradient of a step; return the forwards that COUNTS names."""
        seed, steps, texts = self.plan.seed, len(self.sigmas) - 1, self.plan.step(step).texts
        route = draw_route(self.plan.weights, seed, step)
        rolling, teacher, student = map(CountedField, (self.student, self.teachers[route], self.student))
        for i, text in enumerate(texts):
            condition = self.encode(text)
            noise = sample_noise(seed, step, [i], self.latent_shape).to(self.device)
            states = self.roll_out(rolling, noise, condition)
            own = {"seed": seed, "step": step, "indices": [i], "total": len(texts)}
            query = int(draw_query_indices("low_noise", 1, steps, **own))
            sigma = torch.full((1,), self.sigmas[query], device=self.device)
            with torch.no_grad():
                target = teacher(states[query], sigma, condition)
            loss = torch.nn.functional.mse_loss(student(states[query], sigma, condition), target) / len(texts)
            loss.backward()
        return rolling.samples, teacher.samples, student.samples


def merged(base: torch.nn.Module, lora: Lora) -> torch.nn.Module:
    """A copy of the base that is the teacher: no adapters to compute."""
    teacher = copy.deepcopy(base)
    for layer, change in lora.modules.items():
        weight = teacher.get_submodule(layer).weight
        weight.data = (weight.data.float() + change.delta().to(weight.device)).to(weight.dtype)
    return teacher


WAYS: dict[str, type[Plain] | type[Ours]] = {"plain": Plain, "ours": Ours}


def measure(args: argparse.Namespace, way: str) -> Measurement:
    """Build one way and run it. The first update is not timed, and leaves its gradient in the folder."""
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.allow_tf32 = False
    imports_mb, began = machine.peak_memory_mb(torch.device(args.device)), time.perf_counter()
    preset, accelerator = preset_of(args), Accelerator(cpu=args.device == "cpu", mixed_precision=args.precision)
    with tempfile.TemporaryDirectory(dir=args.folder) as cache:
        made = WAYS[way](prepare(preset, accelerator), accelerator, cache)
        setup_seconds = time.perf_counter() - began
        weights = made.adapters.state_dict(STUDENT)
        optimizer = torch.optim.AdamW(weights.values(), lr=preset.optimizer.learning_rate, weight_decay=0.0)
        counts, seconds = [], []
        for step in range(args.updates + 1):
            began = time.perf_counter()
            counts.append(made.update(step))
            if step == 0:
                gradient = {name: p.grad.contiguous() for name, p in weights.items() if p.grad is not None}
                save_file(gradient, args.folder / f"{way}.gradient")
            float(torch.nn.utils.clip_grad_norm_(weights.values(), preset.optimizer.max_grad_norm))  # waits for a GPU
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(time.perf_counter() - began)
    forwards = {key: statistics.mean(own) for key, own in zip(COUNTS, zip(*counts[1:], strict=True), strict=True)}
    held, peak_mb = {p for part in made.held for p in part.parameters()}, machine.peak_memory_mb(accelerator.device)
    memory = {"peak_mb": peak_mb, "work_mb": peak_mb - imports_mb}
    memory["parameters_mb"] = sum(p.numel() * p.element_size() for p in held) / 2**20
    return {"seconds": statistics.mean(seconds[1:]), **forwards, **memory, "setup_seconds": setup_seconds}


def in_its_own_process(words: Sequence[str], args: argparse.Namespace) -> str:
    """Run this script again, so that the peak of memory is this work's alone; return its last line."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "PYTHONUTF8": "1"}
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, encoding="utf-8", env=environment)
    if done.returncode:
        sys.exit(f"{shlex.join(words)} failed with exit code {done.returncode}:\n{done.stderr[-4000:]}")
    return (done.stdout.splitlines() or [""])[-1]


def take_turns(words: Sequence[str]) -> tuple[dict[str, list[Measurement]], float]:
    """Way -> its measurements, and the difference of the gradients."""
    args = arguments(words)
    found: dict[str, list[Measurement]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        start = [*words, "--folder", folder, "--worker"]
        if args.model == "random":
            in_its_own_process([*start, "make"], args)
        for i in range(args.repeats):
            for way, measurements in found.items():
                measurements.append(json.loads(in_its_own_process([*start, way], args)))
                print(f"{i + 1}/{args.repeats} {way}: {measurements[-1]['seconds']:.3f} s per update", file=sys.stderr)
        return found, difference(Path(folder))


def difference(folder: Path) -> float:
    """|plain - ours| / |plain| of the gradients in the folder."""
    plain, ours = (load_file(folder / f"{way}.gradient") for way in WAYS)
    gap = sum(float((plain[name] - ours[name]).double().square().sum()) for name in plain.keys() | ours.keys())
    return (gap / sum(float(value.double().square().sum()) for value in plain.values())) ** 0.5


def number(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def table(found: Mapping[str, list[Measurement]]) -> str:
    """Medians as Markdown; of the seconds also the range."""
    lines = ["| | plain | ours | plain / ours |", "|---|---:|---:|---:|"]
    for key, title in ROWS.items():
        values = [[measurement[key] for measurement in found[way]] for way in WAYS]
        plain, ours = (statistics.median(v) for v in values)
        spread = [f" ({number(min(v))} to {number(max(v))})" if "seconds" in key else "" for v in values]
        ratio = f"{plain / ours:.2f}" if ours else ""
        lines.append(f"| {title} | {number(plain)}{spread[0]} | {number(ours)}{spread[1]} | {ratio} |")
    return "\n".join(lines)


def main() -> None:
    words = sys.argv[1:]
    args = arguments(words)
    if args.worker:
        print(make_random(args) if args.worker == "make" else json.dumps(measure(args, args.worker)))
        return
    found, error = take_turns(words)
    checked = "of the measured model"
    if args.precision != "no":  # bfloat16 rounds a merged teacher and one with an adapter differently
        checked = "in float32" + (", of a small model" if args.size == "real" else "")
        small = ["--precision", "no", "--size", "small", "--resolution", "0", "--rank", "0", "--micro-batch", "0"]
        _, error = take_turns([*words, *small, "--updates", "1", "--repeats", "1"])
    on = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {args.threads} threads"
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions().items())
    command = "python scripts/benchmark.py " + shlex.join(words)
    print(f"`{command.strip()}`\n\n{on}; {versions}\n\n{table(found)}\n")
    print(f"Gradients of one update {checked}: relative difference {error:.1e}")
    if args.json:
        facts = {"command": command, "device": on, "versions": machine.versions(), "gradient_difference": error}
        args.json.write_text(json.dumps(facts | {"measurements": found}, indent=2) + "\n", encoding="utf-8")
    if not error < SAME:
        sys.exit(f"The two ways do not do the same mathematics: more than {SAME:g}.")


if __name__ == "__main__":
    main()
