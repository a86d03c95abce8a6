"""TensorBoard and W&B: what keeps them from working is found before anything is loaded."""

from __future__ import annotations

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from socket import socket

import pytest
from accelerate import tracking
from accelerate.utils import LoggerType

from danceopd_ext import machine
from danceopd_ext.cli import run
from danceopd_ext.config import load_preset
from danceopd_ext.toolkits.native import trackers
from danceopd_ext.toolkits.native import train as train_module
from danceopd_ext.toolkits.run import main
from tests.tiny.presets import write_preset
from tests.tiny.wandb_stand_in import write_stand_in
from tests.toolkits.runs import log_of, says


@pytest.fixture
def wandb(monkeypatch, tmp_path):
    """A stand-in for W&B, without a key; returns what it has been given so far."""
    folder = tmp_path / "site"
    folder.mkdir()
    record = write_stand_in(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(tracking, "_available_trackers", [LoggerType.TENSORBOARD, LoggerType.WANDB])
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    (tmp_path / "home").mkdir()

    def told(key: str) -> list:
        lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
        return [entry[key] for entry in map(json.loads, lines) if key in entry]

    yield told
    sys.modules.pop("wandb", None)


@pytest.fixture
def server():
    """The address of a server that knows no page, as W&B's answers a stranger."""

    class Nothing(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def log_message(self, *_):
            pass

    http = HTTPServer(("127.0.0.1", 0), Nothing)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()
    thread.join()


def free_port() -> int:
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# --- W&B


@pytest.mark.parametrize("log_with", ["wandb", "all"])
def test_no_key(changed, refused, wandb, log_with):
    says(refused(changed(log_with=log_with)), "W&B has no API key", "wandb login", "WANDB_MODE=offline", "log_with")
    assert wandb("init") == []


@pytest.mark.parametrize("place", ["WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", ".netrc", "_netrc", "NETRC"])
def test_places_of_a_key(wandb, monkeypatch, tmp_path, place):
    assert not trackers.has_key("https://wandb.mine.example")
    if place.startswith("WANDB"):
        monkeypatch.setenv(place, "0123456789")
    else:
        file = tmp_path / ("other" if place == "NETRC" else f"home/{place}")
        file.write_text("machine wandb.mine.example\n  login user\n  password 0123456789\n", encoding="utf-8")
        if place == "NETRC":
            monkeypatch.setenv("NETRC", str(file))
        assert not trackers.has_key("https://wandb.another.example")
    assert trackers.has_key("https://wandb.mine.example")


def test_a_damaged_netrc_is_no_key(wandb, tmp_path):
    (tmp_path / "home" / ".netrc").write_text("machine machine\n", encoding="utf-8")
    assert not trackers.has_key("https://wandb.mine.example")


def test_offline_needs_no_key(changed, launch, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    launch(changed(log_with="wandb", max_train_steps=2))
    (init,) = wandb("init")
    assert init["name"] == "fused" and init["project"] == "danceopd"
    assert wandb("step") == [1, 2]
    assert wandb("finished") == [True]


def test_a_server_that_answers(changed, launch, wandb, monkeypatch, server):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789")
    monkeypatch.setenv("WANDB_BASE_URL", server)
    launch(changed(log_with="wandb", max_train_steps=1))
    assert "mode" not in wandb("init")[0]


def test_without_a_network_the_run_is_recorded_offline(changed, launch, wandb, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789")
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free_port()}")
    output = launch(changed(log_with="wandb", max_train_steps=1))
    told = capsys.readouterr().out
    says(told, "note: W&B: http://127.0.0.1:", "does not answer", "wandb sync")
    assert told.index("does not answer") < told.index("encoded")
    assert wandb("init")[0]["mode"] == "offline"
    assert len(log_of(output)) == 1


def test_a_server_that_says_nothing_costs_no_more_than_the_patience():
    with socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        assert "no answer" in trackers.unreachable(f"http://127.0.0.1:{silent.getsockname()[1]}", 0.2).replace(
            "timed out", "no answer"
        )
        assert time.monotonic() - began < 5


def test_wandb_that_does_not_start(changed, wandb, monkeypatch, capsys):
    """A key that is not valid any more: nothing is loaded, and the other processes are not kept waiting."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_STAND_IN_FAILS", "permission denied\nmore")
    monkeypatch.setattr(train_module, "encode_prompts", lambda *_: pytest.fail("it was loaded"))
    assert run(main, ["--config", str(changed(log_with="wandb"))]) == 2
    errors = capsys.readouterr().err
    says(errors, 'log_with = "wandb" does not start (permission denied)', "WANDB_MODE=offline")
    assert "Traceback" not in errors


def test_a_folder_called_wandb_is_no_package(changed, refused, monkeypatch, tmp_path):
    """W&B makes one where it runs."""
    (tmp_path / "site" / "wandb").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(machine.metadata, "version", no_package)
    says(refused(changed(log_with="wandb")), "needs the package wandb", "pip install wandb")


def no_package(name):
    raise machine.metadata.PackageNotFoundError(name)


def test_a_resumed_run_goes_on_in_wandb(changed, launch, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    preset = changed(log_with="wandb", max_train_steps=4, save_every_n_steps=2, save_state=True)
    output = launch(preset)
    state = output / "fused-step00000002-state"
    assert json.loads((state / "state.json").read_text(encoding="utf-8"))["trackers"] == {"wandb": "run-1"}
    launch(preset, "--resume", state)
    first, second = wandb("init")
    assert "id" not in first
    assert (second["id"], second["resume"]) == ("run-1", "allow")
    assert wandb("step") == [1, 2, 3, 4, 3, 4]


def test_a_state_without_trackers_is_resumed(changed, launch, wandb, monkeypatch):
    """Earlier versions wrote none, and a run may have been without W&B."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    preset = changed(max_train_steps=3, save_every_n_steps=2, save_state=True)
    state = launch(preset) / "fused-step00000002-state"
    facts = json.loads((state / "state.json").read_text(encoding="utf-8"))
    del facts["trackers"]
    (state / "state.json").write_text(json.dumps(facts), encoding="utf-8")
    launch(preset, "--resume", state, "--log_with", "wandb")
    assert "id" not in wandb("init")[0]


# --- the settings


def test_settings_are_given_to_both(changed, launch, wandb, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("WANDB_MODE", "offline")
    teachers = {"base": {"guidance_scale": 2.5}}
    output = launch(changed(teachers, log_with="all", max_train_steps=1, optimizer_args=["betas=0.9,0.98"]))
    (config,) = wandb("config")
    for key, value in {
        "learning_rate": 0.01, "network_dim": 4, "optimizer_type": "AdamW", "optimizer_args": '["betas=0.9,0.98"]',
        "teachers.base.guidance_scale": 2.5, "mixed_precision": "no", "max_train_steps": 1, "resume": "",
    }.items():  # fmt: skip
        assert config[key] == value
    (folder,) = {file.parent for file in output.rglob("events*") if file.parent.name != "danceopd"}
    events = EventAccumulator(str(folder))
    events.Reload()
    assert "_hparams_/session_start_info" in events.summary_metadata


def test_every_setting_has_a_type_that_trackers_take(tmp_path):
    preset = load_preset(write_preset(tmp_path, tmp_path, {"a": {"lora": ["x", "y"], "strength": [1.0, 0.5]}}))
    values = trackers.hyperparameters(preset)
    assert all(isinstance(value, (bool, int, float, str)) for value in values.values())
    assert json.loads(values["teachers.a.strength"]) == [1.0, 0.5]


def test_all_is_these_two(changed, launch, wandb, monkeypatch):
    """Not every tracker that is installed."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(tracking, "_available_trackers", [*tracking._available_trackers, LoggerType.MLFLOW])
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "mlflow", lambda *_, **__: pytest.fail("MLflow was started"))
    launch(changed(log_with="all", max_train_steps=1))


# --- TensorBoard's folder


def test_a_logging_dir_that_is_a_file(changed, refused, tmp_path):
    (tmp_path / "logs").write_text("", encoding="utf-8")
    says(refused(changed(log_with="tensorboard", logging_dir=str(tmp_path / "logs"))), "logging_dir", "is a file")


@pytest.mark.parametrize(
    ("keys", "note"),
    [
        ({"logging_dir": "logs"}, 'logging_dir is ignored: log_with = "tensorboard"'),
        ({"wandb_run_name": "mine"}, 'wandb_run_name is ignored: log_with = "wandb"'),
        ({"wandb_run_name": "mine", "log_with": "tensorboard"}, "wandb_run_name is ignored"),
    ],
)
def test_keys_of_a_tracker_that_is_not_used(changed, launch, capsys, keys, note):
    launch(changed(max_train_steps=1, **keys))
    assert note in capsys.readouterr().out
