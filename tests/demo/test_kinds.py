"""The six text-to-image kinds: captions mean what they say, right pictures pass, and near misses do not."""

import re

import numpy as np
import pytest

from danceopd_ext.demo.benchmark_words import NEW_WORDS
from danceopd_ext.demo.check_report import judge, prompt_trials
from danceopd_ext.demo.disturbances import blended, noisy
from danceopd_ext.demo.edits import EDIT_KINDS, random_scene
from danceopd_ext.demo.kind_scores import TextToImageScores, score_drawings, table
from danceopd_ext.demo.kinds import Named, Prompt, check_all, kinds
from danceopd_ext.demo.near_misses import wrong_scenes
from danceopd_ext.demo.pretrain.pipeline import TEXT_DIM, vocabulary
from danceopd_ext.demo.scene import Scene, SceneObject, describe, scene_of
from danceopd_ext.demo.world import SKILLS, caption, cell_templates, read_cells, render, scene_from_indices

KINDS = ("single object", "two objects", "counting", "colours", "position", "colour attribution")
COUNTS = {"two": 2, "three": 3, "four": 4}
OBJECT = r"a (hollow )?(red|green|blue|yellow|purple)? ?(circle|square|triangle|cross)"
CAPTION = re.compile(
    rf"(?:(two|three|four) (hollow )?(circle|square|triangle|cross)(?:s|es)|{OBJECT}"
    rf"(?: (and|left of|right of|above|below) {OBJECT})?) on a (checkered )?(white|black|pink) background"
)


def means(text: str, scene: Scene) -> bool:
    """What the English of a caption says of a scene, read here from the words alone."""
    words = CAPTION.fullmatch(text).groups()
    if (scene.background, scene.checkered) != (words[-1], bool(words[-2])):
        return False
    if words[0]:
        same = [item for item in scene.objects if item.shape == words[2]]
        return len(same) == COUNTS[words[0]] and all(item.hollow == bool(words[1]) for item in same)

    def places(hollow: str | None, colour: str | None, shape: str) -> list[tuple[int, int]]:
        return [
            divmod(item.cell, 2)
            for item in scene.objects
            if item.shape == shape and item.hollow == bool(hollow) and colour in (None, item.colour)
        ]

    first = places(*words[3:6])
    if not words[6]:
        return bool(first)
    holds = {
        "and": lambda a, b: True,
        "left of": lambda a, b: a[1] < b[1],
        "right of": lambda a, b: a[1] > b[1],
        "above": lambda a, b: a[0] < b[0],
        "below": lambda a, b: a[0] > b[0],
    }[words[6]]
    return any(holds(a, b) for a in first for b in places(*words[7:10]))


def drawn(*scenes: Scene) -> np.ndarray:
    return np.stack([render(scene) for scene in scenes])


def test_the_kinds_are_those_of_the_paper_in_its_order():
    assert tuple(kinds()) == KINDS
    assert [len(kind.all_prompts) for kind in kinds().values()] == [48, 144, 144, 240, 576, 2880]
    assert all(prompt.kind == kind.name for kind in kinds().values() for prompt in kind.all_prompts)


def test_captions():
    circle, cross = Named("circle"), Named("cross", "red")
    on = " on a white background"
    assert Prompt("single object", (circle,), "white").caption == "a circle" + on
    assert Prompt("two objects", (circle, Named("cross")), "white").caption == "a circle and a cross" + on
    assert Prompt("counting", (Named("cross"),), "pink", True, True, count=4).caption == (
        "four hollow crosses on a checkered pink background"
    )
    assert Prompt("counting", (circle,), "white", count=2).caption == "two circles" + on
    assert Prompt("colours", (cross,), "white", hollow=True).caption == "a hollow red cross" + on
    assert Prompt("position", (circle, cross), "white", relation="right of").caption == (
        "a circle right of a red cross" + on
    )


@pytest.mark.parametrize("name", KINDS)
def test_a_check_is_what_the_words_of_the_caption_say_of_any_picture(name):
    random = np.random.default_rng(1)
    prompts, scenes = [], []
    for _ in range(150):
        prompt, right = kinds()[name].sample(random, "train")
        other = random_scene(random, int(random.integers(1, 5)))
        near = Scene(other.objects, prompt.background, prompt.checkered)
        crowd = scene_from_indices(random.integers(6), random.integers(41, size=4))
        found = [right, prompt.scene(random, extras=2), *wrong_scenes(prompt, right, random).values(), near, crowd]
        prompts += [prompt] * len(found)
        scenes += found
    truth = [means(prompt.caption, scene) for prompt, scene in zip(prompts, scenes, strict=True)]
    assert check_all(drawn(*scenes), prompts) == truth
    assert 250 < sum(truth) < 0.6 * len(truth)


