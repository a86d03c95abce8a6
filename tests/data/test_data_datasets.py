"""Dataset configurations in kohya's format: inheritance, routes, folders, metadata, and each possible mistake."""

import json

import pytest
from PIL import Image

from danceopd_ext.data.dataset_toml import read_dataset_config
from danceopd_ext.errors import UserError

TEACHERS = ["t2i", "style"]


@pytest.fixture
def folder(tmp_path):
    """A folder `cats` with two caption files and no image."""
    cats = tmp_path / "cats"
    cats.mkdir()
    (cats / "a.txt").write_text("cat one, asleep\n", encoding="utf-8")
    (cats / "b.txt").write_text("cat two\n", encoding="utf-8")
    return tmp_path


def read(folder, toml, teachers=TEACHERS, **defaults):
    path = folder / "data.toml"
    path.write_text(toml, encoding="utf-8")
    return read_dataset_config(path, teachers, defaults)


def subset(extra="", dataset="resolution = 512", teacher='custom_attributes.teacher = "style"', general=""):
    """A configuration with one subset."""
    return (
        f'[general]\ncaption_extension = ".txt"\n{general}\n[[datasets]]\n{dataset}\n'
        f'[[datasets.subsets]]\nimage_dir = "cats"\n{teacher}\n{extra}\n'
    )


def style(folder, *args, **kwargs):
    return read(folder, subset(*args, **kwargs))[0]["style"]


INHERITANCE = """
[general]
caption_extension = ".txt"
keep_tokens = 1
num_repeats = 2
caption_prefix = "general"
resolution = 640
custom_attributes = { teacher = "t2i" }

[[datasets]]
resolution = [768, 512]
batch_size = 4
keep_tokens = 2
    [[datasets.subsets]]
    image_dir = "cats"
    keep_tokens = 3
    custom_attributes.teacher = "style"
    [[datasets.subsets]]
    image_dir = "cats"
    num_repeats = 5

[[datasets]]
shuffle_caption = true
custom_attributes.teacher = "style"
    [[datasets.subsets]]
    image_dir = "cats"
    caption_prefix = ""
"""


def test_a_key_is_looked_up_from_the_subset_outwards(folder):
    # The same file given to sd-scripts' BlueprintGenerator has the same values.
    routes, notes = read(folder, INHERITANCE, batch_size=7)
    found = {
        route: [
            (*item.size, item.batch_size, item.repeats, item.rules.keep_tokens, item.rules.caption_prefix)
            for item in items
            if item.text == "cat two"
        ]
        for route, items in routes.items()
    }
    assert found == {
        "style": [(768, 512, 4, 2, 3, "general"), (640, 640, 7, 2, 1, "")],
        "t2i": [(768, 512, 4, 5, 2, "general")],
    }
    assert [item.rules.shuffle_caption for item in routes["style"]] == [False, False, True, True]
    assert notes == []


@pytest.mark.parametrize(
    "toml",
    [
        subset(teacher='custom_attributes.teacher = "style"'),
        subset(teacher='custom_attributes = { teacher = "style" }'),
        subset(teacher="", dataset='resolution = 512\ncustom_attributes.teacher = "style"'),
        subset(teacher="", dataset='resolution = 512\ncustom_attributes = { teacher = "style" }'),
        subset(teacher="", general='custom_attributes = { teacher = "style" }'),
        subset(general='custom_attributes.teacher = "t2i"'),
    ],
)
def test_a_teacher_is_named_at_any_level_in_both_forms(folder, toml):
    routes, _ = read(folder, toml)
    assert [item.text for item in routes["style"]] == ["cat one, asleep", "cat two"]
    assert list(routes) == ["style"]


def test_the_only_teacher_need_not_be_named(folder):
    assert list(read(folder, subset(teacher=""), teachers=["style"])[0]) == ["style"]


@pytest.mark.parametrize(
    ("resolution", "sizes"),
    [
        ("512", [(512, 512)]),
        ('"512,768"', [(512, 768)]),
        ("[512, 768]", [(512, 768)]),
        ("[[512, 768], [768, 512]]", [(512, 768), (768, 512)]),
        ('["512", "768,512"]', [(512, 512), (768, 512)]),
    ],
)
def test_resolutions_in_every_form(folder, resolution, sizes):
    items = style(folder, dataset=f"resolution = {resolution}")
    assert [item.size for item in items if item.text == "cat two"] == sizes


