"""No block computes while its weights are away, and swapping changes no number."""

from __future__ import annotations

import pytest
import torch

from danceopd_ext.engine.block_swap import most_swapped, on_device, travelling
from danceopd_ext.engine.movers import PlainMover
from danceopd_ext.engine.travelling_block import base_tensors
from danceopd_ext.models.held_linear import HeldLinear
from danceopd_ext.models.number_formats import NUMBER_FORMATS
from danceopd_ext.models.quantising import quantise
from danceopd_ext.models.registry import FAMILIES
from tests.engine.swapped_worlds import BLOCKS, CPU, World, deep_transformer, same, transformer_of

MOST = most_swapped(BLOCKS)


def deep(swapped: int = 0, **more) -> World:
    return World("z_image", deep_transformer(), swapped, **more)


@pytest.fixture(scope="module")
def expected():
    """What the deep model gives without swap."""
    return deep().step()


@pytest.mark.parametrize("swapped", range(1, MOST + 1))
def test_any_number_of_blocks_can_be_swapped(expected, swapped):
    """The residency table of two steps: what computes is here, two travelling blocks at most are, no number changes."""
    world = deep(swapped)
    assert same(world.step(), expected)
    assert same(world.step(), expected)
    assert {number for number, _, _ in world.table.rows} == set(range(swapped + 2))
    assert all(here for _, here, _ in world.table.rows)
    assert max(count for *_, count in world.table.rows) == 2


@pytest.mark.parametrize("swapped", [1, MOST])
def test_what_is_on_the_device_is_known_before(swapped):
    """`on_device` against the memory that the blocks have while the model computes."""
    sizes = [_bytes(block) for block in World("z_image", deep_transformer()).blocks]
    world = World("z_image", deep_transformer(), swapped, mover=PlainMover())
    moving = travelling(BLOCKS, swapped)
    fixed = sum(size for number, size in enumerate(sizes) if number not in moving)
    most = []
    for block in world.blocks:
        block.register_forward_pre_hook(lambda *_: most.append(fixed + sum(b.on_device for b in world.swap.blocks)))
    world.step()
    padding = 256 * 2 * len(list(base_tensors(world.blocks[0])))  # each tensor starts at a multiple of 256 bytes
    assert on_device(sizes, swapped) <= max(most) <= on_device(sizes, swapped) + padding


#: one family of each transformer, and the one that has a list of blocks more
FAMILIES_APART = ["sd3", "z_image", "z_image_omni", "flux", "flux_2", "qwen_image"]


@pytest.mark.parametrize("name", FAMILIES_APART)
def test_every_family_can_be_swapped(name):
    """All blocks of all lists travel; gradients and velocities are equal to the bit."""
    transformer, family = transformer_of(name), FAMILIES[name]
    blocks = len(family.repeated_blocks(transformer))
    assert family.count_blocks(family.layout(transformer).shapes) == blocks
    world = World(name, transformer, most_swapped(blocks))
    assert len(world.swap.blocks) == blocks
    assert same(world.step(), World(name, transformer_of(name)).step())
    assert all(here for _, here, _ in world.table.rows)


@pytest.mark.parametrize("word", NUMBER_FORMATS)
def test_quantised_blocks_can_be_swapped(word):
    """Gradients and velocities of a quantised base are equal to the bit, and its packed weights are what travels."""

    def quantised(transformer):
        for block in FAMILIES["z_image"].repeated_blocks(transformer):
            quantise(block, word, CPU)

    world = World("z_image", transformer_of("z_image"), 2, quantised)
    held = [module for module in world.transformer.modules() if isinstance(module, HeldLinear)]
    assert {part.numel() for layer in held[:5] for part in layer.held_parts} == {0}
    assert same(world.step(), World("z_image", transformer_of("z_image"), 0, quantised).step())
    assert all(here for _, here, _ in world.table.rows)


