from collections.abc import Callable
from pathlib import Path

import pytest
from diffusers.pipelines.flux import pipeline_flux_kontext
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus

from danceopd_ext.models.registry import FAMILIES
from tests.tiny.pipelines import save_any
from tests.tiny.split_files import save_both

KONTEXT_SIZES = [(32, 48), (40, 40), (48, 32)]


@pytest.fixture(scope="module", params=list(FAMILIES))
def folder(request, tmp_path_factory):
    """A tiny model of each family, saved as its pipeline saves it."""
    return save_any(request.param, tmp_path_factory.mktemp(request.param) / "model")


@pytest.fixture
def small_sources(monkeypatch):
    """Source images of a few thousand pixels, for the pipelines and for us."""
    monkeypatch.setattr(pipeline_flux_kontext, "PREFERRED_KONTEXT_RESOLUTIONS", KONTEXT_SIZES)
    for module, name in (
        (pipeline_qwenimage_edit, "qwen_image_edit"),
        (pipeline_qwenimage_edit_plus, "qwen_image_edit_plus"),
    ):
        true = module.calculate_dimensions
        monkeypatch.setattr(module, "calculate_dimensions", lambda area, ratio, true=true: true(area / 256, ratio))
        for area in ("source_area", "glance_area"):
            monkeypatch.setattr(FAMILIES[name], area, getattr(FAMILIES[name], area) // 256)


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path, dict[str, str]]]:
    """family -> its diffusers folder, the same without weights, and ComfyUI's files by preset key."""
    made: dict[str, tuple] = {}

    def of(family: str):
        if family not in made:
            made[family] = save_both(family, tmp_path_factory.mktemp(family))
        whole, small, files = made[family]
        return whole, small, dict(files)

    return of
