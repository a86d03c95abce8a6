"""What a preset says about data, put together."""

import pytest

from danceopd_ext.data.load import load_data
from danceopd_ext.errors import UserError

DATASET = """
[[datasets]]
batch_size = 2
    [[datasets.subsets]]
    image_dir = "cats"
    caption_extension = ".txt"
    flip_aug = true
    custom_attributes.teacher = "style"
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "a.txt").write_text("a cat", encoding="utf-8")
    (tmp_path / "data.toml").write_text(DATASET, encoding="utf-8")
    (tmp_path / "one.txt").write_text("one --s 5\n", encoding="utf-8")
    (tmp_path / "two.txt").write_text("two\n", encoding="utf-8")
    return tmp_path


def test_a_route_may_have_a_dataset_and_several_prompt_files(folder):
    plan, notes = load_data(
        ["t2i", "style"],
        dataset_config="data.toml",
        prompts={"t2i": "one.txt", "style": ["one.txt", folder / "two.txt"]},
        resolution="320,256",
        base=folder,
    )
    assert [item.text for item in plan.routes["style"].items] == ["a cat", "one", "two"]
    assert [item.text for item in plan.routes["t2i"].items] == ["one"]
    assert {item.size for data in plan.routes.values() for item in data.items} == {(320, 256)}
    assert [note.split(": ", 1)[1] for note in notes] == [
        "ignored: flip_aug (images are used unchanged, if they are used at all)",
        "no effect here: --s (1 line): for sample_prompts only",
        "no effect here: --s (1 line): for sample_prompts only",
    ]


def test_several_resolutions_spread_over_prompts_and_caption_files(folder):
    sizes = [[256, 256], [320, 192]]
    plan, _ = load_data(
        ["style"], dataset_config=folder / "data.toml", prompts={"style": folder / "two.txt"}, resolution=sizes
    )
    assert [(item.text, list(item.size)) for item in plan.routes["style"].items] == [
        (text, size) for text in ("a cat", "two") for size in sizes
    ]


def test_batch_sizes_count_for_all_processes(folder):
    plan, _ = load_data(
        ["t2i", "style"],
        dataset_config=folder / "data.toml",
        prompts={"t2i": folder / "one.txt"},
        train_batch_size=3,
        processes=2,
        micro_batches=4,
        seed=1,
    )
    found = {(step.route, tuple(map(len, step.micro_batches))) for step in plan.steps(30)}
    assert found == {("t2i", (6,) * 4), ("style", (4,) * 4)}


def test_keys_of_the_preset_hold_for_prompts_too(folder):
    defaults = {"caption_prefix": "sks", "batch_size": None, "enable_bucket": True}
    plan, _ = load_data(["t2i"], prompts={"t2i": folder / "two.txt"}, resolution=64, defaults=defaults)
    assert plan.step(0).texts == ("sks two",)


def test_a_path_is_looked_for_in_the_working_directory_first(folder, monkeypatch):
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "two.txt").write_text("here", encoding="utf-8")
    monkeypatch.chdir(elsewhere)
    plan, _ = load_data(["t2i"], prompts={"t2i": ["two.txt", "one.txt"]}, resolution=64, base=folder)
    assert [item.text for item in plan.routes["t2i"].items] == ["here", "one"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"prompts": {}}, ['teacher "t2i" has no data', "[danceopd.prompts]", 't2i = "prompts.txt"', "teacher"]),
        ({"prompts": {"t2x": "one.txt"}}, ['[danceopd.prompts]: "t2x"', 'Did you mean "t2i"?']),
        ({"prompts": {"t2i": "no.txt"}}, ["no.txt: prompt file not found"]),
        ({"prompts": {"t2i": "one.txt"}, "weights": {"t2": 1}}, ["[danceopd.routes]", 'Did you mean "t2i"?']),
        ({"prompts": {"t2i": "one.txt"}, "resolution": "wide"}, ["resolution: 'wide' is not a size"]),
        ({"prompts": {"t2i": "one.txt"}, "defaults": {"keep_tokens": -1}}, ["the preset: keep_tokens = -1"]),
        ({"dataset_config": "data.toml"}, ['"style" is not a teacher', "[danceopd.teachers.style]"]),
    ],
)
def test_wrong_presets_are_named_with_a_remedy(folder, arguments, words):
    with pytest.raises(UserError) as caught:
        load_data(["t2i"], base=folder, **arguments)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_route_of_weight_zero_needs_no_data(folder):
    plan, _ = load_data(["t2i", "off"], prompts={"t2i": folder / "one.txt"}, resolution=64, weights={"off": 0})
    assert {step.route for step in plan.steps(20)} == {"t2i"}