@pytest.mark.parametrize("name", KINDS)
def test_right_pictures_pass_and_near_misses_do_not(name):
    truths, misses = prompt_trials(name, samples=60, seed=2)
    assert len(truths) == 180 and len(misses) > 900
    assert all(judge(truths))
    assert {trial.name for trial, accepted in zip(misses, judge(misses), strict=True) if accepted} == set()


def test_what_a_caption_does_not_say_is_free():
    circle, square = SceneObject("circle", "red", 0), SceneObject("square", "blue", 3)
    both = render(Scene((circle, square), "white"))
    for relation, right in {"left of": True, "above": True, "right of": False, "below": False}.items():
        asked = Prompt("position", (Named("circle"), Named("square")), "white", relation=relation)
        assert kinds()["position"].check(both, asked) == right  # on a diagonal two relations hold
    assert kinds()["single object"].check(both, Prompt("single object", (Named("square"),), "white"))
    assert kinds()["two objects"].check(both, Prompt("two objects", (Named("square"), Named("circle")), "white"))
    two = Prompt("counting", (Named("circle"),), "white", count=2)
    other = SceneObject("circle", "green", 1)
    assert kinds()["counting"].check(render(Scene((circle, other, square), "white")), two)
    assert not kinds()["counting"].check(both, two)


def test_scenes_hold_the_named_objects_and_as_many_others_as_asked_for():
    random = np.random.default_rng(6)
    for kind in kinds().values():
        pairs = [kind.sample(random, "train") for _ in range(60)]
        for prompt, scene in pairs:
            named = prompt.count or len(prompt.named)
            assert len(scene.objects) == named
            assert [len(prompt.scene(random, extras).objects) for extras in (1, 3)] == [min(named + 1, 4), 4]
        assert {item.cell for _, scene in pairs for item in scene.objects} == {0, 1, 2, 3}
        assert len({item.colour for _, scene in pairs for item in scene.objects}) == 5


@pytest.mark.parametrize("name", KINDS)
def test_the_usual_picture_of_a_prompt_shows_it_and_nothing_else(name):
    prompts = kinds()[name].all_prompts
    assert all(prompt.holds(prompt.usual) for prompt in prompts)
    assert all(len(prompt.usual.objects) == (prompt.count or len(prompt.named)) for prompt in prompts)
    # Also where the objects stand in another order than they are named in.
    places = [[item.cell for item in prompt.usual.objects] for prompt in prompts]
    assert all(cells == sorted(cells) for cells in places)


def test_a_second_object_with_the_colour_of_the_first_does_not_count_as_the_first():
    asked = Prompt("colour attribution", (Named("circle", "red"), Named("square", "blue")), "white")
    objects = (SceneObject("circle", "blue", 0), SceneObject("square", "red", 1), SceneObject("cross", "red", 2))
    assert not kinds()["colour attribution"].check(render(Scene(objects, "white")), asked)


@pytest.mark.parametrize("name", KINDS)
def test_splits_are_disjoint_and_complete_and_a_sample_keeps_to_its_split(name):
    kind = kinds()[name]
    train, test = ({prompt.caption for prompt in kind.prompts(split)} for split in ("train", "test"))
    assert not train & test
    assert train | test == {prompt.caption for prompt in kind.all_prompts}
    assert 0.17 < len(test) / len(kind.all_prompts) < 0.33
    random = np.random.default_rng(0)
    assert {kind.sample(random, "test")[0].caption for _ in range(50)} <= test
    assert {kind.sample(random, "train")[0].caption for _ in range(50)} <= train


def test_every_caption_has_one_meaning_and_is_none_of_the_quickstarts():
    captions = [prompt.caption for kind in kinds().values() for prompt in kind.all_prompts]
    assert len(set(captions)) == len(captions)
    assert not set(captions) & {caption(scene) for skill in SKILLS.values() for scene in skill.scenes}


def test_the_same_seed_gives_the_same_samples():
    def samples(seed: int) -> list:
        random = np.random.default_rng(seed)
        return [kind.sample(random, "train") for kind in kinds().values()]

    assert samples(3) == samples(3) != samples(4)


