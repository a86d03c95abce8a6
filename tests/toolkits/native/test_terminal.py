"""Real processes: their terminal is closed, their launcher killed, and two of them want one folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from danceopd_ext.toolkits.native.stop import HANGUP
from tests.tiny.presets import write_preset
from tests.toolkits.forked import ENVIRONMENT, ROOT
from tests.toolkits.runs import log_of, same_tensors, two_processes

LONG = 100_000
DRIVER = "tests/toolkits/native/driver.py"
ONE_PROCESS = ["-m", "accelerate.commands.launch", "--cpu"]

pytestmark = pytest.mark.skipif(HANGUP is None, reason="Windows has neither SIGHUP nor pseudo-terminals")


@pytest.fixture
def preset(pipelines, two_teachers, tmp_path):
    """A run that ends only if it is asked to, unless max_train_steps is given."""
    return lambda **keys: write_preset(
        tmp_path / "run", pipelines["sd3"], two_teachers["sd3"], **{"max_train_steps": LONG, "rollout_steps": 2, **keys}
    )


@pytest.fixture
def output(tmp_path):
    return tmp_path / "run" / "output"


def start(*command, **how) -> subprocess.Popen:
    words = [sys.executable, *map(str, command)]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
    return subprocess.Popen(words, env=ENVIRONMENT, cwd=ROOT, text=True, **streams)


def check_saved(output, launch, preset) -> int:
    """The last step that was logged is saved, LoRA and state, and no lock is left; the run can go on. The step."""
    step = log_of(output)[-1]["step"]
    assert (output / f"fused-step{step:08d}.safetensors").is_file()
    assert not [*output.rglob("*.part"), *output.glob(".*")]
    launch(preset, "--resume", output / f"fused-step{step:08d}-state", "--max_train_steps", step + 1)
    assert len(log_of(output)) == step + 1
    return step


def test_the_terminal_is_closed(preset, output, launch):
    """The screen is gone as well: nothing that is written to it afterwards keeps the run from saving."""
    path = preset(save_every_n_steps=2)
    child, terminal = os.forkpty()
    if child == 0:
        os.chdir(ROOT)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests that run under nohup ignore it
        os.execve(sys.executable, [sys.executable, "train_danceopd.py", "--config", str(path)], ENVIRONMENT)
    shown = b""
    while b"fused-step00000002.safetensors" not in shown:
        shown += os.read(terminal, 1000)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 130
    assert check_saved(output, launch, path) >= 2


def test_a_pipe_is_closed(preset, output, launch):
    """As `| head` does: the run goes on without a screen, to its end."""
    process = start("train_danceopd.py", "--config", preset(max_train_steps=3, save_every_n_steps=1))
    assert process.stdout.readline()
    process.stdout.close()
    process.stderr.close()
    assert process.wait() == 0
    assert (output / "fused.safetensors").is_file()
    assert len(log_of(output)) == 3


def test_under_nohup_it_goes_on(preset, output):
    path = preset(max_train_steps=3)
    process = start(DRIVER, "hangup:2", path, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    told, errors = process.communicate()
    assert process.returncode == 0, errors
    assert told.splitlines()[-1] == f"done: {output / 'fused.safetensors'}"


def test_a_shell_that_ends_is_no_launcher(preset, output):
    """The run is started in the background and its shell killed: it goes on to its end."""
    path = preset(max_train_steps=4)
    shell = f"{sys.executable} {DRIVER} launcher:2 {path} & wait"
    process = subprocess.Popen(["sh", "-c", shell], env=ENVIRONMENT, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    told = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL
    assert told.splitlines()[-1] == f"done: {output / 'fused.safetensors'}"


@pytest.mark.parametrize("processes", [1, 2])
def test_the_launcher_is_killed(preset, output, launch, processes):
    """Its processes notice, save and end; the pipes that all of them share are closed then."""
    path = preset()
    launcher = ONE_PROCESS if processes == 1 else two_processes()
    process = start(*launcher, DRIVER, "launcher:3", path)
    told, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert told.splitlines()[-1].startswith("stopped after step "), errors
    assert errors.count("exit code 130") == processes
    assert "Traceback" not in errors
    step = log_of(output)[-1]["step"]
    assert (output / f"fused-step{step:08d}-state" / "state.json").is_file()
    if processes == 1:  # of two, one alone cannot go on
        check_saved(output, launch, path)


def test_one_of_two_processes_is_killed(preset):
    """The other one does not stay."""
    process = start(*two_processes(), DRIVER, "second:3", preset())
    process.communicate()
    assert process.returncode == 1


def test_exit_code_under_accelerate(preset, output):
    """It makes 1 of every code, with a traceback of its own unless it is told to be quiet; ours has none."""
    process = start(*ONE_PROCESS, DRIVER, "interrupt:2", preset())
    told, errors = process.communicate()
    assert process.returncode == 1
    *before, last = told.splitlines()
    assert last.startswith(f"stopped after step 2, saved {output / 'fused-step00000002.safetensors'}")
    assert "accelerate launch --quiet" in before[-1]
    ours, _, theirs = errors.partition("exit code 130")
    assert "Traceback" not in ours
    assert "CalledProcessError" in theirs


def test_two_processes_stop_together(preset, output):
    process = start(*two_processes(), "--quiet", DRIVER, "interrupt:2", preset())
    told, errors = process.communicate()
    assert errors.count("exit code 130") == 2, errors
    assert "Traceback" not in errors
    assert told.count("stopped after step ") == 1
    assert told.splitlines()[-1].startswith("stopped after step ")


def test_two_runs_in_one_folder(preset, output, launch, refused):
    """The second is refused while the first goes on; one of another name is not."""
    path = preset(max_train_steps=3)
    first = start(DRIVER, "wait:2", path)
    lines = iter(first.stdout.readline, "")
    assert any(line == "waiting\n" for line in lines)
    told = refused(path)
    assert f"process {first.pid} on " in told and str(output) in told
    launch(path, "--output_name", "other")
    _, errors = first.communicate("\n")
    assert first.returncode == 0, errors
    assert same_tensors(output / "fused.safetensors", output / "other.safetensors")
    assert not [*output.glob(".*")]
