"""The data of edit routes: which source images belong to a caption, and what size is drawn."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from danceopd_ext.data.buckets import around
from danceopd_ext.data.load import load_data
from danceopd_ext.data.pictures import ItemPicture, load_picture
from danceopd_ext.data.prompts import read_prompts
from danceopd_ext.errors import UserError
from tests.tiny.edit_files import captions, editor, save

SQUARE = [(64, 64)]


BUCKETS = "resolution = 64\nenable_bucket = true\nmin_bucket_reso = 16\nmax_bucket_reso = 128\nbucket_reso_steps = 16\n"


def load(folder, subset, dataset="resolution = 64", sources=None, **more):
    """Items and notes of a configuration with one subset."""
    path = folder / "data.toml"
    path.write_text(
        f'[[datasets]]\n{dataset}\ncaption_extension = ".txt"\n[[datasets.subsets]]\n{subset}\n', encoding="utf-8"
    )
    plan, notes = load_data(["edit"], dataset_config=path, sources=sources or editor(), **more)
    return plan.routes["edit"].items, notes


def names(item):
    return [path.name for path in item.source_images]


# --- folders


@pytest.mark.parametrize("key", ["conditioning_data_dir", "control_directory"])
def test_a_source_image_has_the_name_of_its_image(tmp_path, key):
    for name, seed in (("a", 1), ("b", 2)):
        save(tmp_path / "after" / f"{name}.png", (64, 64))
        save(tmp_path / "before" / f"{name}.jpg", (80, 40), seed)
    captions(tmp_path / "after", "a", "b")
    items, notes = load(tmp_path, f'image_dir = "{tmp_path}/after"\n{key} = "{tmp_path}/before"')
    assert [(item.text, names(item), item.source_sizes) for item in items] == [
        ("make a red", ["a.jpg"], ((80, 40),)),
        ("make b red", ["b.jpg"], ((80, 40),)),
    ]
    assert [item.picture.path.name for item in items] == ["a.png", "b.png"]
    assert notes == []


def test_several_source_images_are_numbered(tmp_path):
    captions(tmp_path / "after", "a", "a_1")
    for name in ("a_2", "a_10", "a", "a_1_0", "a_1_1", "other"):
        save(tmp_path / "before" / f"{name}.png")
    items, notes = load(tmp_path, f'image_dir = "{tmp_path}/after"\ncontrol_directory = "{tmp_path}/before"')
    assert [names(item) for item in items] == [["a.png", "a_2.png", "a_10.png"], ["a_1_0.png", "a_1_1.png"]]
    assert [note for note in notes if "do not belong to any caption" in note and "other.png" in note] == notes


def test_captions_may_lie_beside_the_source_images_without_a_result(tmp_path):
    save(tmp_path / "pictures" / "a.png", (128, 64))
    save(tmp_path / "pictures" / "b_0.png", (64, 128))
    save(tmp_path / "pictures" / "b_1.png", (64, 64))
    captions(tmp_path / "pictures", "a", "b")
    both = f'image_dir = "{tmp_path}/pictures"\nconditioning_data_dir = "{tmp_path}/pictures"'
    items, notes = load(tmp_path, both, BUCKETS)
    assert [(names(item), item.size, item.picture) for item in items] == [
        (["a.png"], (80, 48), None),
        (["b_0.png", "b_1.png"], (48, 80), None),
    ]
    assert notes == []


@pytest.mark.parametrize("place", ["before", "after"])
def test_texts_about_the_folder_are_no_instructions(tmp_path, place):
    save(tmp_path / "before" / "a.png")
    captions(tmp_path / place, "a")
    (tmp_path / place / "readme.txt").write_text("about this set", encoding="utf-8")
    where = f'image_dir = "{tmp_path}/{place}"\nconditioning_data_dir = "{tmp_path}/before"'
    items, notes = load(tmp_path, where)
    assert [(item.text, names(item)) for item in items] == [("make a red", ["a.png"])]
    assert ["left out 1 .txt file" in note and "readme.txt" in note for note in notes] == [True]
    (tmp_path / place / "b.txt").write_text("make b red", encoding="utf-8")
    with pytest.raises(UserError, match='no source image for "b"'):
        load(tmp_path, where)


def test_the_result_decides_the_size_and_without_it_the_source_image(tmp_path):
    save(tmp_path / "after" / "a.png", (64, 128))
    captions(tmp_path / "after", "a", "b")
    for name in "ab":
        save(tmp_path / "before" / f"{name}.png", (128, 64))
    where = f'image_dir = "{tmp_path}/after"\nconditioning_data_dir = "{tmp_path}/before"'
    with_result, without = load(tmp_path, where, BUCKETS)[0]
    assert with_result.size == (48, 80)
    assert without.size == (80, 48)
    assert [item.size for item in load(tmp_path, where)[0]] == [(64, 64)] * 2, "one bucket: the resolution"


def test_a_source_image_of_another_kind_is_no_missing_one(tmp_path):
    captions(tmp_path / "after", "a")
    save(tmp_path / "before" / "a.gif")
    where = f'image_dir = "{tmp_path}/after"\nconditioning_data_dir = "{tmp_path}/before"'
    with pytest.raises(UserError, match=r'no source image for "a" in .*\. Images end in .png, .*Add one'):
        load(tmp_path, where)


def test_subfolders_are_matched_by_place(tmp_path):
    for place in ("one", "two"):
        captions(tmp_path / "after" / place, "a")
        save(tmp_path / "before" / place / "a.png", seed=len(place))
    where = f'image_dir = "{tmp_path}/after"\nconditioning_data_dir = "{tmp_path}/before"\nrecursive = true'
    items, _ = load(tmp_path, where)
    assert [item.source_images[0].parent.name for item in items] == ["one", "two"]


def test_class_tokens_are_an_instruction_for_every_source_image(tmp_path):
    for name in "ab":
        save(tmp_path / "pictures" / f"{name}.png")
    where = f'image_dir = "{tmp_path}/pictures"\nconditioning_data_dir = "{tmp_path}/pictures"'
    items, _ = load(tmp_path, f'{where}\nclass_tokens = "as a sketch"')
    assert [(item.text, names(item), item.picture) for item in items] == [
        ("as a sketch", ["a.png"], None),
        ("as a sketch", ["b.png"], None),
    ]


def test_entries_of_a_metadata_file_have_source_images(tmp_path):
    save(tmp_path / "before" / "a.png", (128, 64))
    save(tmp_path / "before" / "b.png", (128, 64))
    entries = {"x/a.jpg": {"caption": "first"}, "b": {"caption": "second", "image_size": [64, 128]}}
    (tmp_path / "meta.json").write_text(json.dumps(entries), encoding="utf-8")
    where = f'metadata_file = "{tmp_path}/meta.json"\nconditioning_data_dir = "{tmp_path}/before"'
    items, _ = load(tmp_path, where, BUCKETS)
    assert [(item.text, names(item), item.size) for item in items] == [
        ("first", ["a.png"], (80, 48)),
        ("second", ["b.png"], (48, 80)),
    ]


@pytest.mark.parametrize(
    ("keys", "recursive", "remedy"),
    [
        (["x/a.jpg", "y/a.jpg"], False, "Set recursive = true and put them into subfolders (y/a.png)"),
        (["x/a.jpg", "x/a.png"], True, "Rename one"),
        (["/data/x/a.jpg", "/data/y/a.jpg"], True, "Rename one"),
    ],
)
def test_two_entries_of_a_metadata_file_cannot_share_a_source_image(tmp_path, keys, recursive, remedy):
    for place in ("a.png", "x/a.png"):
        save(tmp_path / "before" / place)
    (tmp_path / "meta.json").write_text(json.dumps({key: {"caption": key} for key in keys}), encoding="utf-8")
    file = f'metadata_file = "{tmp_path}/meta.json"'
    where = f'{file}\nconditioning_data_dir = "{tmp_path}/before"\nrecursive = {str(recursive).lower()}'
    with pytest.raises(UserError) as caught:
        load(tmp_path, where)
    assert all(word in str(caught.value) for word in ["meta.json", *keys, "same source image", remedy])


def test_entries_of_a_metadata_file_in_subfolders_have_source_images_there(tmp_path):
    rows = [{"image_path": f"{place}/a.jpg", "caption": place} for place in "xyx"]  # the same image may come twice
    (tmp_path / "meta.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for place in "xy":
        save(tmp_path / "before" / place / "a.png")
    where = f'metadata_file = "{tmp_path}/meta.jsonl"\nconditioning_data_dir = "{tmp_path}/before"\nrecursive = true'
    items, _ = load(tmp_path, where)
    assert [(item.text, item.source_images[0].parent.name) for item in items] == [(place, place) for place in "xyx"]


@pytest.mark.parametrize(
    ("files", "more", "words"),
    [
        (["b.png"], "", ['no source image for "a"', "such as a.png"]),
        (["a.png", "a.jpg"], "", ["a.jpg and a.png", "Remove one"]),
        (["a.png"], 'control_directory = "before"', ["conditioning_data_dir and control_directory"]),
    ],
)
def test_what_is_wrong_with_a_folder_of_source_images_is_told(tmp_path, files, more, words):
    captions(tmp_path / "after", "a")
    for file in files:
        save(tmp_path / "before" / file)
    where = f'image_dir = "{tmp_path}/after"\nconditioning_data_dir = "{tmp_path}/before"\n{more}'
    with pytest.raises(UserError) as caught:
        load(tmp_path, where)
    assert all(word in str(caught.value) for word in [*words, "data.toml, dataset 1, subset 1"])


# --- prompt files


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", "add a hat --ci before/a.png\nmix both --ci before/a.png --w 32 --h 48 --ci before/b.png\na cat\n"),
        ("p.csv", 'prompt,width,height,source,source_1\nadd a hat,,,before/a.png,\nmix both,32,48,before/a.png,'
                  "before/b.png\na cat,,,,\n"),
        ("p.csv", 'prompt;width;height;source\nadd a hat;;;["before/a.png"]\n'
                  'mix both;32;48;["before/a.png", "before/b.png"]\na cat;;;\n'),
        ("p.jsonl", '{"prompt": "add a hat", "source": "before/a.png"}\n{"prompt": "mix both", "width": 32, '
                    '"height": 48, "source": ["before/a.png", "before/b.png"]}\n{"prompt": "a cat", "source": null}'),
        ("p.jsonl", '{"prompt": "add a hat", "source_0": "before/a.png"}\n{"prompt": "mix both", "width": 32, '
                    '"height": 48, "source_10": "before/b.png", "source_2": "before/a.png"}\n{"prompt": "a cat"}'),
    ],
)  # fmt: skip
def test_a_prompt_file_names_its_source_images(tmp_path, name, content):
    save(tmp_path / "before" / "a.png", (120, 60))
    save(tmp_path / "before" / "b.png", (60, 120))
    (tmp_path / name).write_text(content, encoding="utf-8")
    items, notes = read_prompts(tmp_path / name, SQUARE, multiple=16)
    assert [(item.text, names(item), item.size) for item in items] == [
        ("add a hat", ["a.png"], (80, 48)),
        ("mix both", ["a.png", "b.png"], (32, 48)),
        ("a cat", [], (64, 64)),
    ]
    assert items[0].source_images == (tmp_path / "before" / "a.png",)
    assert notes == [f"{tmp_path / name}: 2 of 3 prompts have a source image; the others draw from text"]


@pytest.mark.parametrize(
    "name", ["sources", "source_image", "source_a", "control_path", "control_path_0", "src_img", "conditioning_image"]
)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_source_image_under_another_name_is_no_drawing_from_text(tmp_path, name, kind):
    contents = {"csv": f"prompt,{name}\nadd a hat,a.png\n", "jsonl": f'{{"prompt": "add a hat", "{name}": "a.png"}}'}
    (tmp_path / f"p.{kind}").write_text(contents[kind], encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_prompts(tmp_path / f"p.{kind}", SQUARE, multiple=16)
    assert f'"{name}". If it is the source image of an edit, call it "source"' in str(caught.value)


@pytest.mark.parametrize("content", ["prompt,Source\nadd a hat,a.png", '{"Prompt": "add a hat", "SOURCE": "a.png"}'])
def test_capitals_do_not_matter(tmp_path, content):
    save(tmp_path / "a.png", (120, 60))
    path = tmp_path / ("p.jsonl" if content.startswith("{") else "p.csv")
    path.write_text(content, encoding="utf-8")
    assert [names(item) for item in read_prompts(path, SQUARE, multiple=16)[0]] == [["a.png"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prompt,source\nadd a hat,a.png\nadd a cat\n", "line 3: fewer fields than columns. If a row has no source"),
        ("prompt,target\nadd a hat;a.png\n", "line 2: fewer fields than columns. If a row has no target"),
        ('prompt,source\nadd a hat,a.png\n"add a cat,a.png\nadd a dog,a.png\n', "Is a closing quote missing?"),
    ],
)
def test_a_broken_row_is_not_swallowed(tmp_path, content, message):
    save(tmp_path / "a.png", (120, 60))
    (tmp_path / "p.csv").write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_prompts(tmp_path / "p.csv", SQUARE, multiple=16)
    assert message in str(caught.value)


def test_sides_may_be_left_out_at_the_end_of_a_row(tmp_path):
    (tmp_path / "p.csv").write_text("prompt,width,height\na cat\na dog,32,48\n", encoding="utf-8")
    assert [item.size for item in read_prompts(tmp_path / "p.csv", SQUARE)[0]] == [(64, 64), (32, 48)]


def test_a_picture_of_too_many_pixels_is_to_be_made_smaller(tmp_path, monkeypatch):
    """What Pillow takes for an attack; it warns from half of that on."""
    save(tmp_path / "a.png", (120, 60))
    (tmp_path / "p.csv").write_text("prompt,source\nadd a hat,a.png\n", encoding="utf-8")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    with pytest.raises(UserError, match=r"a.png: this image is too large: .* Make it smaller"):
        read_prompts(tmp_path / "p.csv", SQUARE, multiple=16)
    with pytest.raises(UserError, match=r"a.png: the picture cannot be read .* Make it smaller"):
        load_picture(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_other_columns_are_told(tmp_path, kind):
    contents = {"csv": "prompt,style,seed\na cat,x,1\n", "jsonl": '{"prompt": "a cat", "seed": 1, "style": "x"}'}
    path = tmp_path / f"p.{kind}"
    path.write_text(contents[kind], encoding="utf-8")
    assert read_prompts(path, SQUARE)[1] == [f"{path}: ignored: seed, style"]


def test_a_result_beside_a_source_image_is_kept_for_the_methods_that_use_it(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    (tmp_path / "p.csv").write_text("prompt,source,target\nadd a hat,a.png,b.png\n", encoding="utf-8")
    (item,) = read_prompts(tmp_path / "p.csv", SQUARE, multiple=16)[0]
    assert item.picture == ItemPicture(tmp_path / "b.png")


def test_prompts_take_the_proportions_of_their_source_image_at_every_resolution(tmp_path):
    save(tmp_path / "a.png", (1500, 1000))
    (tmp_path / "p.csv").write_text("prompt,source\nadd a hat,a.png\n", encoding="utf-8")
    items, _ = read_prompts(tmp_path / "p.csv", [(512, 512), (1024, 1024)], multiple=16)
    assert [item.size for item in items] == [(640, 384), (1216, 832)]


@pytest.mark.parametrize(
    ("resolution", "multiple", "step", "low", "high"),
    [((512, 512), 16, 64, 256, 1024), ((1024, 1024), 16, 64, 512, 2048), ((512, 768), 32, 64, 256, 1536),
     ((16, 16), 4, 4, 8, 32), ((256, 256), 16, 32, 128, 512), ((100, 100), 48, 48, 48, 240)],
)  # fmt: skip
def test_sizes_without_a_dataset_are_those_of_the_toolkit_in_proportion(resolution, multiple, step, low, high):
    rules = around(resolution, multiple)
    assert (rules.bucket_reso_steps, rules.min_bucket_reso, rules.max_bucket_reso) == (step, low, high)
    assert rules.buckets
    assert all(side % multiple == 0 and low <= side <= high for size in rules.buckets for side in size)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.csv", "prompt,source\nadd a hat,none.png\n", ["line 2", "source image", "none.png", "not found"]),
        ("p.csv", "prompt,source\nadd a hat,text.png\n", ["line 2", "source image", "text.png", "Repair or remove"]),
        ("p.csv", 'prompt;source\nadd a hat;["a.png"\n', ["line 2", "JSON list"]),
        ("p.jsonl", '{"prompt": "add a hat", "source": 3}', ["line 1", "source = 3", "path"]),
        ("p.jsonl", '{"prompt": "add a hat", "source": [["a.png"]]}', ["line 1", "path"]),
        ("p.txt", "add a hat --ci  --w 64\n", ["line 1", "--ci"]),
    ],
)
def test_what_is_wrong_with_a_source_image_is_told_with_its_line(tmp_path, name, content, words):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_prompts(tmp_path / name, SQUARE, multiple=16)
    assert all(word in str(caught.value) for word in [*words, name])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", "prompt,source,target\nadd a hat,before/a.png,after/a.png\n"),
        ("p.jsonl", '{"prompt": "add a hat", "source": "before/a.png", "target": "after/a.png"}'),
        ("p.txt", "add a hat --ci before/a.png"),
    ],
)
def test_pictures_beside_the_file_come_before_those_of_the_working_directory(tmp_path, monkeypatch, name, content):
    """Started inside one data folder with the prompt file of another: the same names are other pictures."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder, size in ((here, (64, 64)), (there, (128, 64))):
        save(folder / "before" / "a.png", size)
        save(folder / "after" / "a.png", size)
    (there / name).write_text(content, encoding="utf-8")
    monkeypatch.chdir(here)
    (item,) = read_prompts(there / name, SQUARE, multiple=16)[0]
    assert (item.source_images, item.size) == ((there / "before" / "a.png",), (80, 48))
    assert item.picture is None or item.picture.path == there / "after" / "a.png"
    (there / "before" / "a.png").unlink()
    assert read_prompts(there / name, SQUARE, multiple=16)[0][0].source_images[0].samefile(here / "before" / "a.png")


