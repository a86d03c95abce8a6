"""The mixin on a stand-in of musubi's trainer, which has its seams and its order: no toolkit is needed."""

from __future__ import annotations

import inspect
import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

from danceopd_ext.config.schema import DanceOPDSection, Teacher
from danceopd_ext.errors import UserError
from danceopd_ext.lora.weights import Lora, LowRank
from danceopd_ext.lora.write import write_lora
from danceopd_ext.models.layout import Layout
from danceopd_ext.toolkits.musubi.adapter import MusubiAdapter
from danceopd_ext.toolkits.musubi.registry import ARCHITECTURES
from danceopd_ext.toolkits.musubi.seams import SEAMS
from danceopd_ext.toolkits.musubi.settings import Settings
from danceopd_ext.toolkits.musubi.trainer import DanceOPDMixin, trainer_class
from tests.toolkits.musubi import stand_in as musubi
from tests.toolkits.sd_scripts.world import alone

LAYER = "layers.0.attention.to_q"


class Adapter(MusubiAdapter):
    sign, empty_prompt = -1, ""

    def sigmas(self, steps, latent_shape):
        return torch.linspace(1, 0, steps + 1)

    def latent_shape(self, width, height):
        return 1, musubi.WIDTH

    def text_encoder(self, device):
        return musubi.write_texts


def layout() -> Layout:
    return Layout("z_image", {LAYER: (musubi.WIDTH, musubi.WIDTH)}, {LAYER: (LAYER,)})


