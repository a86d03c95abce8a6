"""A run whose base is larger than the GPU: the same LoRA and pictures, and what is wrong is said before it starts."""

from __future__ import annotations

import pytest
from PIL import Image

from danceopd_ext.engine import model as engine_model
from danceopd_ext.toolkits.native import train as train_module
from tests.toolkits.runs import log_of, same_tensors, says

#: of the tiny Z-Image: four blocks, of which two can stay in main memory
SWAP = {"gradient_checkpointing": True, "blocks_to_swap": 2}


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Blocks are swapped as on a GPU; returns the fields of the last run."""
    kept = {}

    def keep(*arguments):
        kept["fields"] = build(*arguments)
        return kept["fields"]

    build = train_module.build_fields
    monkeypatch.setattr(train_module, "build_fields", keep)
    monkeypatch.setattr(engine_model, "can_swap", lambda device: True)
    return kept


def test_a_run_with_swapped_blocks_gives_the_same_lora_and_pictures(ran, on_a_gpu, capsys, tmp_path):
    (tmp_path / "prompts.txt").write_text("red cat --w 16 --h 16 --s 2\n", encoding="utf-8")
    keys = {"sample_prompts": str(tmp_path / "prompts.txt"), "sample_every_n_steps": 1, "gradient_checkpointing": True}
    plain = ran(name="plain", **keys)
    assert on_a_gpu["fields"].swap is None
    swapped = ran(name="swapped", **{**keys, **SWAP})
    assert len(on_a_gpu["fields"].swap.blocks) == 4
    says(capsys.readouterr().out, "swap     2 of 4 blocks stay in main memory")
    assert same_tensors(plain / "fused.safetensors", swapped / "fused.safetensors")
    assert [entry["loss"] for entry in log_of(plain)] == [entry["loss"] for entry in log_of(swapped)]
    for picture in sorted((plain / "sample").glob("*.png")):
        assert Image.open(picture).tobytes() == Image.open(swapped / "sample" / picture.name).tobytes()


def test_weights_that_break_are_found_where_they_are(ran, on_a_gpu):
    """The search for NaN reads the base in main memory, where a block that is away has its weights."""
    ran(**SWAP)
    fields = on_a_gpu["fields"]
    assert fields.broken_weight() is None
    fields.swap.blocks[2].places[0].kept.fill_(float("nan"))
    assert fields.broken_weight() is not None


def test_a_swap_without_effect_is_said(ran, capsys):
    """A CPU computes where the weights are."""
    ran(**SWAP)
    says(capsys.readouterr().out, "note: blocks_to_swap = 2 has no effect")


def test_small_rollouts_that_move_the_weights_often_are_said(ran, on_a_gpu, capsys):
    ran(**SWAP, train_batch_size=3, rollout_batch_size=2)
    says(capsys.readouterr().out, "note: rollout_batch_size = 2 moves the swapped blocks 2 times")


def test_more_blocks_than_the_model_has_are_refused(changed, refused):
    message = refused(changed(family="z_image", gradient_checkpointing=True, blocks_to_swap=3))
    says(message, "blocks_to_swap = 3", "4 blocks", "Use 2 or less")


def test_a_swap_without_gradient_checkpointing_is_refused(changed, refused):
    message = refused(changed(family="z_image", blocks_to_swap=2))
    says(message, "blocks_to_swap = 2", "gradient_checkpointing = true")
