"""Try presets and model folders that would run code: `python scripts/campaigns/payloads.py`.

Runs the real command on each, and looks for the file that their code would make. Nothing may run without its flag, each
must end with exit code 2 and one message, and what `--allow_local_code` allows must run with it. Needs no network; a
run takes about ten seconds, more on a busy machine. The exit code is 1 if anything is otherwise.

`--only WORD` runs those whose names have the word. `--python PATH` runs them with another Python, for example one with
an older diffusers; `--without_border` leaves our own check of model folders out, which shows what the libraries do.
"""

from __future__ import annotations

import argparse
import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from scripts.campaigns import hostile_models  # noqa: E402

DEMO = ROOT / "danceopd_ext" / "demo" / "pipeline"
FLAG = "--allow_local_code"
#: seconds for one run
LONGEST = 300

OPTIMIZER = """from pathlib import Path
Path({marker!r}).touch()
import torch
class Mine(torch.optim.SGD):
    pass
"""
#: the same training without our check of model folders
WITHOUT_BORDER = (
    "import sys; from danceopd_ext.models import model_files; model_files.check_folder = lambda folder: None; "
    "from danceopd_ext.cli import run; from danceopd_ext.toolkits.run import main; sys.exit(run(main))"
)


@dataclass(frozen=True)
class Case:
    """A payload. make: writes it into a folder, for a marker, and returns words of the command besides the preset.

    script: where the training script is taken from; by default this project's. allowed: whether the flag lets it run.
    """

    name: str
    make: Callable[[Path, Path], list[str]]
    allowed: bool = False
    script: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a run did. ran: whether its code ran. told: the last line that it printed."""

    case: Case
    flag: bool
    ran: bool
    code: int | None
    seconds: float
    told: str

    @property
    def right(self) -> bool:
        return self.ran == (self.flag and self.case.allowed) and (self.flag or self.code == 2)


def preset(folder: Path, model: Path | str = DEMO, optimizer: str = "", danceopd: str = "") -> None:
    """A run of one step on the demo's model."""
    (folder / "prompts.txt").write_text("a red circle\n", encoding="utf-8")
    (folder / "preset.toml").write_text(
        f"""[model]
pretrained_model_name_or_path = '{model}'
[dataset]
resolution = 32
[network]
network_dim = 2
[optimizer]
{optimizer}
[training]
max_train_steps = 1
gradient_accumulation_steps = 1
mixed_precision = "no"
[saving]
output_dir = 'out'
[danceopd]
rollout_steps = 2
{danceopd}
[danceopd.teachers.base]
[danceopd.prompts]
base = "prompts.txt"
""",
        encoding="utf-8",
    )


def optimizer(folder: Path, marker: Path) -> list[str]:
    """An optimizer that stands beside the preset, which is the working directory and, as a copy, the script's."""
    (folder / "my_optimizer.py").write_text(OPTIMIZER.format(marker=str(marker)), encoding="utf-8")
    preset(folder, optimizer='optimizer_type = "my_optimizer.Mine"\nlearning_rate = 0.01')
    return []


def pipeline(folder: Path, marker: Path) -> list[str]:
    """A function that is told to run a model folder's code."""
    model = hostile_models.copy(DEMO / "text_encoder", folder / "model")
    own = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    hostile_models.change(model / "config.json", auto_map=own, model_type="evil")
    (model / "evil.py").write_text(hostile_models.CODE.format(marker=str(marker)), encoding="utf-8")
    words = ["model='model'", "trust_remote_code=True"]
    preset(folder, optimizer=f'optimizer_type = "transformers.pipeline"\noptimizer_args = {words}')
    return []


def toolkit(folder: Path, marker: Path) -> list[str]:
    """A folder that looks like a toolkit's checkout."""
    for name in ("train_network.py", "sd3_train_network.py", "library/train_util.py"):
        path = folder / "sd-scripts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(OPTIMIZER.format(marker=str(marker)), encoding="utf-8")
    (folder / "preset.toml").write_text(
        '[model]\nmodel_type = "sd3"\n[danceopd]\ntoolkit = "sd-scripts"\ntoolkit_dir = "sd-scripts"\n'
        "[danceopd.teachers.base]\n",
        encoding="utf-8",
    )
    return []


