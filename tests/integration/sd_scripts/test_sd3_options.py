"""SD3.5 with the options that change how a step is made, and runs that are stopped and resumed."""

import pytest
import torch
from safetensors.torch import load_file

from tests.integration.sd_scripts import tiny_sd3
from tests.integration.sd_scripts.runs import refused, trained
from tests.integration.sd_scripts.world import make_model, world  # noqa: F401 - a fixture

CLOSE = {"rel": 1e-4}


@pytest.mark.parametrize("saved", [3, 4])  # within an epoch, and at the end of one
def test_a_resumed_run_is_the_run_that_was_not_interrupted(world, tmp_path, saved):  # noqa: F811
    """Over epochs and accumulated micro-batches; the toolkit's own steps, names and schedule go on as well."""
    common = {
        "training": {"max_train_steps": 7, "gradient_accumulation_steps": 2},
        "optimizer": {"lr_scheduler": "cosine"},
        "danceopd": {"query": "stratified"},
    }
    saving = {"save_every_n_steps": saved, "save_state": True, "logging_dir": str(tmp_path / "logs")}
    whole = world.preset(tmp_path / "whole", "ink", "base", saving=saving, **common)
    first = trained(whole, probe="steps")
    assert first.seen["step"] == [0, 0, 1, 2, 2, 3, 4, 4, 5, 6, 6]  # three batches an epoch, and a step at its end
    state = tmp_path / "whole" / "out" / f"fused-step{saved:08d}-state"
    rest = world.preset(tmp_path / "rest", "ink", "base", saving={**saving, "resume": str(state)}, **common)
    second = trained(rest, probe="steps")

    done = len(first.seen["step"]) - len(second.seen["step"])
    assert second.seen["step"][0] == saved
    for what in ("step", "routes", "indices", "loss"):
        assert second.seen[what] == first.seen[what][done:]
    assert second.seen["logs"][-1]["lr/unet"] == first.seen["logs"][-1]["lr/unet"]
    before, after = load_file(first.lora), load_file(second.lora)
    assert all(torch.equal(before[name], after[name]) for name in before)
    names = {path.name for path in (tmp_path / "rest" / "out").iterdir()}
    later = {"fused-step00000006.safetensors", "fused-step00000006-state"} if saved == 3 else set()
    # nothing of the replayed steps was written again
    assert names == {"fused.safetensors", "fused-state", "fused.log.jsonl"} | later


def test_what_cannot_be_resumed_is_said(world, tmp_path):  # noqa: F811
    saving = {"save_state_on_train_end": True}
    trained(world.preset(tmp_path / "a", "ink", saving=saving))
    state = tmp_path / "a" / "out" / "fused-state"
    ended = world.preset(tmp_path / "b", "ink", saving={"resume": str(state)})
    assert "is at step 4 of max_train_steps = 4" in refused(ended)
    other = world.preset(tmp_path / "c", "ink", saving={"resume": str(world.folder)})
    assert "is not a state of a DanceOPD run" in refused(other)


def test_two_queries_are_two_pieces_of_one_loss(world, tmp_path):  # noqa: F811
    """The number that the toolkit shows is the whole loss, and the gradient that of a whole backward."""
    one = world.preset(
        tmp_path, "ink", danceopd={"rollout_steps": 2, "num_queries": 2, "query": "uniform"},
        saving={"logging_dir": str(tmp_path / "logs")},
    )  # fmt: skip
    seen = trained(one, "--max_train_steps", "1", probe="gradients").seen
    assert seen["logs"][0]["loss/ink"] == pytest.approx(seen["loss"][0], **CLOSE)
    again = trained(one, "--max_train_steps", "1", "--gradient_checkpointing", probe="gradients").seen
    assert again["loss"] == seen["loss"]
    assert all(torch.equal(again["gradient"][name], seen["gradient"][name]) for name in seen["gradient"])


def test_guidance_is_the_same_with_and_without_a_cache_of_texts(world, tmp_path):  # noqa: F811
    teachers = {"guided": {"guidance_scale": 3.0}, "base": {}}
    prompts = {"guided": str(world.folder / "base.txt"), "base": str(world.folder / "base.txt")}
    runs = []
    for cached in (True, False):
        preset = world.preset(
            tmp_path / str(cached), danceopd={"teachers": teachers, "prompts": prompts, "student_guidance_scale": 1.5},
            dataset={"cache_text_encoder_outputs": cached},
        )  # fmt: skip
        runs.append(trained(preset, "--gradient_checkpointing", probe="steps").seen)
    assert runs[0]["routes"] == runs[1]["routes"]
    assert runs[0]["loss"] == pytest.approx(runs[1]["loss"], **CLOSE)
    assert min(runs[0]["loss"]) > 0  # the student is guided by 1.5, the base by nothing


