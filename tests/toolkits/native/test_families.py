"""Every family through the native trainer, from preset to a LoRA file that its own pipeline reads."""

from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from danceopd_ext.config import load_preset
from danceopd_ext.engine.model import Model
from danceopd_ext.errors import UserError
from danceopd_ext.lora.read import read_lora
from danceopd_ext.models.model_files import ModelFiles
from danceopd_ext.models.registry import FAMILIES
from danceopd_ext.toolkits.native.run_plan import Loras
from danceopd_ext.toolkits.native.student import choose_layers
from tests.tiny.calls import conditions, noise_for, ours, relative, theirs
from tests.tiny.loras import layout_of, write_random_lora
from tests.tiny.pipelines import ALL, PACKED, save_any
from tests.tiny.presets import write_preset
from tests.toolkits.runs import QUICK, log_of

#: FLUX.1's kohya files have fused layers, which diffusers reads in the released size only
FORMAT = {"flux": "diffusers", "flux_kontext": "diffusers"}


@pytest.mark.parametrize("name", PACKED)
def test_a_family_is_trained_to_draw(name, launch, tmp_path, processors):
    family, model = FAMILIES[name], save_any(name, tmp_path / "model")
    teachers = {
        "base": {},
        "style": {"lora": str(write_random_lora(tmp_path / "style.safetensors", model, 1, family.default_format))},
    }
    (tmp_path / "sample.txt").write_text("a red cat --w 32 --h 32 --d 1 --l 3 --s 2\n")
    preset = write_preset(
        tmp_path / "run", model, teachers, **{**QUICK, "max_train_steps": 4}, sample_every_n_steps=4,
        sample_prompts=str(tmp_path / "sample.txt"), save_model_as=FORMAT.get(name, "auto"),
    )  # fmt: skip
    output = launch(preset)
    assert all(entry["loss"] > 0 for entry in log_of(output) if entry["route"] == "style")
    assert list((output / "sample").glob("*.png"))
    file = output / "fused.safetensors"
    lora = read_lora(file, layout_of(model))
    assert any(bool(change.up_OR.any()) for change in lora.modules.values())
    pipeline = ALL[name]()
    before = both(family, pipeline)
    pipeline.load_lora_weights(str(file))
    after = both(family, pipeline)
    assert relative(after[0], after[1]) < 1e-4
    assert relative(after[0], before[0]) > 1e-6


def both(family, pipeline):
    noise = noise_for(family, pipeline, (32, 32))
    condition = conditions(family, pipeline, ["a red cat"])
    return ours(family, pipeline, condition, noise), theirs(family, pipeline, "a red cat", noise, (32, 32))


@pytest.mark.parametrize("dual", [True, False])
def test_every_size_of_sd3_is_trained_by_default(dual, launch, pipelines, single_attention, tmp_path):
    """SD3-medium and SD3.5-large have no second attention: the default skips what they lack."""
    model = pipelines["sd3"] if dual else single_attention
    teacher = write_random_lora(tmp_path / "style.safetensors", model, 1, "diffusers")
    output = launch(write_preset(tmp_path / "run", model, {"style": {"lora": str(teacher)}}, **QUICK))
    layers = read_lora(output / "fused.safetensors", layout_of(model)).modules
    assert any(".attn2." in layer for layer in layers) == dual
    assert {layer for layer in layers if ".attn2." not in layer} == {
        layer for layer in layout_of(model).shapes if ".attn.to_" in layer or ".attn.add_" in layer
    }
    pipeline = StableDiffusion3Pipeline.from_pretrained(model)
    before = both(FAMILIES["sd3"], pipeline)
    pipeline.load_lora_weights(str(output / "fused.safetensors"))
    after = both(FAMILIES["sd3"], pipeline)
    assert relative(after[0], after[1]) < 1e-4
    assert relative(after[0], before[0]) > 1e-6


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_default_that_fits_no_layer_is_skipped(name, tmp_path):
    """In each family: a size without the layers of one ending is trained on the others; without any it is refused."""
    family = FAMILIES[name]
    whole = family.reference_layout()
    preset = load_preset(write_preset(tmp_path, tmp_path, {"base": {}}, resolution=None))

    def model_with(shapes):
        source = ModelFiles(family, tmp_path, tmp_path, "model")
        return Model(source, replace(whole, shapes=shapes), {}, torch.device("cpu"))

    for ending in family.lora_targets:
        left = {layer: None for layer in whole.shapes if not (layer == ending or layer.endswith("." + ending))}
        chosen = choose_layers(preset, model_with(left), {}, Loras())
        assert chosen and set(chosen) <= set(left)
    with pytest.raises(UserError, match="no layer of"):
        choose_layers(preset, model_with({"nothing": None}), {}, Loras())
