"""The core installs into a toolkit's own environment without moving its pins."""

import runpy
import subprocess
import sys
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

#: what sd-scripts (main of 2026-02-16) and musubi-tuner (0.3.4) pin, and the oldest torch that each supports
PINS = {
    "sd-scripts": {
        "torch": "2.6.0",
        "accelerate": "1.6.0",
        "transformers": "4.54.1",
        "diffusers": "0.32.1",
        "safetensors": "0.4.5",
        "toml": "0.10.2",
        "huggingface-hub": "0.34.3",
        "einops": "0.7.0",
    },
    "musubi-tuner": {
        "torch": "2.5.1",
        "accelerate": "1.6.0",
        "transformers": "4.57.6",
        "diffusers": "0.32.1",
        "safetensors": "0.4.5",
        "toml": "0.10.2",
        "huggingface-hub": "0.34.3",
        "pillow": "11.3.0",
        "tqdm": "4.67.1",
    },
}
#: made of the toolkit's own classes, so that it can be imported only inside the toolkit
OF_THE_TOOLKIT = "danceopd_ext.toolkits.sd_scripts.prompt_dataset"
NATIVE_ONLY = {"diffusers", "transformers", "peft", "accelerate", "psutil"}


def core_requirements() -> dict[str, Requirement]:
    found = [Requirement(line) for line in requires("danceopd_ext")]
    return {r.name: r for r in found if r.marker is None or r.marker.evaluate({"extra": ""})}


def test_the_core_needs_nothing_that_only_the_native_toolkit_uses():
    core = core_requirements()
    assert {"torch", "safetensors"} <= set(core)
    assert not NATIVE_ONLY & set(core)


@pytest.mark.parametrize("toolkit", PINS)
def test_no_pin_of_a_toolkit_has_to_move(toolkit):
    core = core_requirements()
    moved = {name: pin for name, pin in PINS[toolkit].items() if name in core and pin not in core[name].specifier}
    assert not moved


def test_diffusers_that_runs_code_of_model_folders_is_not_accepted(monkeypatch):
    """0.36 to 0.40 import a module that a local model folder brings along, without being asked to."""
    given = {}
    monkeypatch.setattr("setuptools.setup", lambda **arguments: given.update(arguments))
    runpy.run_path(str(Path(__file__).parents[1] / "setup.py"))
    native = {one.name: one.specifier for one in map(Requirement, given["extras_require"]["native"])}
    assert not {"0.36.0", "0.39.1", "0.40.0"} & set(
        filter(native["diffusers"].contains, ("0.36.0", "0.39.1", "0.40.0"))
    )
    assert native["diffusers"].contains("0.41.0")
    # what diffusers 0.41 needs with it: huggingface-hub 1.32 or later, which transformers 4 does not take
    assert not native["transformers"].contains("4.57.6") and native["transformers"].contains("5.4.0")
    assert not native["peft"].contains("0.17.1") and native["peft"].contains("0.18.0")


def test_what_is_installed_is_this_version():
    from danceopd_ext import __version__

    assert version("danceopd_ext") == __version__


def test_what_runs_in_a_toolkit_imports_without_the_native_libraries():
    """Each in a fresh interpreter that cannot import them."""
    script = f"""
import importlib, pkgutil, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(NATIVE_ONLY)!r}:
            raise ImportError(name + " is not to be imported here")
sys.meta_path.insert(0, Refuse())
import danceopd_ext
names = ["danceopd_ext.cli", "danceopd_ext.toolkits.run", "danceopd_ext.data.load"]
for package in ("method", "config", "toolkits.hosted", "toolkits.sd_scripts", "toolkits.musubi"):
    names.append("danceopd_ext." + package)
    module = importlib.import_module(names[-1])
    names += [found.name for found in pkgutil.iter_modules(module.__path__, names[-1] + ".")]
names.remove({OF_THE_TOOLKIT!r})
for name in names:
    importlib.import_module(name)
print(len(names))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 20
