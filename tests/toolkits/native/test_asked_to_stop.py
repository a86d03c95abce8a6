"""A request to stop, at whatever moment, ends the run cleanly: exit code 130, one line, nothing half-written."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from danceopd_ext.cli import run
from danceopd_ext.data import text_cache
from danceopd_ext.engine import model as engine_model
from danceopd_ext.lora import write
from danceopd_ext.toolkits.native import loop, previews, state, stop
from danceopd_ext.toolkits.native import train as train_module
from danceopd_ext.toolkits.native.stop import SIGNALS
from danceopd_ext.toolkits.run import main
from tests.tiny.presets import write_preset
from tests.toolkits.runs import forget_accelerate, log_of, same_tensors

KEYS = {
    "max_train_steps": 4,
    "rollout_steps": 2,
    "save_every_n_steps": 2,
    "save_state": True,
    "sample_every_n_steps": 2,
    "sample_at_first": True,
}


def write_drawing(folder, samples, model, teachers, **keys):
    """A preset with previews of two prompts."""
    prompts = samples / "samples.txt"
    prompts.write_text("a red cat --w 16 --h 16 --s 2\na blue river --w 16 --h 16 --s 2\n", encoding="utf-8")
    return write_preset(folder, model, teachers, sample_prompts=str(prompts), **{**KEYS, **keys})


@pytest.fixture
def preset(pipelines, two_teachers, tmp_path):
    return lambda folder="run", **keys: write_drawing(
        tmp_path / folder, tmp_path, pipelines["sd3"], two_teachers["sd3"], **keys
    )


@pytest.fixture
def signalled(monkeypatch):
    """`signalled(owner, name, count, number)`: this process gets the signal in the `count`-th call of owner.name."""

    def signalled(owner, name, count=1, number=signal.SIGINT, times=1):
        real, calls = getattr(owner, name), [0]

        def called(*arguments, **named):
            calls[0] += 1
            if calls[0] == count:
                for _ in range(times):
                    os.kill(os.getpid(), number)
            return real(*arguments, **named)

        monkeypatch.setattr(owner, name, called)

    return signalled


@pytest.fixture
def ended(capsys):
    """Run; the exit code and the last line on the screen. Nothing is half-written, and no lock is left."""

    def ended(path, *arguments):
        forget_accelerate()
        handlers = [signal.getsignal(number) for number in SIGNALS]
        code = run(main, ["--config", str(path), *map(str, arguments)])
        assert [signal.getsignal(number) for number in SIGNALS] == handlers
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        output = path.parent / "output"
        rest = [*output.rglob("*.part"), *output.glob(".*.lock*")]
        assert not rest
        return code, told.out.strip().splitlines()[-1]

    return ended


BEFORE_THE_LOOP = [
    (train_module, "prepare", 1),
    (train_module, "encode_prompts", 1),
    (text_cache, "write_entry", 3),
    (engine_model, "load_transformer", 1),
    (loop, "Journal", 1),
]


#: every signal at one moment, and every moment with one signal
BEFORE = [(*BEFORE_THE_LOOP[0], n) for n in SIGNALS] + [(*moment, signal.SIGTERM) for moment in BEFORE_THE_LOOP[1:]]


@pytest.mark.parametrize(("owner", "name", "count", "number"), BEFORE)
def test_before_the_loop_it_ends_at_once(preset, signalled, ended, monkeypatch, number, owner, name, count):
    path = preset()
    with monkeypatch.context():
        signalled(owner, name, count, number)
        code, last = ended(path)
    assert code == 130
    assert last.startswith("stopped before the first step: nothing was learnt or saved")
    assert not [*(path.parent / "output").glob("fused*.safetensors"), *(path.parent / "output").glob("fused*-state")]


def test_what_was_encoded_is_kept(preset, signalled, ended, monkeypatch, capsys):
    path = preset()
    with monkeypatch.context() as patch:
        real, calls = text_cache.write_entry, []

        def third(*arguments, **named):
            calls.append(real(*arguments, **named))
            if len(calls) == 3:
                os.kill(os.getpid(), signal.SIGTERM)

        patch.setattr(text_cache, "write_entry", third)
        assert ended(path)[0] == 130
    cache = path.parent / "output" / "cache"
    entries = {file: file.stat().st_mtime_ns for file in cache.rglob("*.safetensors")}
    assert len(entries) == 2
    forget_accelerate()
    assert run(main, ["--config", str(path)]) == 0
    assert f"encoded {len(list(cache.rglob('*.safetensors'))) - 2} prompts" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in entries} == entries


IN_THE_LOOP = [
    # where, in which of its calls, and the step that is saved
    (loop.Run, "gradient", 1, 1),
    (loop.Run, "change_weights", 2, 2),
    (loop.Journal, "record", 3, 3),
    (write, "save_file", 1, 2),  # a periodic save is finished; the pictures after it are left out
    (state, "save_file", 1, 2),
    (previews, "draw_grid", 2, 2),
    (previews, "decode_finite", 9, 2),  # within the pictures of step 2, which wait for nobody
]


@pytest.fixture(scope="module")
def whole(pipelines, two_teachers, tmp_path_factory):
    """The output of a run that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    forget_accelerate()
    main(["--config", str(write_drawing(folder, folder, pipelines["sd3"], two_teachers["sd3"]))])
    return folder / "output"


