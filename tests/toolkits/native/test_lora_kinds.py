"""Teachers that are LoKr, LoHa and DoRA files, in runs of the real entry point."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from danceopd_ext.lora.algebra import compress, merge, relative_difference
from danceopd_ext.lora.lycoris import Kronecker
from danceopd_ext.lora.read import read_lora
from danceopd_ext.toolkits.native.build import adapter_name
from tests.tiny.loras import layout_of
from tests.tiny.presets import write_preset
from tests.toolkits.native.fields import build
from tests.toolkits.runs import log_of, says


@pytest.fixture
def files(pipelines, tmp_path):
    """Kind -> a file of it for the tiny SD3, on all its attention's queries, strong enough to be seen."""
    shapes = layout_of(pipelines["sd3"]).shapes
    layers = {name: shape for name, shape in shapes.items() if name.endswith("attn.to_q")}
    generator = torch.Generator().manual_seed(3)

    def tensors(kind: str, outputs: int, inputs: int) -> dict[str, torch.Tensor]:
        def random(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator) * 0.3

        lora = {"lora_A.weight": random(2, inputs), "lora_B.weight": random(outputs, 2)}
        return {
            "lokr": {"lokr_w1": random(4, 4), "lokr_w2": random(outputs // 4, inputs // 4)},
            "loha": {f"hada_w{n}_a": random(outputs, 2) for n in (1, 2)}
            | {f"hada_w{n}_b": random(2, inputs) for n in (1, 2)},
            "dora": lora | {"dora_scale": 1 + torch.rand(1, inputs, generator=generator)},
            "lora": lora,
        }[kind]

    found = {}
    for kind in ("lokr", "loha", "dora", "lora"):
        found[kind] = str(tmp_path / f"{kind}.safetensors")
        named = {
            f"transformer.{layer}.{part}": value
            for layer, (outputs, inputs) in layers.items()
            for part, value in tensors(kind, outputs, inputs).items()
        }
        save_file(named, found[kind])
    return found


def test_a_run_with_one_teacher_of_each_kind(ran, files):
    teachers = {kind: {"lora": file} for kind, file in files.items()}
    teachers["all"] = {"lora": list(files.values()), "strength": [0.5, 0.5, 0.7, 1.0]}
    output = ran(teachers, family="sd3", max_train_steps=2, gradient_accumulation_steps=5)
    assert (output / "fused.safetensors").is_file()
    losses = [entry["loss"] for entry in log_of(output) if "loss" in entry]
    assert losses and all(0 < loss < float("inf") for loss in losses)


def test_each_kind_is_a_field_of_its_own(files, pipelines, tmp_path):
    teachers = {kind: {"lora": file} for kind, file in files.items()}
    run = build(write_preset(tmp_path / "run", pipelines["sd3"], teachers))
    answers = [run.ask(field) for field in (run.fields.base, *run.fields.teachers.values())]
    for number, one in enumerate(answers):
        assert all((one - other).norm() > 1e-3 * one.norm() for other in answers[number + 1 :])
    held = run.fields.adapters.state(adapter_name("lokr")).modules
    assert all(isinstance(change, Kronecker) for change in held.values())


@pytest.mark.parametrize("method", ["merge_average", "merge_sum"])
def test_products_merge_and_are_compressed_to_the_students_rank(ran, files, pipelines, method):
    teachers = {kind: {"lora": files[kind]} for kind in ("lokr", "loha", "lora")}
    output = ran(teachers, family="sd3", method=method, prompts={}, network_dim=3)
    layout = layout_of(pipelines["sd3"])
    whole = merge([read_lora(files[kind], layout) for kind in teachers], method.removeprefix("merge_"))
    found = read_lora(output / "fused.safetensors", layout)
    assert max(change.rank for change in found.modules.values()) == 3
    assert relative_difference(found, compress(whole, 3)) < 1e-4
    with safe_open(output / "fused.safetensors", "pt") as file:
        lost = float(file.metadata()["ss_danceopd_merge_loss"])
    assert lost == pytest.approx(relative_difference(compress(whole, 3), whole), abs=1e-4)


@pytest.mark.parametrize("start", ["network_weights", "merge"])
def test_a_student_starts_from_products(files, pipelines, tmp_path, start):
    layout = layout_of(pipelines["sd3"])
    lokr, loha = (read_lora(files[kind], layout) for kind in ("lokr", "loha"))
    teachers = {kind: {"lora": files[kind]} for kind in ("lokr", "loha")}
    if start == "merge":
        keys, whole = {"student_init": "merge_sum"}, merge([lokr, loha], "sum")
    else:
        keys, whole = {"network_weights": files["lokr"]}, lokr
    run = build(write_preset(tmp_path / "run", pipelines["sd3"], teachers, network_dim=4, **keys))
    assert relative_difference(run.start, compress(whole, 4)) < 1e-4


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ({"method": "merge_average"}, ["[danceopd.teachers.two]", "dora: a DoRA", 'method = "merge_average"']),
        ({"student_init": "merge_sum"}, ["[danceopd.teachers.two]", "dora: a DoRA", 'student_init = "merge_sum"']),
        ({"network_weights": "dora"}, ["network_weights: ", "dora: a DoRA", "plain LoRA"]),
    ],
)
def test_where_a_dora_cannot_be_used(changed, refused, files, keys, parts):
    teachers = {"one": {"lora": files["lora"]}, "two": {"lora": files["dora"]}}
    keys = {key: files.get(value, value) for key, value in keys.items()}
    says(refused(changed(teachers, **keys)), *parts, "depends on the base's weights")
