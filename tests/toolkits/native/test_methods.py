"""Every method trains through the same trainer: its own loss falls, it resumes to the bit, and bad input is told."""

from __future__ import annotations

from dataclasses import fields
from statistics import mean
from typing import get_args

import pytest
from PIL import Image
from safetensors import safe_open

from danceopd_ext.config.danceopd import FLOWOPD_KEYS, DanceOPDSection
from danceopd_ext.config.fields import key_types
from danceopd_ext.errors import UserError
from danceopd_ext.method import MERGES, METHODS, MethodOptions
from tests.toolkits.runs import log_of, same_tensors, says


def test_the_preset_knows_every_method_and_its_defaults():
    assert set(get_args(key_types(DanceOPDSection)["method"])) == {*METHODS, *MERGES}
    preset = {each.name: each.default for each in fields(DanceOPDSection)}
    assert {each.name: preset[each.name] for each in fields(MethodOptions)} == {
        each.name: each.default for each in fields(MethodOptions)
    }
    assert set(FLOWOPD_KEYS) < {each.name for each in fields(MethodOptions)}


# --- training


LEARNT = {
    "danceopd": ({}, 0.4),
    "soft": ({"max_train_steps": 30}, 0.4),
    "offpolicy": ({}, 0.4),
    "joint": ({}, 0.9),
    "diffusionopd": ({"train_batch_size": 2, "rollout_steps": 2}, 0.5),
    "flowopd": ({"train_batch_size": 2, "rollout_steps": 2, "flowopd_group_size": 2}, 0.5),
    "kl": ({}, 0.4),
}


@pytest.mark.parametrize("method", LEARNT)
def test_its_own_loss_falls(taught, method):
    keys, share = LEARNT[method]
    output = taught(method, **keys)
    log = log_of(output)
    losses = [entry["loss"] for entry in log]
    assert mean(losses[-4:]) < share * mean(losses[:4])
    with safe_open(output / "fused.safetensors", "pt") as file:
        entries = file.metadata()
    assert entries["ss_danceopd_method"] == method
    assert int(entries["ss_danceopd_forwards"]) == sum(entry["forwards"] for entry in log)
    assert ("ss_danceopd_sde_eta" in entries) == (method == "flowopd")


def test_what_an_update_costs(taught):
    """Forwards of 4 samples (2 routes of 4 where all take part), with 3 solver steps."""
    once = {"max_train_steps": 1, "train_batch_size": 4}
    found = {}
    for method in ("joint", "offpolicy", "diffusionopd", "flowopd", "soft"):
        own = {"flowopd_group_size": 2} if method == "flowopd" else {"query": "uniform"}
        (entry,) = log_of(taught(method, method, **once, **own))
        assert entry["route"] == ("one + two" if method == "diffusionopd" else entry["route"])
        samples = entry["samples"]
        parts = [entry[f"{kind}_forwards_per_sample"] for kind in ("rollout", "teacher", "student")]
        assert entry["forwards"] == pytest.approx(sum(parts) * samples)
        found[method] = (samples, *parts)
    assert found["joint"] == (4, 0, 0, 1)
    assert found["offpolicy"] == (4, 0, 1, 1)
    assert found["diffusionopd"] == (8, 2, 3, 3)
    assert found["flowopd"] == (4, 6, 6, 6)
    assert found["soft"][2:] == (2, 1)


