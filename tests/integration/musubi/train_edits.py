"""A run as `train_danceopd.py` would start it, on a tiny model and watched: `train_edits.py TINY RECORD words...`.

TINY: a module of this folder with `shrink` and `stand_in_text_encoders`. RECORD: the JSON file that says what was seen.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tests.integration.musubi.checkout import prepare

#: the entry of a batch whose first number says which dataset it is from
MARKED = ("t5_vec", "ctx_vec", "vl_embed")


class Watch:
    """What a run trained and how well.

    seen: (route, number in the text, has source images) of every micro-batch. evaluations: by route, at the start and
    at each saving, on every batch of the data, at fixed noise and noise levels.
    """

    def __init__(self):
        self.seen: list[tuple[str, int, bool]] = []
        self.evaluations: list[dict[str, float]] = []
        self.batches: list[tuple[dict[str, Any], int]] = []

    def install(self) -> None:
        from danceopd_ext.toolkits.hosted.distiller import Distiller
        from danceopd_ext.toolkits.musubi.trainer import DanceOPDMixin

        build, start, loss = DanceOPDMixin._build_dataset, DanceOPDMixin.on_train_start, Distiller.loss

        def build_dataset(trainer, args):
            made = build(trainer, args)
            trainer.watched = made[0]
            return made

        def on_train_start(trainer, args, accelerator, network, transformer, optimizer):
            start(trainer, args, accelerator, network, transformer, optimizer)
            self.evaluate(trainer, transformer)

        def on_post_save(trainer, args, accelerator, network, transformer, *others):
            self.evaluate(trainer, transformer)

        def seen_loss(distiller, transformer, condition, latent_shape):
            self.note(condition)
            return loss(distiller, transformer, condition, latent_shape)

        DanceOPDMixin._build_dataset, DanceOPDMixin.on_train_start = build_dataset, on_train_start
        DanceOPDMixin.on_post_save, Distiller.loss = on_post_save, seen_loss

    def note(self, condition: Any) -> None:
        text = next(condition.entries[name] for name in MARKED if name in condition.entries)
        controls = [entry for name, entry in condition.entries.items() if name.startswith("latents_control")]
        has_source = any(control.numel() for control in controls)
        self.seen += [(route, int(text[i][0, 0]), has_source) for i, route in enumerate(condition.routes)]

    def evaluate(self, trainer: Any, transformer: torch.nn.Module) -> None:
        self.batches = self.batches or list(_batches(trainer.watched))  # of the start: musubi shuffles them
        names = list(trainer.settings.options.teachers)
        losses: dict[str, list[float]] = {}
        for batch, route in self.batches:
            shape = batch["latents"].shape[1:]
            condition = trainer.adapter.condition(batch, [names[route]] * len(batch["latents"]))
            for sigma in (0.9, 0.6, 0.3):
                loss = trainer.distiller.validation_loss(transformer, condition, shape, seed=7, sigma=sigma)
                losses.setdefault(names[route], []).append(float(loss))
        self.evaluations.append({route: sum(values) / len(values) for route, values in losses.items()})


def _batches(group: Any) -> Iterator[tuple[dict[str, Any], int]]:
    """Every batch of the data, and the number of its route."""
    for dataset, route in zip(group.datasets, group.routes, strict=True):
        for index in range(len(dataset.batch_manager)):
            yield dataset.batch_manager[index], route


def main(tiny: str, record: str, *words: str) -> int:
    from danceopd_ext.cli import run
    from danceopd_ext.toolkits.run import main as train

    torch.set_num_threads(1)
    prepare()
    module = importlib.import_module(f"tests.integration.musubi.{tiny}")
    module.shrink()
    module.stand_in_text_encoders()
    watch = Watch()
    watch.install()
    code = run(train, list(words))
    Path(record).write_text(json.dumps({"seen": watch.seen, "evaluations": watch.evaluations}), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
