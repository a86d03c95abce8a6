"""The table of what a quantised base costs in the demo world."""

from __future__ import annotations

import torch

from danceopd_ext.demo import LORAS, quantised_scores
from danceopd_ext.demo.report import use
from danceopd_ext.models.held_linear import INT8, HeldLinear


def test_what_is_there_is_not_made_again(monkeypatch, tmp_path, capsys):
    made = []
    score = {"float32": 1.0, "fp8": 0.75, "int8": 0.5, "nf4": 0.25}
    monkeypatch.setattr(
        quantised_scores, "teachers_on", lambda base: made.append(base) or {"one": score[base], "b": 1.0}
    )
    monkeypatch.setattr(quantised_scores, "student_of", lambda base, *_: made.append(base) or {"one": 0.5, "b": 0.5})
    quantised_scores.main([str(tmp_path), "--students"])
    assert made == [*score, *score]
    (tmp_path / "teachers-int8.json").unlink()
    quantised_scores.main([str(tmp_path), "--students"])
    assert made[8:] == ["int8"]
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "| skill | float32 | fp8 | int8 | nf4 |" in text
    assert "| mean | 1.000 | 0.875 | 0.750 | 0.625 |" in text
    assert "| worst | 1.000 | 0.750 | 0.500 | 0.250 |" in text
    assert text.strip() in capsys.readouterr().out


def test_teachers_are_loras_on_the_quantised_base():
    pipeline = quantised_scores.pipeline_on("int8")
    layers = [module for module in pipeline.transformer.modules() if isinstance(module, HeldLinear)]
    assert len(layers) > 20 and {layer.form for layer in layers} == {INT8}
    use(pipeline, {"hollow": 1.0})
    wrapped = pipeline.transformer.layers[0].attention.to_q
    assert set(wrapped.lora_A) == set(LORAS) and isinstance(wrapped.get_base_layer(), HeldLinear)
    x = torch.randn(2, wrapped.in_features)
    change = wrapped.lora_B["hollow"](wrapped.lora_A["hollow"](x)) * wrapped.scaling["hollow"]
    with torch.no_grad():
        assert torch.allclose(wrapped(x), wrapped.get_base_layer()(x) + change, atol=1e-6)
