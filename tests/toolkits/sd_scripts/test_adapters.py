"""What the adapters of sd-scripts ask of a transformer, seen by a stand-in for it; the toolkit is not there."""

import sys
from types import ModuleType, SimpleNamespace

import numpy
import pytest
import torch

from danceopd_ext.toolkits.hosted.conditions import Conditions
from danceopd_ext.toolkits.sd_scripts.adapters.anima import AnimaAdapter
from danceopd_ext.toolkits.sd_scripts.adapters.flux import FluxAdapter, image_ids, pack, unpack
from danceopd_ext.toolkits.sd_scripts.adapters.hunyuan_image import HunyuanImageAdapter
from danceopd_ext.toolkits.sd_scripts.adapters.lumina import LuminaAdapter
from danceopd_ext.toolkits.sd_scripts.routed_datasets import mend_cached_texts

SIGMA = torch.tensor([0.75, 0.2503])


class Recorder(torch.nn.Module):
    """Answers with what it was given as latents, times two, and remembers everything else."""

    def __init__(self, *names: str):
        super().__init__()
        self.names = names
        self.mods: dict = {}

    def forward(self, *given, **named):
        self.given = {**dict(zip(self.names, given, strict=False)), **named}
        return 2 * next(iter(self.given.values()))

    def get_mod_vectors(self, **named):
        self.mods = {**named, "learning": torch.is_grad_enabled()}
        return torch.ones(3)


def texts_of(adapter, count: int, seed: int = 0):
    rng = torch.Generator().manual_seed(seed)
    return [torch.rand(count, 4, generator=rng) for _ in adapter.texts]


ADAPTERS = {
    "flux": (FluxAdapter(3.5, True), (16, 4, 6), Recorder()),
    "lumina": (LuminaAdapter(), (16, 4, 6), Recorder()),
    "hunyuan_image": (HunyuanImageAdapter(), (64, 4, 6), Recorder("z", "time", "embeds", "mask", "byt5", "byt5_mask")),
    "anima": (AnimaAdapter(), (16, 4, 6), Recorder("z", "time", "embeds")),
}


@pytest.fixture(params=ADAPTERS)
def asked(request):
    """(name, adapter, latents, what the stand-in was given, the velocity)."""
    adapter, shape, transformer = ADAPTERS[request.param]
    z = torch.randn(2, *shape)
    texts = texts_of(adapter, 2)
    velocity = adapter.velocity(transformer, z, SIGMA, adapter.condition(texts, ["a", "b"]))
    return SimpleNamespace(
        name=request.param, z=z, texts=texts, given=transformer.given, mods=transformer.mods, velocity=velocity
    )


def test_the_velocity_has_the_right_sign_and_place(asked):
    sign = -1 if asked.name == "lumina" else 1
    assert torch.equal(asked.velocity, sign * 2 * asked.z)


def test_the_time_is_the_architectures_own(asked):
    name, expected = {
        "flux": ("timesteps", SIGMA),
        "lumina": ("t", 1 - SIGMA),
        "hunyuan_image": ("time", 1000 * SIGMA),
        "anima": ("time", SIGMA),
    }[asked.name]
    assert torch.equal(asked.given[name], expected)
    assert asked.given[name].dtype == torch.float32


def test_every_text_reaches_its_place(asked):
    places = {
        "flux": ["y", "txt", "txt_ids", "txt_attention_mask"],
        "lumina": ["cap_feats", None, "cap_mask"],
        "hunyuan_image": ["embeds", "mask", "byt5", "byt5_mask", None],
        "anima": ["embeds", "source_attention_mask", "target_input_ids", "target_attention_mask"],
    }[asked.name]
    for place, text in zip(places, asked.texts, strict=True):
        if place:
            assert torch.equal(asked.given[place], text.to(asked.given[place].dtype))


def test_whole_numbers_that_caches_made_floats_are_whole_again():
    lumina, anima = LuminaAdapter(), AnimaAdapter()
    for adapter, names, place, dtype in (
        (lumina, (), "cap_mask", torch.int32),
        (anima, ("z", "time", "embeds"), "target_input_ids", torch.int64),
    ):
        transformer = Recorder(*names)
        texts = [torch.tensor([[1.0, 7.0, 0.0, 0.0]]) for _ in adapter.texts]
        adapter.velocity(transformer, torch.randn(1, 16, 2, 2), SIGMA[:1], adapter.condition(texts, ["a"]))
        assert transformer.given[place].dtype == dtype
        assert transformer.given[place].tolist() == [[1, 7, 0, 0]]


