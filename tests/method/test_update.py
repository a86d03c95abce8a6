import pytest
import torch

from danceopd_ext.method import (
    Batch,
    MethodOptions,
    Step,
    Student,
    by_route,
    distil,
    draw_query_indices,
    draw_route,
    guided,
    mixture,
    sample_noise,
    update,
)
from danceopd_ext.method.chunks import run_in_chunks
from danceopd_ext.method.update import pieces
from tests.method.fields2d import Linear, Target, straight

SIGMAS = torch.tensor([1.0, 0.9, 0.7, 0.4, 0.15, 0.0])
METHOD = MethodOptions(rollout_steps=5, query="low_noise")
SEED, STEP, COUNT = 11, 3, 6
NOW = Step(options=METHOD, seed=SEED, number=STEP)
POINTS = torch.randn(COUNT, 2, generator=torch.Generator().manual_seed(5))


def batches(indices=range(COUNT), match_batch_size=2):
    indices = list(indices)
    return [Batch(Target(POINTS[indices]), indices, COUNT, (2,), SIGMAS, match_batch_size)]


def learning(student):
    return Student(field=student, backward=torch.Tensor.backward)


def run(student, method=METHOD, data=None, teacher=straight):
    student.zero_grad(set_to_none=True)
    found = data or batches()
    step = Step(options=method, seed=SEED, number=STEP)
    report = update(step, {"only": 1.0}, lambda route, step: found, {"only": teacher}, learning(student))
    return report, torch.cat([p.grad.flatten() for p in student.parameters()])


def by_hand(student, method=METHOD):
    """The five steps, one sample at a time with the full rollout, written out plainly."""
    student.zero_grad(set_to_none=True)
    losses = []
    for i in range(COUNT):
        z = sample_noise(SEED, STEP, [i], (2,))
        x = Target(POINTS[i : i + 1])
        queries = draw_query_indices(
            method.query, method.num_queries, method.rollout_steps, seed=SEED, step=STEP, indices=[i], total=COUNT
        )[0].tolist()
        trajectory = [z]
        for s in range(method.rollout_steps):
            with torch.no_grad():
                z = z + (SIGMAS[s + 1] - SIGMAS[s]) * student(z, SIGMAS[s : s + 1], x)
            trajectory.append(z)
        for q in queries:
            sigma = SIGMAS[q : q + 1]
            difference = student(trajectory[q], sigma, x) - straight(trajectory[q], sigma, x)
            losses.append((difference**2).mean())
    loss = torch.stack(losses).mean()
    loss.backward()
    return float(loss.detach()), torch.cat([p.grad.flatten() for p in student.parameters()])


@pytest.mark.parametrize("queries", [1, 3])
def test_loss_and_gradient_equal_the_method_written_out_by_hand(queries):
    method = MethodOptions(rollout_steps=5, query="mid_noise", num_queries=queries)
    report, gradient = run(Linear(0), method)
    loss, expected = by_hand(Linear(0), method)
    assert report.loss == pytest.approx(loss, rel=1e-5)
    assert torch.allclose(gradient, expected, rtol=1e-5, atol=1e-6)


def test_micro_batches_and_rollout_batches_change_nothing():
    _, whole = run(Linear(0), data=batches(match_batch_size=COUNT))
    _, single = run(Linear(0), data=batches(match_batch_size=1))
    _, chunked = run(Linear(0), MethodOptions(rollout_steps=5, rollout_batch_size=4))
    assert torch.allclose(whole, single, rtol=1e-5, atol=1e-6)
    assert torch.allclose(whole, chunked, rtol=1e-5, atol=1e-6)


def test_two_shares_of_a_step_average_to_the_whole():
    _, whole = run(Linear(0))
    _, first = run(Linear(0), data=batches([0, 1, 2]))
    _, second = run(Linear(0), data=batches([3, 4, 5]))
    assert torch.allclose(whole, (first + second) / 2, rtol=1e-5, atol=1e-6)


def test_forwards_are_counted():
    queries = draw_query_indices("low_noise", 1, 5, seed=SEED, step=STEP, indices=list(range(COUNT)), total=COUNT)
    report, _ = run(Linear(0))
    assert report.rollout_forwards == int(queries.sum())
    assert (report.samples, report.teacher_forwards, report.student_forwards) == (COUNT, COUNT, COUNT)
    assert report.mean_query_sigma == pytest.approx(float(SIGMAS[queries].mean()))


def test_student_matches_the_teacher_of_the_drawn_route_only():
    asked = []

    def teacher(name):
        def field(z, sigma, condition):
            asked.append(name)
            return torch.zeros_like(z)

        return field

    routes = {"a": 1.0, "b": 3.0}
    student = Linear(0)
    for step in range(8):
        asked.clear()
        report = update(
            Step(options=METHOD, seed=SEED, number=step),
            routes,
            lambda route, step: batches(),
            {n: teacher(n) for n in routes},
            learning(student),
        )
        assert asked == [report.route] == [draw_route(routes, SEED, step)]


