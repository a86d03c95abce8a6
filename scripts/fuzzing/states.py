"""Caches and saved states: what a run is continued from."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from danceopd_ext.config.load import load_preset
from danceopd_ext.engine.batches import StepData
from danceopd_ext.toolkits.hosted import resume
from danceopd_ext.toolkits.native.build import Fields, build_fields
from danceopd_ext.toolkits.native.encoding import all_prompts, encode_prompts, open_caches, step_data
from danceopd_ext.toolkits.native.loop import Run
from danceopd_ext.toolkits.native.prepare import prepare
from danceopd_ext.toolkits.native.run_plan import STUDENT, RunPlan
from danceopd_ext.toolkits.native.state import open_state
from fuzzing.models import fresh_accelerator, write_run
from fuzzing.octets import damaged, replace_file
from fuzzing.presets import native_preset
from fuzzing.targets import Case, Stage, target
from fuzzing.tensors import with_odd_tensors, write_safetensors
from fuzzing.trees import as_json, changed
from fuzzing.values import odd_text, odd_value
from fuzzing.worlds import World

STEPS = 4
LOG_LINE = {"step": 1, "route": "base", "loss": 0.5, "seconds": 0.1}


def quiet(line: str) -> None:
    """Where a run tells what it does."""
    print(line)


@dataclass
class Ready:
    """A run of the demo's model, ready for its first step, and a state that it saved after two."""

    folder: Path
    plan: RunPlan
    accelerator: Accelerator
    fields: Fields
    data: StepData

    def restored(self) -> None:
        """As before the first case: the student's weights are those of the state."""
        self.fields.adapters.load_state(STUDENT, load_file(self.folder / "fused-state" / "student.safetensors"))


def ready(world: World) -> Ready:
    """Encode the prompts, train two steps and save the state; once for all cases."""
    if "ready" in world.__dict__:
        return world.__dict__["ready"]
    folder, before = world.folder / "run", Path.cwd()
    folder.mkdir()
    document = native_preset(Random(0))
    document["training"] = {**document["training"], "max_train_steps": STEPS}
    document["saving"] = {"output_dir": ".", "output_name": "fused", "save_state": True}
    document["danceopd"]["rollout_steps"] = 2
    write_run(folder, world, document)
    os.chdir(folder)
    try:
        preset = load_preset("preset.toml")
        accelerator = fresh_accelerator(preset)
        plan = prepare(preset, accelerator)
        encodings = open_caches(plan, folder / "cache")
        encode_prompts(plan, encodings, accelerator, quiet)
        data = step_data(plan, encodings, accelerator)
        fields = build_fields(plan, accelerator, quiet)
        run = Run(plan, accelerator, fields, data)
        for _ in range(2):
            run.one_step()
        run.output.write_state(Path("fused-state"), 2)
        run.journal.close()
    finally:
        os.chdir(before)
    world.__dict__["ready"] = Ready(folder, plan, accelerator, fields, data)
    return world.__dict__["ready"]


def odd_file(path: Path, rng: Random) -> list[str]:
    """Change one file of a state or cache by its kind; what was done, in words."""
    if path.suffix == ".safetensors":
        tensors, told = load_file(path), []
        if rng.random() < 0.7:
            tensors, told = with_odd_tensors(tensors, rng)
        return told + write_safetensors(path, tensors, _metadata(path), rng, odd=not told)
    if path.suffix == ".json":
        tree, told = changed(json.loads(path.read_text("utf-8")), rng)
        path.write_bytes(as_json(tree).encode("utf-8", "surrogatepass"))
        return [f"{path.name}: {'; '.join(told)}"]
    content = torch.load(path, weights_only=True)
    told = odd_object(content, rng)
    torch.save(content, path)
    return [f"{path.name}: {told}"]


def _metadata(path: Path) -> Any:
    length = int.from_bytes(path.read_bytes()[:8], "little")
    return json.loads(path.read_bytes()[8 : 8 + length]).get("__metadata__")


def odd_object(content: Any, rng: Random) -> str:
    """Change one entry somewhere in tables, lists and tensors that were pickled."""
    places: list[tuple[Any, Any]] = []

    def collect(one: Any) -> None:
        entries = one.items() if isinstance(one, dict) else enumerate(one) if isinstance(one, list) else ()
        for key, value in entries:
            places.append((one, key))
            collect(value)

    collect(content)
    table, key = rng.choice(places[:12] if rng.random() < 0.5 else places)
    old, kind = table[key], rng.random()
    if kind < 0.2:
        del table[key]
        return f"without {key}"
    if isinstance(old, torch.Tensor) and kind < 0.8:
        found, told = with_odd_tensors({"x": old}, rng)
        table[key] = next(iter(found.values()), None)
        return f"{key}: {'; '.join(told)}"
    value = odd_value(rng)
    table[key] = rng.choice(
        (None, [], {}, "x", -1, 2**70, float("nan"), torch.ones(2), str(value)[:50], [old], (1, 2), 10**400)
    )
    if isinstance(table, dict) and kind > 0.9:
        table[rng.choice(("x", 7, None, ("a", 1)))] = old
    return f"{key} is {type(table[key]).__name__}"


