"""A run's logs and pictures, and the options of method and data as the log shows them."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from danceopd_ext.toolkits.native.journal import Journal
from tests.toolkits.runs import log_of

# --- logs


def test_log(ran):
    output = ran(max_train_steps=5, train_batch_size=2, learning_rate=0.01, lr_scheduler="linear")
    log = log_of(output)
    assert [entry["step"] for entry in log] == [1, 2, 3, 4, 5]
    assert [entry["learning_rate"] for entry in log] == pytest.approx([0.01, 0.008, 0.006, 0.004, 0.002])
    for entry in log:
        assert entry["route"] in ("one", "two")
        assert entry["loss"] > 0 and entry["grad_norm"] > 0 and entry["seconds"] > 0
        assert 0 < entry["query_sigma"] <= 1
        assert entry["samples"] == 2
        assert 0 <= entry["rollout_forwards_per_sample"] <= 1


def test_seconds_of_the_stages(ran, capsys):
    """They stand in the log of each step, fill most of it, and end the run in one line with their sums."""
    log = log_of(ran(max_train_steps=3, train_batch_size=2, query="high_noise", rollout_steps=4))
    for entry in log:
        stages = entry["stage_seconds"]
        assert list(stages) == ["rollout", "teacher", "match", "optimizer"]
        assert min(stages.values()) > 0
        assert 0.5 * entry["seconds"] < sum(stages.values()) <= entry["seconds"] + 0.001
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "time     " in line]
    teacher = sum(entry["stage_seconds"]["teacher"] for entry in log)
    total = sum(entry["seconds"] for entry in log)
    assert f"{total:.1f} s for 3 steps: rollout " in line
    assert f" teacher {teacher:.1f} s, match " in line


def test_a_new_run_starts_a_new_log(ran, tmp_path):
    output = ran(max_train_steps=3)
    assert len(log_of(output)) == 3
    ran(max_train_steps=2, overwrite=True)
    assert [entry["step"] for entry in log_of(output)] == [1, 2]


def test_half_a_log_line_of_a_killed_run_is_dropped(ran, launch, tmp_path):
    output = ran(max_train_steps=4, save_every_n_steps=2, save_state=True)
    with open(output / "fused.log.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 5, "rou')
    launch(tmp_path / "run" / "preset.toml", "--resume", output / "fused-step00000002-state")
    assert [entry["step"] for entry in log_of(output)] == [1, 2, 3, 4]


def test_tensorboard(ran, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "samples.txt").write_text("a red cat --w 16 --h 16 --s 2\n", encoding="utf-8")
    pictures = {"sample_prompts": str(tmp_path / "samples.txt"), "sample_every_n_steps": 2}
    output = ran(max_train_steps=3, log_with="tensorboard", **pictures)
    (file,) = (output / "logs" / "fused" / "danceopd").glob("events*")
    events = EventAccumulator(str(file.parent))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([e["loss"] for e in log_of(output)])
    assert {"loss/one", "loss/two"} & set(events.Tags()["scalars"])
    assert events.Images("samples")


# --- pictures


def test_pictures(ran, tmp_path):
    (tmp_path / "samples.txt").write_text(
        "# previews\na red cat --w 16 --h 16 --s 2\na dog --n a tree --w 24 --h 16 --s 2 --l 3 --d 5\n",
        encoding="utf-8",
    )
    keys = {"sample_prompts": str(tmp_path / "samples.txt"), "sample_every_n_steps": 2, "sample_at_first": True}
    output = ran(max_train_steps=3, **keys)
    found = sorted(path.name for path in (output / "sample").iterdir())
    assert found == [f"fused-step0000000{step}.png" for step in (0, 2, 3)]
    pictures = [Image.open(output / "sample" / name) for name in found]
    assert len({picture.size for picture in pictures}) == 1
    assert len({picture.tobytes() for picture in pictures}) == 3, "the student's column does not change"
    again = ran(max_train_steps=3, name="again", **keys)
    for name in found:
        assert Image.open(again / "sample" / name).tobytes() == Image.open(output / "sample" / name).tobytes()


def test_pictures_do_not_change_the_run(ran, tmp_path):
    (tmp_path / "samples.txt").write_text("a red cat --w 16 --h 16 --s 2\n", encoding="utf-8")
    keys = {"network_dropout": 0.3}
    with_pictures = ran(sample_prompts=str(tmp_path / "samples.txt"), sample_every_n_steps=1, name="with", **keys)
    without = ran(name="without", **keys)
    assert [e["loss"] for e in log_of(with_pictures)] == [e["loss"] for e in log_of(without)]


def test_prompts_without_an_interval_are_told(ran, tmp_path, capsys):
    (tmp_path / "samples.txt").write_text("a red cat --w 16 --h 16 --s 2\n", encoding="utf-8")
    output = ran(sample_prompts=str(tmp_path / "samples.txt"))
    assert "set sample_every_n_steps" in capsys.readouterr().out
    assert not (output / "sample").exists()


# --- the method's options and the data


def test_several_queries(ran):
    log = log_of(ran(num_queries=2, rollout_steps=4))
    for entry in log:
        assert (entry["student_forwards_per_sample"], entry["teacher_forwards_per_sample"]) == (2.0, 2.0)


@pytest.mark.parametrize("query", ["mid_noise", "high_noise", "uniform", "stratified"])
def test_queries(ran, query):
    assert len(log_of(ran(query=query))) == 2


def test_the_solver_changes_states_and_not_their_number(ran):
    euler, ab2 = (
        log_of(ran(rollout_steps=6, query="stratified", name=solver, rollout_solver=solver, max_train_steps=2))[0]
        for solver in ("euler", "ab2")
    )
    assert euler["loss"] != ab2["loss"]
    assert euler["rollout_forwards_per_sample"] == ab2["rollout_forwards_per_sample"]


def test_rollout_batch_size(ran):
    """One by one or together: the forwards are counted in samples, and the losses are equal."""
    alone, together = (
        log_of(ran(train_batch_size=3, rollout_steps=4, name=str(size), rollout_batch_size=size)) for size in (1, None)
    )
    assert [e["loss"] for e in alone] == pytest.approx([e["loss"] for e in together], rel=1e-4)
    forwards = [[e["rollout_forwards_per_sample"] for e in log] for log in (alone, together)]
    assert forwards[0] == forwards[1]


def test_match_batch_size(ran):
    """The states of all rollouts one by one, or several together: the same training."""
    one, five = (
        log_of(ran(train_batch_size=2, rollout_steps=4, num_queries=3, name=str(size), match_batch_size=size))
        for size in (1, 5)
    )
    assert [e["loss"] for e in one] == pytest.approx([e["loss"] for e in five], rel=1e-4)
    assert [e["forwards"] for e in one] == [e["forwards"] for e in five]


def test_several_sizes_in_one_step(ran):
    output = ran(resolution=["16", "24,16", "16,24"], gradient_accumulation_steps=6, max_train_steps=3)
    assert [entry["samples"] for entry in log_of(output)] == [6, 6, 6]


@pytest.mark.parametrize("form", ["inline", "dotted", "table"])
def test_dataset_and_prompts_together(ran, two_teachers, tmp_path, form, capsys):
    """One route's captions come from a folder, the other's from a prompt file, and one has both."""
    for name, text in (("cats", "red cat"), ("dogs", "blue dog")):
        (tmp_path / name).mkdir()
        for number in range(2):
            (tmp_path / name / f"{number}.txt").write_text(f"{text} {number}", encoding="utf-8")
    words = {
        "inline": 'custom_attributes = { teacher = "NAME" }',
        "dotted": 'custom_attributes.teacher = "NAME"',
        "table": '[datasets.subsets.custom_attributes]\nteacher = "NAME"',
    }[form]
    subsets = [
        f"[[datasets.subsets]]\nimage_dir = '{tmp_path / folder}'\nnum_repeats = 2\n{words.replace('NAME', teacher)}\n"
        for folder, teacher in (("cats", "one"), ("dogs", "two"))
    ]
    config = tmp_path / "dataset.toml"
    config.write_text(
        "[[datasets]]\nresolution = 16\ncaption_extension = '.txt'\n" + "".join(subsets), encoding="utf-8"
    )
    more = tmp_path / "more.txt"
    more.write_text("old house\n", encoding="utf-8")
    output = ran(dataset_config=str(config), prompts={"two": str(more)}, max_train_steps=4)
    told = capsys.readouterr().out
    assert "one: 50% of the steps, 2 prompts" in told
    assert "two: 50% of the steps, 3 prompts" in told
    assert len(log_of(output)) == 4


def test_bf16_on_a_cpu(ran):
    output = ran(mixed_precision="bf16", save_precision="bf16", max_train_steps=3, gradient_checkpointing=True)
    assert len(log_of(output)) == 3
    assert all(entry["loss"] > 0 for entry in log_of(output))


def test_accelerates_own_accumulation_is_ignored(ran, monkeypatch):
    """`accelerate config` may have stored a number of accumulated batches; the preset's counts."""
    expected = [entry["grad_norm"] for entry in log_of(ran(name="plain"))]
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "8")
    assert [entry["grad_norm"] for entry in log_of(ran(name="configured"))] == expected


def test_resume_with_another_learning_rate(ran, launch, tmp_path):
    output = ran(max_train_steps=4, save_every_n_steps=2, save_state=True)
    launch(tmp_path / "run" / "preset.toml", "--resume", output / "fused-step00000002-state", "--learning_rate", "1e-4")
    assert [entry["learning_rate"] for entry in log_of(output)] == [1e-2, 1e-2, 1e-4, 1e-4]


def test_every_step_drops_out_something_else(ran, monkeypatch):
    seeds, record = [], Journal.record

    def spy(*arguments):
        seeds.append(torch.initial_seed())
        record(*arguments)

    monkeypatch.setattr(Journal, "record", spy)
    ran(max_train_steps=4, network_dropout=0.5)
    assert len(set(seeds)) == 4


def test_text_cache_is_used_again(ran, capsys, tmp_path):
    keys = {"text_encoder_cache_dir": str(tmp_path / "cache")}
    ran(**keys)
    assert "encoded" in capsys.readouterr().out
    ran(name="again", **keys)
    assert "encoded" not in capsys.readouterr().out
