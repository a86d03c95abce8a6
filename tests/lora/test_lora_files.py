"""Files that we write: read back by us, by diffusers' own loaders, and never half written."""

from __future__ import annotations

import hashlib
import json
import logging
import struct
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import (
    Flux2Pipeline,
    FluxKontextPipeline,
    QwenImagePipeline,
    StableDiffusion3Pipeline,
    ZImagePipeline,
)
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_lora import block_lora, build, deltas_equal, layout, merged, random_lora, save, shared, velocity

from danceopd_ext.errors import UserError
from danceopd_ext.lora import write
from danceopd_ext.lora.metadata import build_metadata, stem
from danceopd_ext.lora.read import read_lora
from danceopd_ext.lora.weights import Lora, LowRank
from danceopd_ext.lora.write import FORMATS, write_lora

FAMILY_NAMES = ("sd3", "z_image", "flux", "flux_2", "qwen_image")


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("first", FORMATS)
@pytest.mark.parametrize("second", FORMATS)
def test_round_trip_is_exact(family, first, second, tmp_path):
    lora, known = random_lora(family), layout(family)
    one = write_lora(tmp_path / "one.safetensors", lora, known, first, dtype=torch.float32)
    two = write_lora(tmp_path / "two.safetensors", read_lora(one, known), known, second, dtype=torch.float32)
    back = read_lora(two, known)
    assert back.modules.keys() == lora.modules.keys()
    assert deltas_equal(back, lora, tolerance=1e-6)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_half_precision_rounds_no_more_than_it_must(dtype, tolerance, tmp_path):
    lora = random_lora("sd3")
    lora.modules["proj_out"] = lora.modules["proj_out"].scaled(1e-6)  # lost in float16 without balancing
    lora.modules["context_embedder"] = lora.modules["context_embedder"].scaled(1e6)
    file = write_lora(tmp_path / "x.safetensors", lora, layout("sd3"), "kohya", dtype=dtype)
    for name, change in read_lora(file, layout("sd3")).modules.items():
        expected = lora.modules[name].delta()
        assert (change.delta() - expected).norm() <= tolerance * expected.norm(), name


@pytest.mark.parametrize(
    "family, native", [("sd3", "joint_blocks_0_x_block_attn_qkv"), ("z_image", "layers_0_attention_qkv")]
)
def test_fused_layers(family, native, tmp_path):
    """Three LoRAs become one of three times the rank; three with one down keep the rank; missing ones are zero."""
    known = layout(family)
    q, k, v = next(parts for name, parts in known.native.items() if name.replace(".", "_") == native)
    lora = random_lora(family)
    key = f"lora_unet_{native}.lora_down.weight"

    def rank_in_file(names: dict[str, LowRank]) -> int:
        file = write_lora(tmp_path / "x.safetensors", Lora(names), known, "kohya", dtype=torch.float32)
        assert deltas_equal(read_lora(file, known), Lora(names))
        tensors = load_file(file)
        assert float(tensors[f"lora_unet_{native}.alpha"]) == tensors[key].shape[0]
        return tensors[key].shape[0]

    three = {name: lora.modules[name] for name in (q, k, v)}
    assert rank_in_file(three) == 9
    assert rank_in_file({q: three[q], v: three[v]}) == 6
    down = three[q].down_RI
    assert rank_in_file({name: LowRank(down, change.up_OR) for name, change in three.items()}) == 3
    # factors that were shifted by powers of two still share their down
    assert rank_in_file({q: LowRank(down * 4, three[q].up_OR), k: LowRank(down, three[k].up_OR)}) == 3


def test_fused_rank_survives_other_formats(tmp_path):
    known, path = layout("sd3"), tmp_path / "a.safetensors"
    one = random_lora("sd3", only="attn.to_q")
    changes = {}
    for name, change in one.modules.items():
        for scale, part in zip((1.0, 30.0, 0.01), ("to_q", "to_k", "to_v"), strict=True):
            changes[name.replace("to_q", part)] = LowRank(change.down_RI, change.up_OR * scale)
    for format in ("kohya", "diffusers", "comfyui", "kohya"):
        lora = read_lora(write_lora(path, Lora(changes), known, format, dtype=torch.float16), known)
        changes = lora.modules
    assert {value.shape[0] for key, value in load_file(path).items() if "down" in key} == {3}