def test_the_preset_stands_in_where_the_file_is_silent(folder):
    routes, _ = read(folder, subset(dataset="batch_size = 3"), resolution="256,320", batch_size=9, keep_tokens=2)
    item = routes["style"][0]
    assert (item.size, item.batch_size, item.rules.keep_tokens) == ((256, 320), 3, 2)


def test_all_lines_are_kept_for_wildcards_and_else_the_others_are_told(folder):
    (folder / "cats" / "a.txt").write_text("\n cat one, asleep \n\nsecond line\n", encoding="utf-8")
    routes, notes = read(folder, subset("enable_wildcard = true"))
    assert routes["style"][0].text == "cat one, asleep\nsecond line"
    assert notes == []
    routes, notes = read(folder, subset())
    assert routes["style"][0].text == "cat one, asleep"
    assert ["1 caption with several lines, of which only the first is used (a.txt)" in note for note in notes] == [True]


def test_images_are_bucketed_by_their_header(folder):
    Image.new("RGB", (1920, 1080)).save(folder / "cats" / "a.png")
    Image.new("RGB", (400, 900)).save(folder / "cats" / "b.JPG", "jpeg")
    items = style(folder, dataset="resolution = 512\nenable_bucket = true")
    assert [(item.text, item.size) for item in items] == [("cat one, asleep", (640, 384)), ("cat two", (320, 704))]
    assert [item.size for item in style(folder)] == [(512, 512), (512, 512)]


def test_only_the_header_of_an_image_is_read(folder):
    image = folder / "cats" / "a.png"
    Image.effect_noise((640, 384), 90).save(image)
    image.write_bytes(image.read_bytes()[:200])
    assert style(folder, dataset="resolution = 512\nenable_bucket = true")[0].size == (640, 384)


def test_a_caption_is_found_under_the_name_without_a_face_position(folder):
    Image.new("RGB", (64, 32)).save(folder / "cats" / "b_10_20_30_40.png")
    items = style(folder, dataset="resolution = 512\nenable_bucket = true")
    assert [(item.text, item.size) for item in items] == [("cat two", (704, 320))]


def test_an_image_without_caption_takes_the_class_tokens(folder):
    for name in ("a", "c"):
        Image.new("RGB", (64, 64)).save(folder / "cats" / f"{name}.png")
    assert {item.text for item in style(folder, 'class_tokens = "sks cat"')} == {"cat one, asleep", "sks cat"}


def test_an_image_that_says_nothing_is_left_out_with_a_note(folder):
    for name in ("a", "b", "c"):
        Image.new("RGB", (64, 64)).save(folder / "cats" / f"{name}.png")
    routes, notes = read(folder, subset())
    assert len(routes["style"]) == 2
    assert "1 of its images" in notes[0]
    assert "c.png" in notes[0]


def test_text_files_without_an_image_are_no_prompts_where_there_are_images(folder):
    # The same folder given to sd-scripts' DreamBoothDataset has one item.
    Image.new("RGB", (64, 64)).save(folder / "cats" / "a.png")
    for name in ("readme", "sample_prompts", "c"):
        (folder / "cats" / f"{name}.txt").write_bytes(b"\xff is not even read")
    routes, notes = read(folder, subset())
    assert [item.text for item in routes["style"]] == ["cat one, asleep"]
    (note,) = notes
    assert note.endswith("left out 4 .txt files that do not belong to any image: b.txt, c.txt, readme.txt and 1 more")


def test_a_folder_of_captions_has_text_files_that_are_none(folder):
    foreign = ["README", "ReadMe_en", "LICENSE", "licence", "sample_prompts", "sample-prompts", "requirements"]
    for name in [*foreign, "license plate"]:
        (folder / "cats" / f"{name}.txt").write_text("a text", encoding="utf-8")
    routes, notes = read(folder, subset())
    assert [item.text for item in routes["style"]] == ["cat one, asleep", "cat two", "a text"]
    (note,) = notes
    assert "left out 7 .txt files that are not captions, judging by their names: LICENSE.txt, README.txt" in note


def test_images_and_texts_of_other_names_are_no_data(folder):
    Image.new("RGB", (64, 64)).save(folder / "cats" / "c.png")
    with pytest.raises(
        UserError, match=r"no \.txt file for its 1 images.* 2 \.txt files have other names \(a\.txt, b\.txt\)"
    ):
        read(folder, subset())