class KeepsAView(torch.autograd.Function):
    """x @ w.T, which keeps a view of w where gradient checkpointing does not see it, as bitsandbytes' layers do."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.kept = weight.t()
        return x @ ctx.kept

    @staticmethod
    def backward(ctx, grad):
        return grad @ ctx.kept.t(), None


class Viewing(torch.nn.Linear):
    def forward(self, x):
        return KeepsAView.apply(x, self.weight)


class Wrapped(torch.Tensor):
    """A weight of two tensors, half of it each, as the subclasses of quantisers are."""

    @staticmethod
    def __new__(cls, half, rest):
        return torch.Tensor._make_wrapper_subclass(cls, half.shape, dtype=half.dtype, device=half.device)

    def __init__(self, half, rest):
        self.half, self.rest = half, rest

    def __tensor_flatten__(self):
        return ["half", "rest"], None

    @staticmethod
    def __tensor_unflatten__(inner, context, size, stride):
        return Wrapped(inner["half"], inner["rest"])

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:
            return Wrapped(args[0].half, args[0].rest)
        args = [one.half + one.rest if isinstance(one, Wrapped) else one for one in args]
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["viewing", "wrapped"])
def test_weights_of_other_packages_can_be_swapped(kind):
    """A layer that keeps a view of its weight finds it in backward; the tensors inside of a subclass travel."""

    def change(transformer):
        for block in FAMILIES["z_image"].repeated_blocks(transformer):
            for layer in (block.feed_forward.w1, block.attention.to_q):
                if kind == "viewing":
                    layer.__class__ = Viewing
                else:
                    layer.weight = torch.nn.Parameter(Wrapped(layer.weight * 0.25, layer.weight * 0.75), False)

    world = World("z_image", transformer_of("z_image"), 2, change)
    layer = world.transformer.layers[1].feed_forward.w1.get_base_layer()
    assert (layer.weight.rest if kind == "wrapped" else layer.weight).numel() == 0
    assert same(world.step(), World("z_image", transformer_of("z_image"), 0, change).step())


def test_the_next_block_is_on_its_way_while_one_computes(monkeypatch):
    """Each block's copy has started when it is called, and none is made for nothing, on the way back too."""
    starts, ready = [], []
    start = PlainMover.start
    monkeypatch.setattr(PlainMover, "start", lambda *both: (starts.append(1), start(*both))[1])
    world = deep(MOST)
    world.step()
    for number, block in enumerate(world.blocks):
        block.register_forward_pre_hook(lambda *_, n=number: ready.append(n in world.swap.present), prepend=True)
    starts.clear()
    world.step()
    forwards, both_ways = 3 + 2, 2
    assert len(ready) == (forwards + 2 * both_ways) * BLOCKS
    assert all(ready)
    # the last block of a forward stays for the way back, and then the first one for the next forward
    assert len(starts) == len(ready) - 2 * both_ways


def test_a_block_that_is_away_cannot_compute():
    """Not even if something calls a layer of it past the block: there is an error, not a wrong number."""
    world = deep(2)
    layer, norm = world.transformer.layers[1].attention.to_q, world.transformer.layers[1].attention_norm1
    for _ in range(2):
        with pytest.raises(RuntimeError):
            layer(torch.zeros(1, 4, 32))
        with pytest.raises(RuntimeError):
            norm(torch.zeros(1, 4, 32))
        world.step()
    with world.swap.readable():
        weights = [module.weight.clone() for module in (layer.get_base_layer(), norm)]
    plain = deep_transformer().layers[1]
    assert same(weights, [plain.attention.to_q.weight, plain.attention_norm1.weight])
    with pytest.raises(RuntimeError):
        layer(torch.zeros(1, 4, 32))


def test_an_interrupted_forward_leaves_nothing_wrong(expected):
    """A rollout that runs out of memory is repeated with fewer samples: the blocks are found again."""
    world = deep(MOST)

    def full(module, args):
        raise torch.OutOfMemoryError

    for block in (world.blocks[2], world.blocks[5]):
        hook = block.attention.register_forward_pre_hook(full)
        with pytest.raises(torch.OutOfMemoryError):
            world.step()
        hook.remove()
    assert same(world.step(), expected)


def test_only_base_weights_travel():
    world = deep(MOST)
    for name in ("student", "teacher"):
        assert all(factor.numel() for factor in world.adapters.state_dict(name).values())
    assert not any(tensor.numel() for block in world.blocks for tensor in base_tensors(block))


def _bytes(block: torch.nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in base_tensors(block))
