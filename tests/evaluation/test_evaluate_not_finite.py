"""A model that gives NaN or infinity stops the run: as bytes such a picture is black, and would be scored."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from danceopd_ext.cli import run
from danceopd_ext.engine import model as engine_model
from danceopd_ext.engine.model import find_model
from danceopd_ext.evaluation.jobs import geneval_jobs
from danceopd_ext.evaluation.painter import Drawing, Painter
from tests.evaluation.benchmarks import write_geneval
from tests.evaluation.calls import geneval_arguments

FIRST = 'evaluation_metadata.jsonl, line 1 ("a photo of a cat")'


def test_a_lora_that_blows_up(evaluate, tmp_path, sd3, capsys):
    """Its numbers are finite, so that reading it finds nothing. What the base drew stays, and the next run goes on."""
    model, style = sd3
    broken = tmp_path / "broken.safetensors"
    save_file({name: value * (1e14 if "alpha" not in name else 1) for name, value in load_file(style).items()}, broken)
    assert run(evaluate.main, geneval_arguments(tmp_path, model, "--lora", f"style={broken}")) == 1
    message = capsys.readouterr().err
    assert "stopped: --lora style gives NaN or infinite numbers instead of a picture for " in message
    assert f"{FIRST}: use another file for --lora style, or a lower strength" in message and "bf16" not in message
    assert len(list((tmp_path / "out" / "base").rglob("*.png"))) == 4
    assert not list((tmp_path / "out" / "style").rglob("*.png"))
    evaluate.main(geneval_arguments(tmp_path, model, "--lora", f"style={style}"))
    assert "4 pictures drawn; 4 already existed" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_vae_that_blows_up(evaluate, tmp_path, sd3, monkeypatch, capsys, wrong):
    load = engine_model.load_vae

    def broken(*found):
        vae = load(*found)
        vae.decoder.conv_out.bias.fill_(wrong)
        return vae

    monkeypatch.setattr(engine_model, "load_vae", broken)
    assert run(evaluate.main, geneval_arguments(tmp_path, sd3[0])) == 1
    message = capsys.readouterr().err
    assert "stopped: the base alone gives NaN or infinite numbers" in message
    assert f"{FIRST}: download the model again. " in message
    assert not list((tmp_path / "out").rglob("*.png"))


@pytest.mark.parametrize(("name", "more"), [("base", "; or download"), ("style", "; or use another file for --lora")])
def test_in_fp16_the_precision_is_the_first_suspect(tmp_path, sd3, name, more):
    model = find_model(str(sd3[0]), None, None, device=torch.device("cpu"), precision="fp16")
    drawn = Painter(model, {}, Drawing())
    (job, _) = geneval_jobs(write_geneval(tmp_path), samples=1)
    assert f": use --mixed_precision bf16 or no, with another --out{more}" in str(drawn._not_finite(name, job))
