"""Scores the quickstart's result and its teachers: writes report.json and grid.png, and prints a table.

Scored on prompts and edits that training did not see (`test` split), by the world's exact checks. The same prompts,
sources and noise are given to every model. Run as `python -m danceopd_ext.demo.report FOLDER [name=seconds ...]`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import ZImageOmniPipeline
from PIL import Image
from tqdm import tqdm

from danceopd_ext.demo import LORAS, PIPELINE
from danceopd_ext.demo.omni_draw import draw
from danceopd_ext.demo.report_tasks import OWNERS, Task, tasks
from danceopd_ext.demo.scene import IMAGE_SIZE
from danceopd_ext.files import whole_file
from danceopd_ext.foreign.json import parse_lines
from danceopd_ext.foreign.text import read_text
from danceopd_ext.library_logging import silence_libraries
from danceopd_ext.machine import versions
from danceopd_ext.picture_grid import PAPER, draw_grid

#: noise of the report; nothing was tuned on it (tuning used seeds below 1000)
SEED = 20260701


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


def load(student_file: Path) -> ZImageOmniPipeline:
    """The demo's pipeline with teachers and student, all through diffusers' own LoRA loader."""
    pipeline = ZImageOmniPipeline.from_pretrained(PIPELINE, use_safetensors=True, trust_remote_code=False)
    for name, file in {**LORAS, "student": student_file}.items():
        pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=name)
    return pipeline


def use(pipeline: ZImageOmniPipeline, strengths: dict[str, float]) -> None:
    """Activate these LoRAs, by name, at these strengths; without any, the pipeline is the base."""
    if strengths:
        pipeline.enable_lora()
        pipeline.set_adapters(list(strengths), list(strengths.values()))
    else:
        pipeline.disable_lora()


@dataclass(frozen=True)
class Answers:
    """What one model made of one skill: uint8 [N, 32, 32, 3], and the mark 0..1 of each."""

    pictures: np.ndarray
    marks: list[float]


def answer_all(pipeline: ZImageOmniPipeline, asked: dict[str, Task]) -> dict[str, dict[str, Answers]]:
    """Return skill -> model -> its answers."""
    items = {skill: task.encode(pipeline) for skill, task in asked.items()}
    answers: dict[str, dict[str, Answers]] = {skill: {} for skill in asked}
    bar = tqdm(total=len(models("student")) * len(asked), desc="scoring", unit="score")
    for model, strengths in models("student").items():
        use(pipeline, strengths)
        for skill, task in asked.items():
            bar.set_postfix_str(f"{model}, {skill}")
            bar.update()
            pictures = draw(pipeline, items[skill], seed=SEED)
            answers[skill][model] = Answers(pictures, task.marks(pictures))
    bar.close()
    return answers


def grid_of(asked: dict[str, Task], answers: dict[str, dict[str, Answers]]) -> Image.Image:
    """A row for each skill, with the source picture of an edit; a column for each model."""
    nothing = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), PAPER, np.uint8)
    texts: list[str] = []
    columns: dict[str, list[np.ndarray]] = {"source": []}
    passed: dict[str, list[bool]] = {}
    for skill, task in asked.items():
        row, sources = shown(answers[skill][OWNERS[skill]]), task.sources()
        texts.append(task.texts[row])
        columns["source"].append(nothing if sources is None else sources[row])
        for model, one in answers[skill].items():
            columns.setdefault(model, []).append(one.pictures[row])
            passed.setdefault(model, []).append(one.marks[row] == 1)
    return draw_grid(texts, columns, passed)


def shown(owner: Answers) -> int:
    """Which prompt of a skill the grid shows: from the middle on, the first that the skill's owner does right.

    So a row shows whether what the owner can do is kept; the student is not looked at.
    """
    middle = len(owner.marks) // 2
    return next((row for row in range(middle, len(owner.marks)) if owner.marks[row] == 1), middle)


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
    width, first = max(map(len, names)) + 2, max(map(len, scores)) + 2
    lines = ["skill".ljust(first) + "".join(name.rjust(width) for name in names)]
    for skill, row in scores.items():
        cells = (f"{row[name]:.2f}{'*' if name == OWNERS[skill] else ' '}".rjust(width) for name in names)
        lines.append(skill.ljust(first) + "".join(cells))
    lines.append(
        "worst".ljust(first) + "".join(f"{min(r[n] for r in scores.values()):.2f} ".rjust(width) for n in names)
    )
    return "\n".join(lines)


def peak_memory_of(log: Path) -> float:
    """Peak memory of the training process in MiB, from its log."""
    *_, (_, last) = parse_lines(read_text(log, "log"), str(log), finite=False)
    return float(last["peak_memory_mb"])


def main(folder: Path, seconds: dict[str, float]) -> None:
    """Write report.json and grid.png into `folder`, which holds the trained LoRA."""
    silence_libraries()
    torch.set_num_threads(1)  # threads wait for each other as soon as a core is busy elsewhere
    start = time.perf_counter()
    student = folder / "fused.safetensors"
    asked = tasks()
    answers = answer_all(load(student), asked)
    scores = {skill: {model: float(np.mean(one.marks)) for model, one in row.items()} for skill, row in answers.items()}
    grid = grid_of(asked, answers)
    merge = add_better_merge(scores)
    seconds["score"] = round(time.perf_counter() - start, 1)
    seconds["total"] = round(seconds.pop("before", 0.0) + seconds["score"], 1)
    report = {
        "scores": scores,
        "owners": OWNERS,
        "merge_is": merge,
        "images_per_score": {skill: len(task.texts) for skill, task in asked.items()},
        "seconds": seconds,
        "peak_memory_mb": peak_memory_of(folder / "fused.log.jsonl"),
        "versions": versions(),
    }
    with whole_file(folder / "grid.png") as part:
        grid.save(part, format="PNG")
    with whole_file(folder / "report.json") as part:
        part.write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    print(
        f"\n{table(scores)}\n(* teaches the skill; fractions of correct drawings and mean scores of edits, all "
        "unseen)\n"
    )
    for what, name in (("LoRA", student.name), ("pictures", "grid.png"), ("report", "report.json")):
        print(f"{what:9}{os.path.relpath(folder / name)}")
    print(f"{'time':9}{seconds['total'] / 60:.1f} minutes")


if __name__ == "__main__":
    main(Path(sys.argv[1]), {name: float(value) for name, _, value in (a.partition("=") for a in sys.argv[2:])})
