"""Parts that cannot be multiplied, alphas that are no number, settings of other types: a message, by both readers."""

from __future__ import annotations

import pytest
import torch
from tiny_lora import deltas_equal, keyed, layout, random_lora, save

from danceopd_ext.errors import UserError
from danceopd_ext.lora import layer_tensors, read
from danceopd_ext.lora.file_summary import describe
from danceopd_ext.lora.lora_file import LoraFile, open_lora_file
from danceopd_ext.lora.read import check_lora, read_lora, to_lora

PEFT = (".lora_A.weight", ".lora_B.weight")
LAYER = "layers.0.attention.to_q"  # 32 x 32


def layer_file(tmp_path, parts: dict[str, torch.Tensor | tuple[int, ...]]):
    tensors = {
        f"transformer.{LAYER}.{part}": value if isinstance(value, torch.Tensor) else torch.ones(value)
        for part, value in parts.items()
    }
    return save(tmp_path / "style.safetensors", tensors)


def refusal(file) -> str:
    """What both readers say, which must be the same."""
    messages = []
    for reader in (to_lora, check_lora):
        with pytest.raises(UserError) as caught:
            reader(open_lora_file(file), layout("z_image"))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert dict(describe(open_lora_file(file), {"z_image": layout("z_image")}))["usable"] == f"no: {messages[0]}"
    return messages[0]


LORA = {"lora_A.weight": (2, 32), "lora_B.weight": (32, 2)}
LOHA = {"hada_w1_a": (32, 2), "hada_w1_b": (2, 32), "hada_w2_a": (32, 2), "hada_w2_b": (2, 32)}
LOKR = {"lokr_w1": (4, 4), "lokr_w2_a": (8, 2), "lokr_w2_b": (2, 8)}

WRONG_SHAPES = {
    "LoRA of two ranks": LORA | {"lora_A.weight": (3, 32)},
    "LoHa whose outputs broadcast": LOHA | {"hada_w2_a": (1, 2)},
    "LoHa whose inputs broadcast": LOHA | {"hada_w1_b": (2, 1)},
    "LoHa of two ranks": LOHA | {"hada_w1_b": (1, 32)},
    "LoKr of two ranks": LOKR | {"lokr_w2_b": (1, 8)},
}


@pytest.mark.parametrize("parts", WRONG_SHAPES.values(), ids=WRONG_SHAPES)
def test_shapes_that_do_not_go_together(parts, tmp_path):
    message = refusal(layer_file(tmp_path, parts))
    assert "do not fit together" in message and LAYER in message and all(str(s) in message for s in parts.values())


@pytest.mark.parametrize("parts", [LORA, LOHA, LOKR], ids=["LoRA", "LoHa", "LoKr"])
@pytest.mark.parametrize("shape", [(), (2,), (0,), (2, 2, 2)])
def test_parts_that_are_no_matrix(parts, shape, tmp_path):
    key = list(parts)[-1]
    message = refusal(layer_file(tmp_path, parts | {key: shape}))
    assert key in message and str(shape) in message


EMPTY = {
    "LoRA": {"lora_A.weight": (0, 32), "lora_B.weight": (32, 0)},
    "LoHa": {part: tuple(0 if size == 2 else size for size in shape) for part, shape in LOHA.items()},
    "LoKr": LOKR | {"lokr_w2_a": (8, 0), "lokr_w2_b": (0, 8)},
    "whole LoKr": {"lokr_w1": (0, 4), "lokr_w2": (8, 8)},
}


@pytest.mark.parametrize("parts", EMPTY.values(), ids=EMPTY)
def test_a_layer_of_rank_zero(parts, tmp_path):
    message = refusal(layer_file(tmp_path, parts))
    assert "is empty" in message and "rank of at least 1" in message


@pytest.mark.parametrize("parts", [LORA, LOHA, LOKR], ids=["LoRA", "LoHa", "LoKr"])
def test_a_product_of_another_size(parts, tmp_path):
    key = list(parts)[-1]
    wider = tuple(size * 2 if size != 2 else size for size in parts[key])
    if len(parts) == 4:
        parts = parts | {"hada_w1_b": wider}
    assert "a model of another size" in refusal(layer_file(tmp_path, parts | {key: wider}))


@pytest.mark.parametrize("values, scale", [([1.0], 0.5), ([1.0, 1.0, 1.0], 0.5), ([[4.0, 4.0]], 2.0)])
def test_an_alpha_of_equal_entries_is_one_number(values, scale, tmp_path):
    read = read_lora(layer_file(tmp_path, LORA | {"alpha": torch.tensor(values)}), layout("z_image"))
    torch.testing.assert_close(read.modules[LAYER].delta(), torch.full((32, 32), 2 * scale))