@pytest.mark.parametrize(("owner", "name", "count", "step"), IN_THE_LOOP)
def test_in_the_loop_the_step_is_finished_and_saved(
    preset, signalled, ended, monkeypatch, whole, owner, name, count, step
):
    path = preset()
    output = path.parent / "output"
    with monkeypatch.context():
        signalled(owner, name, count)
        code, last = ended(path)
        monkeypatch.undo()
    lora, state_folder = (output / f"fused-step{step:08d}{end}" for end in (".safetensors", "-state"))
    assert (code, last) == (130, f"stopped after step {step}, saved {lora}. Resume with: --resume {state_folder}")
    assert [entry["step"] for entry in log_of(output)] == list(range(1, step + 1))
    assert ended(path, "--resume", state_folder)[0] == 0
    assert same_tensors(output / "fused.safetensors", whole / "fused.safetensors")


def test_in_the_first_pictures_there_is_nothing_to_save(preset, signalled, ended):
    path = preset()
    signalled(previews, "decode_finite", 1)
    code, last = ended(path)
    assert (code, last) == (130, "stopped in step 1, before anything was learnt: nothing is saved.")
    assert not [*(path.parent / "output" / "sample").glob("*.png")]


@pytest.mark.parametrize(
    ("owner", "name", "count"), [(loop.Run, "gradient", 4), (write, "save_file", 3), (previews, "draw_grid", 3)]
)
def test_a_run_that_is_in_its_last_step_ends_as_done(preset, signalled, ended, owner, name, count):
    path = preset(save_every_n_steps=1, sample_at_first=False, sample_every_n_steps=1)
    count += name == "save_file"
    signalled(owner, name, count + (name == "draw_grid"))
    code, last = ended(path)
    assert code == 0
    assert last.startswith("done: ") and last.endswith("fused.safetensors")


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({}, "what was learnt since step 2 is lost. Resume with: --resume {}-step00000002-state"),
        ({"save_state": False}, "since step 2 is lost. No state was saved: --network_weights {}-step00000002.safeten"),
        ({"save_every_n_steps": None}, "what was learnt since step 0 is lost."),
    ],
)
def test_a_second_request_ends_at_once(preset, signalled, ended, keys, told):
    path = preset(**{"sample_every_n_steps": None, **keys})
    signalled(loop.Run, "gradient", 4, times=2)
    code, last = ended(path)
    assert code == 130
    assert last.startswith("stopped at once after step 3: ")
    assert told.format(path.parent / "output" / "fused") in last


@pytest.mark.parametrize("second", [number for number in SIGNALS if number != signal.SIGINT])
def test_a_logout_is_one_request(preset, ended, monkeypatch, second):
    """A closed terminal sends SIGHUP more than once, and a logout SIGTERM besides."""
    real = loop.Run.gradient

    def gradient(self):
        for number in (signal.SIGHUP, second, signal.SIGHUP):
            os.kill(os.getpid(), number)
        return real(self)

    monkeypatch.setattr(loop.Run, "gradient", gradient)
    code, last = ended(preset())
    assert code == 130
    assert last.startswith("stopped after step 1, saved ")


def test_what_is_ignored_at_the_start_stays_ignored(preset, signalled, ended):
    """As SIGHUP is under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        signalled(train_module, "encode_prompts", 1, signal.SIGHUP)
        signalled(loop.Run, "gradient", 2, signal.SIGHUP)
        assert ended(preset())[0] == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_can_ask(preset, ended, monkeypatch):
    """As the one does that watches the launcher: before the loop it ends at once, in it after the step."""
    for owner, name, told in [
        (train_module, "encode_prompts", "stopped before the first step"),
        (loop.Run, "gradient", "stopped after step 1, saved"),
    ]:
        with monkeypatch.context() as patch:
            real = getattr(owner, name)

            def asking(*arguments, real=real):
                thread = threading.Thread(target=stop.ask, args=("the launcher has ended",))
                thread.start()
                thread.join()
                return real(*arguments)

            patch.setattr(owner, name, asking)
            code, last = ended(preset(name))
        assert code == 130
        assert last.startswith(told)
