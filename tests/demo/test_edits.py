"""The six kinds of edits: instructions mean what they say, and the two scores see exactly what changed."""

import re
from dataclasses import replace

import numpy as np
import pytest

from danceopd_ext.demo.check_report import edit_trials, judge, main
from danceopd_ext.demo.disturbances import blended, half_edited, noisy, shifted
from danceopd_ext.demo.edit_check import score_edit, score_edits
from danceopd_ext.demo.edits import EDIT_KINDS, Edit
from danceopd_ext.demo.kind_scores import score_edited
from danceopd_ext.demo.near_misses import other_changes, wrong_changes
from danceopd_ext.demo.scene import CELLS, Scene, SceneObject
from danceopd_ext.demo.world import render

KINDS = ("subject add", "subject replace", "background change", "style change", "colour alter", "subject remove")
RED, BLUE, GREEN = (SceneObject(*look) for look in (("circle", "red", 0), ("square", "blue", 1), ("cross", "green", 2)))
SOURCE = Scene((RED, BLUE), "white")
RECOLOUR = Edit(
    "colour alter", "make the circle green", SOURCE, (Scene((replace(RED, colour="green"), BLUE), "white"),)
)
OUTLINE = Edit(
    "style change",
    "draw the shapes as outlines",
    SOURCE,
    (Scene((replace(RED, hollow=True), replace(BLUE, hollow=True)), "white"),),
)
BACKGROUND = Edit("background change", "make the background pink", SOURCE, (Scene((RED, BLUE), "pink"),))
ADD = Edit(
    "subject add",
    "add a green cross",
    SOURCE,
    tuple(Scene((RED, BLUE, replace(GREEN, cell=c)), "white") for c in (2, 3)),
)


def follow(instruction: str, source: Scene) -> set[Scene]:
    """The scenes that follow an instruction, read here from its words alone."""

    def scene(objects: list[SceneObject], **changes) -> Scene:
        return replace(source, objects=tuple(sorted(objects, key=lambda item: item.cell)), **changes)

    objects = list(source.objects)
    simple = {
        "make it checkered": {"checkered": True},
        "make it plain": {"checkered": False},
        **{f"make the background {name}": {"background": name} for name in ("white", "black", "pink")},
    }
    if instruction in simple:
        return {scene(objects, **simple[instruction])}
    if instruction in ("fill the shapes", "draw the shapes as outlines"):
        return {scene([replace(item, hollow=instruction[0] == "d") for item in objects])}
    if instruction.startswith("add"):
        colour, shape, place = re.fullmatch(r"add a (\w+) (\w+)(?: at the (.+))?", instruction).groups()
        cells = {CELLS.index(place)} if place else set(range(4)) - {item.cell for item in objects}
        return {scene([*objects, SceneObject(shape, colour, cell, objects[0].hollow)]) for cell in cells}
    verb, colour, shape, place, rest = re.fullmatch(
        r"(\w+) the (?:(\w+) )??(circle|square|triangle|cross) at the (\w+ \w+) ?(.*)", instruction
    ).groups()
    (item,) = (item for item in objects if item.shape == shape and colour in (None, item.colour))
    assert CELLS[item.cell] == place
    objects.remove(item)
    if verb == "make":
        objects.append(replace(item, colour=rest))
    elif verb == "replace":
        new_colour, new_shape = re.fullmatch(r"with a (\w+) (\w+)", rest).groups()
        objects.append(replace(item, colour=new_colour, shape=new_shape))
    else:
        assert (verb, rest) == ("remove", "")
    return {scene(objects)}


def test_a_replaced_subject_has_another_shape():
    for edit in EDIT_KINDS["subject replace"].sample_many(100, "train", seed=8):
        (old,), (new,) = (
            set(a.objects) - set(b.objects) for a, b in ((edit.source, edit.target), (edit.target, edit.source))
        )
        assert old.shape != new.shape and old.cell == new.cell


def scores(edit: Edit, scene: Scene) -> tuple[float, float]:
    score = score_edit(edit, render(scene))
    return score.semantic, score.preservation


def test_the_kinds_are_those_of_the_paper_in_its_order():
    assert tuple(EDIT_KINDS) == KINDS
    assert {name for name, kind in EDIT_KINDS.items() if kind.scope == "global"} == {
        "background change",
        "style change",
    }


