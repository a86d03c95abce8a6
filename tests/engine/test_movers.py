"""Copies on a stream of their own, with streams that write down what they are asked."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from danceopd_ext.engine import movers
from danceopd_ext.engine.block_swap import most_swapped
from danceopd_ext.engine.movers import StreamMover, can_swap, pinned
from tests.engine.swapped_worlds import BLOCKS, CPU, World, deep_transformer, same


class Stream:
    """`asked`: what all streams were asked, in order: (stream, what, of whom)."""

    asked: list[tuple] = []  # noqa: RUF012

    def __init__(self, name="copies"):
        self.name = name

    def wait_stream(self, other):
        Stream.asked.append((self.name, "waits for", other.name))

    def record_event(self):
        return len(Stream.asked)

    def wait_event(self, event):
        Stream.asked.append((self.name, "waits for copy", event))


class Backend:
    """A device module with a stream that computes and others."""

    current = Stream("computes")
    Stream = staticmethod(lambda device: Stream())

    @staticmethod
    def current_stream(device=None):
        return Backend.current

    @staticmethod
    @contextmanager
    def stream(stream):
        before, Backend.current = Backend.current, stream
        yield
        Backend.current = before


@pytest.fixture
def streams(monkeypatch):
    monkeypatch.setattr(torch, "get_device_module", lambda device: Backend)
    monkeypatch.setattr(movers, "pinned", lambda memory, device: memory)
    Stream.asked = []
    return Stream.asked


def test_each_copy_waits_for_what_was_computed_and_each_block_for_its_copy(streams):
    """So a copy never writes into memory that is still computed with, and nothing is computed with half a copy."""
    mover = StreamMover(CPU)
    here, there = mover.keep(64).fill_(7), torch.empty(64, dtype=torch.uint8)
    mover.free(there)
    ticket = mover.start(there, here)
    assert streams == [("copies", "waits for", "computes")]
    assert Backend.current.name == "computes"
    mover.arrive(ticket)
    assert streams[1:] == [("computes", "waits for copy", 1)]
    assert torch.equal(there, here)
    mover.free(there)
    assert there.untyped_storage().nbytes() == 0


def test_blocks_on_streams_give_the_same_numbers_and_wait_for_the_right_copies(streams):
    expected = World("z_image", deep_transformer()).step()
    world = World("z_image", deep_transformer(), most_swapped(BLOCKS), mover=StreamMover(CPU))
    assert same(world.step(), expected)
    copies = [place for place, (who, what, _) in enumerate(streams, 1) if (who, what) == ("copies", "waits for")]
    waited = [event for who, what, event in streams if what == "waits for copy"]
    assert set(waited) == set(copies)
    assert waited == sorted(waited)


def test_memory_that_cannot_be_pinned_is_used_as_it_is(monkeypatch):
    """Windows lets a program pin half of the memory. The kernel after a refusal raises what CUDA kept of it."""

    class Runtime:
        cudaHostRegister = staticmethod(lambda start, size, flags: 2)

    def raises(*_, **__):
        kernels.append(1)
        raise RuntimeError("CUDA error: out of memory")

    kernels, memory = [], torch.ones(8, dtype=torch.uint8)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: Runtime)
    monkeypatch.setattr(torch, "zeros", raises)
    assert pinned(memory, torch.device("cuda")) is memory
    assert kernels


def test_only_devices_with_memory_of_their_own_swap():
    assert [can_swap(torch.device(kind)) for kind in ("cuda", "xpu", "cpu", "mps")] == [True, True, False, False]
