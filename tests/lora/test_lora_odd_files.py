"""Odd and hostile LoRA files through `inspect`, `convert` and training's reader alike: a result or one message."""

from __future__ import annotations

import json
import os
import resource
import time

import pytest
import torch
from tiny_lora import keyed, layout, random_lora, save

from danceopd_ext.cli import main, run
from danceopd_ext.errors import UserError
from danceopd_ext.lora import alphas, lycoris
from danceopd_ext.lora.algebra import compress, compression_loss, low_rank
from danceopd_ext.lora.lycoris import Hadamard, Kronecker
from danceopd_ext.lora.read import read_lora
from danceopd_ext.lora.weights import Lora, LowRank

PEFT = (".lora_A.weight", ".lora_B.weight")
LAYER = "layers.0.attention.to_q"  # 32 x 32
KEY = f"transformer.{LAYER}"
LORA = {"lora_A.weight": torch.ones(2, 32), "lora_B.weight": torch.ones(32, 2)}


def named(parts: dict[str, torch.Tensor], key: str = KEY) -> dict[str, torch.Tensor]:
    return {f"{key}.{part}": value for part, value in parts.items()}


def outcomes(file, capsys) -> list[str]:
    """What inspect, convert and training's reader say: "" for a result, else their message, which is one line."""
    told = []
    for arguments in (
        ["inspect", str(file), "--family", "z_image"],
        ["convert", str(file), f"{file}.out.safetensors", "--to", "kohya", "--family", "z_image"],
        ["convert", str(file), f"{file}.out.safetensors", "--to", "kohya", "--family", "z_image", "--rank", "1"],
    ):
        code = run(main, arguments)
        out, err = capsys.readouterr()
        assert code in (0, 2) and all(letter.isprintable() or letter == "\n" for letter in out + err)
        verdict = next((line for line in out.splitlines() if line.startswith("usable") and "no: " in line), "")
        told.append(err.strip() or verdict.partition("no: ")[2])
        assert err.count("\n") == (code == 2)
    try:
        read_lora(file, layout("z_image"))
        return [*told, ""]
    except UserError as problem:
        return [*told, str(problem)]


def refused(file, capsys) -> str:
    """The message of all of them, each of which refuses."""
    told = outcomes(file, capsys)
    assert all(told)
    return told[-1]


def kinds_of(dtype: torch.dtype, value=1) -> dict[str, torch.Tensor]:
    return LORA | {"alpha": torch.tensor(value, dtype=dtype)}


# --- factors and alphas of other kinds

FACTORS = {
    "whole numbers": torch.ones(2, 32, dtype=torch.int64),
    "short whole numbers": torch.ones(2, 32, dtype=torch.uint16),
    "true and false": torch.ones(2, 32, dtype=torch.bool),
    "complex": torch.ones(2, 32, dtype=torch.complex64),
    "NaN": torch.full((2, 32), torch.nan),
    "infinite": torch.full((2, 32), -torch.inf),
    "infinite in float32": torch.full((2, 32), 1e300, dtype=torch.float64),
    "huge": torch.full((2, 32), 1e38),
    "empty": torch.ones(0, 32),
    "one number": torch.tensor(1.0),
    "a list": torch.ones(64),
    "four axes": torch.ones(2, 4, 4, 2),
}


@pytest.mark.parametrize("factor", FACTORS.values(), ids=FACTORS)
def test_factors_that_are_no_matrix_of_numbers(factor, tmp_path, capsys):
    file = save(tmp_path / "x.safetensors", named(LORA | {"lora_A.weight": factor}))
    assert f"{KEY}.lora_A.weight" in refused(file, capsys)


ALPHAS = {
    "true": torch.tensor(True),
    "complex": torch.tensor(1j),
    "NaN": torch.tensor(torch.nan),
    "infinite": torch.tensor(torch.inf),
    "infinite in float32": torch.tensor(1e300, dtype=torch.float64),
    "huge": torch.tensor(3e38),
    "a large whole number": torch.tensor(2**62),
    "too strong": torch.tensor(-1e9),
    "two numbers": torch.tensor([1.0, 2.0]),
    "none": torch.ones(0),
    "none of many": torch.ones(3, 0, 2),
}


@pytest.mark.parametrize("alpha", ALPHAS.values(), ids=ALPHAS)
def test_alphas_that_no_training_writes(alpha, tmp_path, capsys):
    assert f"{KEY}.alpha" in refused(save(tmp_path / "x.safetensors", named(LORA | {"alpha": alpha})), capsys)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint16, torch.float8_e4m3fn, torch.float64])
