"""The method's update on a borrowed trainer, against the same update written down by hand."""

from __future__ import annotations

import pytest
import torch

from danceopd_ext.config.schema import Teacher
from danceopd_ext.errors import TrainingError
from danceopd_ext.method import draw_query_indices, sample_noise
from danceopd_ext.toolkits.hosted.active_adapter import STUDENT
from danceopd_ext.toolkits.hosted.distiller import Progress
from tests.toolkits.hosted.toys import SHAPE, WIDTH, Toys


def by_hand(toys: Toys, routes: list[str], step=0, alpha=None, beta=1.0, learner="student") -> torch.Tensor:
    """Each sample's loss [B]: roll the student out to the queried state, ask teacher and learner there."""
    text, grid, losses = toys.condition(*routes)["text"], torch.linspace(1, 0, 5), []

    def guided(name, z, sigma, row, scale):
        given = toys.velocity(name, z, sigma, text[row : row + 1])
        return given if scale == 1 else (1 - scale) * toys.velocity(name, z, sigma, 0 * text[:1]) + scale * given

    noise = sample_noise(5, step, list(range(len(routes))), SHAPE)
    indices = {"seed": 5, "step": step, "indices": list(range(len(routes))), "total": len(routes)}
    query = draw_query_indices("uniform", 1, 4, **indices)
    for row, route in enumerate(routes):
        z = noise[row : row + 1]
        for i in range(int(query[row])):
            z = z + (grid[i + 1] - grid[i]) * guided("student", z, grid[i : i + 1], row, beta)
        sigma = grid[query[row]]
        ours = guided(learner, z, sigma, row, beta)
        theirs = guided(route, z, sigma, row, (alpha or {}).get(route, 1.0))
        losses.append((ours - theirs).pow(2).mean())
    return torch.stack(losses)


def test_the_loss_is_the_one_computed_by_hand():
    toys = Toys()
    routes = ["a", "b", "base", "a"]
    expected = by_hand(toys, routes)
    assert torch.allclose(toys.loss(*routes), expected.mean(), rtol=1e-5)
    logs = toys.distiller.logs
    assert logs["loss/a"] == pytest.approx(float((expected[0] + expected[3]) / 2), rel=1e-5)
    assert logs["loss/b"] == pytest.approx(float(expected[1]), rel=1e-5)
    again = by_hand(toys, routes, step=1)
    assert torch.allclose(toys.loss(*routes), again.mean(), rtol=1e-5)  # a step later, other noise
    assert not torch.allclose(again, expected)


def test_guidance_of_teacher_and_student():
    toys = Toys({"a": Teacher(lora="a", guidance_scale=3.0), "base": Teacher()}, student_guidance_scale=1.5)
    expected = by_hand(toys, ["a", "base"], alpha={"a": 3.0}, beta=1.5)
    assert torch.allclose(toys.loss("a", "base"), expected.mean(), rtol=1e-5)


def test_an_adapter_may_guide_as_its_toolkit_does():
    toys = Toys({"a": Teacher(lora="a", guidance_scale=3.0), "base": Teacher()})
    asked = []

    def silent(field, guidance_scale):
        asked.append(guidance_scale)
        return lambda latents, sigma, condition: 0 * field(latents, sigma, condition)

    toys.distiller.adapter.guided = silent
    assert float(toys.loss("a", "base").detach()) == 0.0
    assert sorted(asked) == [1.0, 1.0, 3.0]


def test_a_mixed_batch_teaches_as_its_samples_alone():
    toys = Toys()
    toys.loss("a", "b").backward()
    together = toys.student.up.grad.clone()
    alone = torch.zeros_like(together)
    condition = toys.condition("a", "b")
    for row in range(2):
        one = Toys()
        batch = one.distiller.batch

        def in_its_place(condition, shape, batch=batch, row=row):
            made = batch(condition, shape)
            made.indices = [row]
            return made

        one.distiller.batch = in_its_place
        one.distiller.loss(one.transformer, condition.select([row]), SHAPE).backward()
        alone += one.student.up.grad / 2
    assert torch.allclose(together, alone, rtol=1e-5)


