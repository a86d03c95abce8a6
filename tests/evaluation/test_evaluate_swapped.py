"""Pictures of a base that is larger than the GPU."""

import numpy as np

from danceopd_ext.engine import model as engine_model
from tests.evaluation.calls import geneval, pixels


def test_swapped_blocks_draw_the_same_pictures(evaluate, tmp_path, sd3, monkeypatch):
    geneval(evaluate, tmp_path, sd3, "--no_base")
    pictures = {file.name: pixels(file) for file in (tmp_path / "out/style/00000/samples").glob("*.png")}
    monkeypatch.setattr(engine_model, "can_swap", lambda device: True)
    (tmp_path / "swapped").mkdir()
    geneval(evaluate, tmp_path / "swapped", sd3, "--no_base", "--blocks_to_swap", "1")
    assert pictures
    for name, picture in pictures.items():
        assert np.array_equal(pixels(tmp_path / "swapped/out/style/00000/samples" / name), picture)
