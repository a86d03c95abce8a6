"""Teachers and student are the velocity fields that the preset asks for."""

from __future__ import annotations

import pytest
import torch

from danceopd_ext.data.plan import Prompt
from danceopd_ext.engine.fields import AdapterField
from danceopd_ext.lora.algebra import combine, merge, relative_difference
from danceopd_ext.lora.read import read_lora
from danceopd_ext.models.loading import load_transformer
from danceopd_ext.toolkits.native.build import adapter_name
from danceopd_ext.toolkits.native.run_plan import STUDENT
from tests.tiny.loras import layout_of, random_lora, write_random_lora
from tests.tiny.pipelines import PIPELINES
from tests.tiny.presets import write_preset
from tests.tiny.single_file import to_single_file
from tests.toolkits.native.fields import build, far

FAMILIES = ["sd3", "z_image"]


@pytest.fixture
def built(pipelines, two_teachers, tmp_path):
    """Build a preset; by default with the family's two LoRA teachers."""

    def built(teachers=None, family="sd3", name="run", **keys):
        teachers = two_teachers[family] if teachers is None else teachers
        return build(write_preset(tmp_path / name, pipelines[family], teachers, **keys))

    return built


@pytest.fixture(scope="session")
def tuned(pipelines, tmp_path_factory):
    """Family -> a pipeline folder whose transformer was changed by a known LoRA, in the weights themselves."""
    made = {}
    for family, model in pipelines.items():
        pipeline = PIPELINES[family]()
        lora = random_lora(layout_of(model), ("to_q", "to_v", "w1"), 9, rank=3, size=0.2)
        pipeline.transformer.load_state_dict(
            type(pipeline.transformer).from_pretrained(model / "transformer").state_dict()
        )
        with torch.no_grad():
            for layer, change in lora.modules.items():
                pipeline.transformer.get_submodule(layer).weight += change.delta()
        folder = tmp_path_factory.mktemp("tuned") / family
        pipeline.save_pretrained(folder)
        made[family] = folder
    return made


# --- guidance


@pytest.mark.parametrize("teacher", [{}, {"lora": True}])
def test_guided_teacher(built, loras, teacher):
    plain = {"lora": str(loras["sd3", 0])} if teacher else {}
    run = built({"plain": plain, "guided": {**plain, "guidance_scale": 3.5}})
    with_text = run.ask(run.fields.teachers["plain"])
    without = run.ask(run.fields.teachers["plain"], text="")
    assert far(run.ask(run.fields.teachers["guided"]), without + 3.5 * (with_text - without)) < 1e-6
    assert far(with_text, without) > 1e-2


def test_guided_student(built, loras):
    run = built(student_guidance_scale=2.0, network_weights=str(loras["sd3", 0]))
    with_text, without = run.ask(run.fields.plain_student), run.ask(run.fields.plain_student, text="")
    assert far(run.ask(run.fields.student), without + 2.0 * (with_text - without)) < 1e-6
    assert run.gradient().norm() > 0


# --- LoRA teachers


@pytest.mark.parametrize("family", FAMILIES)
def test_list_of_loras_is_their_sum(built, loras, pipelines, family):
    files = [str(loras[family, place]) for place in (0, 1)]
    run = built({"both": {"lora": files, "strength": [0.5, 2.0]}}, family)
    parts = [(read_lora(file, layout_of(pipelines[family])), s) for file, s in zip(files, (0.5, 2.0), strict=True)]
    assert relative_difference(run.fields.adapters.state(adapter_name("both")), combine(parts)) < 1e-5


def test_one_strength_for_all(built, loras):
    """The teacher is called like a method of torch modules, which must not matter."""
    files = [str(loras["sd3", place]) for place in (0, 1)]
    run = built({"half": {"lora": files, "strength": 0.5}, "full": {"lora": files}})
    half, full = (run.fields.adapters.state(adapter_name(name)) for name in ("half", "full"))
    assert relative_difference(combine([(half, 2.0)]), full) < 1e-5


def test_the_loras_that_were_read_are_freed(built):
    run = built()
    assert (run.plan.loras.teachers, run.plan.loras.start) == ({}, None)


# --- checkpoint teachers


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("single_file", [False, True])
def test_checkpoint_teacher(built, tuned, family, single_file, tmp_path):
    place = tuned[family]
    transformer = type(PIPELINES[family]().transformer).from_pretrained(place / "transformer").eval()
    if single_file:
        place = to_single_file(family, transformer, tmp_path / "tuned.safetensors")
    run = built({"tuned": {"checkpoint": str(place)}}, family)
    expected = run.ask(lambda *state: run.plan.family.velocity(transformer, *state).float())
    assert far(run.ask(run.fields.teachers["tuned"]), expected) < 1e-6
    assert far(run.ask(run.fields.base), expected) > 1e-2
    assert run.gradient().norm() > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_extracted_teacher(built, tuned, family):
    """A change of rank three is found whole at rank three, and told to be missed at rank one."""
    run = built({"tuned": {"checkpoint": str(tuned[family]), "extract_rank": 3}}, family)
    transformer = load_transformer(run.plan.teachers["tuned"].checkpoint, torch.float32)
    expected = run.ask(lambda *state: run.plan.family.velocity(transformer, *state).float())
    assert far(run.ask(run.fields.teachers["tuned"]), expected) < 1e-3
    assert "misses 0.0%" in run.told[0]
    poor = built({"tuned": {"checkpoint": str(tuned[family]), "extract_rank": 1}}, family, name="poor")
    assert far(poor.ask(poor.fields.teachers["tuned"]), expected) > 1e-3
    assert "misses 0.0%" not in poor.told[0]


