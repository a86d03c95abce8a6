"""The steps of a run: routes by weight, epochs without replacement, one size a micro-batch, independence of history."""

import random
import time
from collections import Counter

import pytest

from danceopd_ext.data.items import CaptionRules, Item, RouteData
from danceopd_ext.data.plan import Plan
from danceopd_ext.errors import UserError

SHUFFLED = CaptionRules(shuffle_caption=True, caption_dropout_rate=0.2)


def route(name, count, size=(64, 64), **more):
    return RouteData(name, tuple(Item(f"{name}{index}", *size, **more) for index in range(count)))


def routes(**counts):
    return {name: route(name, count) for name, count in counts.items()}


def mixed(name="m", rules=SHUFFLED):
    """Three sizes, 7 + 5 + 1 items of three tags each."""
    sizes = [(64, 64)] * 7 + [(96, 32)] * 5 + [(32, 96)]
    return RouteData(name, tuple(Item(f"{name}{i}, x, y", *size, rules) for i, size in enumerate(sizes)))


def epoch(plan, name, number=0):
    """All micro-batches of one epoch of a plan with a single route."""
    count = plan._streams[name].batches_per_epoch
    steps = [plan.step(step) for step in range(number * count, (number + 1) * count)]
    return [batch for step in steps for batch in step.micro_batches]


def test_routes_come_by_weight_whatever_the_sizes_of_the_subsets():
    plan = Plan(routes(big=1000, small=3, never=50), {"big": 1, "small": 3, "never": 0}, seed=5)
    drawn = Counter(plan.route(step) for step in range(4000))
    assert set(drawn) == {"big", "small"}
    assert 0.72 < drawn["small"] / 4000 < 0.78


def test_routes_are_drawn_equally_without_weights():
    plan = Plan(routes(a=1, b=500, c=20), seed=1)
    drawn = Counter(plan.route(step) for step in range(3000))
    assert all(900 < drawn[name] < 1100 for name in "abc")


def test_a_step_is_the_same_in_whatever_order_it_is_asked_for():
    data = {"m": mixed("m"), "n": mixed("n")}
    first = Plan(data, seed=3, micro_batches=2, batch_size=2)
    forwards = [first.step(step) for step in range(60)]
    order = list(range(60))
    random.Random(0).shuffle(order)
    second = Plan(data, seed=3, micro_batches=2, batch_size=2)
    assert {step: second.step(step) for step in order} == dict(enumerate(forwards))
    assert first.step(17) == forwards[17]


def test_the_order_of_tables_changes_nothing_and_the_seed_does():
    data = {"m": mixed("m"), "n": mixed("n")}
    turned = dict(reversed(data.items()))
    steps = list(Plan(data, seed=3).steps(30))
    assert list(Plan(turned, seed=3).steps(30)) == steps
    assert list(Plan(data, seed=4).steps(30)) != steps


def test_an_epoch_has_every_item_once_and_the_next_is_shuffled_anew():
    plan = Plan(routes(a=20), seed=2)
    first, second = ([batch.item_ids[0] for batch in epoch(plan, "a", number)] for number in (0, 1))
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second
    assert first != list(range(20))


def test_what_stands_together_in_a_batch_changes_from_epoch_to_epoch():
    plan = Plan(routes(a=20), seed=2, batch_size=4)
    together = [{frozenset(batch.item_ids) for batch in epoch(plan, "a", number)} for number in range(2)]
    assert len(together[0]) == 5
    assert together[0] != together[1]


def test_an_epoch_runs_on_through_micro_batches_and_steps():
    plan = Plan(routes(a=12), seed=2, micro_batches=3, batch_size=2)
    items = [item for step in plan.steps(4) for batch in step.micro_batches for item in batch.item_ids]
    assert sorted(items[:12]) == sorted(items[12:]) == list(range(12))


def test_repeats_count_within_an_epoch():
    data = RouteData("a", (Item("once", 8, 8), Item("thrice", 8, 8, repeats=3)))
    for number in range(3):
        drawn = Counter(batch.texts[0] for batch in epoch(Plan({"a": data}, seed=2), "a", number))
        assert drawn == {"once": 1, "thrice": 3}


def test_a_micro_batch_has_one_size_and_the_last_of_a_bucket_is_filled_from_it():
    plan = Plan({"m": mixed()}, seed=9, batch_size=3)
    batches = epoch(plan, "m")
    items = plan.routes["m"].items
    assert all(items[i].size == (b.width, b.height) for b in batches for i in b.item_ids)
    # 7, 5 and 1 items in batches of 3: 3 + 2 + 1 batches, all full.
    assert Counter((b.width, b.height) for b in batches) == {(64, 64): 3, (96, 32): 2, (32, 96): 1}
    assert all(len(b) == 3 for b in batches)
    seen = Counter(i for b in batches for i in b.item_ids)
    assert sorted(seen[i] for i in range(7)) == [1] * 5 + [2] * 2
    assert sorted(seen[i] for i in range(7, 12)) == [1] * 4 + [2]
    assert seen[12] == 3


