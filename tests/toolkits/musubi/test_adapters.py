"""What musubi's `call_dit` gets from the adapters, on a stand-in of the trainer: no toolkit is needed."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from danceopd_ext.config.hosted_preset import HostedPreset
from danceopd_ext.config.schema import DanceOPDSection, Teacher
from danceopd_ext.config.toolkits import MUSUBI
from danceopd_ext.errors import UserError
from danceopd_ext.models.registry import FAMILIES
from danceopd_ext.toolkits.hosted.architecture import find_architecture
from danceopd_ext.toolkits.musubi.adapters.flux_2 import Flux2Adapter
from danceopd_ext.toolkits.musubi.adapters.flux_kontext import FluxKontextAdapter
from danceopd_ext.toolkits.musubi.adapters.qwen_image import QwenImageAdapter, QwenImageEditAdapter
from danceopd_ext.toolkits.musubi.adapters.z_image import ZImageAdapter
from danceopd_ext.toolkits.musubi.dataset_routes import check_guidance
from danceopd_ext.toolkits.musubi.defaults import complete
from danceopd_ext.toolkits.musubi.registry import ARCHITECTURES


class Trainer:
    """Records what it is called with, and asks for gradients on it as musubi does under gradient checkpointing."""

    def call_dit(
        self, args, accelerator, transformer, latents, batch, noise, noisy_model_input, timesteps, network_dtype, **_
    ):
        self.got = SimpleNamespace(**{k: v for k, v in locals().items() if k != "self"})
        for entry in batch.values():
            for tensor in entry if isinstance(entry, list) else [entry]:
                tensor.requires_grad_(True)
        return SimpleNamespace(pred=2 * noisy_model_input, target=noise - latents)


def adapter(kind: type, **arguments):
    given = {"model_version": "dev", "guidance_scale": kind.embedded_guidance, **arguments}
    made = kind(Trainer(), Namespace(**given))
    made.accelerator = SimpleNamespace(device=torch.device("cpu"))
    return made


#: adapter, latents of a picture of 96x64 pixels, and the batch of three samples that musubi gives
BATCHES = {
    "flux_kontext": (FluxKontextAdapter, (16, 8, 12), {
        "t5_vec": torch.rand(3, 5, 4), "clip_l_pooler": torch.rand(3, 4), "latents_control": torch.rand(3, 16, 6, 6),
    }),
    "flux_2": (Flux2Adapter, (128, 4, 6), {
        "ctx_vec": torch.rand(3, 5, 4), "latents_control_0": torch.rand(3, 128, 3, 3),
        "latents_control_1": torch.rand(3, 128, 2, 2),
    }),
    "qwen_image": (QwenImageAdapter, (16, 1, 8, 12), {"vl_embed": [torch.rand(length, 4) for length in (3, 5, 4)]}),
    "qwen_image_edit": (QwenImageEditAdapter, (16, 1, 8, 12), {
        "vl_embed": [torch.rand(length, 4) for length in (3, 5, 4)], "latents_control_0": torch.rand(3, 16, 1, 4, 4),
        "latents_control_1": torch.rand(3, 16, 1, 2, 6),
    }),
}  # fmt: skip


@pytest.fixture(params=BATCHES)
def given(request):
    """(model_type, adapter, latent shape, batch)."""
    kind, shape, batch = BATCHES[request.param]
    return request.param, adapter(kind), shape, {**batch, "latents": torch.rand(3, *shape), "timesteps": None}


def same(one, other) -> bool:
    if isinstance(one, list):
        return len(one) == len(other) and all(map(torch.equal, one, other))
    return torch.equal(one, other)


def test_the_transformer_is_asked_at_1000_sigma_with_the_rows_of_these_samples(given):
    _, adapter, shape, batch = given
    z, sigma = torch.rand(2, *shape), torch.tensor([0.7, 0.25])
    condition = adapter.condition(batch, ["a", "b", "c"]).select([2, 0])
    velocity = adapter.velocity(None, z, sigma, condition)
    got = adapter.trainer.got
    assert torch.equal(velocity, 2 * z)  # as it is: no sign, no x0
    assert torch.equal(got.noisy_model_input, z)
    assert torch.equal(got.timesteps, sigma * 1000)
    assert got.timesteps.dtype == torch.float32
    assert got.latents.shape == got.batch["latents"].shape == z.shape
    texts_and_sources = set(batch) - {"latents", "timesteps"}
    assert set(got.batch) == texts_and_sources | {"latents"}
    for name in texts_and_sources:
        rows = [batch[name][2], batch[name][0]]
        assert same(got.batch[name], rows if isinstance(batch[name], list) else torch.stack(rows)), name


def test_the_batch_is_left_as_it_was(given):
    _, adapter, shape, batch = given
    condition = adapter.condition(batch, ["a"] * 3)
    adapter.velocity(None, torch.rand(3, *shape), torch.full((3,), 0.5), condition)
    tensors = [t for entry in condition.entries.values() for t in (entry if isinstance(entry, list) else [entry])]
    assert not any(tensor.requires_grad for tensor in tensors)


def test_the_empty_prompt_keeps_the_source_images(given):
    _, adapter, shape, batch = given
    texts = [key for key in batch if key in ("t5_vec", "clip_l_pooler", "ctx_vec", "vl_embed")]
    adapter.empty = {t: [torch.zeros(1, 4)] if isinstance(batch[t], list) else 0 * batch[t][:1] for t in texts}
    condition = adapter.condition(batch, ["a"] * 3).unconditional()
    adapter.velocity(None, torch.rand(3, *shape), torch.full((3,), 0.5), condition)
    for key, entry in adapter.trainer.got.batch.items():
        if key in texts:
            assert all(not row.any() for row in entry)
        elif key != "latents":
            assert torch.equal(entry, batch[key])


def test_kontext_without_a_source_image_gets_one_without_pixels():
    model = adapter(FluxKontextAdapter)
    batch = {"t5_vec": torch.rand(2, 5, 4), "clip_l_pooler": torch.rand(2, 4), "latents": torch.rand(2, 16, 8, 8)}
    condition = model.condition(batch, ["a", "b"])
    model.velocity(None, torch.rand(1, 16, 8, 8), torch.ones(1), condition.select([1]))
    assert model.trainer.got.batch["latents_control"].shape == (1, 16, 0, 0)


def transformer(*inputs, **named):
    return inputs, named


@pytest.mark.parametrize(
    ("kind", "version", "told"),
    [
        (FluxKontextAdapter, None, 2.5), (Flux2Adapter, "dev", 4.0), (Flux2Adapter, "klein-base-9b", None),
        (Flux2Adapter, "klein-4b", None), (QwenImageAdapter, "original", None), (ZImageAdapter, None, None),
    ],
)  # fmt: skip
def test_the_transformer_is_told_the_guidance_that_people_draw_with(kind, version, told):
    """musubi's call_dit tells it 1; what it gives beside that is passed on."""
    model = adapter(kind, model_version=version)
    assert kind.usual_guidance(model.args) == told
    batch = {"ctx_vec": torch.rand(1, 5, 4), "latents": torch.rand(1, 16, 4, 4)}
    model.velocity(transformer, torch.rand(1, 16, 4, 4), torch.ones(1), model.condition(batch, ["a"]))
    asked = model.trainer.got.transformer
    if told is None:
        assert asked is transformer
        return
    inputs, named = asked("x", guidance=torch.ones(2, dtype=torch.bfloat16), y=3)
    assert (inputs, named["y"]) == (("x",), 3)
    assert torch.equal(named["guidance"], torch.full((2,), told, dtype=torch.bfloat16))
    model.args.guidance_scale = 1.5
    model.velocity(transformer, torch.rand(1, 16, 4, 4), torch.ones(1), model.condition(batch, ["a"]))
    assert float(model.trainer.got.transformer(guidance=torch.ones(1))[1]["guidance"]) == 1.5