def test_a_picture_that_is_nowhere_is_named_beside_its_file(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "p.txt").write_text("add a hat --ci a.png", encoding="utf-8")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match="line 1: its source image") as caught:
        read_prompts(tmp_path / "p.txt", SQUARE, multiple=16)
    assert f"{tmp_path / 'a.png'}: picture not found" in str(caught.value)


@pytest.mark.parametrize("path", ["x" * 5000, "~nobody_at_all/a.png"])
def test_a_path_that_cannot_be_one_is_told_like_any_other(tmp_path, path):
    (tmp_path / "p.csv").write_text(f"prompt,source\nadd a hat,{path}\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 2: its source image"):
        read_prompts(tmp_path / "p.csv", SQUARE, multiple=16)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", 'add a hat --ci  "{path}" --w 64 --h 64\n'),
        ("p.csv", 'prompt,width,height,source\nadd a hat,64,64,"""{path}"""\n'),
        ("p.jsonl", '{{"prompt": "add a hat", "width": 64, "height": 64, "source": "\\"{path}\\""}}'),
    ],
)
def test_a_path_may_stand_in_quotes(tmp_path, name, content):
    """As Explorer copies it; a spreadsheet doubles them."""
    path = save(tmp_path / "my pictures" / "a.png")
    (tmp_path / name).write_text(content.format(path=path.as_posix()), encoding="utf-8")
    (item,) = read_prompts(tmp_path / name, SQUARE, multiple=16)[0]
    assert item.source_images == (path,)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.jsonl", r'{"prompt": "add a hat", "source": "C:\pictures\1.png"}'),
        ("p.jsonl", r'{"prompt": "add a hat", "source": "C:\users\me\1.png"}'),
        ("p.jsonl", r'{"prompt": "add a hat", "source": "C:\new\beach.png"}'),
        ("p.jsonl", r'{"prompt": "add a hat", "source": ["C:\table.png"]}'),
        ("p.jsonl", r'{"prompt": "add a hat", "target": "C:\table.png"}'),
        ("p.csv", 'prompt;source\nadd a hat;["C:\\pictures\\1.png"]\n'),
    ],
)
def test_single_backslashes_in_json_get_a_remedy(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"p\..*, line [12]: .*with / or with two backslashes") as caught:
        read_prompts(tmp_path / name, SQUARE, multiple=16)
    assert "\n" not in str(caught.value)


def test_a_toolkit_whose_prompts_have_no_sources_refuses_them(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "p.csv").write_text("prompt,source\nadd a hat,a.png\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"line 2: only toolkit = \"native\" reads source images"):
        read_prompts(tmp_path / "p.csv", SQUARE)
