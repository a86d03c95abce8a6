"""Names of repositories on the Hub are told from paths that are not there."""

from __future__ import annotations

import pytest

from danceopd_ext.foreign.hub import hub_refusal, no_such_file, repository_of

REPOSITORIES = (
    "stabilityai/stable-diffusion-3.5-medium", "black-forest-labs/FLUX.1-dev", "Tongyi-MAI/Z-Image", "Qwen/Qwen-Image",
    "lora-library/B-LoRA", "style/cat", "sd-concepts-library/cat_toy", "h94/IP-Adapter", "alvdansen/flux_film_foto",
    "my-company/style",
)  # fmt: skip
PATHS = (
    "loras/style", "Lora/my_style", "my_loras/x", "my-models/sd3", "sd3_models2/base", "outputs/fused", "checkpoints/a",
    "style", "flux/style.safetensors", "./a/b", "../a/b", "/a/b", "~/a/b", "C:/a/b", "a\\b", "a b/c", "a//b", "a/..",
    "a/b..c", "a/--b", "", "a/", "a\0b/c", "a/b\n", "ä/b", "a" * 200 + "/b",
)  # fmt: skip


@pytest.mark.parametrize("place", REPOSITORIES)
def test_what_can_be_a_repository(place):
    assert repository_of(place) == place
    assert repository_of(f"{place}/folder/x.safetensors") == place


@pytest.mark.parametrize("place", PATHS)
def test_what_is_a_path(place):
    assert repository_of(place) is None


def test_what_is_not_here_names_what_is_near(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "style").mkdir()
    (tmp_path / "style" / "cats.safetensors").touch()
    assert 'Did you mean "cats.safetensors"?' in no_such_file("style/cat.safetensors")
    assert "its folder nowhere does not exist either" in no_such_file("nowhere/cat.safetensors")
    assert str(tmp_path) in no_such_file("nowhere/cat.safetensors")
    assert no_such_file("a\0b/c").count("no such file") == 1 and no_such_file("a" * 5000).count("no such file") == 1


def test_reasons_of_the_hub():
    errors = pytest.importorskip("huggingface_hub.errors")

    def why(kind):
        return hub_refusal(kind.__new__(kind), "style/cat")

    assert "it has no repository style/cat" in why(errors.RepositoryNotFoundError)
    assert "hf auth login" in why(errors.GatedRepoError)
    assert "HF_HUB_OFFLINE" in why(errors.OfflineModeIsEnabled)
    assert hub_refusal(OSError("no connection\n\x1b[2Jmore"), "style/cat") == "no connection"
    assert hub_refusal(OSError(), "style/cat") == "OSError"