def test_what_systems_and_tools_leave_in_folders_is_not_read(folder):
    for place in (".ipynb_checkpoints", "__MACOSX", "@eaDir", "more/.cache"):
        (folder / "cats" / place).mkdir(parents=True)
        (folder / "cats" / place / "a-checkpoint.txt").write_text("no caption", encoding="utf-8")
        Image.new("RGB", (64, 64)).save(folder / "cats" / place / "a.png")
    for name in ("._a.txt", "._a.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (folder / "cats" / name).write_bytes(b"\x00\xff")
    assert [item.text for item in style(folder, "recursive = true")] == ["cat one, asleep", "cat two"]


def test_captions_are_looked_through_for_what_only_uis_understand(folder):
    (folder / "cats" / "a.txt").write_text("a (red:1.2) cat\nNegative prompt: x\nSteps: 2, Seed: 1\n", encoding="utf-8")
    (folder / "cats" / "b.txt").write_text("a {big|small} cat\n", encoding="utf-8")
    routes, notes = read(folder, subset())
    assert [item.text for item in routes["style"]] == ["a (red:1.2) cat", "a {big|small} cat"]
    pasted, syntax = notes
    assert "are left out: they are not prompts (a.txt)" in pasted
    assert "(word:1.2) (a.txt): write only the words; {a|b} (b.txt): " in syntax
    routes, notes = read(folder, subset("enable_wildcard = true"))
    assert routes["style"][0].text == "a (red:1.2) cat"
    assert "{a|b}" not in notes[1]


def test_subfolders_are_read_when_asked_for_and_hidden_files_never(folder):
    (folder / "cats" / "more").mkdir()
    (folder / "cats" / "more" / "c.txt").write_text("cat three", encoding="utf-8")
    (folder / "cats" / "._a.txt").write_bytes(b"\x00\xff")
    assert len(style(folder)) == 2
    assert [item.text for item in style(folder, "recursive = true")][-1] == "cat three"


def test_names_and_captions_beyond_ascii(folder):
    (folder / "cats").rename(folder / "Kätzchen 猫")
    path = folder / "Kätzchen 猫" / "b.txt"
    path.write_bytes("\ufeffschöne Katze\r\n".encode())
    toml = subset().replace('"cats"', "'Kätzchen 猫'")
    assert [item.text for item in read(folder, toml)[0]["style"]] == ["cat one, asleep", "schöne Katze"]


def test_keys_about_pixels_are_ignored_with_one_note(folder):
    general = "flip_aug = true\ncolor_aug = false\nvalidation_split = 0.1"
    _, notes = read(folder, subset("random_crop = true\nis_reg = true", general=general))
    assert len(notes) == 1
    assert "ignored: flip_aug, validation_split, random_crop, is_reg (" in notes[0]


def test_subsets_that_repeat_or_have_no_repeats_are_left_out_with_a_note(folder):
    again = '[[datasets.subsets]]\nimage_dir = "cats"\ncustom_attributes.teacher = "style"\n'
    routes, notes = read(folder, subset() + again + again + "num_repeats = 0\n")
    assert len(routes["style"]) == 2
    assert ["repeats an earlier subset" in note or "num_repeats is 0" in note for note in notes] == [True, True]


def test_one_folder_may_feed_two_teachers(folder):
    again = '[[datasets.subsets]]\nimage_dir = "cats"\ncustom_attributes.teacher = "t2i"\n'
    assert {route: len(items) for route, items in read(folder, subset() + again)[0].items()} == {"style": 2, "t2i": 2}


METADATA = {
    "x.png": {"caption": "a fox", "tags": "red, quick", "train_resolution": [640, 384]},
    "y.png": {"caption": "a hen", "image_size": [1080, 1920]},
    "a": {"tags": "only tags"},
    "z": {"caption": "no image"},
    "w": {"caption": ""},
}


def test_texts_of_a_metadata_file_are_looked_through_too(folder):
    (folder / "meta.json").write_text('{"a": {"caption": "a [cat]\\ntwo"}}', encoding="utf-8")
    lines, syntax = read(folder, metadata_toml("meta.json"))[1]
    assert "1 caption with several lines, of which only the first is used (a)" in lines
    assert "[word] (a): " in syntax


def test_empty_texts_are_not_set(folder):
    empty = 'metadata_file = ""\nconditioning_data_dir = ""\ncontrol_directory = ""\nclass_tokens = ""'
    assert [item.text for item in style(folder, empty)] == ["cat one, asleep", "cat two"]
    Image.new("RGB", (64, 64)).save(folder / "cats" / "c.png")
    with pytest.raises(UserError, match="1 images"):
        read(folder, subset(empty))
    with pytest.raises(UserError, match=r"no \.caption file"):
        read(folder, subset(general='caption_extension = ""').replace('caption_extension = ".txt"\n', ""))


def metadata_toml(name):
    return subset(f'metadata_file = "{name}"', dataset="resolution = 512\nenable_bucket = true")


def test_metadata_gives_captions_tags_and_sizes(folder):
    (folder / "meta.json").write_text(json.dumps(METADATA), encoding="utf-8")
    Image.new("RGB", (1920, 1080)).save(folder / "cats" / "a.png")
    routes, notes = read(folder, metadata_toml("meta.json"))
    assert [(item.text, item.size) for item in routes["style"]] == [
        ("a fox,red, quick", (640, 384)),
        ("a hen", (384, 640)),
        ("only tags", (640, 384)),
        ("no image", (512, 512)),
    ]
    assert "1 entries have neither caption nor tags" in notes[0]


def test_metadata_a_line_an_image(folder):
    rows = [{"image_path": key, **entry} for key, entry in METADATA.items()]
    (folder / "meta.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    items = read(folder, metadata_toml("meta.jsonl"))[0]["style"]
    assert [item.text for item in items] == ["a fox,red, quick", "a hen", "only tags", "no image"]


def test_tags_follow_every_line_when_wildcards_are_on(folder):
    (folder / "meta.json").write_text('{"a": {"caption": "one\\ntwo", "tags": "x\\ny"}}', encoding="utf-8")
    items = read(folder, metadata_toml("meta.json") + "enable_wildcard = true")[0]["style"]
    assert items[0].text == "one,x,y\ntwo,x,y"


def test_a_json_configuration_is_read_too(folder):
    config = {
        "general": {"caption_extension": "txt"},
        "datasets": [{"resolution": 512, "subsets": [{"image_dir": str(folder / "cats")}]}],
    }
    path = folder / "data.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    assert len(read_dataset_config(path, ["style"])[0]["style"]) == 2


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[general\n", ["not valid TOML", "line 1"]),
        ('[general]\n\ncaption_prefix = "C:\\hoge"\n', ["not valid TOML", "line 3", "single quotes"]),
        ("", ["no datasets", "[[datasets]]"]),
        ("[datasets]\nresolution = 512", ["double brackets"]),
        ("[[dataset]]\nresolution = 512", ['unknown table "dataset"', '"datasets"']),
        ("[[datasets]]\nresolution = 512", ["dataset 1", "no subsets"]),
        ("[[datasets]]\n[datasets.subsets]\nimage_dir = 'cats'", ["double brackets, [[datasets.subsets]]"]),
        (subset("num_repeat = 2"), ["dataset 1, subset 1", 'unknown key "num_repeat"', '"num_repeats"']),
        (subset("image_directory = 'x'"), ['unknown key "image_directory"', '"image_dir"']),
        (subset("batch_size = 2"), ['"batch_size" does not belong in [[datasets.subsets]]', "[[datasets]]"]),
        (subset(general="image_dir = 'x'"), ["[general]", '"image_dir" does not belong', "[[datasets.subsets]]"]),
        (subset("keep_tokens = true"), ["keep_tokens = True", "integer of at least 0"]),
        (subset("shuffle_caption = 1"), ["shuffle_caption = 1", "true or false"]),
        (subset("caption_dropout_rate = 1.5"), ["caption_dropout_rate = 1.5", "from 0 to 1"]),
        (subset('caption_separator = ""'), ["caption_separator", "not empty"]),
        (subset(dataset="resolution = 512\nbatch_size = 0"), ["dataset 1", "batch_size = 0", "at least 1"]),
        (subset(dataset="batch_size = 1"), ["resolution is missing", "resolution = 1024"]),
        (subset(dataset='resolution = "big"'), ["resolution: 'big' is not a size", '"width,height"']),
        (subset(dataset="resolution = [512, 512, 512, -1]"), ["-1 is not a size"]),
        (subset(dataset="resolution = 1536\nenable_bucket = true"), ["max_bucket_reso = 1024", "at least 1536"]),
        (subset('conditioning_data_dir = "C:\\new"'), ["conditioning_data_dir", "line breaks", "'single quotes'"]),
        (subset('conditioning_data_dir = "x"'), ['conditioning_data_dir: there is no folder "x"']),
        (subset(teacher=""), ["which teacher", 'custom_attributes.teacher = "..."', "t2i, style"]),
        (subset(teacher='custom_attributes.teacher = "stlye"'), ['"stlye"', 'Did you mean "style"?', "t2i, style"]),
        (subset(teacher='custom_attributes = "style"'), ["custom_attributes = 'style'", "table"]),
        (subset().replace('"cats"', '""'), ["image_dir = ''", "not empty"]),
        (subset().replace('"cats"', '"dogs"'), ['image_dir: there is no folder "dogs"', "data.toml"]),
        (subset('metadata_file = "no.json"'), ['metadata_file: there is no file "no.json"']),
        (subset().replace('image_dir = "cats"', ""), ["image_dir is missing"]),
        (subset('caption_extension = ".caption"'), ["no .caption file", "2 .txt files", 'caption_extension = ".txt"']),
    ],
)
def test_wrong_configurations_are_named_with_a_remedy(folder, toml, words):
    with pytest.raises(UserError) as caught:
        read(folder, toml)
    assert str(folder / "data.toml") in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_wrong_caption_files_and_images_are_named(folder):
    caption, image = folder / "cats" / "a.txt", folder / "cats" / "b.png"
    image.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"b\.png: the size of this image cannot be read"):
        read(folder, subset())
    image.unlink()
    caption.write_text(" \n", encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.txt: the caption file is empty"):
        read(folder, subset())
    caption.write_bytes(b"sch\xf6n")
    with pytest.raises(UserError, match=r"a\.txt: the caption file is not UTF-8"):
        read(folder, subset())


def test_folders_without_captions_say_what_could_help(folder):
    cats = folder / "cats"
    (cats / "more").mkdir()
    for name in ("a.txt", "b.txt"):
        (cats / name).rename(cats / "more" / name)
    with pytest.raises(UserError, match="recursive = true"):
        read(folder, subset())
    Image.new("RGB", (64, 64)).save(cats / "more" / "c.png")
    for name in ("a.txt", "b.txt"):
        (cats / "more" / name).unlink()
    with pytest.raises(UserError, match=r"no \.txt file for its 1 images.*class_tokens"):
        read(folder, subset("recursive = true"))


def test_a_small_image_without_upscaling_is_named(folder):
    Image.new("RGB", (40, 40)).save(folder / "cats" / "a.png")
    with pytest.raises(UserError, match=r"a\.png: 40x40 is smaller than one bucket step.*bucket_no_upscale = false"):
        read(folder, subset(dataset="resolution = 512\nenable_bucket = true\nbucket_no_upscale = true"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.json", "{", ["not valid JSON"]),
        ("m.json", "[1]", ["expected {"]),
        ("m.json", '{"a": "b"}', ['"a"', "expected an object"]),
        ("m.json", '{"a": {"caption": 3}}', ["must be strings"]),
        ("m.json", '{"a": {"caption": "x", "train_resolution": [1, "2"]}}', ["train_resolution", "[width, height]"]),
        ("m.json", "{}", ["no entry with a caption"]),
        *[
            ("m.json", f'{{"{key}": {{"caption": "x"}}}}', [f'"{key}" is not the name'])
            for key in ("", "/", ".", "a/..")
        ],
        ("m.jsonl", '{"image_path": "", "caption": "x"}', ["line 1", "is not the name of an image"]),
        ("m.jsonl", '{"image_path": "a", "caption": "x"}\n{"caption": "y"}', ["line 2", "expected an object"]),
    ],
)
def test_wrong_metadata_is_named(folder, name, content, words):
    (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read(folder, metadata_toml(name))
    assert all(word in str(caught.value) for word in [name, *words]), str(caught.value)


@pytest.mark.parametrize("key", ["x" * 300, "x" * 252 + ".png"])
def test_an_entry_whose_name_cannot_be_a_file_has_no_image(folder, key):
    (folder / "meta.json").write_text(json.dumps({key: {"caption": "a fox"}}), encoding="utf-8")
    (item,) = read(folder, metadata_toml("meta.json"))[0]["style"]
    assert (item.text, item.picture) == ("a fox", None)


def test_an_entry_whose_name_no_file_has_anywhere_is_refused(folder):
    (folder / "meta.json").write_text(json.dumps({"a\0b": {"caption": "a fox"}}), encoding="utf-8")
    with pytest.raises(UserError, match=r"meta\.json: a\\x00b has a null character at position 2"):
        read(folder, metadata_toml("meta.json"))


def test_a_missing_configuration_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no\.toml: dataset configuration not found"):
        read_dataset_config(tmp_path / "no.toml", TEACHERS)
