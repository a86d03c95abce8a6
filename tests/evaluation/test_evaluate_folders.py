"""Pictures stay where they were drawn alike, and are never mixed with others nor taken for them."""

import json
import shutil

import pytest

from danceopd_ext.errors import UserError
from tests.evaluation.benchmarks import ROWS, write_gedit
from tests.evaluation.calls import gedit, gedit_arguments, geneval, geneval_arguments, pixels
from tests.tiny.loras import write_random_lora
from tests.tiny.pipelines import save_any


def style(tmp_path, sd3, seed=5):
    """A LoRA file that a test may replace."""
    return write_random_lora(tmp_path / "style.safetensors", sd3[0], seed=seed)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--guidance_scale", "2"), "drawn with guidance_scale = 1.0, not 2.0"),
        (("--seed", "1"), "drawn with seed = 0, not 1"),
        (("--mixed_precision", "bf16"), "drawn with mixed_precision = no, not bf16"),
    ],
)
def test_other_settings_do_not_mix_with_what_is_there(evaluate, tmp_path, sd3, refusal, more, message):
    geneval(evaluate, tmp_path, sd3, "--limit", "1")
    found = refusal(geneval_arguments(tmp_path, sd3[0], "--limit", "1", *more))
    assert message in found and str(tmp_path / "out" / "base") in found and "another --out" in found


def test_a_lora_that_was_trained_anew_under_its_name_is_refused(evaluate, tmp_path, sd3, refusal):
    arguments = geneval_arguments(tmp_path, sd3[0], "--lora", f"style={style(tmp_path, sd3)}", "--limit", "1")
    evaluate.main(arguments)
    style(tmp_path, sd3, seed=6)
    found = refusal(arguments)
    assert "other LoRA files with these names" in found and str(tmp_path / "out" / "style") in found
    style(tmp_path, sd3)
    evaluate.main(arguments)


def test_another_model_or_vae_under_its_name_is_refused(evaluate, tmp_path, sd3, refusal):
    model = save_any("sd3", tmp_path / "model")
    arguments = geneval_arguments(tmp_path, model, "--limit", "1")
    evaluate.main(arguments)
    other = save_any("sd3", tmp_path / "other", seed=4)
    for part, message in (("vae", "or another VAE"), ("transformer", "another model with this name")):
        shutil.rmtree(model / part)
        shutil.copytree(other / part, model / part)
        assert message in refusal(arguments)


def test_another_prompt_or_source_is_refused(evaluate, tmp_path, sd3, klein, refusal):
    geneval(evaluate, tmp_path, sd3, "--limit", "1")
    prompts = tmp_path / "evaluation_metadata.jsonl"
    prompts.write_text(json.dumps({**ROWS[0], "prompt": "a photo of a tree"}) + "\n", encoding="utf-8")
    found = refusal(geneval_arguments(tmp_path, sd3[0]))
    assert "00000/samples/0000.png was drawn for a prompt" in found
    assert str(tmp_path / "out" / "base") in found and "another --out, or delete" in found

    shutil.rmtree(tmp_path / "out")
    gedit(evaluate, tmp_path, klein, "--limit", "1")
    write_gedit(tmp_path, input_image="two.png")
    assert "k1.png was drawn for a prompt or source image that differs" in refusal(gedit_arguments(tmp_path, klein))


def test_fewer_and_more_pictures_go_on_in_the_same_folder(evaluate, tmp_path, klein, capsys):
    def drawn(*more):
        capsys.readouterr()
        gedit(evaluate, tmp_path, klein, *more)
        return capsys.readouterr().out.partition("; ")[0].rpartition("\n")[2]

    assert drawn("--limit", "1") == "1 pictures drawn"
    assert drawn("--language", "all") == "2 pictures drawn"
    assert drawn("--language", "cn") == "0 pictures drawn"
    asked = json.loads((tmp_path / "out/base/asked.json").read_text(encoding="utf-8"))
    assert len(asked) == 3


def test_a_refused_call_leaves_nothing_in_the_way_of_the_right_one(evaluate, tmp_path, sd3, refusal):
    """One of two models cannot be drawn so: the other's folder stays as it is, and takes any settings later."""
    geneval(evaluate, tmp_path, sd3, "--limit", "1")
    wanted = ["--lora", f"new={sd3[1]}", "--limit", "1", "--seed", "7"]
    assert "drawn with seed = 0" in refusal(geneval_arguments(tmp_path, sd3[0], *wanted))
    evaluate.main(geneval_arguments(tmp_path, sd3[0], "--no_base", *wanted))


def test_notes_without_pictures_do_not_count(evaluate, tmp_path, sd3):
    """A run that ended before its first picture may be started again in another way."""
    folder = tmp_path / "out" / "base"
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text('{"seed": 3}', encoding="utf-8")
    evaluate.main(geneval_arguments(tmp_path, sd3[0], "--limit", "1"))
    assert json.loads((folder / "settings.json").read_text(encoding="utf-8"))["seed"] == 0
    assert pixels(folder / "00000/samples/0000.png").shape == (64, 64, 3)


def test_notes_that_are_damaged_are_named(evaluate, tmp_path, sd3, refusal):
    evaluate.main(geneval_arguments(tmp_path, sd3[0], "--limit", "1"))
    notes = tmp_path / "out" / "base" / "settings.json"
    notes.write_text("{", encoding="utf-8")
    told = refusal(geneval_arguments(tmp_path, sd3[0], "--limit", "1"))
    assert f"{notes}: not valid JSON" in told and "delete the folder" in told


def test_a_corrected_benchmark_file_corrects_what_the_scorer_reads(evaluate, tmp_path, sd3, capsys):
    """The prompt is the same, so the picture stays."""
    picture, told = (tmp_path / "out" / "base" / "00000" / name for name in ("samples/0000.png", "metadata.jsonl"))
    geneval(evaluate, tmp_path, sd3, "--limit", "1")
    before = picture.read_bytes(), picture.stat().st_mtime_ns
    rows = [{**ROWS[0], "include": [{"class": "dog", "count": 7}]}, *ROWS[1:]]
    prompts = tmp_path / "evaluation_metadata.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    evaluate.main(geneval_arguments(tmp_path, sd3[0], "--limit", "1"))
    assert json.loads(told.read_text(encoding="utf-8")) == rows[0]
    assert (picture.read_bytes(), picture.stat().st_mtime_ns) == before


def test_a_picture_that_the_disk_lost_is_drawn_again(evaluate, tmp_path, sd3):
    geneval(evaluate, tmp_path, sd3, "--limit", "1")
    picture = tmp_path / "out" / "base" / "00000" / "samples" / "0000.png"
    before = picture.read_bytes()
    picture.write_bytes(b"")
    evaluate.main(geneval_arguments(tmp_path, sd3[0], "--limit", "1"))
    assert picture.read_bytes() == before


def test_a_picture_that_is_cut_off_is_named(evaluate, tmp_path, sd3):
    geneval(evaluate, tmp_path, sd3, "--limit", "1")
    picture = tmp_path / "out" / "base" / "00000" / "samples" / "0000.png"
    picture.write_bytes(picture.read_bytes()[:60])
    with pytest.raises(UserError) as caught:
        evaluate.main(geneval_arguments(tmp_path, sd3[0], "--limit", "1"))
    assert f"{picture}: the image file is incomplete. Delete it" in str(caught.value)
