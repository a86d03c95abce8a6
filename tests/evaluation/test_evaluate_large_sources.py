"""Edits of large pictures by a model that brings them to the size of what it draws."""

import shutil

from diffusers.pipelines.flux2.image_processor import Flux2ImageProcessor
from PIL import Image

from danceopd_ext.models.registry import FAMILIES
from tests.evaluation.benchmarks import write_gedit
from tests.evaluation.calls import gedit


def test_a_large_source_has_the_size_that_omnis_pipeline_gives_it(evaluate, omni, tmp_path, monkeypatch):
    """Also where the encoded prompts of a picture of another size lie in the cache."""
    source = Image.new("RGB", (1200, 900), (200, 30, 30))
    source.save(tmp_path / "large.png")
    write_gedit(tmp_path, input_image="large.png")
    family, seen, entries = FAMILIES["z_image_omni"], [], set()
    scaled = family._scaled

    def spied(image, drawn):
        seen.append(scaled(image, drawn).size)
        return scaled(image, drawn)

    monkeypatch.setattr(family, "_scaled", spied, raising=False)
    for side in ("64", "32"):
        seen.clear()
        more = ("--limit", "1", "--width", side, "--height", side, "--guidance_scale", "2")
        done = gedit(evaluate, tmp_path, omni, *more)
        with Image.open(done / "color_alter/en/k1.png") as picture:
            area = picture.width * picture.height
        assert set(seen) == {Flux2ImageProcessor._resize_to_target_area(source, area).size}
        before, entries = entries, set((tmp_path / "out" / "cache").rglob("*.safetensors"))
        assert len(entries - before) >= 2  # the instruction and the empty prompt, each with this source
        shutil.rmtree(tmp_path / "out" / "base")