PIPELINES = {
    "sd3": (StableDiffusion3Pipeline, ("text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")),
    "z_image": (ZImagePipeline, ()),
    "flux": (FluxKontextPipeline, ("text_encoder_2", "tokenizer_2")),
    "flux_2": (Flux2Pipeline, ()),
    "qwen_image": (QwenImagePipeline, ()),
}


def pipeline(family: str, transformer: torch.nn.Module):
    cls, more = PIPELINES[family]
    return cls(transformer=transformer, **dict.fromkeys(("scheduler", "vae", "text_encoder", "tokenizer", *more)))


def without(lora: Lora, *endings: str) -> Lora:
    return Lora({name: change for name, change in lora.modules.items() if not name.endswith(endings)})


#: what diffusers reads, with the layers that its converter of that dialect knows
FLUX_FUSED = tuple(f".{i}.{part}" for i in (0, 1) for part in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"))
DIFFUSERS_READS = {
    ("sd3", "diffusers"): random_lora,
    ("z_image", "diffusers"): random_lora,
    ("z_image", "comfyui"): random_lora,
    ("z_image", "kohya"): block_lora,
    ("flux", "diffusers"): random_lora,
    # linear1 is read in one size only: test_lora_flux.py
    ("flux", "kohya"): lambda family: Lora(
        {n: c for n, c in block_lora(family).modules.items() if not (n.startswith("single") and n.endswith(FLUX_FUSED))}
    ),
    ("flux_2", "diffusers"): random_lora,
    ("flux_2", "comfyui"): lambda family: without(random_lora(family), "norm_out.linear"),  # not exchanged there
    ("flux_2", "kohya"): block_lora,
    ("qwen_image", "diffusers"): random_lora,
    ("qwen_image", "comfyui"): random_lora,
    ("qwen_image", "kohya"): random_lora,
}


@pytest.mark.parametrize("family, format", DIFFUSERS_READS)
def test_diffusers_loads_the_file(family, format, tmp_path, caplog, recwarn):
    lora = DIFFUSERS_READS[family, format](family)
    metadata = build_metadata(title="x", architecture="y", base_model="z", rank=3)
    file = write_lora(tmp_path / "x.safetensors", lora, layout(family), format, metadata, torch.float32)
    model = build(family)
    diffusers.utils.logging.enable_propagation()
    with caplog.at_level(logging.WARNING):
        pipeline(family, model).load_lora_weights(str(file))
    told = [record.getMessage() for record in caplog.records if "prefix='text_encoder" not in record.getMessage()]
    assert told == [] and [str(w.message) for w in recwarn if "pattern" in str(w.message)] == []
    with torch.no_grad():
        ours, theirs = velocity(family, merged(family, lora)), velocity(family, model)
        base = velocity(family, shared(family))
    assert (ours - theirs).norm() < 1e-5 * ours.norm()
    assert (ours - base).norm() > 0.01 * base.norm()


def test_file_that_diffusers_saved(tmp_path):
    """With alpha in the metadata, as diffusers' own training scripts write it."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    model = build("sd3")
    model.add_adapter(LoraConfig(r=4, lora_alpha=2, target_modules=["to_q", "proj_out"], init_lora_weights=False))
    config = {key: value for key, value in model.peft_config["default"].to_dict().items() if value is not None}
    config["target_modules"] = list(config["target_modules"])
    StableDiffusion3Pipeline.save_lora_weights(
        tmp_path,
        transformer_lora_layers=get_peft_model_state_dict(model),
        transformer_lora_adapter_metadata=json.loads(json.dumps(config, default=str)),
    )
    lora = read_lora(tmp_path, layout("sd3"))
    with torch.no_grad():
        ours, theirs = velocity("sd3", merged("sd3", lora)), velocity("sd3", model)
    assert (ours - theirs).norm() < 1e-5 * theirs.norm()


@pytest.mark.parametrize("format", FORMATS)
def test_alpha_is_the_rank_or_not_there(format, tmp_path):
    file = write_lora(tmp_path / "x.safetensors", random_lora("sd3"), layout("sd3"), format)
    tensors = load_file(file)
    alphas = {key: float(value) for key, value in tensors.items() if key.endswith(".alpha")}
    assert bool(alphas) == (format == "kohya")
    for key, alpha in alphas.items():
        assert alpha == tensors[key.replace(".alpha", ".lora_down.weight")].shape[0]


def test_metadata(tmp_path):
    metadata = build_metadata(
        title="My fused LoRA",
        architecture="z-image",
        base_model="/home/somebody/models/Z-Image",
        rank=16,
        teachers=[r"C:\Users\somebody\style.safetensors", "loras/edit.safetensors", "somebody/realism"],
        resolution=(1024, 768),
        steps=300,
        started_at=1700000000.5,
        finished_at=1700000100.0,
        extra={"ss_seed": 42},
    )
    file = write_lora(tmp_path / "x.safetensors", random_lora("z_image"), layout("z_image"), "comfyui", metadata)
    with safe_open(file, "pt") as opened:
        written = opened.metadata()
    assert written["modelspec.merged_from"] == "style, edit, realism"
    assert written["modelspec.architecture"] == "z-image/lora" and written["modelspec.resolution"] == "1024x768"
    assert written["modelspec.date"] == "2023-11-14T22:15:00Z" and written["modelspec.title"] == "My fused LoRA"
    assert written["ss_sd_model_name"] == "Z-Image" and written["ss_seed"] == "42"
    assert written["ss_network_dim"] == "3" and written["ss_network_alpha"] == "3.0"  # what the file really holds
    assert "somebody" not in "".join(written.values())
    content = Path(file).read_bytes()
    digest = hashlib.sha256(content[8 + struct.unpack("<Q", content[:8])[0] :]).hexdigest()
    assert written["sshs_model_hash"] == digest and written["modelspec.hash_sha256"] == f"0x{digest}"


@pytest.mark.parametrize("place", ["a/b/x.safetensors", r"a\b\x.safetensors", "owner/x", "x"])
def test_stem(place):
    assert stem(place) == "x"


def test_stem_of_a_version():
    assert stem("models/sd3.5_medium.safetensors") == "sd3.5_medium" and stem("owner/sd3.5") == "sd3.5"


def test_wrong_format_and_ending(tmp_path):
    with pytest.raises(UserError, match="kohya, diffusers, comfyui"):
        write_lora(tmp_path / "x.safetensors", random_lora("sd3"), layout("sd3"), "onnx")
    with pytest.raises(UserError, match=r"must end in \.safetensors"):
        write_lora(tmp_path / "x.pt", random_lora("sd3"), layout("sd3"), "kohya")
    assert list(tmp_path.iterdir()) == []


def test_values_that_overflow_leave_the_old_file(tmp_path):
    old = save(tmp_path / "x.safetensors", {"old": torch.ones(1)})
    lora = random_lora("sd3")
    lora.modules["proj_out"] = lora.modules["proj_out"].scaled(1e30)
    with pytest.raises(UserError, match="values that float16 cannot hold"):
        write_lora(old, lora, layout("sd3"), "kohya", dtype=torch.float16)
    lora.modules["proj_out"] = lora.modules["proj_out"].scaled(float("nan"))
    with pytest.raises(UserError, match="NaN or infinite"):
        write_lora(old, lora, layout("sd3"), "kohya", dtype=torch.float16)
    assert list(load_file(old)) == ["old"] and list(tmp_path.iterdir()) == [old]


@pytest.mark.parametrize("fault", ["sign", "missing", "extra"])
def test_what_reads_back_wrong_is_not_written(fault, tmp_path, monkeypatch):
    true = write.to_tensors

    def faulty(*arguments):
        tensors = true(*arguments)
        layer = "transformer.transformer_blocks.0.attn.to_q"
        if fault == "sign":
            tensors[f"{layer}.lora_B.weight"] *= -1
        elif fault == "missing":
            del tensors[f"{layer}.lora_A.weight"], tensors[f"{layer}.lora_B.weight"]
        else:
            for part in ("A", "B"):
                tensors[f"transformer.proj_out.lora_{part}.weight"] = torch.ones((2, 32) if part == "A" else (16, 2))
        return tensors

    monkeypatch.setattr(write, "to_tensors", faulty)
    with pytest.raises(RuntimeError, match="reads back"):
        write_lora(tmp_path / "x.safetensors", block_lora("sd3"), layout("sd3"), "diffusers")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", FORMATS)
def test_a_layer_of_rank_0_is_written_as_no_change(format, tmp_path):
    lora = block_lora("sd3", only="attn.to_q")
    name = next(iter(lora.modules))
    outputs, inputs = lora.modules[name].shape
    lora.modules[name] = LowRank(torch.zeros(0, inputs), torch.zeros(outputs, 0))
    write_lora(tmp_path / "x.safetensors", lora, layout("sd3"), format)
