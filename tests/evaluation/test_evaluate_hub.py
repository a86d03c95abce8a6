"""A hub model is checked before its weights are downloaded, which happens once."""

import pytest

from tests.evaluation.benchmarks import write_geneval
from tests.evaluation.calls import gedit_arguments, geneval_arguments, pixels
from tests.tiny.hub import Hub, put_up

MODEL = "someone/sd3"
PICTURE = "base/00000/samples/0000.png"


@pytest.fixture
def hub(monkeypatch, sd3, tmp_path_factory):
    return put_up(monkeypatch, Hub({MODEL: sd3[0]}, tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--width", "61"), "needs a multiple of 4 up to"),
        (("--lora", "gone=none.safetensors"), "no such file"),
        (("--model_type", "flux"), 'model_type = "flux"'),
        (("--clip", "nowhere"), "--clip nowhere"),
        (("--model", "someone/nobody"), "someone/nobody (--model) is not a local file or folder"),
    ],
)
def test_bad_arguments(tmp_path, hub, refusal, more, message):
    write_geneval(tmp_path)
    assert message in refusal(geneval_arguments(tmp_path, MODEL, *more))
    assert hub.downloaded == []


def test_an_edit_benchmark_on_a_model_that_cannot_edit(tmp_path, hub, refusal):
    arguments = gedit_arguments(tmp_path, MODEL)
    assert "cannot edit pictures" in refusal(arguments)
    assert hub.downloaded == []


@pytest.mark.parametrize("moved", [False, True])
def test_pictures_are_those_of_the_same_folder(evaluate, tmp_path, hub, sd3, moved):
    hub.moved = moved
    for name, model in (("hub", MODEL), ("local", sd3[0])):
        (tmp_path / name).mkdir()
        evaluate.main(geneval_arguments(tmp_path / name, model, "--limit", "1"))
    assert hub.downloaded == [MODEL]
    drawn, expected = (pixels(tmp_path / name / "out" / PICTURE) for name in ("hub", "local"))
    assert (drawn == expected).all()


def test_pictures_that_were_drawn_otherwise(evaluate, tmp_path, hub, klein, refusal):
    """Settings are compared before the download, weights behind it."""
    evaluate.main(geneval_arguments(tmp_path, MODEL, "--limit", "1"))
    hub.downloaded.clear()
    assert "drawn with seed = 0, not 1" in refusal(geneval_arguments(tmp_path, MODEL, "--limit", "1", "--seed", "1"))
    assert hub.downloaded == []
    hub.models[MODEL] = klein
    assert "another model with this name" in refusal(geneval_arguments(tmp_path, MODEL, "--limit", "1"))
    assert hub.downloaded == [MODEL]
