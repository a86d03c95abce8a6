"""A plan: what it says, of which card, of which model, and that its advice does what it promises."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch

from danceopd_ext.cli import main as command
from danceopd_ext.cli import run
from danceopd_ext.config import load_preset
from danceopd_ext.engine.block_swap import BlockSwap
from danceopd_ext.engine.movers import PlainMover
from danceopd_ext.errors import UserError
from danceopd_ext.lora.adapters import Adapters
from danceopd_ext.method import METHODS
from danceopd_ext.models.held_linear import PACKINGS, place
from danceopd_ext.models.layout import is_outer
from danceopd_ext.models.published import known_models, published
from danceopd_ext.models.quantising import _held
from danceopd_ext.models.registry import FAMILIES
from danceopd_ext.planning import of_preset
from danceopd_ext.planning.advice import CONTEXT, LOST, fits, suggestions, usable
from danceopd_ext.planning.blueprint import blueprint_of_published
from danceopd_ext.planning.cards import Card, find_card
from danceopd_ext.planning.command import plan_for_cards
from danceopd_ext.planning.disk import disk_of
from danceopd_ext.planning.hours import hours_of
from danceopd_ext.planning.measure import measured_pace
from danceopd_ext.planning.of_preset import work_of_preset
from danceopd_ext.planning.phases import GIB, Memory
from danceopd_ext.planning.report import advise, three_lines
from danceopd_ext.planning.weights import held_of
from danceopd_ext.planning.work import forwards_of
from danceopd_ext.toolkits.native import planned
from danceopd_ext.toolkits.run import main
from tests.tiny.families.z_image import z_image_transformer
from tests.tiny.presets import write_preset


@pytest.fixture(scope="module")
def memory(z_image, tmp_path_factory):
    folder = tmp_path_factory.mktemp("preset")
    keys = {"gradient_checkpointing": True, "resolution": 64, "optimizer_type": "AdamW8bit"}
    preset = write_preset(folder, z_image, {"style": {"lora": "style.safetensors"}}, **keys)
    return Memory(work_of_preset(load_preset(preset)))


def with_room(size):
    """A card whose tensors can have this many bytes."""
    return Card("small", (size / GIB + CONTEXT) / (1 - LOST), 50.0, 500.0)


@pytest.mark.parametrize("swapped", [0, 3])
@pytest.mark.parametrize("word", [None, "int8", "fp8"])
def test_the_base_takes_what_its_tensors_take(word, swapped):
    family, transformer = FAMILIES["z_image"], z_image_transformer(layers=6)
    plan = held_of(family, z_image_transformer(layers=6).to("meta"), torch.float32, word).swapped(swapped)
    for name, layer in list(transformer.named_modules()) if word else []:
        if isinstance(layer, torch.nn.Linear) and not is_outer(name):
            place(transformer, name, _held(layer, layer.weight, torch.float32, PACKINGS[word], torch.device("cpu")))
    Adapters(transformer)
    most = []
    if swapped:
        swap = BlockSwap(family.repeated_blocks(transformer), swapped, torch.device("cpu"), PlainMover())
        before = sum(t.nbytes for t in (*transformer.parameters(), *transformer.buffers()))
        for block in family.repeated_blocks(transformer):
            for hook in block._forward_pre_hooks.values():
                hook(block, ())
            most.append(before + sum(one.on_device for one in swap.blocks))
        assert plan.main == pytest.approx(sum(one.size for one in swap.blocks), rel=0.02)
    else:
        most.append(sum(t.nbytes for t in {*transformer.parameters(), *transformer.buffers()}))
    assert plan.device == pytest.approx(max(most), rel=0.02)


@pytest.mark.parametrize("method", ["danceopd", "joint", "offpolicy", "dmd"])
def test_forwards_are_those_that_the_method_reports(work, method):
    planned = work(method=method, early_stop=False, gradient_accumulation_steps=3, num_queries=2)
    found = forwards_of(planned)
    full = {"danceopd": 3 * 4, "joint": 0, "offpolicy": 0}
    if method in full:
        assert found.rollout == full[method]
    assert found.gradient == (3 if method == "joint" else 6)
    assert set(full) <= set(METHODS)


def test_guidance_asks_twice(work):
    teachers = {"sharp": {"guidance_scale": 3.5}}
    plain, guided = forwards_of(work(teachers={"sharp": {}})), forwards_of(work(teachers=teachers))
    assert guided.teacher == 2 * plain.teacher


def test_phases_hold_what_lives_in_them(memory):
    phases = {phase.name: phase for phase in memory.phases()}
    assert list(phases) == ["encode", "load", "rollout", "teacher", "gradient", "optimizer", "save"]
    assert set(phases["encode"].parts) == {"text encoder", "activations"}
    student = phases["load"].parts["student"]
    assert student == 4 * memory.numbers == phases["gradient"].parts["gradients"]
    assert phases["rollout"].parts["optimizer"] == pytest.approx(2 * memory.numbers, rel=0.05)
    assert memory.peak.total == max(phase.total for name, phase in phases.items() if name not in ("encode", "save"))


@pytest.mark.parametrize(("name", "found"), [
    ("RTX 4070", "RTX 4070"), ("rtx4070", "RTX 4070"), ("NVIDIA GeForce RTX 4070 Ti SUPER", "RTX 4070 Ti Super"),
    ("NVIDIA H100 80GB HBM3", "H100"), ("4090", "RTX 4090"), ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
])  # fmt: skip
def test_cards_are_found_as_people_and_drivers_write_them(name, found):
    assert find_card(name).name == found


def test_one_name_with_two_memories_is_told_apart_by_memory():
    assert find_card("NVIDIA GeForce RTX 4060 Ti", 15.6).memory == 16
    assert find_card("NVIDIA GeForce RTX 4060 Ti", 8.0).memory == 8


def test_an_unknown_card_names_the_nearest(preset_file, capsys):
    assert run(command, ["plan", str(preset_file()), "--card", "RTX 4071"]) == 2
    told = capsys.readouterr().err
    assert 'Did you mean "RTX 4070"?' in told
    assert "--vram 12" in told


def test_a_preset_of_a_toolkit_is_not_planned(preset_file, capsys):
    file = preset_file()
    file.write_text('[danceopd]\ntoolkit = "musubi-tuner"\n[danceopd.teachers.base]\n', encoding="utf-8")
    for more in (["--vram", "8"], ["--all_cards"]):
        assert run(command, ["plan", str(file), *more]) == 2
        told = capsys.readouterr().err
        assert 'toolkit = "musubi-tuner" runs in that toolkit' in told and 'toolkit = "native"' in told


def test_an_unknown_model_without_a_connection_names_those_that_are_known(preset_file, monkeypatch):
    def offline(*_, **__):
        raise UserError("no connection.")

    monkeypatch.setattr(of_preset, "find_model_files", offline)
    with pytest.raises(UserError, match='Did you mean "Tongyi-MAI/Z-Image"'):
        work_of_preset(load_preset(preset_file(), {"pretrained_model_name_or_path": "Tongyi-MAI/Z-Imag"}))


def test_a_folder_without_its_configuration_is_named(z_image, preset_file, tmp_path):
    broken = shutil.copytree(z_image, tmp_path / "broken")
    (broken / "transformer" / "config.json").unlink()
    with pytest.raises(UserError, match=r"transformer.config\.json"):
        work_of_preset(load_preset(preset_file(), {"pretrained_model_name_or_path": str(broken)}))


@pytest.mark.parametrize("hub", ["Tongyi-MAI/Z-Image", "black-forest-labs/FLUX.1-dev"])
def test_published_models_have_their_published_parameters(hub):
    parameters = {"Tongyi-MAI/Z-Image": 6.15e9, "black-forest-labs/FLUX.1-dev": 11.9e9}[hub]
    blueprint = blueprint_of_published(published(hub))
    transformer = blueprint.transformer()
    assert sum(weight.numel() for weight in transformer.parameters()) == pytest.approx(parameters, rel=0.01)
    size = blueprint.family.sizes[0]
    assert {name: len(getattr(transformer, name)) for name in size.depths} == size.depths


def test_every_family_that_is_published_is_known():
    types = {published(hub).model_type for hub in known_models()}
    assert types == set(FAMILIES)
    assert {family.default_components for family in FAMILIES.values()} <= set(known_models())


def test_pasted_changes_make_it_fit_when_it_is_planned_again(memory, preset_file):
    card = with_room(0.9 * memory.peak.total)
    assert not fits(memory, card)
    found = suggestions(memory, card)
    assert found
    for one in found:
        keys = {line.split(" = ")[0]: line.split(" = ")[1].split("  #")[0].strip('"') for line in one.lines}
        again = memory.with_work(work_of_preset(load_preset(preset_file(optimizer_type="AdamW8bit"), keys)))
        assert fits(again, card), one.lines
        assert again.peak.total == one.memory.peak.total


def test_what_no_change_makes_fit_is_said(memory):
    found = suggestions(memory, with_room(0.2 * memory.peak.total))
    assert advise(found) == ["No change of the preset makes it fit: use a smaller model or a larger card."]


def test_a_run_that_fits_needs_no_change(memory):
    assert fits(memory, with_room(memory.peak.total))
    assert not fits(memory, with_room(0.99 * memory.peak.total))
    assert usable(12) == pytest.approx(11.12)


def test_hours_follow_from_the_counts(memory):
    card = Card("slow", 12, 10.0, 100.0)
    hours = hours_of(memory, card)
    twice = hours_of(memory, replace(card, tflops=20.0, bandwidth=200.0))
    assert hours.step == pytest.approx(2 * twice.step)
    assert hours.total == pytest.approx(hours.step * 4 / 3600)
    assert hours_of(memory, card, pace=3.0).step == pytest.approx(3 * hours.step)


def test_a_measurement_compares_real_blocks_with_the_estimate(memory):
    pace, how = measured_pace(memory, Card("this CPU", 8, 0.01, 1.0), device="cpu")
    assert 0.001 < pace < 1000
    assert how == "measured on this this CPU"


def test_the_disk_has_room_for_what_is_kept_at_once(work):
    keys = {"max_train_steps": 40, "save_every_n_steps": 10, "save_state": True, "save_last_n_steps": 20}
    planned = Memory(work(**keys))
    disk = disk_of(planned)
    assert (disk.loras, disk.states) == (1 + 3, 1 + 3)
    assert disk.lora == planned.numbers * 4  # save_precision = "float"
    assert disk.download == 0


def test_the_command_says_all_of_it(preset_file, capsys):
    command(["plan", str(preset_file()), "--vram", "12", "--resolution", "32"])
    told = capsys.readouterr().out
    for word in ("gradient", "main memory", "hours" if "hours" in told else "minutes", "32 x 32", "It fits"):
        assert word in told
    assert "style.safetensors is not here" in told


def test_a_swap_larger_than_the_model_is_refused(preset_file):
    with pytest.raises(UserError, match="blocks_to_swap = 99"):
        work_of_preset(load_preset(preset_file(), {"blocks_to_swap": "99"}))


def test_the_trainer_says_the_plan_when_it_starts(z_image, pipelines, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(planned, "SMALL", 0)
    preset = write_preset(tmp_path, pipelines["z_image"], {"base": {}}, max_train_steps=1)
    monkeypatch.setattr(planned, "card_of_run", lambda plan: Card("RTX 4070", 12, 58.3, 504))
    main(["--config", str(preset)])
    told = capsys.readouterr().out
    lines = {line.split()[0]: line for line in told.splitlines() if line}
    assert "at the peak" in lines["needs"]
    assert "1 step of" in lines["takes"]
    assert "LoRA" in lines["writes"]


def test_three_lines_of_a_machine_without_a_card(memory):
    lines = three_lines(memory, None, None, disk_of(memory))
    assert [line.split()[0] for line in lines] == ["needs", "writes"]
    assert json.dumps(lines)


def test_a_line_for_each_usual_card(preset_file):
    lines = plan_for_cards(str(preset_file()), {"resolution": ["32"]})
    assert [line.split()[0] for line in lines] == ["8", "12", "16", "24"]
    assert all("as it is: " in line and "on an RTX" in line for line in lines)