def completed(model_type: str, given: dict, **more) -> Namespace:
    args = Namespace(
        guidance_scale=1.0, optimizer_type="", optimizer_args=None, max_data_loader_n_workers=0, network_module=None,
        vae_dtype=None, sdpa=True, flash_attn=False, xformers=False, flash3=False,
        fp8_text_encoder=False, **more,
    )  # fmt: skip
    vars(args).update(given)
    complete(args, ARCHITECTURES[model_type], given)
    return args


def test_guidance_scale_is_what_the_transformer_is_told():
    assert completed("flux_kontext", {}).guidance_scale == 2.5
    assert completed("flux_kontext", {"guidance_scale": 3.5}).guidance_scale == 3.5
    assert completed("flux_2", {}, model_version="dev").guidance_scale == 4.0


def test_guidance_scale_without_effect_is_refused():
    for model_type, more in (("z_image", {}), ("flux_2", {"model_version": "klein-base-9b"})):
        assert completed(model_type, {}, **more).guidance_scale == 1.0
        assert completed(model_type, {"guidance_scale": 1.0}, **more).guidance_scale == 1.0
        with pytest.raises(UserError, match=r"guidance_scale = 4 has no effect: .*\[danceopd\.teachers\.NAME\]"):
            completed(model_type, {"guidance_scale": 4.0}, **more)