# --- where the student starts


def test_fresh_student_is_the_base(built):
    run = built()
    assert run.ask(run.fields.student).equal(run.ask(run.fields.base))


@pytest.mark.parametrize("how", ["sum", "average"])
def test_student_starts_as_the_merge(built, loras, pipelines, how):
    run = built(student_init=f"merge_{how}", network_dim=8, network_alpha=3.0)
    layout = layout_of(pipelines["sd3"])
    expected = merge([read_lora(str(loras["sd3", place]), layout) for place in (0, 1)], how)
    assert relative_difference(run.start, expected) < 1e-5


def test_merge_of_more_than_the_rank_is_compressed(built, loras, pipelines):
    run = built(student_init="merge_sum", network_dim=2)
    layout = layout_of(pipelines["sd3"])
    expected = merge([read_lora(str(loras["sd3", place]), layout) for place in (0, 1)], "sum")
    assert 0.05 < relative_difference(run.start, expected) < 0.8


def test_merge_with_an_extracted_teacher(built, tuned, loras):
    teachers = {"tuned": {"checkpoint": str(tuned["sd3"]), "extract_rank": 3}, "style": {"lora": str(loras["sd3", 0])}}
    run = built(teachers, student_init="merge_sum", network_dim=8)
    parts = [(run.fields.adapters.state(adapter_name(name)), 1.0) for name in ("tuned", "style")]
    assert relative_difference(run.start, combine(parts)) < 1e-4


def test_student_starts_from_a_file(built, loras, pipelines):
    run = built(network_weights=str(loras["sd3", 0]), network_dim=4)
    assert relative_difference(run.start, read_lora(str(loras["sd3", 0]), layout_of(pipelines["sd3"]))) < 1e-5
    assert far(run.ask(run.fields.student), run.ask(run.fields.teachers["one"])) < 1e-5


def test_start_with_layers_that_are_not_trained_by_default(built, pipelines, tmp_path):
    """They are trained as well, or the student would not start as the file."""
    endings = ("attn.to_q", "ff.net.2")
    file = write_random_lora(tmp_path / "wide.safetensors", pipelines["sd3"], 5, endings=endings)
    run = built(network_weights=str(file))
    assert relative_difference(run.start, read_lora(str(file), layout_of(pipelines["sd3"]))) < 1e-5


def test_lora_targets(built):
    run = built(lora_targets=["attn.to_q", "proj_out"])
    assert {layer.rsplit(".", 1)[-1] for layer in run.start.modules} == {"to_q", "proj_out"}


# --- the gradient pass


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dropout", [None, 0.5])
def test_gradient_checkpointing_changes_nothing(built, family, dropout, monkeypatch):
    calls = [0]
    real = torch.utils.checkpoint.checkpoint

    def checkpoint(*arguments, **keywords):
        calls[0] += 1
        return real(*arguments, **keywords)

    monkeypatch.setattr(torch.utils.checkpoint, "checkpoint", checkpoint)
    plain = built(family=family, network_dropout=dropout)
    torch.manual_seed(3)
    expected = plain.gradient()
    assert calls[0] == 0
    saving = built(family=family, network_dropout=dropout, gradient_checkpointing=True, name="checkpointed")
    torch.manual_seed(3)
    assert far(saving.gradient(), expected) < 1e-6
    assert calls[0] > 0


def test_dropout_is_in_the_gradient_pass_only(built, loras):
    run = built(network_dropout=0.5, network_weights=str(loras["sd3", 0]))
    student, teacher = run.fields.student, run.fields.teachers["one"]
    quiet = run.ask(student)
    assert run.ask(student).equal(quiet), "a rollout is what the finished LoRA does"
    latents, sigma = torch.randn(2, 4, 8, 8), torch.tensor([0.3, 0.6])
    condition = run.data.conditions.of([Prompt("red cat"), Prompt("a dog")])
    one, other = (student(latents, sigma, condition).detach() for _ in range(2))
    assert far(one, other) > 1e-4
    assert teacher(latents, sigma, condition).equal(teacher(latents, sigma, condition))
    assert run.ask(student).equal(quiet)


def test_rollout_batch_size_changes_nothing(built):
    run = built(gradient_accumulation_steps=3, train_batch_size=2)
    assert far(run.gradient(rollout_batch_size=1), run.gradient()) < 1e-5


def test_micro_batches_change_nothing(built, tmp_path):
    """Four times one is one times four: the same noise, the same states, the same gradient."""
    (tmp_path / "one.txt").write_text("red cat\n", encoding="utf-8")
    keys = {"prompts": {"one": str(tmp_path / "one.txt")}, "routes": {"two": 0.0}}
    four = built(gradient_accumulation_steps=1, train_batch_size=4, name="four", **keys)
    parts = built(gradient_accumulation_steps=4, train_batch_size=1, name="parts", **keys)
    assert far(parts.gradient(), four.gradient()) < 1e-5


def test_student_stays_trainable_whatever_was_asked(built):
    run = built()
    run.ask(run.fields.teachers["two"])
    trained = {id(p) for p in run.fields.adapters.student_parameters()}
    for p in run.fields.adapters.transformer.parameters():
        assert p.requires_grad == (id(p) in trained)
    assert isinstance(run.fields.base, AdapterField) and run.fields.plain_student.name == STUDENT
