"""SD3.5, number by number: each adapter is its own LoRA and nothing else, and the native trainer computes the same."""

import pytest
import torch

from tests.integration.sd_scripts import tiny_sd3
from tests.integration.sd_scripts.native import native
from tests.integration.sd_scripts.runs import trained
from tests.integration.sd_scripts.world import world  # noqa: F401 - a fixture


def relative(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm())


@pytest.fixture(scope="module")
def runs(world, tmp_path_factory):  # noqa: F811
    """The same two steps with and without gradient checkpointing."""

    def one(*flags):
        folder = tmp_path_factory.mktemp("exact")
        preset = world.preset(folder, "base", "ink", "glow", training={"max_train_steps": 2, "train_batch_size": 4})
        return trained(preset, *flags, probe="learning_and_gradients").seen

    return one(), one("--gradient_checkpointing")


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_voice_is_exactly_a_model_with_only_its_lora(runs, checkpointing):
    routes = runs[checkpointing]["routes"]
    assert len(routes["adapters"]) == 2
    for adapters, apart in zip(routes["adapters"], routes["apart"], strict=True):
        assert adapters == dict.fromkeys(("ink", "glow", "None", "student"), 0.0)
        assert apart.pop("None") == 0
        assert min(apart.values()) > 1e-3


def test_gradient_checkpointing_changes_no_number(runs):
    plain, checkpointed = (run["steps"] for run in runs)
    assert plain["loss"] == checkpointed["loss"]
    assert plain["gradient"].keys() == checkpointed["gradient"].keys()
    for name, gradient in plain["gradient"].items():
        assert torch.equal(gradient, checkpointed["gradient"][name]), name
    assert sum(float(gradient.norm()) for gradient in plain["gradient"].values()) > 0


def test_the_native_trainer_computes_the_same_update(world, tmp_path):  # noqa: F811
    """From the same texts, weights, noise and query: states, velocities and the gradient."""
    start = tiny_sd3.lora(tmp_path / "start.safetensors", rank=4, seed=5, scale=0.3, layers=("joint_blocks",))
    preset = world.preset(
        tmp_path, "ink", network={"network_dim": 4, "network_weights": str(start)},
        training={"max_train_steps": 1, "train_batch_size": 2, "seed": 3}, danceopd={"rollout_steps": 16},
    )  # fmt: skip
    theirs = trained(preset, probe="asked")
    checkpoint, teacher = world.model["pretrained_model_name_or_path"], world.teacher("ink")["lora"]
    ours = native("update", checkpoint, teacher, preset.with_suffix(".pt"), "3", "16", tmp_path / "update")
    for adapter, name in (("ink", "teacher"), ("learning", "learning")):
        for what in ("z", "sigma", "velocity"):
            assert relative(ours[f"{name}/{what}"], theirs.seen[adapter][what]) < 1e-4, (adapter, what)
    assert relative(theirs.seen["ink"]["velocity"], theirs.seen["learning"]["velocity"]) > 1e-2
    gradient = theirs.seen["gradient"]
    assert {name.removeprefix("gradient/") for name in ours if name.startswith("gradient/")} == gradient.keys()
    whole = [torch.cat([g[name].flatten() for name in sorted(gradient)]) for g in (
        {name: ours[f"gradient/{name}"] for name in gradient}, gradient)]  # fmt: skip
    assert relative(*whole) < 1e-4
    assert float(whole[1].norm()) > 0
