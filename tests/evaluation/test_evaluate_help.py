import pytest

DEFAULTS = [
    "GenEval: pictures per prompt (default: 4)",
    "of the instructions (default: en)",
    "only the first prompts (default: all)",
    "the proportions of its source image (default: 1024)",
    "width x height pixels (default: 1024)",
    "of the sampler (default: 28)",
    "always get their pipelines' own guidance (default: 1.0)",
    "the same for every model (default: 0)",
    "(default: bf16 with a CUDA GPU, else no; here ",
    "stay in main memory and travel to the GPU (default: 0)",
    "the weights of the transformer in 4 or 8 bits, which saves memory (default: in --mixed_precision)",
    "the weights of the text encoders in 4 or 8 bits, which saves memory (default: in --mixed_precision)",
]


@pytest.mark.parametrize("benchmark", ["geneval", "gedit"])
def test_the_help_names_every_default(evaluate, capsys, benchmark):
    with pytest.raises(SystemExit) as caught:
        evaluate.main([benchmark, "--help"])
    assert caught.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert [text for text in DEFAULTS if text not in shown] == []
    assert shown.count("default: ") == len(DEFAULTS)


def test_the_help_says_how_guidance_counts(evaluate):
    shown = " ".join(evaluate.parser().format_help().split())
    assert "1 means none. Give the scale that you draw with; for Z-Image its pipeline's number plus one" in shown