@pytest.mark.parametrize("value", [0, 2])
def test_alphas_of_any_dtype_are_numbers(dtype, value, tmp_path, capsys):
    file = save(tmp_path / "x.safetensors", named(kinds_of(dtype, value)))
    assert outcomes(file, capsys) == [""] * 4
    torch.testing.assert_close(read_lora(file, layout("z_image")).modules[LAYER].delta(), torch.full((32, 32), 2.0))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint16, torch.bool, torch.float8_e5m2])
def test_zero_biases_of_any_dtype(dtype, tmp_path, capsys):
    bias = {f"{KEY}.diff_b": torch.zeros(32, dtype=dtype)}
    assert outcomes(save(tmp_path / "x.safetensors", named(LORA) | bias), capsys) == [""] * 4


def test_values_that_float16_cannot_hold_are_refused_by_convert(tmp_path, capsys):
    parts = {"lora_A.weight": torch.full((2, 32), 1e9), "lora_B.weight": torch.full((32, 2), 1e9)}
    file = save(tmp_path / "x.safetensors", named(parts))
    command = ["convert", str(file), str(tmp_path / "y.safetensors"), "--to", "kohya", "--family", "z_image", "--dtype"]
    assert run(main, [*command, "fp16"]) == 2
    assert "float16 cannot hold" in capsys.readouterr().err and not (tmp_path / "y.safetensors").exists()
    assert run(main, [*command, "bf16"]) == 0


# --- settings of an adapter

SETTINGS = {
    '{"lora_alpha": 1e400}': "lora_alpha must be a number",
    '{"lora_alpha": -Infinity}': "lora_alpha must be a number",
    '{"lora_alpha": 1e300}': "alpha divided by the rank",
    '{"lora_alpha": %s}' % ("9" * 5000): "a number has thousands of digits",
    '{"lora_alpha": %s}' % ("9" * 400): "more than 64 bits",
    '{"a": ' + "[" * 900 + "1" + "]" * 900 + "}": "nested",
    '{"a": ' * 5000: "nested too deep",
    '{"lora_alpha": {"a": 1}}': "lora_alpha must be a number",
    '{"r": 1000000000}': "expected a whole number from 1",
    '{"r": -1}': "expected a whole number from 1",
    '{"r": 1.5}': "expected a whole number from 1",
    '{"rank_pattern": {"to_q": 1e12}}': "expected a whole number from 1",
    '{"alpha_pattern": {"to_q": []}}': "alpha_pattern.to_q must be a number",
    '{"alpha_pattern": {"to_q\\u001b[2J(": 1}}': "not a regular expression",
    '{"alpha_pattern": {"%s*": 1}}' % ("a" * 5000): "5,001 characters",
    "[]": "instead of a JSON object",
    '"r"': "instead of a JSON object",
    "\x00": "",
}