def signed(state: Path) -> None:
    """Write the digests of the files as they are now into state.json, if that can still be read."""
    try:
        facts = json.loads((state / "state.json").read_text("utf-8"))
        for name in facts["sha256"]:
            if (state / name).is_file():
                facts["sha256"][name] = hashlib.sha256((state / name).read_bytes()).hexdigest()
        (state / "state.json").write_text(json.dumps(facts), "utf-8")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError):
        return


def _continue(ready_: Ready, state: str) -> Callable[[Stage], None]:
    def run(stage: Stage) -> None:
        ready_.restored()
        stage("open")
        preset = ready_.plan.preset
        preset = replace(preset, saving=replace(preset.saving, output_dir="out"))
        plan = replace(ready_.plan, preset=preset, resume=open_state(Path(state), ready_.plan.identity, STEPS))
        stage("restore")
        continued = Run(plan, ready_.accelerator, ready_.fields, ready_.data)
        stage("step")
        continued.one_step()
        continued.journal.close()

    return run


@target("state", share=4, batch=20, before=ready)
def state_case(rng: Random, world: World, folder: Path) -> Case:
    """A state with damaged bytes or replaced files; its digests are what they were."""
    run = ready(world)
    state = shutil.copytree(run.folder / "fused-state", folder / "fused-state")
    path = rng.choice(sorted(state.iterdir()))
    if rng.random() < 0.3:
        told = replace_file(path, rng)
    else:
        data, told = damaged(path.read_bytes(), rng)
        path.write_bytes(data)
        told = f"{path.name}: {told}"
    (folder / "out").mkdir()
    return Case(_continue(run, "fused-state"), [told], ["fused-state"])


@target("toolkit-state", share=4)
def toolkit_state_case(rng: Random, world: World, folder: Path) -> Case:
    """A state that a toolkit saved, as far as it is read before the toolkit's own restoring."""
    state = folder / "fused-state"
    state.mkdir()
    content: Any = {"step": 2, "micro_batch": 0, "loss": 0.5}
    torch.save(content, state / resume.PROGRESS_FILE)
    kind, told = rng.random(), []
    if kind < 0.6:
        told = [odd_object(content, rng)]
        torch.save(rng.choice((content, content, content, [content], 5, None)), state / resume.PROGRESS_FILE)
    elif kind < 0.8:
        data, what = damaged((state / resume.PROGRESS_FILE).read_bytes(), rng)
        (state / resume.PROGRESS_FILE).write_bytes(data)
        told = [what]
    else:
        told = [replace_file(rng.choice((state, state / resume.PROGRESS_FILE)), rng)]
    place = rng.choice(("fused-state", "fused-state", "fused-state", "folder", odd_text(rng)))
    args = SimpleNamespace(
        resume=place, resume_from_huggingface=False, max_train_steps=4, max_train_epochs=None, output_dir="out",
        output_name="fused", skip_until_initial_step=False, initial_step=None, initial_epoch=None,
    )  # fmt: skip

    def run(stage: Stage) -> None:
        stage("hosted")
        resume.take_resume(args).zero_loss(torch.nn.Linear(1, 1))

    return Case(run, [*told, place[:40]], ["fused-state", "resume"])


@target("signed-state", share=5, batch=1, before=ready)
def signed_state_case(rng: Random, world: World, folder: Path) -> Case:
    """A state whose digests are right and whose content is not what we wrote: somebody else made it."""
    run = ready(world)
    state = shutil.copytree(run.folder / "fused-state", folder / "fused-state")
    (folder / "out").mkdir()
    if rng.random() < 0.1:
        lines = [as_json(changed(LOG_LINE, rng)[0]) for _ in range(3)]
        (folder / "out" / "fused.log.jsonl").write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
        return Case(_continue(run, "fused-state"), ["a log with odd lines"], ["fused-state", "fused.log.jsonl"])
    path = rng.choice(sorted(state.iterdir()))
    told = odd_file(path, rng)
    if path.name != "state.json":
        signed(state)
    return Case(_continue(run, "fused-state"), told, ["fused-state"])


@target("cache", share=5, batch=20, before=ready)
def cache_case(rng: Random, world: World, folder: Path) -> Case:
    """A cache of encoded prompts with one odd entry, and a step with what is in it."""
    run = ready(world)
    cache = shutil.copytree(run.folder / "cache", folder / "cache")
    path = rng.choice(sorted(cache.rglob("*.safetensors")))
    kind = rng.random()
    if kind < 0.2:
        told = [replace_file(path, rng)]
    elif kind < 0.5:
        data, what = damaged(path.read_bytes(), rng)
        path.write_bytes(data)
        told = [what]
    else:
        told = odd_file(path, rng)

    def again(stage: Stage) -> None:
        run.restored()
        stage("encode")
        found = open_caches(run.plan, "cache")
        right = run.data.encodings.prompts
        found.prompts.encode_missing(
            all_prompts(run.plan), lambda prompts: [right.get(*prompt) for prompt in prompts], progress=False
        )
        data = step_data(run.plan, found, run.accelerator)
        stage("step")
        for step in range(2):
            route = data.plan.route(step)
            for batch in data(route, step):
                count, sigma = len(batch.indices), torch.full((len(batch.indices),), 0.5)
                run.fields.teachers[route](torch.zeros(count, *batch.latent_shape), sigma, batch.condition)

    return Case(again, told, ["cache", path.name])