@pytest.mark.parametrize("parts", [LORA, LOHA, LOKR], ids=["LoRA", "LoHa", "LoKr"])
@pytest.mark.parametrize(("values", "part"), [([1.0, 2.0], "2 values"), ([], "no value"), (float("nan"), "NaN")])
def test_an_alpha_that_is_no_number(parts, values, part, tmp_path):
    message = refusal(layer_file(tmp_path, parts | {"alpha": torch.tensor(values)}))
    assert "alpha" in message and part in message


@pytest.mark.parametrize("kind", ["LoHa", "LoKr"])
def test_values_of_products_that_are_not_finite(kind, tmp_path):
    parts = {part: torch.ones(shape) for part, shape in {"LoHa": LOHA, "LoKr": LOKR}[kind].items()}
    key = list(parts)[1]
    parts[key][0, 0] = float("inf")
    assert f"{key} holds NaN or infinite" in refusal(layer_file(tmp_path, parts))


@pytest.mark.parametrize("kind", [MemoryError, torch.OutOfMemoryError, RuntimeError])
def test_running_out_of_memory_is_not_taken_for_wrong_parts(kind, tmp_path, monkeypatch):
    def full(*_):
        raise kind("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(layer_tensors, "_built", full)
    with pytest.raises(kind, match="allocate"):
        read_lora(layer_file(tmp_path, LOKR), layout("z_image"))


def test_inspect_builds_no_change(tmp_path, monkeypatch):
    def built(*_):
        raise AssertionError("a change was built")

    file = layer_file(tmp_path, LOKR | {"alpha": torch.tensor(1.0)})
    assert read_lora(file, layout("z_image")).modules
    monkeypatch.setattr(read, "build_change", built)
    monkeypatch.setattr(layer_tensors, "_built", built)
    assert dict(describe(open_lora_file(file), {"z_image": layout("z_image")}))["usable"] == "yes"


def test_inspect_compares_layers_that_are_given_twice(tmp_path):
    lora = random_lora("z_image", only="layers.0.attention.to_")
    once = keyed(lora.modules, "transformer.{dots}", *PEFT)
    again = keyed(lora.modules, "{dots}", *PEFT)
    check_lora(open_lora_file(save(tmp_path / "x.safetensors", once | again)), layout("z_image"))
    twice = once | {key: value + 1 for key, value in again.items()}
    assert "twice" in refusal(save(tmp_path / "y.safetensors", twice))


CONFIGS = {  # adapter_config.json -> what the message names
    "[1, 2]": "settings",
    "3": "settings",
    '"r"': "settings",
    '{"lora_alpha": "8"}': "lora_alpha must be a number",
    '{"lora_alpha": [8]}': "lora_alpha must be a number",
    '{"lora_alpha": NaN}': "lora_alpha must be a number",
    '{"lora_alpha": true}': "lora_alpha must be a number",
    '{"lora_alpha": 8, "r": 0}': "r is 0",
    '{"lora_alpha": 8, "r": null, "alpha_pattern": ["to_q"]}': "alpha_pattern must be a table",
    '{"alpha_pattern": {"to_q": null}}': "alpha_pattern.to_q must be a number",
    '{"rank_pattern": {"to_q": 0}}': "rank_pattern.to_q must be a number",
    '{"alpha_pattern": {"to_q(": 4}}': "not a regular expression",
}


def with_settings(lora, text: str, place: str, tmp_path) -> LoraFile:
    tensors = keyed(lora.modules, "base_model.model.{dots}", *PEFT)
    if place == "folder":
        save(tmp_path / "adapter_model.safetensors", tensors)
        (tmp_path / "adapter_config.json").write_text(text, encoding="utf-8")
        return open_lora_file(tmp_path)
    return open_lora_file(save(tmp_path / "x.safetensors", tensors, {"lora_adapter_metadata": text}))


@pytest.mark.parametrize("place", ["folder", "metadata"])
@pytest.mark.parametrize("text", CONFIGS)
def test_settings_of_other_types(text, place, tmp_path):
    with pytest.raises(UserError, match=CONFIGS[text]) as caught:
        to_lora(with_settings(random_lora("z_image", only=LAYER), text, place, tmp_path), layout("z_image"))
    where = "adapter_config.json" if place == "folder" else "metadata entry lora_adapter_metadata"
    assert where in str(caught.value)


@pytest.mark.parametrize("place", ["folder", "metadata"])
@pytest.mark.parametrize("text", ["{}", "null", '{"alpha_pattern": null, "rank_pattern": {}, "lora_alpha": null}'])
def test_settings_without_an_alpha(text, place, tmp_path):
    lora = random_lora("z_image", only=LAYER)
    assert deltas_equal(to_lora(with_settings(lora, text, place, tmp_path), layout("z_image")), lora)
