"""The world: every picture reads back as its scene, and near misses do not pass."""

from dataclasses import replace

import numpy as np
import pytest

from danceopd_ext.demo.world import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    SKILLS,
    TOLERANCE,
    Scene,
    SceneObject,
    caption,
    cell_templates,
    read_scene,
    read_scenes,
    render,
    scene_from_indices,
    shows,
)

CIRCLE = SceneObject("circle", "red", 0)
ASKED = Scene((CIRCLE,), "white")


def passes(asked: Scene, drawn: Scene) -> bool:
    return shows(*read_scene(render(drawn)), asked)


@pytest.mark.parametrize("name", SKILLS)
def test_every_scene_of_a_skill_passes_its_own_check(name):
    skill = SKILLS[name]
    assert all(skill.check_all(np.stack([render(scene) for scene in skill.scenes]), skill.scenes))


def test_any_scene_is_read_back_as_itself():
    n_backgrounds, n_contents = cell_templates().shape[:2]
    random = np.random.default_rng(0)
    scenes = [
        scene_from_indices(random.integers(n_backgrounds), random.integers(n_contents, size=4)) for _ in range(300)
    ]
    for scene, (read, error) in zip(scenes, read_scenes(np.stack([render(s) for s in scenes])), strict=True):
        assert read == scene
        assert error < 0.002


def test_every_near_miss_fails():
    misses = [Scene((replace(CIRCLE, colour=colour),), "white") for colour in COLOURS if colour != "red"]
    misses += [Scene((replace(CIRCLE, shape=shape),), "white") for shape in SHAPES if shape != "circle"]
    misses += [Scene((replace(CIRCLE, cell=cell),), "white") for cell in (1, 2, 3)]
    misses += [Scene((CIRCLE,), background) for background in BACKGROUNDS if background != "white"]
    misses += [
        Scene((replace(CIRCLE, hollow=True),), "white"),
        Scene((CIRCLE,), "white", checkered=True),
        Scene((CIRCLE, replace(CIRCLE, cell=3)), "white"),
        Scene((), "white"),
    ]
    assert passes(ASKED, ASKED)
    assert [miss for miss in misses if passes(ASKED, miss)] == []


def test_a_count_is_right_in_any_cells_and_wrong_with_another_number_or_an_intruder():
    def circles(*cells: int) -> Scene:
        return Scene(tuple(replace(CIRCLE, cell=cell) for cell in cells), "white")

    two = circles(0, 3)
    assert passes(two, circles(1, 2))
    assert not passes(two, circles(0))
    assert not passes(two, circles(0, 1, 3))
    assert not passes(two, Scene((CIRCLE, SceneObject("circle", "blue", 3)), "white"))


def test_noise_and_half_faded_pictures_fail_but_slightly_disturbed_ones_pass():
    random = np.random.default_rng(0)
    skill, picture = SKILLS["single"], render(ASKED).astype(float)
    faded = picture * 0.5 + 0.5 * picture.mean(axis=(0, 1))
    disturbed = picture + random.normal(0, 0.04 * 255, picture.shape)
    assert not skill.check(random.integers(0, 256, (32, 32, 3), dtype=np.uint8), ASKED)
    assert not skill.check(faded.astype(np.uint8), ASKED)
    assert skill.check(disturbed.clip(0, 255).astype(np.uint8), ASKED)


def test_blur_passes_when_slight_and_fails_when_strong():
    def blur(picture: np.ndarray, times: int) -> np.ndarray:
        padded = picture.astype(float)
        for _ in range(times):
            for axis in (0, 1):
                edge = np.concatenate([padded.take([0], axis), padded, padded.take([-1], axis)], axis)
                low, high = edge.take(range(32), axis), edge.take(range(2, 34), axis)
                padded = 0.25 * low + 0.5 * padded + 0.25 * high
        return padded.round().astype(np.uint8)

    skill, picture = SKILLS["single"], render(ASKED)
    assert skill.check(blur(picture, 1), ASKED)
    assert not skill.check(blur(picture, 60), ASKED)


def test_error_is_the_root_mean_square_difference():
    picture = render(ASKED).astype(int)
    darker = (picture - 10).clip(0).astype(np.uint8)
    read, error = read_scene(darker)
    assert read == ASKED
    assert error == pytest.approx(np.sqrt(np.mean((darker - picture) ** 2.0)) / 255, abs=1e-4)
    assert error < TOLERANCE


def test_captions():
    assert caption(ASKED) == "a red circle at the top left on a white background"
    assert caption(Scene((replace(CIRCLE, hollow=True),), "pink")) == (
        "a hollow red circle at the top left on a pink background"
    )
    assert caption(Scene((CIRCLE,), "black", True)) == "a red circle at the top left on a checkered black background"
    crosses = tuple(SceneObject("cross", "blue", cell) for cell in range(3))
    assert caption(Scene(crosses, "white")) == "three blue crosses on a white background"
    with pytest.raises(ValueError, match="differ"):
        caption(Scene((CIRCLE, SceneObject("square", "red", 1)), "white"))


def test_a_caption_has_one_scene():
    scenes = [scene for skill in SKILLS.values() for scene in skill.scenes]
    assert len({caption(scene) for scene in scenes}) == len(scenes) == len(set(scenes))


@pytest.mark.parametrize("name", SKILLS)
def test_splits_are_disjoint_complete_and_fixed(name):
    skill = SKILLS[name]
    train, test = skill.prompts("train"), skill.prompts("test")
    assert not {text for text, _ in train} & {text for text, _ in test}
    assert {scene for _, scene in train + test} == set(skill.scenes)
    assert 0.17 < len(test) / len(skill.scenes) < 0.33
    assert all(caption(scene) == text for text, scene in train + test)
