"""The mixin on a stand-in of sd-scripts' trainer, which has its seams and its order: no toolkit is needed."""

# ruff: noqa: F811 - the fixture is imported

from __future__ import annotations

import json

import pytest
import torch

from danceopd_ext.config.schema import Teacher
from danceopd_ext.errors import TrainingError, UserError
from danceopd_ext.method import sample_noise
from danceopd_ext.toolkits.hosted.active_adapter import STUDENT
from danceopd_ext.toolkits.hosted.checkout import Checkout
from danceopd_ext.toolkits.hosted.seams import Seams, check_seams
from danceopd_ext.toolkits.sd_scripts.seams import METHODS
from tests.toolkits.sd_scripts import stand_in as sd
from tests.toolkits.sd_scripts.datasets import Dataset, Subset
from tests.toolkits.sd_scripts.world import Adapter, train  # noqa: F401


def test_the_stand_in_has_every_seam():
    check_seams(sd.StandInTrainer, Seams(METHODS), Checkout("stand-in", "0", True, "sd-scripts"))


def test_the_loss_is_the_methods_own(train, monkeypatch):
    """What the toolkit would make of its own loss is not in it, and the student learns."""
    trainer = train(max_train_steps=60)
    assert sum(trainer.losses[-10:]) < 0.5 * sum(trainer.losses[:10])
    assert trainer.distiller.progress.step == 60
    assert "assert_extra_args" in trainer.calls


def test_the_first_loss_by_hand(train):
    """A fresh student is the base: its first states and losses can be computed without the mixin."""
    data = [Dataset([(Subset({"teacher": "style"}), ["ink cat"])])]
    options = {"rollout_steps": 2, "query": "high_noise", "routes": {"base": 0.0}}
    trainer = train(options, datasets=data, max_train_steps=1, learning_rate=0.0)
    weight = sd.Toy().layers[0].attention.to_q.weight.detach()
    network = trainer.distiller.switch.teachers["style"]
    change = (network.unet_loras[0].lora_up.weight @ network.unet_loras[0].lora_down.weight).detach()
    text = sd.Strategy().encode_tokens(None, [torch.nn.Identity().eval()], sd.Strategy().tokenize("ink cat"))[0]
    noise = sample_noise(3, 0, [0], (1, 1, sd.WIDTH))
    losses = []
    z = noise
    for sigma in (1.0, 0.5):
        x = z * sigma + text
        losses.append(float((x @ change.T).pow(2).mean()))
        z = z - 0.5 * (x @ weight.T)
    assert min(abs(trainer.losses[0] - loss) / loss for loss in losses) < 1e-5


def test_the_empty_prompt_is_encoded_in_the_cache_and_without(train):
    """With gradient checkpointing the toolkit leaves text encoders' dropout on; the stand-in would refuse to encode."""
    guided = {"teachers": {"base": Teacher(guidance_scale=2.0)}}
    data = [Dataset([(Subset({}), ["a cat", "a dog"])])]
    cached = train(guided, datasets=data, gradient_checkpointing=True)
    data = [Dataset([(Subset({}), ["a cat", "a dog"])])]
    encoded = train(guided, datasets=data, gradient_checkpointing=True, cache_text_encoder_outputs=False)
    assert torch.equal(cached.empty[0], encoded.empty[0])
    assert cached.losses == pytest.approx(encoded.losses, rel=1e-6)
    assert cached.losses[0] > 0
    assert train(max_train_steps=1).empty is None


def test_the_student_is_back_also_after_an_error(train, monkeypatch):
    def breaks(self, transformer, z, sigma, condition):
        if torch.is_grad_enabled():
            raise RuntimeError("out of memory")
        return sigma.view(-1, 1, 1, 1) * z

    monkeypatch.setattr(Adapter, "velocity", breaks)
    with pytest.raises(RuntimeError, match="out of memory"):
        train()
    switch = train.trainer.distiller.switch
    assert (switch.active, switch.training) == (STUDENT, True)
    assert switch.student.multiplier == 1.0
    assert not any(layer.enabled for network in switch.teachers.values() for layer in network.unet_loras)


