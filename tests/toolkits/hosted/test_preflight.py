"""What a toolkit would only notice after it has loaded everything ends before, in one message."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from danceopd_ext.config.schema import DanceOPDSection, Teacher
from danceopd_ext.errors import UserError
from danceopd_ext.models.sd3 import StableDiffusion3
from danceopd_ext.toolkits.hosted import preflight
from danceopd_ext.toolkits.hosted.number_limits import check_dataset_numbers, check_numbers
from danceopd_ext.toolkits.hosted.preflight import check_optimizer, check_output, check_paths, check_precision
from danceopd_ext.toolkits.hosted.weights_header import Kind, check_kind, count_blocks, linear_shapes, read_header

PRESET = Path("p.toml")


def told(check, *given) -> str:
    with pytest.raises(UserError) as error:
        check(*given)
    return str(error.value)


# --- where it is saved


def output(folder: Path, **more) -> Namespace:
    usual = {"output_dir": str(folder / "out"), "output_name": "fused", "logging_dir": None, "resume": None}
    return Namespace(**{**usual, **more})


def test_an_output_that_can_be_written(tmp_path):
    check_output(output(tmp_path, output_name="my LoRA v1.2", logging_dir=str(tmp_path / "logs")), PRESET)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"output_dir": "file"}, "p.toml: output_dir = "),
        ({"output_dir": "file/below"}, "p.toml: output_dir = "),
        ({"output_dir": ""}, "p.toml: output_dir is empty"),
        ({"logging_dir": "file"}, "p.toml: logging_dir = "),
        ({"output_name": ""}, "p.toml: output_name = ''"),
        ({"output_name": None}, "p.toml: output_name = None"),
        ({"output_name": ".."}, "p.toml: output_name = '..'"),
        ({"output_name": "a/b"}, "p.toml: output_name = 'a/b'"),
        ({"output_name": "a\\b"}, "p.toml: output_name = "),
        ({"output_name": "what?"}, "p.toml: output_name = 'what?'"),
    ],
)
def test_an_output_that_cannot_be_written(tmp_path, monkeypatch, more, message):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert told(check_output, output(tmp_path, **more), PRESET).startswith(message)


@pytest.mark.parametrize("earlier", ["fused.safetensors", "fused-000002.safetensors", "fused-step00000003-state"])
def test_an_earlier_result_is_not_replaced_unasked(tmp_path, earlier):
    path = tmp_path / "out" / earlier
    path.mkdir(parents=True)
    assert earlier in told(check_output, output(tmp_path), PRESET)
    assert "--overwrite" in told(check_output, output(tmp_path), PRESET)
    check_output(output(tmp_path), PRESET, overwrite=True)
    check_output(output(tmp_path, output_name="other"), PRESET)
    check_output(output(tmp_path, resume=str(tmp_path / "out" / "fused-step00000003-state")), PRESET)


# --- the optimizer


def make_optimizer(args, groups):
    """As the toolkits do."""
    options = dict(entry.split("=") for entry in args.optimizer_args or [])
    args.learning_rate = None  # some of the toolkits' optimizers change the arguments
    kind = getattr(torch.optim, args.optimizer_type)
    return "name", "args", kind(groups, **{name: float(value) for name, value in options.items()})


def make_schedule(args, optimizer):
    if args.lr_scheduler != "constant":
        raise ValueError(f"{args.lr_scheduler} is not a valid SchedulerType / 無効")
    return torch.optim.lr_scheduler.ConstantLR(optimizer)


def optimizer(**more) -> Namespace:
    given = {"optimizer_type": "AdamW", "optimizer_args": None, "learning_rate": 1e-3, "lr_scheduler": "constant"}
    return Namespace(**{**given, **more})


def test_an_optimizer_that_can_be_made():
    args = optimizer(optimizer_args=["weight_decay=0.1"])
    check_optimizer(args, PRESET, make_optimizer, make_schedule)
    assert args.learning_rate == 1e-3, "a copy was tried"


def missing_package(args, groups):
    raise ImportError("No bitsandbytes / bitsandbytesがインストールされていないようです")


@pytest.mark.parametrize(
    ("more", "make", "message"),
    [
        ({"optimizer_type": "AdamX"}, make_optimizer, 'p.toml: optimizer_type = "AdamX": '),
        ({"optimizer_args": ["a"]}, make_optimizer, "optimizer_args = ['a']: the toolkit cannot create it"),
        ({"optimizer_args": ["wd=1"]}, make_optimizer, "unexpected keyword argument 'wd'"),
        ({"optimizer_type": "AdamW8bit"}, missing_package, "No bitsandbytes. Install the package, or write "),
        ({"lr_scheduler": "cosinus"}, make_optimizer, 'lr_scheduler = "cosinus": the toolkit cannot create it: cos'),
    ],
)  # fmt: skip
def test_an_optimizer_that_cannot_be_made(more, make, message):
    found = told(check_optimizer, optimizer(**more), PRESET, make, make_schedule)
    assert message in found
    assert found.isascii()


def test_half_precision_needs_a_gpu(monkeypatch):
    monkeypatch.setattr(preflight, "_available", lambda name: False)
    assert 'write "no" or "bf16"' in told(check_precision, Namespace(mixed_precision="fp16"), PRESET)
    check_precision(Namespace(mixed_precision="bf16"), PRESET)
    monkeypatch.setattr(preflight, "_available", lambda name: name == "cuda")
    check_precision(Namespace(mixed_precision="fp16"), PRESET)


# --- numbers


def numbers(**given) -> Namespace:
    args = Namespace(**given)
    check_numbers(
        args, {name: f"{name} = {value}" for name, value in given.items()}, {"save_every_n_steps": None}, PRESET
    )
    return args


def test_numbers_that_are_right():
    numbers(train_batch_size=1, seed=0, network_alpha=0.5, max_data_loader_n_workers=0, blocks_to_swap=0, other=-5)
    numbers(seed=2**32 - 1, network_dropout=0.0, cache_latents=False, lr_warmup_steps=0.1)


@pytest.mark.parametrize("name", ["save_every_n_steps", "max_train_epochs", "sample_every_n_epochs"])
def test_zero_is_what_interfaces_write_for_nothing(name):
    assert getattr(numbers(**{name: 0}), name) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train_batch_size": 0}, "p.toml: train_batch_size = 0: write a number of at least 1."),
        ({"max_train_steps": 0}, "of at least 1"),
        ({"max_train_steps": -1}, "of at least 1"),
        ({"gradient_accumulation_steps": 0}, "of at least 1"),
        ({"network_dim": -4}, "of at least 1"),
        ({"seed": -1}, "of at least 0"),
        ({"seed": 2**64}, "of at most 4,294,967,295"),
        ({"max_data_loader_n_workers": -1}, "of at least 0"),
        ({"learning_rate": 0.0}, "write a number above 0"),
        ({"learning_rate": float("nan")}, "write a number above 0"),
        ({"network_alpha": 0}, "write a number above 0"),
        ({"network_dropout": 2.0}, "of at most 0.99"),
        ({"blocks_to_swap": -1}, "of at least 0"),
        ({"save_every_n_steps": -1}, "of at least 1"),
    ],
)
def test_numbers_that_are_wrong(given, message):
    assert message in told(lambda: numbers(**given))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            {"datasets": [{"num_repeats": 10**18}]},
            "d.toml: num_repeats = 1000000000000000000: write a number",
        ),
        (
            {"datasets": [{"subsets": [{"num_repeats": 10**5}]}]},
            "num_repeats = 100000: write a number of at most",
        ),
        ({"general": {"batch_size": 0}}, "batch_size = 0: write a number of at least 1"),
        ({"general": {"resolution": [960, 10**9]}}, "resolution = [960, 1000000000]: write a number of at most 16,384"),
        ({"datasets": [{"max_frames": 10**400}]}, "max_frames = a number of about 401 digits"),
    ],
)
def test_numbers_of_a_toolkits_dataset_configuration(document, message):
    assert message in told(lambda: check_dataset_numbers("d.toml", document))
    right = {"datasets": [{"num_repeats": 10, "resolution": [960, 544], "subsets": [{"is_reg": False}]}]}
    check_dataset_numbers("d.toml", right)


# --- files


CAT = Kind("a cat", ("cat.whiskers.",), never=("dog.",))
SMALL = Kind("a small dog", ("dog.bone.",), not_wide=("bone.weight", 9))
LARGE = Kind("a large dog", ("dog.bone.",), not_wide=("bone.weight", 3))


@pytest.fixture
def file(tmp_path):
    def file(name: str, **shapes) -> Path:
        save_file({key.replace("__", "."): torch.zeros(shape) for key, shape in shapes.items()}, tmp_path / name)
        return tmp_path / name

    return file


def test_a_file_is_known_by_its_header(file):
    header = check_kind("cat", file("a.safetensors", cat__whiskers__weight=(2, 5)), [CAT], [CAT])
    assert header == {"cat.whiskers.weight": (2, 5)}
    assert check_kind("dog", file("b.safetensors", dog__bone__weight=(2, 3)), [SMALL], [CAT]) is not None


@pytest.mark.parametrize(
    ("wanted", "shapes", "message"),
    [
        (CAT, {"dog__bone__weight": (2, 3)}, "this is not a cat; it looks like a small dog. Name a file that"),
        (SMALL, {"dog__bone__weight": (2, 9)}, "this is not a small dog; it looks like a large dog"),
        (CAT, {"cat__whiskers__weight": (1,), "dog__x": (1,)}, 'it looks like something else (its first tensor is "'),
        (CAT, {"cat__paw__lora_down__weight": (1, 1)}, "it looks like a LoRA"),
        (CAT, {}, "it looks like something else (it is empty)"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind(file, wanted, shapes, message):
    found = told(check_kind, 'p.toml: cat = "x"', file("x.safetensors", **shapes), [wanted], [CAT, SMALL, LARGE])
    assert found.startswith('p.toml: cat = "x": ')
    assert message in found


def test_what_is_no_file_of_weights(tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    (tmp_path / "notes.txt").write_text("hello")
    assert "is a folder: name the .safetensors file" in told(read_header, tmp_path)
    assert "is not a complete .safetensors file" in told(read_header, tmp_path / "cut.safetensors")
    assert "is not a .safetensors file" in told(read_header, tmp_path / "notes.txt")
    assert read_header(tmp_path, others=True) is None
    assert read_header(tmp_path / "notes.txt", others=True) is None


def test_the_layers_of_a_file():
    header = {
        "net.blocks.0.q.weight": (4, 3),
        "net.blocks.10.q.weight": (4, 3),
        "net.x.bias": (4,),
        "vae.w.weight": (1, 1),
    }
    layers = linear_shapes(header, ["model.", "net."])
    assert layers == {"blocks.0.q": (4, 3), "blocks.10.q": (4, 3)}
    assert count_blocks(layers, "blocks") == 2
    assert count_blocks(layers, "block") == 0


def test_paths_of_a_dataset(tmp_path):
    (tmp_path / "here").mkdir()
    names = ("image_dir", "metadata_file")
    document = {"datasets": [{"subsets": [{"image_dir": str(tmp_path / "here"), "caption": "gone"}]}]}
    assert check_paths("d.toml", document, names) == [tmp_path / "here"]
    document["datasets"][0]["subsets"].append({"metadata_file": "gone.json"})
    assert told(check_paths, "d.toml", document, names).startswith(
        'd.toml: metadata_file = "gone.json": there is no such'
    )


# --- teachers


LAYER = "joint_blocks.0.x_block.attn.qkv"


def lora(path: Path, outputs: int = 12, name: str = LAYER) -> str:
    key = "lora_unet_" + name.replace(".", "_")
    save_file({f"{key}.lora_down.weight": torch.ones(2, 4), f"{key}.lora_up.weight": torch.ones(outputs, 2)}, path)
    return str(path)


def options(place: str) -> DanceOPDSection:
    return DanceOPDSection(toolkit="sd-scripts", teachers={"style": Teacher(lora=place)})


def test_a_teacher_is_held_against_the_models_own_layers(tmp_path):
    place, linears = lora(tmp_path / "style.safetensors"), {LAYER: (12, 4)}
    preflight.check_teachers(options(place), StableDiffusion3(), "SD3", linears)
    message = told(preflight.check_teachers, options(place), StableDiffusion3(), "SD3", {LAYER: (24, 8)})
    assert "[danceopd.teachers.style]" in message
    foreign = lora(tmp_path / "foreign.safetensors", name="double_blocks.0.img_attn.qkv")
    assert "[danceopd.teachers.style]" in told(
        preflight.check_teachers, options(foreign), StableDiffusion3(), "SD3", linears
    )


def test_a_teacher_without_the_models_layers(tmp_path):
    """The published model's names are known for some architectures; for others a file can only be opened."""
    foreign = lora(tmp_path / "foreign.safetensors", name="double_blocks.0.img_attn.qkv")
    assert "no key fits" in told(preflight.check_teachers, options(foreign), StableDiffusion3(), "SD3", None)
    preflight.check_teachers(options(foreign), None, "Lumina", None)
    gone = options(str(tmp_path / "gone.safetensors"))
    for names in (StableDiffusion3(), None):
        message = told(preflight.check_teachers, gone, names, "SD3", None)
        assert message.startswith("[danceopd.teachers.style] ")
        assert "no such file" in message
