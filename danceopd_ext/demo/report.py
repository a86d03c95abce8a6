"""Scores what the quickstart trained beside its sources: report.json, grid.png and a table.

Scored on prompts that training did not see (`test` split), by the world's exact checks. The same prompts and the same
noise are given to every model. Run as `python -m danceopd_ext.demo.report FOLDER [name=seconds ...]`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import ZImagePipeline
from PIL import Image
from tqdm import tqdm

from danceopd_ext.demo import LORAS, PIPELINE
from danceopd_ext.demo.score import draw_and_check, pick_prompts
from danceopd_ext.demo.world import SKILLS
from danceopd_ext.files import whole_file
from danceopd_ext.machine import versions
from danceopd_ext.pictures import draw_grid
from danceopd_ext.quiet import quieten

#: noise seeds of the report; nothing was tuned on them (tuning used seeds below 1000)
SEEDS = (20260701, 20260702)
PICTURES_PER_SKILL = 2
OWNERS = {name: skill.owner for name, skill in SKILLS.items()}


def models(student: str) -> dict[str, dict[str, float]]:
    """Model -> the adapters that it is made of, with their strengths."""
    teachers = list(LORAS)
    return {
        "base": {},
        **{f"teacher:{name}": {name: 1.0} for name in teachers},
        "merge_average": dict.fromkeys(teachers, 1 / len(teachers)),
        "merge_sum": dict.fromkeys(teachers, 1.0),
        "student": {student: 1.0},
    }


def load(student_file: Path) -> ZImagePipeline:
    """The demo's pipeline with teachers and student, all through diffusers' own LoRA loader."""
    pipeline = ZImagePipeline.from_pretrained(PIPELINE)
    for name, file in {**LORAS, "student": student_file}.items():
        pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=name)
    return pipeline


def use(pipeline: ZImagePipeline, strengths: dict[str, float]) -> None:
    if strengths:
        pipeline.enable_lora()
        pipeline.set_adapters(list(strengths), list(strengths.values()))
    else:
        pipeline.disable_lora()


def score_all(pipeline: ZImagePipeline) -> tuple[dict[str, dict[str, float]], Image.Image]:
    """skill -> model -> fraction of right drawings, and the picture grid."""
    scores: dict[str, dict[str, float]] = {name: {} for name in SKILLS}
    columns: dict[str, list[np.ndarray]] = {}
    passed: dict[str, list[bool]] = {}
    bar = tqdm(total=len(models("student")) * len(SKILLS), desc="scoring", unit="score")
    for model, strengths in models("student").items():
        use(pipeline, strengths)
        columns[model], passed[model] = [], []
        for skill in SKILLS:
            bar.set_postfix_str(f"{model}, {skill}")
            bar.update()
            rounds = [draw_and_check(pipeline, pick_prompts(skill), seed=seed) for seed in SEEDS]
            scores[skill][model] = float(np.mean([right for _, rights in rounds for right in rights]))
            images, rights = rounds[0]
            for place in shown(len(images)):
                columns[model].append(images[place])
                passed[model].append(rights[place])
    bar.close()
    prompts = [pick_prompts(skill)[i][0] for skill in SKILLS for i in shown(len(pick_prompts(skill)))]
    return scores, draw_grid(prompts, columns, passed)


def shown(count: int) -> list[int]:
    """Which prompts of a skill the grid shows: spread over the list, whatever came out."""
    return [count * (2 * k + 1) // (2 * PICTURES_PER_SKILL) for k in range(PICTURES_PER_SKILL)]


def add_better_merge(scores: dict[str, dict[str, float]]) -> str:
    """Add the model `merge`: whichever plain merge has the better worst skill. Returns its name."""
    worst = {name: min(row[name] for row in scores.values()) for name in ("merge_average", "merge_sum")}
    better = max(worst, key=lambda name: (worst[name], sum(row[name] for row in scores.values())))
    for row in scores.values():
        row["merge"] = row[better]
    return better


def table(scores: dict[str, dict[str, float]]) -> str:
    """A line per skill, a column per model; the owner of each skill is marked."""
    names = [name for name in next(iter(scores.values())) if name != "merge"]
    width = max(map(len, names)) + 2
    lines = ["skill".ljust(12) + "".join(name.rjust(width) for name in names)]
    for skill, row in scores.items():
        cells = (f"{row[name]:.2f}{'*' if name == OWNERS[skill] else ' '}".rjust(width) for name in names)
        lines.append(skill.ljust(12) + "".join(cells))
    lines.append("worst".ljust(12) + "".join(f"{min(r[n] for r in scores.values()):.2f} ".rjust(width) for n in names))
    return "\n".join(lines)


def peak_memory_of(log: Path) -> float:
    """Peak memory of the training process in MiB, from its log."""
    return float(json.loads(log.read_text(encoding="utf-8").splitlines()[-1])["peak_memory_mb"])


def main(folder: Path, seconds: dict[str, float]) -> None:
    """Write report.json and grid.png into `folder`, which holds the trained LoRA."""
    quieten()
    torch.set_num_threads(1)  # threads wait for each other as soon as a core is busy elsewhere
    start = time.perf_counter()
    student = folder / "fused.safetensors"
    scores, grid = score_all(load(student))
    merge = add_better_merge(scores)
    seconds["score"] = round(time.perf_counter() - start, 1)
    seconds["total"] = round(seconds.pop("before", 0.0) + seconds["score"], 1)
    report = {
        "scores": scores,
        "owners": OWNERS,
        "merge_is": merge,
        "images_per_score": {skill: len(SEEDS) * len(pick_prompts(skill)) for skill in SKILLS},
        "seconds": seconds,
        "peak_memory_mb": peak_memory_of(folder / "fused.log.jsonl"),
        "versions": versions(),
    }
    with whole_file(folder / "grid.png") as part:
        grid.save(part, format="PNG")
    with whole_file(folder / "report.json") as part:
        part.write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    print(f"\n{table(scores)}\n(* owns the skill; fractions of pictures that are exactly right, on unseen prompts)\n")
    for what, name in (("LoRA", student.name), ("pictures", "grid.png"), ("report", "report.json")):
        print(f"{what:9}{os.path.relpath(folder / name)}")
    print(f"{'time':9}{seconds['total'] / 60:.1f} minutes")


if __name__ == "__main__":
    main(Path(sys.argv[1]), {name: float(value) for name, _, value in (a.partition("=") for a in sys.argv[2:])})