@pytest.mark.parametrize("name", KINDS)
def test_targets_are_what_the_words_of_the_instruction_say_of_the_source(name):
    edits = EDIT_KINDS[name].sample_many(200, "train", seed=1)
    assert len(set(edits)) == 200
    for edit in edits:
        assert set(edit.targets) == follow(edit.instruction, edit.source)
        assert edit.source not in edit.targets
        assert edit.kind == name
    assert {len(edit.source.objects) for edit in edits} == set(range(1, 4 if name == "subject add" else 5))


@pytest.mark.parametrize("name", KINDS)
def test_right_pictures_pass_and_near_misses_do_not(name):
    truths, misses = edit_trials(name, samples=60, seed=2)
    assert len(truths) >= 60 and len(misses) > 900
    assert all(judge(truths))
    assert {trial.name for trial, accepted in zip(misses, judge(misses), strict=True) if accepted} == set()


@pytest.mark.parametrize("name", KINDS)
def test_the_two_scores_see_different_failures(name):
    random = np.random.default_rng(3)
    for edit in EDIT_KINDS[name].sample_many(60, "test", seed=3):
        assert scores(edit, edit.source) == (0, 1)
        for what, scene in wrong_changes(edit, random).items():
            semantic, _ = scores(edit, scene)
            assert semantic == 0 or (what == "one object left as it was" and 0.5 <= semantic < 1)
        for what, scene in other_changes(edit, random).items():
            semantic, preservation = scores(edit, scene)
            assert semantic == 1, what
            assert 0.4 < preservation < 1, what


def test_preservation_is_the_mean_over_what_must_stay():
    target = RECOLOUR.target
    # Five things must stay: the shape and style of the circle, the square, two empty cells, and the background.
    assert scores(RECOLOUR, target) == (1, 1)
    assert scores(RECOLOUR, replace(target, objects=(*target.objects, GREEN))) == (1, pytest.approx(4 / 5))
    assert scores(RECOLOUR, replace(target, objects=target.objects[:1])) == (1, pytest.approx(4 / 5))
    assert scores(RECOLOUR, replace(target, checkered=True)) == (1, pytest.approx(1 - 1 / 5 / 2))
    recoloured = (target.objects[0], replace(BLUE, colour="red"))
    assert scores(RECOLOUR, replace(target, objects=recoloured)) == (1, pytest.approx(1 - 1 / 5 / 3))
    reshaped = (replace(RED, colour="green", shape="square"), BLUE)
    assert scores(RECOLOUR, replace(target, objects=reshaped)) == (1, pytest.approx(1 - 1 / 5 / 2))
    # A whole object that changes leaves four: its own cell is not looked at.
    assert scores(ADD, Scene((RED, replace(GREEN, cell=3)), "white")) == (1, pytest.approx(3 / 4))
    everything_else = Scene((replace(RED, shape="cross", colour="green", hollow=True),), "black", True)
    assert scores(RECOLOUR, everything_else) == (1, pytest.approx(2 / 5))


def test_a_partly_followed_instruction_counts_by_cells():
    one = Scene((replace(RED, hollow=True), BLUE), "white")
    assert scores(OUTLINE, one) == (0.5, 1)
    picture = render(BACKGROUND.source)
    picture[:16] = render(BACKGROUND.target)[:16]
    score = score_edit(BACKGROUND, picture)
    assert (score.semantic, score.preservation) == (0.5, 1)
    assert score.overall == pytest.approx(0.5**0.5)
    assert not score.exact


def test_the_best_of_several_right_targets_counts():
    assert all(scores(ADD, target) == (1, 1) for target in ADD.targets)
    both = Scene((RED, BLUE, GREEN, replace(GREEN, cell=3)), "white")
    assert scores(ADD, both) == (1, pytest.approx(3 / 4))
    wrong_in_the_last_free_cell = Scene((RED, BLUE, replace(GREEN, cell=3, colour="red")), "white")
    assert scores(ADD, wrong_in_the_last_free_cell) == (0, 1)
    assert scores(ADD, replace(ADD.targets[1], checkered=True)) == (1, pytest.approx(1 - 1 / 4 / 2))


def test_a_copy_and_a_picture_with_nothing_of_the_source_are_worth_nothing():
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for edit in (RECOLOUR, OUTLINE, BACKGROUND, ADD):
        assert score_edit(edit, render(edit.source)).overall == 0
        score = score_edit(edit, noise)
        assert (score.semantic, score.preservation, score.overall) == (0, 0, 0)