def test_fp8_text_encoders_that_musubi_does_not_have_are_refused():
    fp8 = {"fp8_text_encoder": True}
    assert completed("flux_2", fp8, model_version="klein-4b").fp8_text_encoder
    with pytest.raises(UserError, match=r'model_version = "dev" in fp8'):
        completed("flux_2", fp8, model_version="dev")


def test_the_native_trainer_tells_the_same():
    assert FluxKontextAdapter.embedded_guidance == FAMILIES["flux_kontext"].embedded_guidance
    assert Flux2Adapter.embedded_guidance == FAMILIES["flux_2"].embedded_guidance
    assert FAMILIES["flux_2_klein"].embedded_guidance is None


def test_latents_of_a_prompt_have_the_shape_of_the_data_sets(given):
    _, adapter, shape, _ = given
    assert adapter.latent_shape(96, 64) == shape


@pytest.mark.parametrize(
    ("kind", "vae_dtype"), [(FluxKontextAdapter, "bfloat16"), (Flux2Adapter, "float32")], ids=["kontext", "flux_2"]
)
def test_arguments_are_completed_as_musubis_own_script_does(kind, vae_dtype):
    args = Namespace(vae_dtype=None, fp8_text_encoder=False)
    kind.complete(args)
    assert (args.dit_dtype, args.vae_dtype) == (None, vae_dtype)
    args = Namespace(vae_dtype="float16", fp8_text_encoder=False)
    kind.complete(args)
    assert args.vae_dtype == "float16"


@pytest.mark.parametrize(
    ("kind", "version", "message"),
    [
        (QwenImageAdapter, "original", None),
        (QwenImageAdapter, "edit-2509", 'model_type = "qwen_image_edit"'),
        (QwenImageAdapter, "layered", "several pictures at once"),
        (QwenImageEditAdapter, "edit", None),
        (QwenImageEditAdapter, "edit-2509", None),
        (QwenImageEditAdapter, "edit-2511", None),
        (QwenImageEditAdapter, "original", "set model_version to one of edit, edit-2509, edit-2511"),
        (QwenImageEditAdapter, "layered", "set model_version to one of edit, edit-2509, edit-2511"),
    ],
)
def test_a_qwen_model_type_takes_its_own_versions(kind, version, message):
    if message is None:
        kind.check_version(version)
        return
    with pytest.raises(UserError, match=message):
        kind.check_version(version)


def section(student: float = 1.0, **scales: float) -> DanceOPDSection:
    teachers = {name: Teacher(guidance_scale=scale) for name, scale in scales.items()}
    return DanceOPDSection(toolkit="musubi-tuner", teachers=teachers, student_guidance_scale=student)


def test_guidance_is_refused_where_the_text_encoder_reads_the_source_image():
    datasets = [SimpleNamespace(has_control=False), SimpleNamespace(has_control=True)]
    check_guidance(datasets, ["guided", "plain"], section(guided=3.0, plain=1.0))
    with pytest.raises(UserError, match=r"guidance of teacher guided on source images \(dataset 2 of dataset_config\)"):
        check_guidance(datasets, ["plain", "guided"], section(guided=3.0, plain=1.0))
    with pytest.raises(UserError, match=r"guidance of student_guidance_scale on source images \(dataset 2"):
        check_guidance(datasets, ["plain", "plain"], section(2.0, plain=1.0))
    assert QwenImageEditAdapter.text_sees_sources
    assert not any(kind.text_sees_sources for kind in (QwenImageAdapter, FluxKontextAdapter, Flux2Adapter))


def test_every_model_type_has_its_row():
    kinds = {name: architecture.adapter for name, architecture in ARCHITECTURES.items()}
    assert {name: kind for name, (kind, *_) in BATCHES.items()}.items() <= kinds.items()
    assert ARCHITECTURES["flux_kontext"].names.title == "FLUX.1"
    preset = HostedPreset(path=Path("p"), toolkit=MUSUBI.name, danceopd=None, model_type="flux", values={}, flags={})
    with pytest.raises(UserError, match=r"is not one of .*flux_kontext, flux_2, qwen_image, qwen_image_edit"):
        find_architecture(preset)
