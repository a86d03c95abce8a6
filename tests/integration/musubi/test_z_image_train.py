"""Z-Image in musubi's own train(args), on a tiny model: it learns, and every batch meets its own teacher."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.integration.musubi.runs import apart, here, write_preset
from tests.integration.musubi.worlds import PLAIN, PROMPTS, STYLE, World, dataset

TWO = "[danceopd.teachers.style]\nlora = {style!r}\n[danceopd.teachers.base]\n"
BY_DATASET = TWO + "[danceopd.datasets]\nstyle = 1\nbase = 2\n"


def section(text: str, world: World) -> str:
    return text.format(
        style=str(world.style), weak=str(world.weak), sketch=str(world.sketch), prompts=str(world.prompts)
    )


def caption_of(world: World, batch: dict) -> str:
    """Which caption's encoded text is in the batch."""
    found = []
    for folder, captions in (("style", STYLE), ("plain", PLAIN)):
        for number, caption in enumerate(captions):
            path = world.folder / "data" / folder / f"{folder}{number}_zi_te.safetensors"
            (embed,) = load_file(path).values()
            if embed.shape == batch["llm_embed"][0].shape and torch.equal(embed, batch["llm_embed"][0]):
                found.append(caption)
    return " ".join(found)


@pytest.mark.parametrize(("rate", "share"), [(1e-2, 0.6), (1e-12, 1.0)])
def test_it_learns_from_its_teacher_and_not_by_itself(world, tmp_path, rate, share):
    """40 updates. The loss of a fixed evaluation falls clearly, or, where nothing is learnt, not at all."""
    (tmp_path / "data.toml").write_text(dataset(world.folder / "data" / "style", batch_size=3))
    preset = write_preset(
        tmp_path / "p.toml", section('query = "uniform"\n[danceopd.teachers.weak]\nlora = {weak!r}\n', world),
        dit=world.dit, dataset_config=tmp_path / "data.toml", max_train_steps=40, learning_rate=rate,
        gradient_accumulation_steps=2, network_dim=8, network_alpha=8, lr_scheduler="cosine",
    )  # fmt: skip
    trainer = here(preset)
    print(f"fixed evaluation: {trainer.before:.5f} -> {trainer.after:.5f}")
    assert trainer.before > 0.02
    if share < 1:
        assert trainer.after < share * trainer.before
    else:
        assert trainer.after == pytest.approx(trainer.before, rel=1e-3)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_meets_the_teacher_of_its_dataset(world, tmp_path, workers):
    danceopd = section("[danceopd.teachers.style]\nlora = {style!r}\n[danceopd.teachers.sketch]\nlora = {sketch!r}\n"
                       "[danceopd.teachers.base]\n[danceopd.datasets]\nsketch = 3\nstyle = 1\n", world)  # fmt: skip
    data, plain, again = tmp_path / "data.toml", world.folder / "data" / "plain", tmp_path / "again"
    again.symlink_to(plain)
    data.write_text(world.data.read_text() + dataset(again))
    preset = write_preset(
        tmp_path / "p.toml", danceopd + f'base = "{plain}"\n', dit=world.dit, dataset_config=data, max_train_steps=18,
        max_data_loader_n_workers=workers,
    )  # fmt: skip
    trainer = here(preset)
    captions = {"style": set(), "sketch": set(), "base": set()}
    for seen in trainer.seen:
        (route,) = (name.removeprefix("loss/") for name in seen["metrics"] if name.startswith("loss/"))
        captions[route].add(caption_of(world, seen["batch"]))
        teacher = (route,) if route != "base" else ()
        adapters = seen["adapters"]
        assert adapters[-2:] == [teacher, ("student",)]  # the teacher is asked once, then the student learns
        assert set(adapters[:-2]) <= {("student",)}  # and the rollout was the student's
    assert captions == {"style": set(STYLE), "sketch": set(PLAIN), "base": set(PLAIN)}
    counts = [sum(f"loss/{name}" in seen["metrics"] for seen in trainer.seen) for name in captions]
    assert counts == [6, 6, 6]  # by weight, not by the size of the datasets


def test_routes_come_up_by_their_weight(world, tmp_path):
    danceopd = section(BY_DATASET + "[danceopd.routes]\nstyle = 3\nbase = 1\n", world)
    preset = write_preset(tmp_path / "p.toml", danceopd, dit=world.dit, dataset_config=world.data, max_train_steps=8)
    counts = [sum(f"loss/{name}" in seen["metrics"] for seen in here(preset).seen) for name in ("style", "base")]
    assert counts == [6, 2]