def test_batches_of_an_epoch_are_shuffled_across_sizes():
    plan = Plan({"m": mixed()}, seed=9)
    orders = {tuple((b.width, b.height) for b in epoch(plan, "m", number)) for number in range(4)}
    assert len(orders) == 4


def test_a_datasets_own_batch_size_wins():
    data = RouteData("a", (Item("own", 8, 8, batch_size=3), Item("run", 8, 8)))
    plan = Plan({"a": data}, seed=0, batch_size=4, processes=2)
    assert {batch.texts for batch in epoch(plan, "a")} == {("own",) * 6, ("run",) * 4}


def test_indices_run_through_the_whole_step():
    step = Plan({"m": mixed()}, seed=1, micro_batches=3, batch_size=2).step(4)
    assert [batch.indices for batch in step.micro_batches] == [(0, 1), (2, 3), (4, 5)]
    assert step.texts == tuple(text for batch in step.micro_batches for text in batch.texts)


def test_the_slices_of_all_ranks_are_the_whole():
    batch = Plan({"m": mixed()}, seed=1, batch_size=4, processes=2).step(0).micro_batches[0]
    parts = [batch.slice(rank, 2) for rank in range(2)]
    for field in ("texts", "item_ids", "indices"):
        assert getattr(parts[0], field) + getattr(parts[1], field) == getattr(batch, field)
    assert parts[1].indices == (2, 3)
    assert (parts[1].width, parts[1].height) == (batch.width, batch.height)
    assert batch.slice(0, 1) == batch


@pytest.mark.parametrize(("rank", "world_size"), [(0, 3), (2, 2), (-1, 2)])
def test_a_share_that_does_not_exist_is_refused(rank, world_size):
    batch = Plan(routes(a=4), batch_size=4).step(0).micro_batches[0]
    with pytest.raises(ValueError, match="no share for process"):
        batch.slice(rank, world_size)


def test_captions_are_drawn_anew_each_time_and_dropped_at_their_rate():
    plan = Plan({"m": mixed()}, seed=1, micro_batches=2, batch_size=2)
    texts = [text for step in plan.steps(500) for text in step.texts]
    assert 0.17 < texts.count("") / len(texts) < 0.23
    assert {text for text in texts if "m3" in text} == {
        *("m3, x, y", "m3, y, x", "x, m3, y", "y, m3, x", "x, y, m3", "y, x, m3")
    }


def test_every_nth_epoch_is_dropped():
    data = RouteData("a", tuple(Item(f"a{i}", 8, 8, CaptionRules(caption_dropout_every_n_epochs=2)) for i in range(3)))
    plan = Plan({"a": data})
    assert [plan.step(step).texts == ("",) for step in range(12)] == ([False] * 3 + [True] * 3) * 2


def test_all_texts_are_those_of_the_steps_once_each_in_order():
    plan = Plan({"m": mixed("m"), "n": mixed("n")}, seed=8, micro_batches=2, batch_size=2)
    texts = plan.all_texts(40)
    used = [text for step in plan.steps(40) for text in step.texts]
    assert texts == list(dict.fromkeys(used))
    assert "" in texts
    assert plan.all_texts(20) == texts[: len(plan.all_texts(20))]
    assert set(plan.all_texts(20)) | set(plan.all_texts(40, start=20)) == set(texts)


def test_a_long_run_is_planned_quickly():
    plan = Plan(routes(a=5000, b=10), seed=0, micro_batches=2)
    start = time.perf_counter()
    assert len(plan.step(100_000).micro_batches) == 2
    assert len(plan.all_texts(20_000)) == 5010
    assert time.perf_counter() - start < 15


def test_summary_counts_prompts_sizes_and_shares():
    data = {"m": mixed(), "a": route("a", 4), "none": RouteData("none", ())}
    summary = Plan(data, {"m": 3, "none": 0}).summary()
    assert [(s.route, s.prompts, s.items, s.weight, s.share) for s in summary] == [
        ("m", 13, 13, 3, 0.75),
        ("a", 4, 4, 1, 0.25),
        ("none", 0, 0, 0, 0),
    ]
    assert summary[0].sizes == {(64, 64): 7, (96, 32): 5, (32, 96): 1}
    assert str(summary[1]) == "a: 25% of the steps, 4 prompts, 64x64 (4)"
    assert str(summary[2]) == "none: 0% of the steps, 0 prompts, no data"


