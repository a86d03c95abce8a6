"""Switch, conditions, routes and teachers' files: what a borrowed trainer is served with."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from safetensors.torch import load_file, save_file

from danceopd_ext.config.schema import DanceOPDSection, Teacher
from danceopd_ext.errors import UserError
from danceopd_ext.models.sd3 import StableDiffusion3
from danceopd_ext.toolkits.hosted.active_adapter import STUDENT
from danceopd_ext.toolkits.hosted.conditions import Conditions
from danceopd_ext.toolkits.hosted.route_balance import MOST_REPEATS, balanced
from danceopd_ext.toolkits.hosted.teacher_files import host_layout, linear_layers, network_tensors, read_teachers
from tests.toolkits.hosted.toys import Toys


def test_one_adapter_is_active_at_a_time():
    toys = Toys()
    for name in ("a", "b", None, STUDENT, "b"):
        toys.switch.to(name, training=False)
        enabled = [other for other, network in toys.teachers.items() if network.enabled]
        assert enabled == ([name] if name in toys.teachers else [])
        assert toys.student.multiplier == (1.0 if name == STUDENT else 0.0)
        assert not toys.student.training
    toys.switch.restore()
    assert toys.student.training
    assert toys.swap.told == ["inference", "training"]  # once, not at every change of the active adapter
    with pytest.raises(ValueError, match="only the student is trained"):
        toys.switch.to("a", training=True)


def test_conditions_select_and_forget_their_texts():
    texts, lists = torch.arange(6.0).view(3, 2), [torch.ones(1), torch.ones(2), torch.ones(3)]
    both = Conditions(
        {"text": texts, "list": lists, "nothing": None, "image": texts + 10},
        ["a", "b", "c"],
        {"text": torch.full((1, 2), -1.0), "list": [torch.zeros(5)], "nothing": None},
    )
    chosen = both.select([2, 0])
    assert chosen.routes == ["c", "a"]
    assert torch.equal(chosen["text"], texts[[2, 0]])
    assert [len(part) for part in chosen["list"]] == [3, 1]
    assert chosen["nothing"] is None
    assert both.select([0, 1, 2]) is both
    without = chosen.unconditional()
    assert torch.equal(without["text"], torch.full((2, 2), -1.0))
    assert [len(part) for part in without["list"]] == [5, 5]
    assert torch.equal(without["image"], chosen["image"])  # a source image stays
    with pytest.raises(RuntimeError, match="guidance needs the empty prompt, which was not encoded"):
        Conditions({"text": texts}, ["a", "b", "c"]).unconditional()


def test_shares_follow_the_weights_whatever_the_sizes():
    entries = {"many": list(range(1000)), "few": ["x", "y", "z"], "none": ["n"]}
    found = balanced(entries, {"many": 1.0, "few": 3.0, "none": 0.0}, seed=1)
    assert found.keys() == {"many", "few"}
    assert len(found["few"]) == 3 * len(found["many"]) == 3000
    assert sorted(found["many"]) == entries["many"]
    assert set(Counter(found["few"]).values()) == {1000}
    uneven = Counter(balanced({"a": list(range(7)), "b": ["x", "y"]}, {"a": 1.0, "b": 1.0}, seed=1)["b"])
    assert sorted(uneven.values()) == [3, 4]
    assert balanced(entries, {"many": 1.0, "few": 3.0, "none": 0.0}, seed=1) == found


def test_a_tiny_share_is_repeated_only_so_often():
    found = balanced({"huge": list(range(5000)), "one": ["x"]}, {"huge": 1.0, "one": 1.0}, seed=1)
    assert len(found["one"]) == MOST_REPEATS


class Host(torch.nn.Module):
    """A piece of SD3 under its native names: fused q, k, v."""

    def __init__(self, width: int = 8):
        super().__init__()
        block = torch.nn.Module()
        block.x_block = torch.nn.Module()
        block.x_block.attn = torch.nn.Module()
        block.x_block.attn.qkv = torch.nn.Linear(width, 3 * width)
        block.x_block.attn.proj = torch.nn.Linear(width, width)
        self.joint_blocks = torch.nn.ModuleList([block])


def lora_of(path, prefix: str, sizes: dict[str, tuple[int, int]], rank: int = 2) -> Teacher:
    rng = torch.Generator().manual_seed(1)
    tensors = {}
    for layer, (outputs, inputs) in sizes.items():
        tensors[f"{prefix}{layer}.lora_A.weight"] = torch.randn(rank, inputs, generator=rng)
        tensors[f"{prefix}{layer}.lora_B.weight"] = torch.randn(outputs, rank, generator=rng)
    save_file(tensors, path)
    return Teacher(lora=str(path))


def read(teacher: Teacher, host: Host):
    linears = linear_layers(host)
    layout = host_layout(StableDiffusion3(), "sd3", linears)
    options = DanceOPDSection(toolkit="sd-scripts", teachers={"style": teacher})
    return network_tensors("style", read_teachers(options, layout)["style"], layout, linears)


def test_a_diffusers_lora_gets_the_hosts_fused_names(tmp_path):
    attention = "transformer_blocks.0.attn"
    sizes = {f"{attention}.{name}": (8, 8) for name in ("to_q", "to_k", "to_v", "to_out.0")}
    teacher = lora_of(tmp_path / "style.safetensors", "transformer.", sizes)
    tensors = read(teacher, Host())
    fused = "lora_unet_joint_blocks_0_x_block_attn_qkv"
    assert {key.partition(".")[0] for key in tensors} == {fused, "lora_unet_joint_blocks_0_x_block_attn_proj"}
    up, down = tensors[f"{fused}.lora_up.weight"], tensors[f"{fused}.lora_down.weight"]
    own = load_file(teacher.lora)
    parts = [own[f"transformer.{attention}.{n}.lora_B.weight"] @ own[f"transformer.{attention}.{n}.lora_A.weight"]
             for n in ("to_q", "to_k", "to_v")]  # fmt: skip
    scale = float(tensors[f"{fused}.alpha"]) / len(down)
    assert torch.allclose(scale * up @ down, torch.cat(parts), rtol=1e-5, atol=1e-6)


def test_a_lora_of_another_size_or_family_is_refused(tmp_path):
    sizes = {"transformer_blocks.0.attn.to_out.0": (16, 16)}
    with pytest.raises(UserError, match=r"\[danceopd.teachers.style\].*style"):
        read(lora_of(tmp_path / "style.safetensors", "transformer.", sizes), Host())
    with pytest.raises(UserError, match=r"\[danceopd.teachers.style\]"):
        read(lora_of(tmp_path / "other.safetensors", "", {"layers.0.attention.to_q": (8, 8)}), Host())


def test_what_is_left_out_of_a_hosted_teacher_is_told(tmp_path, capsys):
    teacher = lora_of(tmp_path / "style.safetensors", "transformer.", {"transformer_blocks.0.attn.to_out.0": (8, 8)})
    tensors = load_file(teacher.lora) | {"transformer.transformer_blocks.0.attn.to_out.0.diff_b": torch.ones(8)}
    save_file(tensors, teacher.lora)
    with pytest.raises(UserError, match="ignore_other_parts = true"):
        read(teacher, Host())
    assert read(Teacher(lora=teacher.lora, ignore_other_parts=True), Host())
    told = capsys.readouterr().out
    assert told.startswith("note: [danceopd.teachers.style] style.safetensors: ") and "diff_b" in told


def test_a_hosted_teacher_that_changes_nothing_is_told(tmp_path, capsys):
    teacher = lora_of(tmp_path / "style.safetensors", "transformer.", {"transformer_blocks.0.attn.to_out.0": (8, 8)})
    assert read(teacher, Host()) and capsys.readouterr().out == ""
    ups = {key: value * (".lora_B." not in key) for key, value in load_file(teacher.lora).items()}
    save_file(ups, teacher.lora)
    assert read(teacher, Host())
    assert capsys.readouterr().out == (
        "note: [danceopd.teachers.style] this teacher changes nothing: its LoRA is zero\n"
    )


def test_no_teacher_is_called_student():
    options = DanceOPDSection(toolkit="sd-scripts", teachers={"student": Teacher()})
    with pytest.raises(UserError, match='a teacher cannot be called "student"'):
        read_teachers(options, host_layout(StableDiffusion3(), "sd3", linear_layers(Host())))