def test_prompts_alone_are_enough(world, tmp_path):
    danceopd = section(TWO + "[danceopd.prompts]\nstyle = {prompts!r}\nbase = {prompts!r}\n", world)
    preset = write_preset(
        tmp_path / "p.toml", danceopd, dit=world.dit, text_encoder=world.text_encoder, max_train_steps=12,
        train_batch_size=2, resolution="64,96", max_data_loader_n_workers=2,
    )  # fmt: skip
    trainer = here(preset)
    assert len(trainer.seen) == 12
    batch = trainer.seen[0]["batch"]
    assert batch["latents"].shape[1:] == (4, 12, 8)
    assert not batch["latents"].any()
    assert {len(seen["batch"]["llm_embed"]) for seen in trainer.seen} == {1, 2}
    texts = {tuple(embed.shape) for seen in trainer.seen for embed in seen["batch"]["llm_embed"]}
    assert texts == {(len(prompt) + 1, 16) for prompt in PROMPTS}
    assert sum("loss/style" in seen["metrics"] for seen in trainer.seen) == 6


def test_encoded_prompts_are_kept_for_the_next_run(world, tmp_path):
    from tests.integration.musubi.tiny_z_image import TextEncoder

    danceopd = section("[danceopd.teachers.base]\n[danceopd.prompts]\nbase = {prompts!r}\n", world)
    values = {"dit": world.dit, "text_encoder": world.text_encoder, "text_encoder_cache_dir": tmp_path / "cache"}
    calls = []
    for run in ("one", "two"):
        TextEncoder.calls = 0
        here(write_preset(tmp_path / run / "p.toml", danceopd, **values))
        calls.append(TextEncoder.calls)
    assert calls == [3, 0]
    next((tmp_path / "cache").rglob("*_te.safetensors")).write_bytes(b"damaged")
    TextEncoder.calls = 0
    here(write_preset(tmp_path / "three" / "p.toml", danceopd, **values))
    assert TextEncoder.calls == 1


def test_prompts_and_datasets_together(world, tmp_path):
    danceopd = section(BY_DATASET + "[danceopd.prompts]\nstyle = {prompts!r}\n", world)
    preset = write_preset(
        tmp_path / "p.toml", danceopd, dit=world.dit, text_encoder=world.text_encoder, dataset_config=world.data,
        max_train_steps=12,
    )  # fmt: skip
    trainer = here(preset)
    style = [seen for seen in trainer.seen if "loss/style" in seen["metrics"]]
    assert len(style) == 6
    assert {caption_of(world, seen["batch"]) for seen in style} == {*STYLE, ""}
    others = [seen for seen in trainer.seen if "loss/base" in seen["metrics"]]
    assert {caption_of(world, seen["batch"]) for seen in others} == set(PLAIN)


def test_guidance_asks_the_teacher_with_and_without_text(world, tmp_path):
    danceopd = section("[danceopd.teachers.guided]\nlora = {style!r}\nguidance_scale = 3.0\n", world)
    preset = write_preset(
        tmp_path / "p.toml", danceopd, dit=world.dit, dataset_config=world.data, text_encoder=world.text_encoder,
        max_train_steps=1,
    )  # fmt: skip
    trainer = here(preset)
    assert trainer.seen[0]["adapters"][-3:] == [("guided",), ("guided",), ("student",)]
    (empty,) = trainer.adapter.empty["llm_embed"]
    assert empty.shape == (1, 16)  # the chat template around nothing
    adapter, batch = trainer.adapter, trainer.group[0]
    condition = adapter.condition({k: v for k, v in batch.items() if k != "danceopd_route"}, ["guided"])
    z, sigma = torch.randn(1, 4, 8, 8), torch.tensor([0.5])
    teacher, _ = trainer.distiller.fields(trainer.transformer)
    with torch.no_grad():
        guided = teacher(z, sigma, condition)
        trainer.distiller.switch.to("guided", False)
        text = adapter.velocity(trainer.transformer, z, sigma, condition)
        none = adapter.velocity(trainer.transformer, z, sigma, condition.unconditional())
    assert torch.allclose(guided, none + 3 * (text - none), atol=1e-6)
    assert float((text - none).abs().max()) > 1e-3


def test_several_queries_give_the_mean_of_their_gradients(world, tmp_path):
    """Two queries of a rollout are learnt from one after the other; their losses and gradients add up."""
    danceopd = section("[danceopd.teachers.style]\nlora = {style!r}\n", world)
    values = {"dit": world.dit, "dataset_config": world.data, "max_train_steps": 1, "network_weights": world.start}
    both = here(write_preset(tmp_path / "two" / "p.toml", "num_queries = 2\n" + danceopd, **values))
    assert both.seen[0]["adapters"][-4:] == [("style",), ("style",), ("student",), ("student",)]
    assert both.gradients[0].norm() > 0
    gradient, loss = by_hand(both, world)
    assert both.seen[0]["loss"] == pytest.approx(loss, rel=1e-5)
    assert torch.allclose(both.gradients[0], gradient, rtol=1e-4, atol=1e-7)