def test_flux_hears_one_guidance_whoever_answers():
    transformer = Recorder()
    adapter = FluxAdapter(2.0, apply_t5_attn_mask=False)
    adapter.velocity(transformer, torch.randn(2, 16, 4, 6), SIGMA, adapter.condition(texts_of(adapter, 2), ["a", "b"]))
    assert transformer.given["guidance"].tolist() == [2, 2]
    assert transformer.given["txt_attention_mask"] is None
    assert torch.equal(transformer.mods["timesteps"], SIGMA)
    assert transformer.mods["guidance"].tolist() == [2, 2]
    assert transformer.mods["batch_size"] == 2
    assert transformer.mods["learning"] is False
    assert torch.equal(transformer.given["mod_vectors"], torch.ones(3))


def test_packing_and_back():
    z = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    tokens = pack(z)
    assert tokens.shape == (2, 6, 12)
    # the second token is the tile at row 0, column 1: rows 0 and 1, columns 2 and 3, channel by channel
    assert tokens[0, 1].tolist() == [v for c in range(3) for v in z[0, c, :2, 2:4].flatten().tolist()]
    assert torch.equal(unpack(tokens, 4, 6), z)
    assert image_ids(2, 2, 3)[1].tolist() == [[0, r, c] for r in range(2) for c in range(3)]


def test_anima_sees_one_frame_and_nothing_of_it_as_padding():
    adapter = AnimaAdapter()
    condition = adapter.condition(texts_of(adapter, 2), ["a", "b"])
    for shape in ((2, 16, 4, 6), (2, 16, 1, 4, 6)):
        transformer = Recorder("z", "time", "embeds")
        z = torch.randn(shape)
        velocity = adapter.velocity(transformer, z, SIGMA, condition)
        assert transformer.given["z"].shape == (2, 16, 1, 4, 6)
        assert torch.equal(transformer.given["padding_mask"], torch.zeros(2, 1, 4, 6))
        assert torch.equal(velocity, 2 * z)


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_empty_prompt_replaces_all_texts_of_each_sample(name):
    adapter = ADAPTERS[name][0]
    texts, empty = texts_of(adapter, 3), texts_of(adapter, 1, seed=1)
    condition = adapter.condition(texts, ["a", "b", "a"], empty=empty)
    assert isinstance(condition, Conditions)
    without = condition.select([2, 0]).unconditional()
    assert without.routes == ["a", "a"]
    for entry, expected in zip(adapter.texts, empty, strict=True):
        assert torch.equal(without[entry], expected.expand(2, -1))


@pytest.fixture
def toolkit(monkeypatch):
    """Stand-ins for the three modules of the toolkit that hold its grids."""
    calls = {}

    class Scheduler:
        def __init__(self, shift):
            calls["shift"] = shift

        def set_timesteps(self, steps):
            self.sigmas = torch.linspace(1, 0, steps + 1)

    def get_schedule(steps, tokens, shift):
        calls.update(tokens=tokens, shifted=shift)
        return torch.linspace(1, 0, steps + 1).tolist()

    def get_timesteps_sigmas(steps, shift, device):
        calls.update(shift=shift)
        return None, torch.linspace(1, 0, steps + 1)

    for name, content in {
        "library": {},
        "library.flux_train_utils": {"get_schedule": get_schedule},
        "library.sd3_train_utils": {"FlowMatchEulerDiscreteScheduler": Scheduler},
        "library.hunyuan_image_utils": {"get_timesteps_sigmas": get_timesteps_sigmas},
    }.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    return calls


def test_grids_are_asked_of_the_toolkit(toolkit):
    shape = (16, 8, 12)
    assert FluxAdapter(3.5, False).sigmas(4, shape).shape == (5,)
    assert toolkit == {"tokens": 24, "shifted": True}
    FluxAdapter(3.5, False, shifted=False).sigmas(4, shape)
    assert toolkit["shifted"] is False
    assert LuminaAdapter().sigmas(4, shape).tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert toolkit["shift"] == 6
    assert HunyuanImageAdapter().sigmas(4, shape).tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert toolkit["shift"] == 5


def test_numpy_scalars_among_cached_texts_become_arrays():
    """HunyuanImage caches a bool for each text, and the toolkit's batches ask every part for its shape as an array."""
    embeds = numpy.ones((3, 2), dtype=numpy.float32)
    cached = SimpleNamespace(text_encoder_outputs=(embeds, numpy.ones(2)[0] > 0))
    not_cached = SimpleNamespace(text_encoder_outputs=None)
    dataset = SimpleNamespace(image_data={"a": cached, "b": not_cached})
    mend_cached_texts(SimpleNamespace(datasets=[dataset]))
    same, flag = cached.text_encoder_outputs
    assert same is embeds
    assert isinstance(flag, numpy.ndarray)
    assert torch.FloatTensor(flag).tolist() == 1
    assert not_cached.text_encoder_outputs is None


def test_animas_grid():
    assert AnimaAdapter().sigmas(4, (16, 8, 12)).tolist() == pytest.approx([1, 0.9, 0.75, 0.5, 0])