def clone(folder: Path, marker: Path) -> list[str]:
    """The same with what a clone of the toolkit has."""
    toolkit(folder, marker)
    git = folder / "sd-scripts" / ".git"
    git.mkdir()
    (git / "HEAD").write_text("0" * 40, encoding="utf-8")
    (git / "config").write_text('[remote "origin"]\n\turl = https://github.com/kohya-ss/sd-scripts\n', encoding="utf-8")
    return []


def flag_in_preset(folder: Path, marker: Path) -> list[str]:
    """A preset that allows itself to run code."""
    optimizer(folder, marker)
    path = folder / "preset.toml"
    text = path.read_text(encoding="utf-8").replace("[danceopd]\n", "[danceopd]\nallow_local_code = true\n", 1)
    path.write_text(text, encoding="utf-8")
    return []


@lru_cache(maxsize=1)
def tiny_model() -> Path:
    """A tiny random Z-Image, whose texts go through a chat template; the demo's do not."""
    from tests.tiny.pipelines import save_any  # here: it takes seconds to import

    folder = tempfile.mkdtemp(prefix="payloads-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return save_any("z_image", Path(folder) / "model")


def model(make: hostile_models.Variant) -> Callable[[Path, Path], list[str]]:
    """A run on a model folder that was made hostile."""

    def case(folder: Path, marker: Path) -> list[str]:
        make(hostile_models.copy(tiny_model(), folder / "model"), marker)
        preset(folder, model="model")
        return []

    return case


CASES = (
    Case("optimizer: in the working directory", optimizer, allowed=True),
    Case("optimizer: beside the script", optimizer, allowed=True, script="train_danceopd.py"),
    Case("optimizer: transformers.pipeline", pipeline),
    Case("preset: sets the flag itself", flag_in_preset),
    Case("toolkit_dir: beside the preset", toolkit, allowed=True),
    Case("toolkit_dir: beside the preset, with .git", clone, allowed=True),
    *(Case(f"model: {name}", model(make)) for name, make in hostile_models.CODES.items()),
    *(Case(f"model: {name}", model(make)) for name, make in hostile_models.ENDLESS.items()),
)


def run(case: Case, flag: bool, python: str, without_border: bool) -> Outcome:
    """Run the command on a payload in a folder of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = case.make(folder, folder / "ran")
        script = ROOT / "train_danceopd.py"
        if case.script:
            script = Path(shutil.copy(script, folder / case.script))
        command = [python, "-c", WITHOUT_BORDER] if without_border else [python, str(script)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        environment.pop("SD_SCRIPTS_DIR", None)
        command += ["--config", "preset.toml", *words, *([FLAG] if flag else [])]
        begin = time.monotonic()
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=LONGEST,
                encoding="utf-8", errors="replace",
            )  # fmt: skip
            code, text = done.returncode, done.stdout + done.stderr
        except subprocess.TimeoutExpired:
            code, text = None, "still running"
        told = next((line for line in reversed(text.splitlines()) if line.startswith(("error:", "stopped:"))), "")
        told = told or (text.strip().splitlines() or [""])[-1]
        return Outcome(case, flag, (folder / "ran").exists(), code, time.monotonic() - begin, told)


def outcomes(only: str, python: str, without_border: bool) -> Iterator[Outcome]:
    """Each payload without the flag, and with it."""
    for case in CASES:
        if only in case.name:
            yield run(case, False, python, without_border)
            if case.allowed or case.make is pipeline:
                yield run(case, True, python, without_border)


def main(arguments: list[str] | None = None) -> int:
    """Run the payloads, print a line for each, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="those whose names have this word")
    parser.add_argument("--python", default=sys.executable, help="the Python to run them with")
    parser.add_argument("--without_border", action="store_true", help="leave our check of model folders out")
    given = parser.parse_args(arguments)
    found = []
    for one in outcomes(given.only, given.python, given.without_border):
        found.append(one)
        what = f"{one.case.name}{' ' + FLAG if one.flag else ''}"
        ran = "RAN" if one.ran else "did not run"
        print(f"{'ok   ' if one.right else 'WRONG'} {what:<60} {ran}, exit code {one.code}, {one.seconds:.0f} s")
        print(f"      {one.told[:200]}", flush=True)
    wrong = [one for one in found if not one.right]
    without = [one for one in found if not one.flag]
    print(
        f"{len(found)} runs, {sum(one.ran for one in without)} of {len(without)} payloads ran without {FLAG}, "
        f"{len(wrong)} wrong"
    )
    return 1 if wrong or not found else 0


if __name__ == "__main__":
    sys.exit(main())
