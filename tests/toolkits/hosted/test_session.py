"""Beside a toolkit's loop: Ctrl-C, the log and the losses in its bar, in both toolkits' stand-ins."""

# ruff: noqa: F811 - the fixtures are imported

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from danceopd_ext.errors import TrainingError
from danceopd_ext.toolkits import stage_clock
from danceopd_ext.toolkits.hosted import session
from danceopd_ext.toolkits.hosted.run_trainer import run_trainer
from danceopd_ext.toolkits.hosted.session import Stopped
from danceopd_ext.toolkits.native import stop
from danceopd_ext.toolkits.native.stop import SIGNALS
from tests.toolkits.musubi.test_contract import lora, section  # noqa: F401
from tests.toolkits.musubi.test_contract import train as train_musubi  # noqa: F401
from tests.toolkits.sd_scripts.world import train  # noqa: F401

NATIVE_NAMES = {
    "step", "route", "loss", "learning_rate", "grad_norm", "query_sigma", "rollout_forwards_per_sample",
    "teacher_forwards_per_sample", "student_forwards_per_sample", "forwards", "samples", "seconds", "stage_seconds",
    "peak_memory_mb",
}  # fmt: skip


@pytest.fixture(params=["sd-scripts", "musubi-tuner"])
def toolkit(request, train, train_musubi, lora, tmp_path):
    """Train on either stand-in: toolkit arguments -> the trainer. The trainer is `toolkit.trainer` after an error."""
    musubi = request.param == "musubi-tuner"

    def run(*extra, **values):
        values = {"max_train_steps": 6, "output_dir": str(tmp_path / "out"), "learning_rate": 0.02, **values}
        (tmp_path / "out").mkdir(exist_ok=True)
        try:
            return train_musubi(section(lora), *extra, **values) if musubi else train(**values)
        finally:
            run.trainer = (train_musubi if musubi else train).trainer

    run.out = tmp_path / "out"
    return run


def interrupt_at(step: int, number: int = signal.SIGINT, more: int = 0):
    """A way to start a trainer that is sent the signal in the middle of this step, and `more` times after it."""

    def start(trainer, args):
        loss, sent = None, []

        def watched(*given):
            result = loss(*given)
            if trainer.distiller.progress.step >= step and not sent:
                sent.extend(os.kill(os.getpid(), number) for _ in range(1 + more))
            return result

        make = trainer.on_train_start if hasattr(trainer, "on_train_start") else trainer.update_metadata

        def made(*given):
            nonlocal loss
            result = make(*given)
            loss, trainer.distiller.loss = trainer.distiller.loss, watched
            return result

        setattr(trainer, make.__name__, made)
        run_trainer(trainer, args)

    return start


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "fused.log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("number", SIGNALS)
def test_ctrl_c_saves_and_says_how_to_go_on(toolkit, number):
    handlers = [signal.getsignal(one) for one in SIGNALS]
    with pytest.raises(Stopped) as stopped:
        toolkit(start=interrupt_at(3, number), gradient_accumulation_steps=2, save_every_n_steps=100)
    saved = toolkit.out / "fused-step00000003.safetensors"
    state = toolkit.out / "fused-step00000003-state"
    assert str(stopped.value) == f"stopped after step 3, saved {saved}. Resume with: --resume {state}"
    assert load_file(saved)
    assert {path.name for path in toolkit.out.iterdir()} == {saved.name, state.name, "fused.log.jsonl"}
    assert [record["step"] for record in records(toolkit.out)] == [1, 2, 3]
    assert [signal.getsignal(one) for one in SIGNALS] == handlers


def test_a_stopped_and_resumed_run_is_the_run_that_was_not_stopped(toolkit):
    values = {"gradient_accumulation_steps": 2}
    whole = toolkit(start=run_trainer, save_every_n_steps=6, **values)
    last = load_file(toolkit.out / "fused-step00000006.safetensors")
    log = records(toolkit.out)
    (toolkit.out / "fused-step00000006.safetensors").unlink()
    with pytest.raises(Stopped):
        toolkit(start=interrupt_at(4), save_every_n_steps=6, **values)
    state = str(toolkit.out / "fused-step00000004-state")
    toolkit(start=run_trainer, resume=state, save_every_n_steps=6, **values)
    again = load_file(toolkit.out / "fused-step00000006.safetensors")
    assert all(torch.equal(tensor, again[name]) for name, tensor in last.items())
    keep = ("step", "route", "loss", "losses", "query_sigma", "grad_norm", "learning_rate")
    picked = [[{name: entry[name] for name in keep} for entry in entries] for entries in (log, records(toolkit.out))]
    assert picked[0] == picked[1]
    assert len(log) == 6
    assert whole.session.step == 6


def test_without_save_state_the_lora_is_the_way_on(toolkit):
    message = r"No state was saved\. To start .*, use --network_weights .*fused-step00000002\.safetensors"
    with pytest.raises(Stopped, match=message):
        toolkit(start=interrupt_at(2), save_state=False)
    assert not list(toolkit.out.glob("*-state"))


def test_ctrl_c_in_the_last_step_lets_the_run_end(toolkit):
    trainer = toolkit(start=interrupt_at(6))
    assert trainer.session.step == 6
    assert not list(toolkit.out.glob("*-step*"))


def test_a_second_ctrl_c_ends_at_once(toolkit):
    with pytest.raises(Stopped, match=r"^stopped at once in step 2: this run saved nothing\.$"):
        toolkit(start=interrupt_at(2, more=1))
    assert not list(toolkit.out.glob("*.safetensors"))


