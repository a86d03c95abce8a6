"""Every family through the native trainer, from preset to a LoRA file that its own pipeline reads."""

import pytest

from danceopd_ext.lora.read import read_lora
from danceopd_ext.models.registry import FAMILIES
from tests.tiny.calls import conditions, noise_for, ours, relative, theirs
from tests.tiny.loras import layout_of, write_random_lora
from tests.tiny.packed_pipelines import ALL, PACKED, save_any
from tests.tiny.presets import write_preset
from tests.toolkits.conftest import QUICK, log_of

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