def test_what_is_not_clearly_drawn_is_neither_asked_nor_unchanged():
    half_way = score_edit(RECOLOUR, blended(render(RECOLOUR.target), render(SOURCE), 0.5))
    assert half_way.semantic == 0
    assert half_way.preservation == pytest.approx((0 + 3 + 3 / 4) / 5)  # the circle's cell shows nothing
    assert score_edit(RECOLOUR, half_edited(RECOLOUR)).semantic == 0
    picture = render(RECOLOUR.target)
    picture[:, 16:] = shifted(picture, 1)[:, 16:]
    assert score_edit(RECOLOUR, picture).semantic == 1
    assert score_edit(RECOLOUR, picture).preservation == pytest.approx((4 - 1 + 3 / 4) / 5)


def test_slight_noise_passes_and_strong_noise_does_not():
    random = np.random.default_rng(0)
    edits = [edit for kind in EDIT_KINDS.values() for edit in kind.sample_many(20, "test", seed=1)]
    for strength, expected in ((0.03, 1), (0.12, 0)):
        pictures = np.stack([noisy(render(edit.target), strength, random) for edit in edits])
        assert np.mean([score.exact for score in score_edits(edits, pictures)]) == expected


@pytest.mark.parametrize("name", KINDS)
def test_no_scene_of_the_evaluation_is_in_training_and_no_local_instruction_is(name):
    train, test = (EDIT_KINDS[name].sample_many(150, split, seed=0) for split in ("train", "test"))
    trained, tested = ({scene for e in edits for scene in (e.source, e.target)} for edits in (train, test))
    assert not trained & tested
    if EDIT_KINDS[name].scope == "local":
        assert not {edit.instruction for edit in train} & {edit.instruction for edit in test}
        assert len({edit.instruction for edit in test}) >= 5
    else:
        assert {edit.instruction for edit in train} == {edit.instruction for edit in test}


def test_scenes_are_apart_across_kinds_too():
    edits = {s: [e for k in EDIT_KINDS.values() for e in k.sample_many(60, s, seed=4)] for s in ("train", "test")}
    trained, tested = ({scene for e in edits[s] for scene in (e.source, e.target)} for s in ("train", "test"))
    assert not trained & tested


def test_the_same_seed_gives_the_same_edits():
    kind = EDIT_KINDS["subject replace"]
    assert kind.sample_many(20, "train", seed=5) == kind.sample_many(20, "train", seed=5)
    assert kind.sample_many(20, "train", seed=5) != kind.sample_many(20, "train", seed=6)


def test_averages_are_means_over_kinds_of_the_mean_overall_score():
    edits = [RECOLOUR, RECOLOUR, OUTLINE, BACKGROUND]
    one_outlined = Scene((replace(RED, hollow=True), BLUE), "white")
    result = score_edited(
        edits, np.stack([render(s) for s in (RECOLOUR.target, SOURCE, one_outlined, BACKGROUND.target)])
    )
    assert result.semantic == {"background change": 1, "style change": 0.5, "colour alter": 0.5}
    assert result.preservation == {"background change": 1, "style change": 1, "colour alter": 1}
    assert result.overall == {"background change": 1, "style change": 0.5**0.5, "colour alter": 0.5}
    assert result.average == pytest.approx((1.5 + 0.5**0.5) / 3)
    assert result.average_of("global") == pytest.approx((1 + 0.5**0.5) / 2)
    assert result.average_of("local") == 0.5
    assert list(result.row()) == ["background change", "style change", "colour alter", "average"]
    assert score_edited([RECOLOUR], render(SOURCE)[None]).average_of("global") is None


def test_the_report_prints_no_wrong_verdict_and_leaves_pictures(tmp_path, capsys):
    main(["--samples", "3", "--out", str(tmp_path)])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    kinds = [line for line in lines if " ".join(line[:2]) in KINDS or " ".join(line[:-8]) == "counting"]
    assert len(kinds) == 7
    for *_, right, rejects, reject_rate, end, tried, accepts, accept_rate, _ in kinds:
        assert int(right) >= 3 and int(tried) > 30
        assert (rejects, accepts, reject_rate, accept_rate, end) == ("0", "0", "(0.00", "(0.00", "%)")
    assert {file.name for file in tmp_path.iterdir()} == {"text_to_image.png", "edits.png"}