def by_hand(trainer, world: World) -> tuple[torch.Tensor, float]:
    """The first step again, written out: one loss over both queries. The student has moved on, so it is set back."""
    from danceopd_ext.method import draw_query_indices, rollout, sample_noise

    switch, adapter, seen = trainer.distiller.switch, trainer.adapter, trainer.seen[0]
    switch.student.load_state_dict(load_file(world.start), strict=False)
    batch = {name: entry for name, entry in seen["batch"].items() if name != "danceopd_route"}
    condition = adapter.condition(batch, ["style"])
    teacher, student = trainer.distiller.fields(trainer.transformer)
    sigmas = adapter.sigmas(4, (4, 8, 8))
    query = draw_query_indices("low_noise", 2, 4, seed=1, step=0, indices=[0], total=1)
    z = rollout(student, sample_noise(1, 0, [0], (4, 8, 8)), sigmas, condition, query)[0]
    losses = []
    for k in range(2):
        sigma = sigmas[query[0, k]].reshape(1)
        with torch.no_grad():
            target = teacher(z[k : k + 1], sigma, condition)
        losses.append((student(z[k : k + 1], sigma, condition) - target).square().mean())
    loss = torch.stack(losses).mean()
    switch.student.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in switch.student.parameters()]), float(loss.detach())


def test_accumulated_micro_batches_are_one_step_with_noise_of_their_own(world, tmp_path):
    danceopd = section(BY_DATASET, world)
    preset = write_preset(
        tmp_path / "p.toml", danceopd, dit=world.dit, dataset_config=world.data, max_train_steps=3,
        gradient_accumulation_steps=2,
    )  # fmt: skip
    trainer = here(preset)
    assert len(trainer.seen) == 6
    assert len(trainer.gradients) == 6  # accelerate passes on every second of them
    assert trainer.progress.step == 3
    assert trainer.progress.micro_batch == 0


def test_the_whole_command_in_a_process_of_its_own(world, tmp_path):
    """Samples, logs, metadata and file, as a user gets them; drawing pictures does not change the result."""
    (tmp_path / "samples.txt").write_text("a red cat --w 64 --h 64 --s 2 --d 3 --l 1\n")
    danceopd = section(BY_DATASET, world)
    values = {"dit": world.dit, "dataset_config": world.data, "max_train_steps": 4, "save_every_n_steps": 2}
    values["mixed_precision"] = "bf16"  # musubi's pictures are drawn in it whatever the training's precision
    drawing = {"sample_prompts": tmp_path / "samples.txt", "sample_every_n_steps": 2, "vae": world.dit}
    drawing |= {"text_encoder": world.text_encoder, "logging_dir": tmp_path / "logs"}
    files = {}
    for name, more in (("plain", {}), ("drawn", drawing)):
        preset = write_preset(tmp_path / name / "p.toml", danceopd, **values, **more)
        result = apart("tiny_z_image", preset)
        assert result.returncode == 0, result.stderr[-3000:]
        assert f"done: {tmp_path / name / 'out' / 'fused.safetensors'}" in result.stdout
        files[name] = load_file(tmp_path / name / "out" / "fused.safetensors")
    assert (tmp_path / "drawn" / "out" / "fused-step00000002.safetensors").is_file()
    pictures = sorted(path.name[:12] for path in (tmp_path / "drawn" / "out" / "sample").glob("*.png"))
    assert pictures == ["fused_000002", "fused_000004", "fused_e00000"]  # musubi draws at the end of an epoch as well
    assert all(torch.equal(tensor, files["drawn"][key]) for key, tensor in files["plain"].items())
    check_logs(tmp_path / "logs")
    check_metadata(tmp_path / "drawn" / "out" / "fused.safetensors")


def check_logs(folder) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (run,) = {path.parent for path in folder.rglob("events.out*")}
    events = EventAccumulator(str(run))
    events.Reload()
    assert {"loss/style", "loss/base", "loss/current", "danceopd/query_sigma"} <= set(events.Tags()["scalars"])


def check_metadata(path) -> None:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["ss_danceopd_teachers"]) == {"style": "style", "base": "base"}
    assert json.loads(metadata["ss_danceopd_routes"]) == {"style": 1.0, "base": 1.0}
    assert metadata["ss_danceopd_toolkit"] == "musubi-tuner"
    assert metadata["ss_danceopd_rollout_steps"] == "4"
    assert metadata["ss_network_module"] == "networks.lora_zimage"
    assert metadata["ss_steps"] == "4"
    assert str(path.parent) not in json.dumps(metadata)