@pytest.fixture
def lora(tmp_path) -> Path:
    rng = torch.Generator().manual_seed(5)
    change = LowRank(torch.randn(2, musubi.WIDTH, generator=rng), torch.randn(musubi.WIDTH, 2, generator=rng) / 4)
    return write_lora(tmp_path / "style.safetensors", Lora({LAYER: change}), layout(), "kohya", dtype=torch.float32)


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Train on the stand-in: (our section, musubi's arguments) -> the trainer."""
    musubi.install(monkeypatch)
    (tmp_path / "data.toml").write_text('[[datasets]]\nimage_directory = "unused"\n')
    (tmp_path / "encoder").write_bytes(b"text encoder")
    architecture = replace(ARCHITECTURES["z_image"], adapter=Adapter, names=None)

    def run(options: DanceOPDSection, *extra: type, start=alone, **values):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        settings = Settings(
            options=options, architecture=architecture, cache=tmp_path / "cache", resolutions=((16, 16),)
        )
        trainer = type("T", (*extra, trainer_class(musubi.StandInTrainer)), {})(settings)
        trainer.datasets = [musubi.Pictures("cache/style", 3, 1.0), musubi.Pictures("cache/base", 1, 2.0)]
        run.trainer = trainer
        start(trainer, musubi.arguments(tmp_path, text_encoder=str(tmp_path / "encoder"), **values))
        return trainer

    return run


def section(lora: Path, **more) -> DanceOPDSection:
    teachers = {"style": Teacher(lora=str(lora)), "base": Teacher()}
    values = {"datasets": {"style": 1, "base": "cache/base"}, "rollout_steps": 4, **more}
    return DanceOPDSection(toolkit="musubi-tuner", teachers=teachers, **values)


def routes(trainer) -> list[str]:
    return [name.removeprefix("loss/") for metrics in trainer.metrics for name in metrics if name.startswith("loss/")]


def test_our_seams_take_what_musubi_gives():
    for name in SEAMS.methods:
        ours, theirs = getattr(DanceOPDMixin, name, None), getattr(musubi.StandInTrainer, name)
        assert set(SEAMS.methods[name]) <= set(inspect.signature(theirs).parameters), name
        if ours:
            places = [p for p in inspect.signature(theirs).parameters if p != "self"]
            inspect.signature(ours).bind(None, *places)


def test_every_batch_meets_its_teacher(train, lora):
    trainer = train(section(lora), max_train_steps=12, gradient_accumulation_steps=2)
    assert trainer.global_step == 12
    assert routes(trainer).count("style") == routes(trainer).count("base")  # although there is more of the first
    assert trainer.calls == [
        "handle_model_specific_args", "_prepare_sampling", "on_transformer_loaded", "on_train_start",
    ]  # fmt: skip


def test_the_student_learns_from_its_teacher(train, lora):
    trainer = train(section(lora, routes={"base": 0.0}), max_train_steps=80, learning_rate=0.03)
    assert sum(trainer.losses[-10:]) < 0.3 * sum(trainer.losses[:10])


class ActiveAdapters:
    """Records which adapter is active in each call of the transformer."""

    def call_dit(self, *arguments, **keywords):
        if hasattr(self, "distiller"):
            student = self.distiller.switch.student
            style = any(layer.enabled for layer in self.teachers["style"].unet_loras)
            self.active = [*getattr(self, "active", []), (style, student.multiplier, torch.is_grad_enabled())]
        return super().call_dit(*arguments, **keywords)


def test_one_adapter_is_active_at_a_time_and_the_students_at_last(train, lora):
    trainer = train(section(lora, routes={"base": 0.0}), ActiveAdapters, max_train_steps=1)
    assert trainer.active[-2:] == [(True, 0.0, False), (False, 1.0, True)]
    assert set(trainer.active[:-2]) == {(False, 1.0, False)}
    assert not any(p.requires_grad for p in trainer.teachers["style"].parameters())


def test_guidance_uses_the_empty_prompt(train, lora):
    options = DanceOPDSection(
        toolkit="musubi-tuner", rollout_steps=4, teachers={"style": Teacher(lora=str(lora), guidance_scale=2.0)}
    )
    trainer = train(options, ActiveAdapters, max_train_steps=1)
    assert trainer.active[-3:-1] == [(True, 0.0, False)] * 2
    assert trainer.adapter.empty["llm_embed"][0].shape == (1, musubi.WIDTH)


def test_prompts_need_no_dataset_and_no_picture(train, lora, tmp_path):
    (tmp_path / "prompts.txt").write_text("one\ntwo two\nthree")
    options = section(lora, datasets={}, prompts={name: [str(tmp_path / "prompts.txt")] for name in ("style", "base")})
    trainer = train(options, dataset_config=None, max_train_steps=6)
    assert sorted(routes(trainer)) == ["base"] * 3 + ["style"] * 3
    assert len(list((tmp_path / "cache").rglob("*_te.safetensors"))) == 3


def test_the_group_of_datasets_can_be_sent_to_workers(train, lora, tmp_path):
    from danceopd_ext.toolkits.musubi.routed_group import ROUTE, routed_group

    datasets = [musubi.Pictures("a", 3, 1.0), musubi.Pictures("b", 1, 2.0)]
    group = routed_group(datasets, ["style", "base"], {"style": 1.0, "base": 1.0}, seed=0)
    again = pickle.loads(pickle.dumps(group))
    seen = [(batch[ROUTE], float(batch["latents"].max())) for batch in (again[i] for i in range(len(again)))]
    assert sorted(seen) == [(0, 1.0)] * 3 + [(1, 2.0)] * 3
    assert type(again[0][ROUTE]) is int


def test_a_resumed_run_does_the_steps_that_were_left(train, lora, tmp_path):
    whole = train(section(lora), max_train_steps=7, save_every_n_steps=3, gradient_accumulation_steps=2)
    resumed = train(
        section(lora), max_train_steps=7, resume=str(tmp_path / "out/fused-step00000003-state"),
        gradient_accumulation_steps=2,
    )  # fmt: skip
    done = [loss for loss, metrics in zip(resumed.losses, resumed.metrics, strict=True) if metrics]
    assert 0 < len(done) < len(whole.losses)
    assert done == whole.losses[-len(done) :]
    assert resumed.global_step == 7


def test_a_state_of_another_trainer_is_refused(train, lora, tmp_path):
    (tmp_path / "state").mkdir()
    with pytest.raises(UserError, match=r"is not a state of a DanceOPD run"):
        train(section(lora), resume=str(tmp_path / "state"))


def test_the_file_will_say_how_it_was_made(train, lora):
    metadata = train(section(lora, routes={"style": 2.0})).metadata
    assert json.loads(metadata["ss_danceopd_teachers"]) == {"style": "style", "base": "base"}
    assert json.loads(metadata["ss_danceopd_routes"]) == {"style": 2.0, "base": 1.0}
    assert metadata["ss_danceopd_query"] == "low_noise"
    assert metadata["ss_danceopd_preset"] == ""  # `run_alone` sets it


def test_compiling_allows_a_graph_for_each_voice(train, lora):
    args = musubi.arguments(Path(), compile=True, compile_cache_size_limit=None)
    import torch._dynamo

    from danceopd_ext.toolkits.musubi.compile_limit import USUAL_LIMIT, allow_graphs

    config = torch._dynamo.config
    with config.patch(accumulated_cache_size_limit=64):
        allow_graphs(args, teachers=3)
        assert config.accumulated_cache_size_limit == 8 * 6 * USUAL_LIMIT
    assert args.compile_cache_size_limit == USUAL_LIMIT * 6
    args = musubi.arguments(Path(), compile=True, compile_cache_size_limit=500)
    with config.patch(accumulated_cache_size_limit=64):
        allow_graphs(args, teachers=3)
    assert args.compile_cache_size_limit == 500