def test_new_words_are_listed_once_used_and_fit_into_the_text_encoder():
    captions = {prompt.caption for kind in kinds().values() for prompt in kind.all_prompts}
    instructions = {edit.instruction for kind in EDIT_KINDS.values() for edit in kind.sample_many(60, "train", seed=0)}
    used = {word for text in captions | instructions for word in text.split()}
    assert used - set(vocabulary()) == set(NEW_WORDS)
    assert len(set(NEW_WORDS)) == len(NEW_WORDS)
    assert not set(NEW_WORDS) & set(vocabulary())
    assert len(vocabulary()) + len(NEW_WORDS) <= TEXT_DIM


# ----------------------------------------------------------------------------- reading cells


def test_any_scene_is_read_back_cell_by_cell():
    random = np.random.default_rng(0)
    n_backgrounds, n_contents = cell_templates().shape[:2]
    scenes = [
        scene_from_indices(random.integers(n_backgrounds), random.integers(n_contents, size=4)) for _ in range(200)
    ]
    for scene, cells in zip(scenes, read_cells(drawn(*scenes)), strict=True):
        assert scene_of(cells) == scene
        assert all(cell.error < 0.002 and cell.lean < 0.001 for cell in cells)


def test_the_lean_of_a_blend_is_its_part_and_its_error_the_distance():
    one, other = drawn(
        Scene((SceneObject("circle", "red", 2),), "pink"), Scene((SceneObject("square", "red", 2),), "pink")
    )
    distance = np.sqrt(np.mean((one[16:, :16] / 255 - other[16:, :16] / 255) ** 2))
    for part, clear in ((0.1, True), (0.14, True), (0.16, False), (0.4, False)):
        cell = read_cells(blended(one, other, part)[None])[0][2]
        assert (cell.shape, cell.clear) == ("circle", clear)
        assert cell.lean == pytest.approx(part, abs=0.01)
        assert cell.error == pytest.approx(part * distance, abs=0.002)


def test_a_cell_with_too_large_an_error_is_not_clear_and_the_others_are():
    picture = render(Scene((SceneObject("cross", "blue", 1),), "black"))
    picture[:16, 16:] = noisy(picture, 0.2, np.random.default_rng(0))[:16, 16:]
    cells = read_cells(picture[None])[0]
    assert [cell.clear for cell in cells] == [True, False, True, True]
    assert cells[1].error > 0.06 > max(cell.error for cell in (cells[0], cells[2], cells[3]))
    assert scene_of(cells) is None


def test_cells_on_different_backgrounds_are_no_scene():
    white, black = drawn(Scene((), "white"), Scene((), "black"))
    both = np.concatenate([white[:, :16], black[:, 16:]], axis=1)
    cells = read_cells(both[None])[0]
    assert all(cell.clear for cell in cells)
    assert [cell.background for cell in cells] == ["white", "black"] * 2
    assert scene_of(cells) is None


def test_a_description_says_everything():
    random = np.random.default_rng(5)
    scenes = {random_scene(random, int(random.integers(1, 5))) for _ in range(500)} | {Scene((), "pink")}
    assert len({describe(scene) for scene in scenes}) == len(scenes)
    assert describe(Scene((), "pink", True)) == "nothing on a checkered pink background"


# ----------------------------------------------------------------------------- scores


def test_scores_are_means_per_kind_and_the_overall_is_the_mean_of_kinds():
    random = np.random.default_rng(0)
    pairs = [kinds()[name].sample(random, "test") for name in ("colours", "colours", "colours", "counting")]
    pictures = drawn(*(scene for _, scene in pairs))
    pictures[0] = 255 - pictures[0]
    scores = score_drawings([prompt for prompt, _ in pairs], pictures)
    assert scores.right == {"counting": 1.0, "colours": pytest.approx(2 / 3)}
    assert list(scores.row()) == ["counting", "colours", "overall"]
    assert scores.overall == pytest.approx(5 / 6)


def test_the_table_has_a_line_per_model():
    lines = table({name: TextToImageScores({"counting": value}).row() for name, value in (("a", 0.5), ("bc", 1))})
    assert [line.split() for line in lines.splitlines()] == [
        ["counting", "overall"],
        ["a", "0.500", "0.500"],
        ["bc", "1.000", "1.000"],
    ]
