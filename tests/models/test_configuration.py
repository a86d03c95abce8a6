"""The configurations of a model folder: whatever they hold, a model is described or the file is named, soon."""

import json
import shutil

import diffusers
import pytest
import torch

from danceopd_ext.errors import UserError
from danceopd_ext.models import configuration
from danceopd_ext.models.configuration import MOST_LAYERS, MOST_MODULES, built_from, on_paper, within_limits
from danceopd_ext.models.loading import check_parts, load_layout, load_scheduler
from danceopd_ext.models.model_files import find_model_files
from danceopd_ext.models.text_pipeline import encode_prompts
from tests.tiny.pipelines import save_any

FILES = ("transformer/config.json", "vae/config.json", "scheduler/scheduler_config.json", "text_encoder/config.json")
NO_OBJECTS = ["", "[]", "[{}]", "5", "null", '"a"', "{", '{"a": NaN}', '{"a": 1e400}', "[" * 5000, '{"a": ' * 200]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_any("sd3", tmp_path_factory.mktemp("sd3") / "model")


@pytest.fixture
def folder(model, tmp_path):
    return shutil.copytree(model, tmp_path / "model")


def read(folder):
    source = find_model_files(str(folder))
    check_parts(source)
    return source, load_layout(source)


def refused(folder, file):
    with pytest.raises(UserError) as error:
        read(folder)
    assert str(folder / file) in str(error.value)
    return str(error.value)


def change(folder, file, **values):
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def test_a_sound_model_passes(folder):
    source, (layout, config) = read(folder)
    assert layout.shapes and config["num_layers"] == 3 and source.vae_scale_factor == 2


@pytest.mark.parametrize("text", NO_OBJECTS)
@pytest.mark.parametrize("file", [*FILES, "model_index.json"])
def test_what_is_no_object_is_named(folder, file, text):
    (folder / file).write_text(text, encoding="utf-8")
    refused(folder, file)


@pytest.mark.parametrize("file", FILES)
def test_a_missing_configuration_is_named(folder, file):
    (folder / file).unlink()
    refused(folder, file)


@pytest.mark.parametrize(
    ("file", "key", "values"),
    [
        ("transformer/config.json", "num_layers", ["3", [3], {}, True, -1, 10**9, 1.5, 1e300]),
        ("transformer/config.json", "attention_head_dim", ["16", -16, 10**9, 0]),
        ("transformer/config.json", "dual_attention_layers", [1, "1", ["a"], [10**9], list(range(20_000))]),
        ("transformer/config.json", "pos_embed_max_size", [0, -1, 10**7, "16", [16]]),
        ("transformer/config.json", "qk_norm", [5, "no such norm"]),
        ("vae/config.json", "block_out_channels", [8, "8", [], [8, "8"], [-8, -8], [10**9], [8] * 5000]),
        ("vae/config.json", "layers_per_block", [10**9, -1, "1"]),
        ("vae/config.json", "shift_factor", ["0", [0], True]),
        ("scheduler/scheduler_config.json", "num_train_timesteps", [10**12, -1, 0, "1000", None, [1000]]),
        ("scheduler/scheduler_config.json", "shift", ["3", 0, -1, 1e300, [3]]),
        ("scheduler/scheduler_config.json", "shift_terminal", ["0", [0]]),
        ("scheduler/scheduler_config.json", "base_image_seq_len", [4096, "256"]),
        ("scheduler/scheduler_config.json", "use_dynamic_shifting", [3, "true"]),
        ("scheduler/scheduler_config.json", "invert_sigmas", [True]),
        ("text_encoder/config.json", "num_hidden_layers", [10**9, -1]),
        ("text_encoder/config.json", "text_config", [{"num_hidden_layers": 10**9}]),
        ("model_index.json", "_class_name", [None, 5, ["StableDiffusion3Pipeline"], {}]),
        ("model_index.json", "vae", [5, "AutoencoderKL", ["diffusers"], ["diffusers", 5], {}]),
    ],
)
def test_values_of_other_kinds_and_sizes_are_named(folder, file, key, values):
    before = (folder / file).read_text(encoding="utf-8")
    for value in values:
        change(folder, file, **{key: value})
        refused(folder, file)
        (folder / file).write_text(before, encoding="utf-8")
    read(folder)


def test_deep_values_that_nobody_reads_are_no_error(folder):
    deep = 1
    for _ in range(100):
        deep = [deep]
    change(folder, "transformer/config.json", a_key_of_another_version=deep)
    read(folder)


@pytest.mark.parametrize(
    ("cls", "key"),
    [
        ("SD3Transformer2DModel", "num_layers"),
        ("FluxTransformer2DModel", "num_single_layers"),
        ("ZImageTransformer2DModel", "n_layers"),
        ("AutoencoderKL", "layers_per_block"),
    ],
)
def test_a_model_of_endless_parts_ends(monkeypatch, tmp_path, cls, key):
    """Whatever the key is called: parts are counted while they are made."""
    monkeypatch.setattr(configuration, "MOST_MODULES", 300)
    with pytest.raises(UserError, match=r"config\.json: it describes a model with more than 300 modules"):
        on_paper(getattr(diffusers, cls), {key: 10**9}, tmp_path / "config.json")


def test_a_model_of_endless_numbers_ends(tmp_path):
    with pytest.raises(UserError, match=r"config\.json: it describes a model with more than .* parameters"):
        on_paper(diffusers.SD3Transformer2DModel, {"joint_attention_dim": 10**12}, tmp_path / "config.json")


def test_nothing_is_counted_afterwards(monkeypatch, tmp_path):
    monkeypatch.setattr(configuration, "MOST_MODULES", 3)
    with within_limits(tmp_path):
        torch.nn.Linear(2, 2)
    assert len(torch.nn.ModuleList(torch.nn.Module() for _ in range(5))) == 5


def test_the_largest_published_models_are_within_the_limits(tmp_path):
    """FLUX.2 dev and Qwen-Image, by their classes' defaults."""
    for cls in (diffusers.Flux2Transformer2DModel, diffusers.QwenImageTransformer2DModel):
        model = on_paper(cls, {}, tmp_path / "config.json")
        assert 3 * len(list(model.modules())) < MOST_MODULES
        assert 10 * sum(weight.numel() for weight in model.parameters()) < configuration.MOST_NUMBERS
    assert MOST_LAYERS > 10 * 60


@pytest.mark.parametrize(
    "error", [TypeError("a list"), RecursionError(), ZeroDivisionError("zero"), OverflowError("big")]
)
def test_any_error_inside_is_a_message(tmp_path, error):
    told = r"config\.json: the model part that it describes cannot be built \(.+\)\. Download"
    with pytest.raises(UserError, match=told), built_from(tmp_path / "config.json"):
        raise error


def test_a_tokenizer_that_fails_is_named(folder, monkeypatch):
    source = find_model_files(str(folder))

    def fails(*_):
        raise ValueError("no padding token")

    monkeypatch.setattr(source.family, "encode_prompts", fails, raising=False)
    with pytest.raises(UserError, match=r"model: the model's tokenizers or text encoders fail \(no padding token\)"):
        encode_prompts(source, None, ["a cat"])


def test_the_scheduler_is_as_it_was_before_it_was_tried(folder):
    scheduler = load_scheduler(find_model_files(str(folder)))
    assert len(scheduler.sigmas) == scheduler.config.num_train_timesteps