@pytest.mark.parametrize(
    ("method", "keys"),
    [("flowopd", {"flowopd_group_size": 2}), ("diffusionopd", {}), ("offpolicy", {}), ("joint", {})],
)
def test_a_resumed_run_is_the_run_that_was_not_interrupted(taught, method, keys):
    short = {"max_train_steps": 4, "save_every_n_steps": 2, "save_state": True, "rollout_steps": 2, **keys}
    short |= {"train_batch_size": 1, "network_dropout": 0.2}
    whole = taught(method, "whole", **short)
    resumed = taught(method, "resumed", resume=str(whole / "fused-step00000002-state"), **short)
    assert same_tensors(whole / "fused.safetensors", resumed / "fused.safetensors")
    assert [e["loss"] for e in log_of(whole)][2:] == [e["loss"] for e in log_of(resumed)]
    forwards = []
    for output in (whole, resumed):
        with safe_open(output / "fused.safetensors", "pt") as file:
            forwards.append(int(file.metadata()["ss_danceopd_forwards"]))
    assert forwards[0] == forwards[1] > 0


def test_a_state_of_another_method_or_other_pictures_is_refused(taught, capsys, pictures, tmp_path):
    short = {"max_train_steps": 2, "save_every_n_steps": 1, "save_state": True, "train_batch_size": 1}
    state = taught("joint", **short) / "fused-step00000001-state"
    with pytest.raises(UserError, match='method was "joint" and is "offpolicy"'):
        taught("offpolicy", "other", resume=str(state), **short)
    Image.new("RGB", (24, 20), (1, 2, 3)).save(tmp_path / "pictures" / "one0.png")
    with pytest.raises(UserError, match="its source images or target pictures were different"):
        taught("joint", "again", resume=str(state), **short)


def test_keys_that_say_nothing_to_a_method_are_told(taught, capsys):
    taught("diffusionopd", max_train_steps=1, num_queries=2, train_batch_size=1)
    out = capsys.readouterr().out
    assert 'num_queries is ignored: method = "diffusionopd" does not use it' in out
    assert "query says" not in out


def test_fusing_teachers_without_the_base_is_told(ran, two_teachers, capsys):
    """What no route asks for may be forgotten; a base with guidance is the base too, and one teacher is no fusion."""
    two, told = two_teachers["z_image"], "no teacher is the base"
    ran(name="two", max_train_steps=1)
    assert told in capsys.readouterr().out
    for name, teachers in {"kept": {**two, "base": {"guidance_scale": 2.0}}, "one": {"one": two["one"]}}.items():
        ran(teachers, name=name, max_train_steps=1)
        assert told not in capsys.readouterr().out


def test_a_start_without_a_whole_checkpoint_is_told(ran, two_teachers, pipelines, capsys):
    """Nobody has its change as a LoRA, so the merge is that of the others; extracted, it is one of them."""
    whole = {"checkpoint": str(pipelines["z_image"])}
    for name, tuned, is_told in (("whole", whole, True), ("extracted", {**whole, "extract_rank": 2}, False)):
        teachers = {"one": two_teachers["z_image"]["one"], "tuned": tuned}
        ran(teachers, name=name, max_train_steps=1, student_init="merge_sum")
        assert ("teacher tuned is a whole checkpoint and not in the merge" in capsys.readouterr().out) is is_told


# --- wrong input


def test_unknown_method(changed, refused):
    says(refused(changed(method="flow_opd")), "method", 'Did you mean "flowopd"?')


@pytest.mark.parametrize("key", FLOWOPD_KEYS)
def test_keys_of_another_method(changed, refused, key):
    value = 3 if key == "flowopd_group_size" else 0.3
    says(refused(changed(method="diffusionopd", **{key: value})), key, 'works only with method = "flowopd"')
    assert getattr(DanceOPDSection(method="flowopd", **{key: value}), key) == value
    with pytest.raises(UserError, match=key):
        DanceOPDSection(method="flowopd", **{key: 0})


@pytest.mark.parametrize("toolkit", ["sd-scripts", "musubi-tuner"])
@pytest.mark.parametrize("method", sorted({*METHODS, *MERGES} - {"danceopd"}))
def test_a_toolkit_runs_danceopd_only(toolkit, method):
    with pytest.raises(UserError, match=f'method = "{method}": with toolkit = "{toolkit}" only method = "danceopd"'):
        DanceOPDSection(toolkit=toolkit, method=method)