def test_routes_are_drawn_by_weight_in_any_order():
    weights = {"a": 1.0, "b": 3.0, "never": 0.0}
    drawn = [draw_route(weights, 1, step) for step in range(2000)]
    assert drawn.count("b") / len(drawn) == pytest.approx(0.75, abs=0.03)
    assert "never" not in drawn
    assert drawn[:50] == [draw_route(dict(reversed(weights.items())), 1, step) for step in range(50)]
    for wrong in ({}, {"a": 0.0}, {"a": -1.0, "b": 2.0}):
        with pytest.raises(ValueError, match="weights"):
            draw_route(wrong, 1, 0)


def test_guidance_is_the_formula_and_costs_two_forwards():
    field = Linear(2)
    z, sigma, x = torch.randn(3, 2), torch.full((3,), 0.5), Target(torch.ones(3, 2))
    with_text, without = field(z, sigma, x), field(z, sigma, Target(torch.zeros(3, 2)))
    assert torch.allclose(guided(field, 3.5)(z, sigma, x), without + 3.5 * (with_text - without))
    assert guided(field, 1.0) is field
    assert torch.allclose(
        mixture([field, straight], [1, 3])(z, sigma, x), 0.25 * with_text + 0.75 * straight(z, sigma, x)
    )


def test_guided_student_gets_its_gradient_through_both_forwards():
    student = Linear(0)
    beta = guided(student, 2.0)
    z, sigma, x = torch.randn(2, 2), torch.full((2,), 0.5), Target(torch.ones(2, 2))
    beta(z, sigma, x).sum().backward()
    # v = empty + 2 (text - empty) = 2 text - empty: the gradient of c is (2 - 1) * sum of sigma
    assert torch.allclose(student.c.grad, torch.full((2,), 1.0))
    assert torch.allclose(student.B.grad, torch.full((2, 2), 4.0))


def test_running_out_of_memory_halves_the_chunk():
    sizes = []

    def work(rows):
        sizes.append(len(rows))
        if len(rows) > 2:
            raise torch.OutOfMemoryError("too much")
        return torch.tensor(rows)

    assert run_in_chunks(work, 7, None).tolist() == list(range(7))
    assert sizes == [7, 4, 2, 2, 2, 1]
    with pytest.raises(torch.OutOfMemoryError):
        run_in_chunks(lambda rows: (_ for _ in ()).throw(torch.OutOfMemoryError()), 2, None)


def test_each_sample_is_answered_by_the_field_of_its_own_route():
    asked = []

    def constant(value):
        def field(z, sigma, condition):
            asked.append((value, len(condition), condition.points.tolist()))
            return torch.full_like(z, value)

        return field

    x, routes = Target(torch.arange(8.0).reshape(4, 2)), ["b", "a", "b", "b"]
    routed = by_route({"a": constant(1.0), "b": constant(2.0), "c": constant(3.0)}, lambda condition: routes)
    answers = routed(torch.zeros(4, 2), torch.full((4,), 0.5), x)
    assert answers[:, 0].tolist() == [2.0, 1.0, 2.0, 2.0]
    assert asked == [(2.0, 3, [[0, 1], [4, 5], [6, 7]]), (1.0, 1, [[2, 3]])]


def test_a_mixed_batch_gives_the_gradient_of_its_routes_apart():
    """Samples 0 and 1 of one teacher, the others of another: the mean of both, weighted by their numbers."""
    student, other = Linear(0), Linear(4)

    def gradient(indices, teacher):
        student.zero_grad(set_to_none=True)
        outcome = distil(NOW, batches(indices)[0], teacher, learning(student))
        return outcome.loss_B, torch.cat([p.grad.flatten() for p in student.parameters()])

    places = {tuple(point.tolist()): ("one" if i < 2 else "two") for i, point in enumerate(POINTS)}
    routed = by_route(
        {"one": straight, "two": other}, lambda condition: [places[tuple(p.tolist())] for p in condition.points]
    )
    loss_B, mixed = gradient(range(COUNT), routed)
    first_loss, first = gradient([0, 1], straight)
    second_loss, second = gradient([2, 3, 4, 5], other)
    assert torch.allclose(loss_B, torch.cat([first_loss, second_loss]), rtol=1e-5)
    assert torch.allclose(mixed, (2 * first + 4 * second) / 6, rtol=1e-5, atol=1e-6)


def test_share_weighs_a_batch():
    student = Linear(0)
    gradients = []
    for share in (1.0, 0.25):
        student.zero_grad(set_to_none=True)
        distil(NOW, batches()[0], straight, learning(student), share)
        gradients.append(torch.cat([p.grad.flatten() for p in student.parameters()]))
    assert torch.allclose(gradients[1], gradients[0] / 4)


@pytest.mark.parametrize("size", [1, 2, 4, 5, 100])
def test_pieces_have_every_state_once_and_no_more_than_fit(size):
    found = pieces(batches(match_batch_size=size)[0], num_queries=3)
    states = [state for rows, ks in found for state in zip(rows, ks, strict=True)]
    assert sorted(states) == [(row, k) for row in range(COUNT) for k in range(3)]
    assert all(len(rows) == size for rows, _ in found[:-1])
    assert len(found[-1][0]) <= size