def test_fingerprint_tells_plans_apart_that_give_other_steps():
    base = Plan(routes(a=3, b=2), seed=1).fingerprint()
    assert Plan(routes(b=2, a=3), {"a": 1}, seed=1).fingerprint() == base
    others = [
        Plan(routes(a=3, b=2), seed=2),
        Plan(routes(a=3, b=3), seed=1),
        Plan(routes(a=3, b=2), {"a": 2}, seed=1),
        Plan(routes(a=3, b=2), seed=1, micro_batches=2),
        Plan({"a": route("a", 3, (8, 8)), "b": route("b", 2)}, seed=1),
        Plan({"a": route("a", 3, rules=SHUFFLED), "b": route("b", 2)}, seed=1),
    ]
    assert len({base, *(plan.fingerprint() for plan in others)}) == 7


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"a": -1}, ["a = -1", "at least 0"]),
        ({"a": float("nan")}, ["a = nan"]),
        ({"a": float("inf")}, ["a = inf"]),
        ({"a": "much"}, ["a = 'much'"]),
        ({"a": True}, ["a = True"]),
        ({"a": 0, "style": 0}, ["all weights are 0"]),
        ({"stile": 1}, ['"stile" is not a teacher', 'Did you mean "style"?', "a, style"]),
    ],
)
def test_wrong_weights_are_named(weights, words):
    with pytest.raises(UserError) as caught:
        Plan(routes(a=1, style=1), weights)
    assert all(word in str(caught.value) for word in ["[danceopd.routes]", *words]), str(caught.value)


def test_a_route_without_items_is_refused():
    with pytest.raises(UserError, match='"b" has no data'):
        Plan({**routes(a=1), "b": RouteData("b", ())})


def test_sizes_are_checked_against_the_model():
    data = RouteData("a", (Item("x", 512, 512), Item("y", 512, 500, where="p.txt, line 3"), Item("z", 100, 64)))
    plan = Plan({"a": data})
    plan.check_sizes(2)
    with pytest.raises(UserError) as caught:
        plan.check_sizes(16)
    for words in ("p.txt, line 3", "512x500", "2 items", "multiples of 16", "nearest is 512x496", "resolution"):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("size", "nearest"),
    [((128, 512), "256x512"), ((512, 2000), "512x1024"), ((250, 1030), "256x1024"), ((519, 521), "512x528")],
)
def test_the_nearest_size_respects_the_limits(size, nearest):
    with pytest.raises(UserError, match=f"from 256, up to 1024. The nearest is {nearest}:"):
        Plan({"a": route("a", 1, size)}).check_sizes(16, 256, 1024)


def test_wrong_use_is_an_error():
    with pytest.raises(ValueError, match="cannot be divided among 2"):
        Plan(routes(a=1), batch_size=3, processes=2)
    with pytest.raises(ValueError, match="no step -1"):
        Plan(routes(a=1)).step(-1)


def test_a_step_of_every_route_has_a_part_of_each():
    data = {"n": mixed("n"), "m": mixed("m"), "never": mixed("never")}
    plan = Plan(data, {"never": 0.0}, seed=3, micro_batches=2, batch_size=2, every_route=True)
    for step in range(20):
        parts = plan.parts(step)
        assert [part.route for part in parts] == ["m", "n"]
        indices = [index for part in parts for batch in part.micro_batches for index in batch.indices]
        assert indices == list(range(8))
    assert {str(route).split(": ")[1].split(",")[0] for route in plan.summary()} == {
        "50% of each step's loss",
        "0% of each step's loss",
    }
    assert {item.text[0] for item in plan.items()} == {"m", "n"}


def test_with_every_route_each_route_sees_all_its_data():
    plan = Plan(routes(a=6, b=9), seed=1, micro_batches=3, every_route=True)
    steps = list(plan.steps(3))
    assert sorted(text for part in steps if part.route == "b" for text in part.texts) == [f"b{i}" for i in range(9)]
    assert Counter(text for part in steps if part.route == "a" for text in part.texts).most_common(1)[0][1] == 2
    assert len(plan.all_texts(3)) == 15


def test_one_route_and_every_route_are_other_data():
    assert Plan(routes(a=2, b=2)).fingerprint() != Plan(routes(a=2, b=2), every_route=True).fingerprint()
    assert Plan(routes(a=2, b=2)).parts(3) == (Plan(routes(a=2, b=2)).step(3),)


def test_the_prompts_of_a_run_of_any_length_are_known_once_all_were_seen():
    """A million steps of five captions: nobody goes through all of them before training."""
    plan = Plan(routes(a=5), seed=0)
    asked = []
    steps = plan.steps
    plan.steps = lambda *given: (asked.append(1) or part for part in steps(*given))
    assert plan.all_prompts(1_000_000) == Plan(routes(a=5), seed=0).all_prompts(5)
    assert len(asked) <= 6


@pytest.mark.parametrize("rules", [SHUFFLED, CaptionRules(caption_dropout_every_n_epochs=2)])
def test_captions_that_change_are_looked_for_in_every_step(rules):
    plan = Plan({"a": route("a", 2, rules=rules)}, seed=0)
    texts = plan.all_texts(200)
    assert "" in texts
    assert texts == list(dict.fromkeys(text for step in range(200) for text in plan.step(step).texts))


def test_an_epoch_that_no_memory_holds():
    with pytest.raises(UserError, match=r'epoch of the route "a" has 100,000,000 samples.*num_repeats'):
        Plan({"a": route("a", 10_000, repeats=10_000)}, seed=0)