def test_a_launcher_that_passes_the_signal_on_is_not_a_second_ctrl_c(monkeypatch):
    """A console sends Ctrl-C to all processes, and torch's launcher sends it to its own once more."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    now = [10.0]
    monkeypatch.setattr(stop.time, "monotonic", lambda: now[0])
    with stop.StopRequest() as request:
        os.kill(os.getpid(), signal.SIGINT)
        now[0] += 0.5
        os.kill(os.getpid(), signal.SIGINT)
        assert request.requested
        now[0] += 2
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_log_has_the_names_of_the_native_one(toolkit):
    trainer = toolkit(start=run_trainer, gradient_accumulation_steps=2, max_grad_norm=1.0)
    log = records(toolkit.out)
    assert [record["step"] for record in log] == [1, 2, 3, 4, 5, 6]
    assert NATIVE_NAMES | {"losses"} == set(log[0])
    for record in log:
        assert record["learning_rate"] == 0.02
        assert record["grad_norm"] > 0
        assert record["route"] == " + ".join(record["losses"])
        assert set(record["losses"]) <= {"base", "style"}
        assert record["forwards"] == round(
            record["samples"] * sum(record[f"{kind}_forwards_per_sample"] for kind in ("rollout", "teacher", "student"))
        )
    batches = iter(trainer.losses)
    assert log[0]["loss"] == pytest.approx((next(batches) + next(batches)) / 2, rel=1e-4)


@pytest.mark.parametrize("clipped", [0.0, 1.0])
def test_seconds_of_the_stages(toolkit, capsys, clipped):
    """The toolkit's own backward, clipping and optimizer are measured as well."""
    toolkit(start=run_trainer, max_grad_norm=clipped, gradient_accumulation_steps=2)
    log = records(toolkit.out)
    for record in log:
        stages = record["stage_seconds"]
        assert list(stages) == ["rollout", "teacher", "match", "optimizer"]
        assert min(stages[name] for name in ("teacher", "match", "optimizer")) > 0
        assert sum(stages.values()) <= record["seconds"] + 0.001
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("time     ")]
    assert f"{sum(record['seconds'] for record in log):.1f} s for 6 steps: rollout " in line


def test_the_toolkits_backward_is_part_of_match(toolkit, monkeypatch):
    """A backward that takes a second more takes a second more of match."""
    seconds = [0.0]
    monkeypatch.setattr(stage_clock.time, "perf_counter", lambda: seconds[0])
    backward = torch.autograd.backward

    def slow(*given, **named):
        seconds[0] += 1.0
        return backward(*given, **named)

    monkeypatch.setattr(torch.autograd, "backward", slow)
    toolkit(start=run_trainer, gradient_accumulation_steps=2)
    found = [record["stage_seconds"]["match"] for record in records(toolkit.out)]
    assert set(found) <= {1.0, 2.0}  # the last step of an epoch may have one micro-batch
    assert sum(found) == seconds[0] > 6


def test_without_clipping_no_norm_is_known(toolkit):
    toolkit(start=run_trainer, max_grad_norm=0.0)
    assert [record["grad_norm"] for record in records(toolkit.out)] == [None] * 6


def test_the_bar_shows_the_routes(toolkit):
    trainer = toolkit(start=run_trainer)
    assert "avr_loss=" in trainer.bar.postfix
    assert "base=" in trainer.bar.postfix
    assert "style=" in trainer.bar.postfix
    assert trainer.bar.postfix.count("=") == 3


@pytest.mark.parametrize("number", SIGNALS)
def test_workers_survive_a_request_that_goes_to_all_processes(number):
    """As from a console or a service manager: the step needs what they load. When it is over, SIGTERM ends them."""
    program = """
import os, signal, sys, torch
from types import SimpleNamespace
from danceopd_ext.toolkits.hosted.session import keep_workers_alive
class Data(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, index): return index, os.getpid()
if __name__ == "__main__":
    loader = torch.utils.data.DataLoader(
        Data(), batch_size=1, num_workers=1, prefetch_factor=1, persistent_workers=True
    )
    release = keep_workers_alive(SimpleNamespace(_dataloaders=[loader]))
    seen = []
    for index, worker in loader:
        if not seen:
            os.kill(int(worker), int(sys.argv[1]))
        seen.append(int(index))
    release()
    torch.utils.data._utils.signal_handling._remove_worker_pids(id(loader._iterator))  # as when torch shuts it down
    (process,) = torch.multiprocessing.active_children()
    process.terminate()
    process.join(60)
    print(seen, process.exitcode)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(int(number))], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == f"[0, 1, 2, 3] {-signal.SIGTERM}", done.stderr


@pytest.mark.parametrize(("where", "step"), [("backward", 3), ("loss", 3)])
def test_out_of_memory_names_the_step(toolkit, where, step):
    """Also in the backward that follows the loss of a step's last micro-batch."""

    def start(trainer, args):
        begin = session.Session.begin

        def begun(self):
            begin(self)
            if self.current == step:
                owner = self.accelerator if where == "backward" else self.distiller
                setattr(owner, where, full)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(session.Session, "begin", begun)
            run_trainer(trainer, args)

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(TrainingError, match=rf"out of memory in step {step}\. Try: .*--resume .*step0000000{step - 1}"):
        toolkit(start=start, save_every_n_steps=1)
