"""Block swap on musubi. On a CPU musubi's swap damages weights, so it is played with a table of who is where.

The table follows every move that musubi's offloader asks for; a block that runs forward or backward must be on the
device by it, and every block that is brought in must have been away.
"""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from danceopd_ext.toolkits.hosted.active_adapter import NoBlockSwap
from tests.integration.musubi import tiny_z_image
from tests.integration.musubi.runs import here, write_preset

LAYERS = 8


class Table:
    """Where each block is, by musubi's own bookkeeping."""

    def __init__(self):
        self.on_device: dict[int, bool] = {}
        self.misplaced: list[str] = []
        self.forwards = self.backwards = self.moves = 0

    def prepare(self, offloader, _blocks):
        kept = offloader.num_blocks - offloader.blocks_to_swap
        self.on_device = {index: index < kept for index in range(offloader.num_blocks)}

    def move(self, offloader, _blocks, to_cpu: int, to_device: int):
        self.moves += 1
        if not self.on_device[to_cpu] or self.on_device[to_device]:
            self.misplaced.append(f"moved {to_cpu} out and {to_device} in")
        self.on_device[to_cpu], self.on_device[to_device] = False, True
        offloader.futures[to_device] = Future()
        offloader.futures[to_device].set_result((to_cpu, to_device, None))

    def runs(self, index: int, direction: str):
        if not self.on_device[index]:
            self.misplaced.append(f"{direction} of {index}")


@pytest.fixture
def table(monkeypatch):
    from musubi_tuner.modules import custom_offloading_utils as offloading

    table = Table()
    monkeypatch.setattr(
        offloading.ModelOffloader, "prepare_block_devices_before_forward", lambda *given: table.prepare(*given)
    )
    monkeypatch.setattr(offloading.Offloader, "_submit_move_blocks", lambda *given: table.move(*given))
    return table


class Watched:
    """Looks up in the table whenever a block runs."""

    table: Table

    def on_transformer_loaded(self, args, accelerator, transformer):
        super().on_transformer_loaded(args, accelerator, transformer)
        for index, block in enumerate(transformer.layers):
            block.register_forward_pre_hook(lambda *_, index=index: self.forward(index))
            block.register_full_backward_pre_hook(lambda *_, index=index: self.backward(index))

    def forward(self, index):
        self.table.forwards += 1
        self.table.runs(index, "forward")

    def backward(self, index):
        self.table.backwards += 1
        self.table.runs(index, "backward")


def run(world, tmp_path, table: Table, blocks: int, **values) -> None:
    tiny_z_image.shrink(LAYERS)
    try:
        dit = tiny_z_image.write_model(tmp_path / "dit.safetensors", layers=LAYERS)
        danceopd = f'num_queries = 2\n[danceopd.teachers.style]\nlora = "{world.style}"\n'
        preset = write_preset(
            tmp_path / "p.toml", danceopd, dit=dit, dataset_config=world.data, max_train_steps=5,
            blocks_to_swap=blocks, **values,
        )  # fmt: skip
        here(preset, type("Watch", (Watched,), {"table": table}))
    finally:
        tiny_z_image.shrink()


@pytest.mark.parametrize(("blocks", "checkpointing"), [(2, False), (4, False), (4, True)])
def test_every_block_is_there_when_it_runs(world, tmp_path, table, blocks, checkpointing):
    run(world, tmp_path, table, blocks, gradient_checkpointing=checkpointing)
    assert table.backwards == 5 * 2 * LAYERS
    assert table.forwards > table.backwards
    assert table.moves > 0
    assert table.misplaced == []


def test_the_table_sees_what_goes_wrong_without_the_switch(world, tmp_path, table, monkeypatch):
    from danceopd_ext.toolkits.musubi import trainer

    monkeypatch.setattr(trainer, "block_swap", lambda *_: NoBlockSwap())
    run(world, tmp_path, table, 2)
    assert table.misplaced
