"""Pictures of a quantised base: its weights are held as in training, and folders of other ones are not mixed."""

import numpy as np
import pytest
from diffusers import AutoencoderKL

from danceopd_ext.models import decoding
from tests.evaluation.calls import geneval, geneval_arguments, pixels
from tests.tiny.pipelines import ALL
from tests.tiny.quantised_files import to_gguf
from tests.tiny.single_file import to_single_file

PICTURE = "out/style/00000/samples/0000.png"


@pytest.fixture(scope="module")
def exact(evaluate, sd3, tmp_path_factory):
    """A picture of the base as it is, with a LoRA."""
    folder = tmp_path_factory.mktemp("exact")
    geneval(evaluate, folder, sd3)
    return pixels(folder / PICTURE).astype(int)


@pytest.mark.parametrize("words", [("--fp8_base",), ("--quantize_text_encoders", "int8")])
def test_pictures_are_near_to_those_of_the_whole_base(evaluate, tmp_path, sd3, exact, refusal, words):
    geneval(evaluate, tmp_path, sd3, "--limit", "1", *words)
    found = pixels(tmp_path / PICTURE)
    assert 0 < np.abs(found - exact).mean() < 8
    arguments = geneval_arguments(tmp_path, sd3[0], "--lora", f"style={sd3[1]}", "--limit", "1")
    assert f"drawn with {'quantize_text' if 'text' in words[0] else 'quantize'}" in refusal(arguments)


def test_pictures_are_decoded_in_tiles(evaluate, tmp_path, sd3, monkeypatch):
    tiles, decode = [], AutoencoderKL.tiled_decode
    tiled_decode = lambda self, z, **more: tiles.append(z.shape) or decode(self, z, **more)  # noqa: E731
    monkeypatch.setattr(AutoencoderKL, "tiled_decode", tiled_decode)
    monkeypatch.setattr(decoding, "TILE", 32)
    geneval(evaluate, tmp_path, sd3, "--limit", "1", "--vae_tiling")
    assert len(tiles) == 4


def test_a_gguf_is_drawn_with(evaluate, tmp_path, sd3):
    """With a LoRA on it, as on any other base."""
    plain = to_single_file("sd3", ALL["sd3"]().transformer, tmp_path / "plain.safetensors")
    file = to_gguf(plain, tmp_path / "small.gguf")
    words = ("--components_from", str(sd3[0]), "--lora", f"style={sd3[1]}", "--limit", "1")
    for model, out in ((plain, "whole"), (file, "small")):
        evaluate.main(geneval_arguments(tmp_path, model, *words, "--out", str(tmp_path / out)))
    found, whole = (pixels(tmp_path / out / "style/00000/samples/0000.png").astype(int) for out in ("small", "whole"))
    assert 0 <= np.abs(found - whole).mean() < 8


def test_words_that_do_not_exist(tmp_path, sd3, refusal):
    assert "invalid choice: 'nf5'" in refusal(geneval_arguments(tmp_path, sd3[0], "--quantize", "nf5"))