def test_a_loss_that_is_no_number_stops_the_run(train):
    with pytest.raises(TrainingError, match="is NaN"):
        train(learning_rate=1e30, max_train_steps=50)


def test_several_queries_give_one_loss(train):
    trainer = train({"num_queries": 3}, max_train_steps=2)
    for (_, logs), loss in zip(trainer.logs, trainer.losses, strict=True):
        routes = [value for name, value in logs.items() if name.startswith("loss/") and name != "loss/current"]
        assert min(routes) - 1e-6 <= loss <= max(routes) + 1e-6


@pytest.mark.parametrize("saved", [3, 5])
def test_a_resumed_run_is_the_run_that_was_not_interrupted(train, tmp_path, saved):
    options = {"num_queries": 2}
    more = {"max_train_steps": 7, "gradient_accumulation_steps": 2, "save_every_n_steps": saved}
    whole = train(options, output_dir=str(tmp_path / "a"), **more)
    state = tmp_path / "a" / f"fused-step{saved:08d}-state"
    rest = train(options, output_dir=str(tmp_path / "b"), resume=str(state), **more)
    assert [step for step, _ in rest.logs] == [step for step, _ in whole.logs if step > saved]
    assert rest.logs == [entry for entry in whole.logs if entry[0] > saved]
    assert all(torch.equal(whole.last[name], rest.last[name]) for name in whole.last)
    assert [call for call in rest.calls if call.startswith("sample")] == [f"sample {n}" for n in range(saved + 1, 8)]
    assert sorted(path.name for path in (tmp_path / "b").glob("*-state")) == (
        ["fused-step00000006-state"] if saved == 3 else []
    )


def test_what_cannot_be_resumed_is_said(train, tmp_path):
    train(save_every_n_steps=4)
    with pytest.raises(UserError, match="is at step 4 of max_train_steps = 4"):
        train(resume=str(tmp_path / "fused-step00000004-state"))
    with pytest.raises(UserError, match="is at step 4 of max_train_steps = 4"):
        train(
            resume=str(tmp_path / "fused-step00000004-state"), max_train_epochs=2
        )  # the toolkit counts its steps later
    with pytest.raises(UserError, match="is not a state of a DanceOPD run"):
        train(resume=str(tmp_path))
    with pytest.raises(UserError, match="initial_step: a resumed run"):
        train(resume=str(tmp_path / "fused-step00000004-state"), initial_step=2)


def test_validation_depends_on_its_noise_level_alone(train):
    def held_out():
        return [Dataset([(Subset({"teacher": "style"}), ["ink cat"])])]

    more = {"learning_rate": 0.0, "cache_text_encoder_outputs": False}
    early = train(validation=held_out(), max_train_steps=1, **more)
    late = train(validation=held_out(), max_train_steps=5, **more)
    assert early.validated == late.validated
    assert len(set(early.validated)) == 2


def test_metadata_names_files_and_no_folders(train, tmp_path):
    trainer = train(max_train_steps=1)
    assert json.loads(trainer.metadata["ss_danceopd_teachers"]) == {"base": "base", "style": "style"}
    assert trainer.metadata["ss_danceopd_toolkit"] == "sd-scripts"
    assert trainer.metadata["ss_weighting_scheme"] == "none"
    assert not [value for value in trainer.metadata.values() if str(tmp_path) in str(value)]


def test_a_compiled_model_may_keep_a_graph_for_every_voice(train):
    import torch._dynamo

    config = torch._dynamo.config
    with config.patch(recompile_limit=8, accumulated_recompile_limit=64):
        train(max_train_steps=1)
        assert config.recompile_limit == 8
        train(max_train_steps=1, torch_compile=True)
        assert (config.recompile_limit, config.accumulated_recompile_limit) == (32, 128)  # two teachers, the student