@pytest.mark.parametrize("place", ["folder", "metadata"])
@pytest.mark.parametrize("text", SETTINGS, ids=range(len(SETTINGS)))
def test_odd_settings_of_an_adapter(text, place, tmp_path, capsys):
    folder = tmp_path / "adapter"
    folder.mkdir()
    if place == "folder":
        save(folder / "adapter_model.safetensors", named(LORA))
        (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    else:
        save(folder / "x.safetensors", named(LORA), {"lora_adapter_metadata": text})
    assert SETTINGS[text] in refused(folder, capsys)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files in folders")
def test_settings_that_are_no_file(tmp_path, capsys):
    save(tmp_path / "adapter_model.safetensors", named(LORA))
    (tmp_path / "adapter_config.json").symlink_to("/dev/zero")
    assert "a device" in refused(tmp_path, capsys)
    (tmp_path / "adapter_config.json").unlink()
    os.mkfifo(tmp_path / "adapter_config.json")
    assert "a pipe" in refused(tmp_path, capsys)


ENDLESS = [r"(.*a){25}", r"(([a-z_0-9.])+.)+[A-Z]([a-z])+", r"(.*.*.*.*.*.*.*.*.*.*)+!"]


@pytest.mark.parametrize("pattern", ENDLESS)
def test_patterns_that_never_end(pattern, tmp_path, capsys, monkeypatch):
    """A name as long as a file may have, and many of them, so that each takes a part of the time."""
    monkeypatch.setattr(alphas, "SECONDS", 0.2)
    parts = {}
    for number in range(12):
        parts |= named(LORA, "transformer." * 18 + f"layers.{number % 2}.attention.to_{'qkv'[number % 3]}")
    settings = {"alpha_pattern": {pattern: 4, r"a{3}b+": 3}}
    file = save(tmp_path / "x.safetensors", parts, {"lora_adapter_metadata": json.dumps(settings)})
    started = time.perf_counter()
    told = outcomes(file, capsys)
    assert time.perf_counter() - started < 10
    assert all("matching its patterns takes longer than 0.2 s" in message for message in told) or not any(told)


def test_a_pattern_that_never_ends_is_named(monkeypatch):
    monkeypatch.setattr(alphas, "SECONDS", 0.05)
    found = alphas._patterns("x", {"alpha_pattern": {r"(.*a){25}": 4}}, "alpha_pattern")
    found.seconds = 0.05
    with pytest.raises(UserError, match=r"takes longer than .*\(\.\*a\)\{25\}.*Use layer names"):
        found.of("transformer." * 3000, 1.0)


def test_a_plain_name_needs_no_matching_and_the_first_pattern_counts():
    table = {"attention.to_q": 4, r"layers\.\d+\.attention\.to_[qk]": 8, "to_q": 2, "^layers.1.attention.to_v": 5}
    found = alphas._patterns("x", {"alpha_pattern": table}, "alpha_pattern")
    assert set(found.names) == {"attention.to_q", "to_q", "layers.1.attention.to_v"} and len(found.expressions) == 1
    assert found.of("base_model.model.layers.0.attention.to_q", None) == 4
    assert found.of("layers.0.attention.to_k", None) == 8
    assert found.of("layers.0.other.to_q", None) == 2
    assert found.of("layers.1.attention.to_v", None) == 5 and found.of("layers.0.attention.to_v", None) is None
    assert found.of("layers.0.attention.into_q", None) is None  # a name begins at a dot


# --- files that describe far more than they hold


def bomb(size: int, kind: str) -> dict[str, torch.Tensor]:
    """A layer of size x size numbers in a few kilobytes."""
    thin, wide = torch.ones(size, 1, dtype=torch.float16), torch.ones(1, size, dtype=torch.float16)
    if kind == "LoHa":
        return {"hada_w1_a": thin, "hada_w1_b": wide, "hada_w2_a": thin, "hada_w2_b": wide}
    if kind == "LoKr":
        return {"lokr_w1": torch.ones(1, 1), "lokr_w2_a": thin, "lokr_w2_b": wide}
    return {"lora_B.weight": thin, "lora_A.weight": wide}


def peak() -> float:
    """The most memory that this process has used, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize("kind", ["LoHa", "LoKr", "LoRA"])
def test_a_layer_larger_than_any_models(kind, tmp_path, capsys):
    file = save(tmp_path / "x.safetensors", named(bomb(200_000, kind)))
    before, started = peak(), time.perf_counter()
    assert "larger than a layer of any model" in refused(file, capsys)
    assert peak() - before < 200 and time.perf_counter() - started < 5


@pytest.mark.parametrize("kind", ["LoHa", "LoKr", "LoRA"])
def test_a_layer_of_another_size_is_not_built(kind, tmp_path, capsys, monkeypatch):
    """Training knows the model's sizes. It is given twice, so that the two would be compared."""
    file = save(tmp_path / "x.safetensors", named(bomb(20_000, kind)) | named(bomb(20_000, kind), LAYER))
    before, started = peak(), time.perf_counter()
    with pytest.raises(UserError, match="made for a model of another size"):
        read_lora(file, layout("z_image"))
    assert outcomes(file, capsys)[:2] == ["", ""]  # without a model, its sizes can be meant
    assert peak() - before < 400 and time.perf_counter() - started < 10


@pytest.mark.parametrize("kind", ["LoHa", "LoKr", "LoRA"])
def test_thin_products_are_compressed_without_being_multiplied(kind, monkeypatch):
    thin, wide = torch.randn(300, 2), torch.randn(2, 400)
    change = {
        "LoHa": Hadamard(thin, wide, thin.flip(0), wide.flip(1), 0.5),
        "LoKr": Kronecker(torch.randn(2, 2), LowRank(wide, thin), 0.5),
        "LoRA": LowRank(wide, thin),
    }[kind]
    whole, dense = Lora({"a": change}), change.delta()
    for cls in (Hadamard, LowRank, Kronecker):
        monkeypatch.setattr(cls, "delta", lambda *_: pytest.fail("the whole change was made"))
    small = compress(whole, 2)
    loss = compression_loss(whole, small)
    plain = low_rank(whole, "").modules["a"]
    monkeypatch.undo()
    left, singular, right = torch.linalg.svd(dense)
    nearest = left[:, :2] * singular[:2] @ right[:2]
    torch.testing.assert_close(small.modules["a"].delta(), nearest, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(plain.delta(), dense, rtol=1e-4, atol=1e-4)
    assert loss == pytest.approx(float((dense - nearest).norm() / dense.norm()), abs=1e-3)


def test_whether_a_product_is_zero_is_found_in_pieces(monkeypatch):
    one = torch.zeros(64, 1)
    one[:32] = 1
    other = one.flip(0)  # no row of both is there, so that the product is zero though no factor is
    wide = torch.ones(1, 64)
    assert Hadamard(one, wide, other, wide).is_zero() and not Hadamard(one, wide, one, wide).is_zero()
    assert Kronecker(torch.ones(1, 1), LowRank(wide, one * 0)).is_zero()
    assert not Kronecker(torch.ones(1, 1), LowRank(wide, one)).is_zero()
    assert lycoris._norm(LowRank(wide, one)) == pytest.approx(float((one @ wide).norm()))


# --- files that are no files, and names that are not there


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files in folders")
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin"])
def test_files_that_never_end(suffix, tmp_path, capsys):
    (tmp_path / f"x{suffix}").symlink_to("/dev/zero")
    assert "a device" in refused(tmp_path / f"x{suffix}", capsys)
    os.mkfifo(tmp_path / f"y{suffix}")
    assert "a pipe" in refused(tmp_path / f"y{suffix}", capsys)
    (tmp_path / "folder" / "adapter_model.safetensors").mkdir(parents=True)
    assert "this is a folder" in refused(tmp_path / "folder", capsys)


def test_keys_that_differ_in_what_no_terminal_shows(tmp_path, capsys):
    file = save(tmp_path / "x.safetensors", named(LORA) | {"a\x1b": torch.ones(1), "a\\x1b": torch.ones(1)})
    assert "differ only in control characters" in refused(file, capsys)


@pytest.mark.parametrize("place", ["loras/style", "my_loras/x", "style.safetensors", "flux/style.safetensors", "a\0/b"])
def test_a_path_that_is_not_here_is_not_asked_for(place, monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda *_: pytest.fail("the hub was asked"))
    with pytest.raises(UserError, match="no such file or folder"):
        read_lora(place, layout("z_image"))


@pytest.mark.parametrize("place", ["style/cat", "somebody/style/file.safetensors"])
def test_what_may_be_on_the_hub_is_told_with_both_possibilities(place, monkeypatch, tmp_path):
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError

    def gone(repository):
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", gone)
    with pytest.raises(UserError) as caught:
        read_lora(place, layout("z_image"))
    message, repository = str(caught.value), "/".join(place.split("/")[:2])
    assert message.startswith(f"{place}: no such file or folder (the current folder is {tmp_path})")
    assert f"it has no repository {repository}" in message and "if it is on the Hub" in message


def test_a_shown_value_is_short(tmp_path, capsys):
    parts = named(LORA | {"alpha": torch.arange(10_000.0)})
    tensors = parts | keyed(random_lora("z_image", only="to_k").modules, "transformer.{dots}", *PEFT)
    assert run(main, ["inspect", str(save(tmp_path / "x.safetensors", tensors)), "--family", "z_image"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) < 1000


def test_what_convert_copies_commands_no_terminal(tmp_path, capsys):
    """Metadata keeps its line breaks; a terminal that shows the new file is not commanded by it."""
    from safetensors import safe_open

    odd = {"modelspec.title": "a\x1b[2Jb", "note\x1b": "one\ntwo\tthree", "modelspec.description": "fête 绘画"}
    file = save(tmp_path / "x.safetensors", named(LORA), odd)
    command = ["convert", str(file), str(tmp_path / "y.safetensors"), "--to", "comfyui", "--family", "z_image"]
    assert run(main, command) == 0
    with safe_open(tmp_path / "y.safetensors", "pt") as written:
        found = written.metadata()
    assert found["modelspec.title"] == "a\\x1b[2Jb" and found["note\\x1b"] == "one\ntwo\tthree"
    assert found["modelspec.description"] == "fête 绘画"