def test_pieces_of_several_queries_add_up():
    """All but the last piece are learnt from at once; value and gradient are those of the whole."""
    toys = Toys(num_queries=3)
    total = toys.loss("a", "b")
    assert len(toys.accelerator.backwards) == 2
    assert float(total.detach()) == pytest.approx(
        (toys.distiller.logs["loss/a"] + toys.distiller.logs["loss/b"]) / 2, rel=1e-5
    )
    total.backward()
    pieces = toys.student.up.grad.clone()

    whole = Toys(num_queries=3)
    kept = []
    whole.distiller.distil(whole.distiller.batch(whole.condition("a", "b"), SHAPE), whole.transformer, kept.append)
    sum(kept).backward()
    assert torch.allclose(pieces, whole.student.up.grad, rtol=1e-5)


def test_the_student_is_active_when_the_toolkit_runs_backward():
    toys = Toys(leaf_inputs=True)
    loss = toys.loss("a", "base")
    assert (toys.switch.active, toys.switch.training) == (STUDENT, True)
    assert toys.swap.told == ["inference", "training"]
    loss.backward()
    assert float(toys.student.up.grad.abs().sum()) > 0
    assert all(weight.grad is None for network in toys.teachers.values() for weight in network.parameters())
    assert toys.weight.grad is None


def test_dropout_acts_only_in_training():
    """All of the student is dropped as it learns: it answers as the base then, at states of the whole student."""
    toys = Toys(dropout=1.0)
    assert torch.allclose(toys.loss("a"), by_hand(toys, ["a"], learner="base").mean(), rtol=1e-5)
    assert not torch.allclose(by_hand(toys, ["a"], learner="base"), by_hand(toys, ["a"]))
    assert toys.student.training


def test_an_error_leaves_the_student_active():
    toys = Toys()

    def breaks(transformer, z, sigma, condition):
        raise RuntimeError("out of memory")

    toys.distiller.adapter.velocity = breaks
    with pytest.raises(RuntimeError, match="out of memory"):
        toys.loss("a")
    assert (toys.switch.active, toys.switch.training) == (STUDENT, True)
    assert toys.distiller.progress.step == 0


def test_a_loss_that_is_no_number_stops():
    toys = Toys()
    toys.student.up.data.fill_(float("inf"))
    with pytest.raises(TrainingError, match="the loss of step 1 \\(route a\\) is NaN"):
        toys.loss("a")


def test_validation_is_the_loss_at_one_noise_level():
    toys = Toys()
    first = toys.distiller.validation_loss(toys.transformer, toys.condition("a"), SHAPE, 7, 0.5)
    toys.loss("a")  # a step in between changes nothing about it
    assert torch.equal(first, toys.distiller.validation_loss(toys.transformer, toys.condition("a"), SHAPE, 7, 0.6))
    z, text, grid = sample_noise(7, 0, [0], SHAPE), toys.condition("a")["text"], torch.linspace(1, 0, 5)
    for i in range(2):
        z = z + (grid[i + 1] - grid[i]) * toys.velocity("student", z, grid[i : i + 1], text)
    expected = (toys.velocity("student", z, grid[2:3], text) - toys.velocity("a", z, grid[2:3], text)).pow(2).mean()
    assert torch.allclose(first, expected, rtol=1e-5)
    assert not first.requires_grad


def test_every_sample_of_a_step_has_its_own_place():
    """Over processes and micro-batches of unequal size, as a bucket's last batch is."""
    places: list[int] = []
    for rank in range(2):
        toys = Toys()
        vars(toys.accelerator).update(num_processes=2, process_index=rank, gradient_accumulation_steps=3)
        for micro_batch, count in enumerate((2, 1, 3)):
            toys.distiller.progress.micro_batch = micro_batch
            batch = toys.distiller.batch(toys.condition(*["a"] * count), SHAPE)
            assert max(batch.indices) < batch.total
            places += batch.indices
    assert len(set(places)) == len(places) == 12


def test_progress_is_saved_and_restored():
    progress = Progress()
    for is_update in (False, True, False):
        progress.next(is_update, 2.0)
    assert (progress.step, progress.micro_batch, progress.loss) == (1, 1, 2.0)
    other = Progress()
    other.load_state_dict(progress.state_dict())
    assert other == progress


def test_the_toys_answer_as_they_say():
    toys = Toys()
    z, sigma, condition = torch.randn(1, *SHAPE), torch.tensor([0.5]), toys.condition("a")
    for name in ("a", "b", None, STUDENT):
        toys.switch.to(name, training=False)
        own = toys.distiller.adapter.velocity(toys.transformer, z, sigma, condition)
        assert torch.allclose(own, toys.velocity(name, z, sigma, condition["text"]), rtol=1e-5)
        assert own.shape[-1] == WIDTH