def test_texts_cached_on_disk_give_the_same_run(world, tmp_path):  # noqa: F811
    """Prompts share a file only when they are the same."""
    runs = []
    for to_disk in (False, True):
        preset = world.preset(
            tmp_path / str(to_disk), "ink", "base", dataset={"cache_text_encoder_outputs_to_disk": to_disk}
        )
        runs.append(trained(preset, probe="steps").seen)
    assert runs[0] == runs[1]
    assert len(list((tmp_path / "True" / "out" / "cache").glob("*/*_sd3_te.npz"))) == 5


def test_dropout_only_while_learning(world, tmp_path):  # noqa: F811
    """Nearly everything of the student is dropped as it learns, nothing as it rolls out: the states are the same."""
    start = str(tiny_sd3.lora(tmp_path / "start.safetensors", rank=8, seed=5, scale=0.5))
    runs = []
    for dropout in (None, 0.9):
        network = {"network_weights": start, "network_dropout": dropout}
        preset = world.preset(tmp_path / str(dropout), "ink", network=network, training={"max_train_steps": 1})
        runs.append(trained(preset, probe="asked").seen)
    plain, dropped = runs
    assert torch.equal(plain["ink"]["z"], dropped["ink"]["z"])
    assert torch.equal(plain["ink"]["velocity"], dropped["ink"]["velocity"])
    assert not torch.allclose(plain["learning"]["velocity"], dropped["learning"]["velocity"], rtol=1e-2)


def test_validation_looks_at_fixed_noise_levels(world, tmp_path):  # noqa: F811
    from tests.integration.sd_scripts.test_sd3_runs import write_dataset, write_pictures

    folder = write_pictures(tmp_path / "ink", ["ink fox", "ink hen", "ink ox", "ink owl"])
    dataset = write_dataset(tmp_path / "data.toml", [(folder, "ink", [])])
    preset = world.preset(
        tmp_path, "ink", dataset={"dataset_config": dataset, "validation_split": 0.25},
        danceopd={"prompts": {}, "rollout_steps": 16},
        training={"validate_every_n_steps": 2, "validate_every_n_epochs": 100, "max_train_steps": 4},
        optimizer={"learning_rate": 1e-12},
    )  # fmt: skip
    seen = trained(preset, probe="validation").seen
    assert seen["sigma"] == [0.2, 0.4, 0.6, 0.8] * 2
    assert seen["validated"][:4] == pytest.approx(seen["validated"][4:], rel=1e-6)
    assert seen["step"] == [0, 1, 2, 3]
    assert len(set(seen["validated"][:4])) == 4


@pytest.mark.parametrize("flags", [["--fp8_base", "true"], ["--torch_compile", "true", "--dynamo_backend", "eager"]])
def test_reduced_base_and_compiled_model(world, tmp_path, flags):  # noqa: F811
    preset = world.preset(tmp_path, "ink", "base", training={"mixed_precision": "bf16", "max_train_steps": 2})
    done = trained(preset, *flags, "--gradient_checkpointing", "true", probe="steps")
    plain = trained(preset, probe="steps")
    assert done.seen["routes"] == plain.seen["routes"]
    assert done.seen["loss"][0] == pytest.approx(plain.seen["loss"][0], rel=0.2)
    assert "recompile_limit" not in done.log


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """A model of six blocks and a teacher for it."""
    folder = tmp_path_factory.mktemp("deep")
    return make_model(folder / "model", 6), str(tiny_sd3.lora(folder / "ink.safetensors", depth=6))


@pytest.mark.parametrize(("blocks", "probe"), [(2, "residents"), (4, "residents"), (4, "residents_left_alone")])
def test_a_swapped_block_is_in_place_whenever_it_runs(world, deep, tmp_path, blocks, probe):  # noqa: F811
    """Forward without gradients, forward, recomputed forward and backward; simulated, see probes.residents."""
    model, lora = deep
    preset = world.preset(
        tmp_path, "ink", "base", model=model, danceopd={"teachers": {"ink": {"lora": lora}, "base": {}}},
        training={"max_train_steps": 5, "train_batch_size": 1, "blocks_to_swap": blocks},
    )  # fmt: skip
    seen = trained(preset, "--gradient_checkpointing", probe=probe).seen
    assert len(seen["loss"]) == 5
    assert seen["moved"] > 5 * blocks
    assert min(seen[what] for what in ("forward", "recomputed", "backward")) >= 5 * 6
    assert (seen["missed"] == []) == (probe == "residents")  # the table does notice


def test_block_swap_and_a_guided_student_are_refused_together(world, deep, tmp_path):  # noqa: F811
    model, lora = deep
    options = {"teachers": {"ink": {"lora": lora}}, "student_guidance_scale": 2.0}
    preset = world.preset(tmp_path, "ink", model=model, danceopd=options)
    assert "does not work with student_guidance_scale = 2" in refused(preset, "--blocks_to_swap", "1")
    assert "0 to 4 blocks of this Stable Diffusion 3 / 3.5 can be swapped" in refused(preset, "--blocks_to_swap", "5")
