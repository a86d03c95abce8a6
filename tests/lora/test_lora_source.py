"""The border: whatever a file says of itself, one message or plain tensors come out, and no control character."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from tiny_lora import block_lora, keyed, layout, random_lora, save

from danceopd_ext.cli import main, run
from danceopd_ext.errors import UserError, printable
from danceopd_ext.lora.lora_file import open_lora_file
from danceopd_ext.lora.read import read_lora

PEFT = (".lora_A.weight", ".lora_B.weight")
CLEAR = "\x1b[2J\x1b[31mred"


def good() -> dict[str, torch.Tensor]:
    return keyed(random_lora("sd3", only="proj_out").modules, "transformer.{dots}", *PEFT)


def refusal(place) -> str:
    with pytest.raises(UserError) as caught:
        open_lora_file(place)
    return str(caught.value)


ODD = {
    "[]": "[] instead of a JSON object",
    "7": "7 instead of a JSON object",
    '"r"': '"r" instead of a JSON object',
    "{": "not valid JSON",
    "[" * 100000: "not valid JSON",
}


@pytest.mark.parametrize("text, told", ODD.items(), ids=range(len(ODD)))
def test_settings_of_an_adapter_that_cannot_be_understood(text, told, tmp_path, capsys):
    """Beside a PEFT adapter, and in the metadata of a diffusers file; inspect and convert say the same."""
    (tmp_path / "adapter_config.json").write_text(text)
    save(tmp_path / "adapter_model.safetensors", good())
    message = refusal(tmp_path)
    assert told in message and "adapter_config.json" in message
    file = save(tmp_path / "x.safetensors", good(), {"lora_adapter_metadata": text})
    message = refusal(file)
    assert told in message and "its metadata entry lora_adapter_metadata" in message and len(message) < 600
    for arguments in (["inspect", str(file)], ["convert", str(file), str(tmp_path / "y.safetensors"), "--to", "kohya"]):
        assert run(main, arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("value", [[], 7, "x", {"a": 1}, {"a": None}, {"a": {"b": "c"}}])
def test_metadata_that_is_no_text_by_text(value, tmp_path):
    header = {"__metadata__": value, "a.lora_up.weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    content = json.dumps(header).encode()
    file = tmp_path / "x.safetensors"
    file.write_bytes(struct.pack("<Q", len(content)) + content + bytes(8))
    assert "is not a complete .safetensors file" in refusal(file)


def test_no_metadata_at_all(tmp_path):
    header = {"__metadata__": None, "a.lora_up.weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    content = json.dumps(header).encode()
    file = tmp_path / "x.safetensors"
    file.write_bytes(struct.pack("<Q", len(content)) + content + bytes(8))
    assert open_lora_file(file).metadata == {}


@pytest.mark.parametrize(
    "odd",
    [
        torch.ones(2, 32, dtype=torch.complex64),
        torch.ones(2, 32).to_sparse(),
        torch.ones(2, 32, device="meta"),
    ],
    ids=["complex", "sparse", "meta"],
)
def test_tensors_that_are_no_plain_numbers(odd, tmp_path):
    torch.save(good() | {"transformer.proj_out.lora_A.weight": odd}, tmp_path / "x.pt")
    message = refusal(tmp_path / "x.pt")
    assert "proj_out.lora_A" in message and "float32, float16 or bfloat16" in message


def test_trained_parameters_are_plain_tensors(tmp_path):
    tensors = {key: torch.nn.Parameter(value) for key, value in good().items()}
    torch.save(tensors, tmp_path / "x.pt")
    read = read_lora(tmp_path / "x.pt", layout("sd3"))
    assert not any(change.up_OR.requires_grad for change in read.modules.values())


def test_keys_and_metadata_do_not_command_the_terminal(tmp_path, capsys):
    tensors = keyed(block_lora("sd3").modules, "transformer.{dots}", *PEFT) | {f"odd{CLEAR}\nkey": torch.ones(1)}
    file = save(
        tmp_path / "x.safetensors", tensors, {"modelspec.title": f"nice{CLEAR}", f"k{CLEAR}": '"\u202e\x7f\x9b"'}
    )
    assert run(main, ["inspect", str(file)]) == 0
    told = capsys.readouterr().out
    assert "odd\\x1b[2J\\x1b[31mred\\nkey" in told and "nice\\x1b[2J" in told and "\\u202e\\x7f\\x9b" in told
    assert all(letter.isprintable() or letter == "\n" for letter in told)
    assert run(main, ["convert", str(file), str(tmp_path / "y.safetensors"), "--to", "kohya"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and told.rstrip("\n").isprintable()


def test_printable_keeps_what_people_write():
    text = "Stil für Räume ✓ 绘画 👩\u200d🎨"
    assert printable(text) == text and printable("a\tb\n", keep="\n\t") == "a\tb\n"


def test_a_folder_of_loras_is_not_taken_for_somebodys_repository(monkeypatch):
    import huggingface_hub

    def asked(*_):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(huggingface_hub, "list_repo_files", asked)
    for place in ("loras/style", "models/loras/style.safetensors", "Lora/my_style"):
        assert "no such file" in refusal(place)
