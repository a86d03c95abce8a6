"""Source images in a plan: what the model can use, which samples share a batch, and what is encoded once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from danceopd_ext.data.items import Item, RouteData
from danceopd_ext.data.latent_cache import LatentCache, SourceCache
from danceopd_ext.data.load import load_data
from danceopd_ext.data.pictures import ItemPicture, inspect_picture, load_picture
from danceopd_ext.data.plan import Plan, Prompt
from danceopd_ext.data.prompt_cache import PromptCache
from danceopd_ext.data.source_images import SourceImages
from danceopd_ext.data.text_cache import TextCache
from danceopd_ext.errors import UserError
from tests.tiny.edit_files import captions, editor, save

# --- what the model takes


def items_with(*counts):
    return [Item("p", 64, 64, where="p.csv, line 3", source_images=("a.png",) * count) for count in counts]


@pytest.mark.parametrize(
    ("rules", "count", "words"),
    [
        (SourceImages("Drawer", editors=("painter", "qwen")), 1, ["Drawer draws from text alone", "(painter, qwen)"]),
        (editor(2), 3, ["3 source images", "Painter takes up to 2"]),
    ],
)
def test_what_the_model_cannot_use_is_refused_before_a_file_is_opened(rules, count, words):
    with pytest.raises(UserError) as caught:
        rules.measured(items_with(count))
    assert all(word in str(caught.value) for word in ["p.csv, line 3: ", *words])


def test_text_and_edits_mix_where_the_model_does_both(tmp_path):
    path = save(tmp_path / "a.png", (30, 20))
    rules = editor(fitted=lambda size, drawn: (size[0] * 2, size[1] + drawn[1]))
    drawn, *edited = rules.measured(
        [Item("p", 64, 64), *(Item("p", 64, height, source_images=(path, path)) for height in (64, 80))]
    )
    assert drawn == Item("p", 64, 64)
    assert [item.source_sizes for item in edited] == [((60, 84), (60, 84)), ((60, 100), (60, 100))]
    assert rules.pictures == {path: inspect_picture(path)}
    assert list(rules.uses) == [(path, (64, 64)), (path, (64, 80))]


@pytest.mark.parametrize(("batch", "told"), [(1, False), (2, True), (3, True)])
def test_batches_that_few_edits_fit_into_are_told(batch, told):
    """Two edits with a source of one size, one of another, and a prompt alone."""

    def edit(text, size):
        return Item(text, 64, 64, source_images=(f"{text}.png",), source_sizes=(size,))

    edits = [edit("a", (64, 64)), edit("b", (64, 64)), edit("c", (96, 48))]
    plan = Plan(
        {"edit": RouteData("edit", tuple(edits)), "t2i": RouteData("t2i", (Item("p", 64, 64),))}, batch_size=batch
    )
    notes = plan.notes()
    assert len(notes) == told
    if told:
        assert notes[0].startswith("edit: its edits have 2 different sizes")
        assert f"; {batch - 1} of these" in notes[0] and "train_batch_size = 1" in notes[0]


def test_a_picture_that_the_model_does_not_take_is_named(tmp_path):
    def fitted(size, drawn):
        raise UserError(f"Painter: {size[0]} pixels are too small.")

    path = save(tmp_path / "a.png", (30, 20))
    with pytest.raises(UserError, match=r"the data: its source image .*a\.png cannot be used\. Painter: 30 pixels"):
        editor(fitted=fitted).measured([Item("p", 64, 64, source_images=(path,))])


def test_source_images_of_a_route_that_is_never_drawn_are_not_looked_at(tmp_path):
    captions(tmp_path / "after", "a")
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "a.png").write_bytes(save(tmp_path / "whole.png").read_bytes()[:40])
    subset = f'custom_attributes.teacher = "edit"\nimage_dir = "{tmp_path}/after"\n'
    subset += f'conditioning_data_dir = "{tmp_path}/before"'
    path = tmp_path / "data.toml"
    dataset = "resolution = [64, 64]\ncaption_extension = '.txt'\nenable_bucket = false"
    path.write_text(f"[[datasets]]\n{dataset}\n[[datasets.subsets]]\n{subset}\n", encoding="utf-8")
    (tmp_path / "p.txt").write_text("a cat", encoding="utf-8")
    (tmp_path / "after" / "a.png").write_bytes((tmp_path / "whole.png").read_bytes())

    def loaded(weight, sources):
        prompts = {"t2i": tmp_path / "p.txt"}
        return load_data(
            ["t2i", "edit"], dataset_config=path, prompts=prompts, weights={"edit": weight}, sources=sources
        )

    assert loaded(0, editor(0)).plan.route(0) == "t2i"
    with pytest.raises(UserError, match="draws from text alone"):
        loaded(1, editor(0))
    (tmp_path / "before" / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.txt: its source image .*a\.png: the picture cannot be read"):
        loaded(1, editor())


# --- the plan


def edits(*sizes, count=5):
    """Edits whose output is the same, with source images of these sizes."""
    return RouteData("edit", tuple(
        Item(f"e{place}-{number}", 64, 64, source_images=(f"{place}.png",) * len(own), source_sizes=own)
        for place, own in enumerate(sizes) for number in range(count)
    ))  # fmt: skip


def test_a_batch_has_source_images_of_the_same_number_and_sizes():
    data = edits((), ((32, 32),), ((32, 48),), ((32, 32), (32, 48)))
    plan = Plan({"edit": data}, batch_size=2, seed=3)
    seen = set()
    for step in plan.steps(40):
        (batch,) = step.micro_batches
        sizes = {data.items[item].source_sizes for item in batch.item_ids}
        assert len(sizes) == 1
        seen |= sizes
    assert len(seen) == 4


def test_source_images_change_nothing_for_routes_without():
    plain = RouteData("t2i", tuple(Item(f"p{number}", 64, 64) for number in range(9)))
    alone = Plan({"t2i": plain}, batch_size=2, seed=3)
    mixed = Plan({"t2i": plain, "edit": edits(((32, 32),))}, {"edit": 0}, batch_size=2, seed=3)
    assert list(alone.steps(20)) == list(mixed.steps(20))


def test_a_prompt_counts_once_with_each_of_its_source_images():
    one, two = (Item("red", 64, 64, source_images=(name,), source_sizes=((8, 8),)) for name in ("1.png", "2.png"))
    plan = Plan({"edit": RouteData("edit", (one, two, one)), "t2i": RouteData("t2i", (Item("red", 64, 64),))})
    assert set(plan.all_prompts(40)) == {Prompt("red", names, (64, 64)) for names in (("1.png",), ("2.png",), ())}
    assert plan.all_texts(40) == ["red"]


def test_the_sizes_of_source_images_are_part_of_a_plan_and_its_summary():
    small, large = (Plan({"edit": edits((size,))}) for size in ((32, 32), (64, 64)))
    assert small.fingerprint() != large.fingerprint()
    assert str(small.summary()[0]) == "edit: 100% of the steps, 5 prompts, 1 source images, 64x64 (5)"


# --- the cache


def mean_colour(image, drawn=None):
    return torch.tensor(np.asarray(image, dtype=np.float32)).mean(dim=(0, 1)).reshape(3, 1, 1)


def cache_of(folder, *paths, **rules):
    return SourceCache(folder, "vae", editor(pictures={path: inspect_picture(path) for path in paths}, **rules))


#: the size of the picture that is drawn
DRAWN = (64, 64)


def test_each_source_image_is_encoded_once_for_each_size(tmp_path):
    one, same, other = (save(tmp_path / f"{name}.png", seed=seed) for name, seed in (("1", 1), ("2", 1), ("3", 2)))
    cache = cache_of(tmp_path / "cache", one, same, other)
    uses = [(path, DRAWN) for path in (one, same, other, one)]
    assert cache.encode_missing(uses, mean_colour) == 2
    assert torch.equal(cache.get(same, DRAWN), mean_colour(load_picture(one)))
    assert torch.equal(cache.get(other, (32, 96)), mean_colour(load_picture(other)))
    assert cache_of(tmp_path / "cache", one, same, other).missing(uses) == []
    larger = cache_of(tmp_path / "cache", one, fitted=lambda size, drawn: (16, 16))
    assert larger.missing([(one, DRAWN)]) == [(one, DRAWN)]


def test_pictures_of_two_sizes_share_what_a_model_sees_alike_and_nothing_else(tmp_path):
    """Also where both are cut to one size: they were scaled to two areas before."""
    small, large = save(tmp_path / "small.png", (8, 8)), save(tmp_path / "large.png", (40, 40), seed=2)

    def area(size, drawn):
        return drawn[0] * drawn[1] if size[0] > 8 else None

    rules = {"fitted": lambda size, drawn: (8, 8), "area": area}
    latents = cache_of(tmp_path / "latents", small, large, **rules)
    texts = PromptCache(TextCache(tmp_path / "texts", "key"), latents.sources)
    uses = [(path, drawn) for path in (small, large) for drawn in ((16, 16), (16, 32), (32, 16))]
    assert len({latents.key(*use) for use in uses}) == 3  # one of the small image, two of the large
    assert len({texts.key(Prompt("red", (path,), drawn)) for path, drawn in uses}) == 3
    assert latents.encode_missing(uses, lambda image, drawn: torch.full((1, 1, 1), drawn[0] * drawn[1])) == 3
    assert [int(latents.get(*use)) for use in uses[3:]] == [256, 512, 512]
    assert texts.encode_missing(
        [Prompt("red", (path,), drawn) for path, drawn in uses],
        lambda prompts: [{"area": torch.tensor(p.drawn[0] * p.drawn[1])} for p in prompts],
    ) == 3  # fmt: skip
    assert [int(texts.get("red", (path,), drawn)["area"]) for path, drawn in uses[3:]] == [256, 512, 512]


def test_what_does_not_depend_on_the_size_of_the_picture_keeps_its_name(tmp_path):
    """So caches of earlier runs stay of use."""
    path = save(tmp_path / "a.png")
    latents, digest = cache_of(tmp_path, path), inspect_picture(path).digest
    assert latents.key(path, DRAWN) == f"{digest} as a source of 8x8"
    prompt = Prompt("red", (path, path), DRAWN)
    assert PromptCache(TextCache(tmp_path, "key"), latents.sources).key(prompt) == f"red\n{digest}\n{digest}"
    assert PromptCache(TextCache(tmp_path, "key")).key(prompt) == "red"


def test_results_and_source_images_share_a_folder_and_are_told_apart(tmp_path):
    path = save(tmp_path / "a.png")
    item = Item("a", 8, 8, picture=ItemPicture(path))
    targets = LatentCache(tmp_path / "cache", "vae", {path: inspect_picture(path)})
    sources = cache_of(tmp_path / "cache", path)
    assert targets.folder == sources.folder
    targets.encode_missing([item], lambda picture: torch.zeros(3, 1, 1))
    assert sources.missing([(path, DRAWN)]) == [(path, DRAWN)]
    sources.encode_missing([(path, DRAWN)], lambda image, drawn: torch.ones(3, 1, 1))
    assert float(targets.get(item).sum()) == 0
    assert float(sources.get(path, DRAWN).sum()) == 3
    assert len(list(targets.folder.glob("*.safetensors"))) == 2


def test_a_source_image_that_changed_is_encoded_again(tmp_path):
    path = save(tmp_path / "a.png")
    cache_of(tmp_path / "cache", path).encode_missing([(path, DRAWN)], mean_colour)
    save(path, seed=5)
    assert cache_of(tmp_path / "cache", path).missing([(path, DRAWN)]) == [(path, DRAWN)]
