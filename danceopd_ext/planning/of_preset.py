"""Makes the work of a plan from a preset, whose files may not be there yet."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from danceopd_ext.config import Preset, Teacher
from danceopd_ext.data.load import load_data
from danceopd_ext.data.plan import Plan
from danceopd_ext.data.resolutions import Size, parse_resolution
from danceopd_ext.data.source_images import SourceImages
from danceopd_ext.engine.checks import check_swap
from danceopd_ext.engine.model import source_rules
from danceopd_ext.errors import UserError, counted, nearest
from danceopd_ext.foreign.tensors import read_header
from danceopd_ext.method import METHODS
from danceopd_ext.models.family import Family
from danceopd_ext.models.model_files import find_model_files
from danceopd_ext.models.model_folder import INDEX
from danceopd_ext.models.published import known_models, published
from danceopd_ext.models.recognising import checkpoint_keys
from danceopd_ext.models.registry import family_of_checkpoint
from danceopd_ext.planning.blueprint import Blueprint, blueprint_of_folder, blueprint_of_published
from danceopd_ext.planning.work import USUAL_RANK, USUAL_TEXTS, USUAL_TOKENS, PlannedTeacher, Work

#: characters of a token, and the tokens of a template
LETTERS, TEMPLATE = 4, 24
#: where a tensor's rank stands in the shape, by the end of its name
DOWN = ("lora_down.weight", "lora_A.weight", "lora_A.default.weight", "lora.down.weight")


def work_of_preset(preset: Preset, blueprint: Blueprint | None = None, data: Plan | None = None) -> Work:
    """Return what the preset asks, with assumptions for what is not there.

    `blueprint`, `data`: if they are known already. Raises UserError for the model, and for layers or a number of
    blocks that it does not have.
    """
    blueprint, assumed = blueprint or find_blueprint(preset), []
    family, shapes = blueprint.family, blueprint.shapes
    check_swap(family, family.layout_of(shapes), preset.training.blocks_to_swap)
    teachers = {name: _teacher(name, one, shapes, family, assumed) for name, one in preset.danceopd.teachers.items()}
    data = data or _data(preset, blueprint, assumed)
    endings = preset.danceopd.lora_targets or family.lora_targets
    layers = _ending(shapes, endings)
    if not layers:
        raise UserError(f"lora_targets: no layer of {family.title} ends with {', '.join(endings)}.")
    resolution = parse_resolution(preset.dataset.resolution, "resolution")
    sampling = preset.sampling
    drawn = sampling.sample_prompts and (sampling.sample_every_n_steps or sampling.sample_at_first)
    sizes = sorted({item.size for item in data.items()}) if data else resolution
    return Work(
        preset=preset,
        blueprint=blueprint,
        sizes=sizes,
        sources=_sources(data, preset, blueprint, sizes),
        student=dict.fromkeys(layers, preset.network.network_dim),
        teachers=teachers,
        texts=sum(1 for _ in data.items()) if data else USUAL_TEXTS * len(teachers),
        tokens=_tokens(data) if data else USUAL_TOKENS,
        preview=resolution[0] if drawn else None,
        assumed=assumed,
    )


def _ending(layers: Iterable[str], endings: Sequence[str]) -> list[str]:
    return [layer for layer in layers if any(layer == end or layer.endswith(f".{end}") for end in endings)]


def find_blueprint(preset: Preset) -> Blueprint:
    """Find the model's configuration: here, in the cache of earlier downloads, in this package, or on the hub.

    Raises UserError if it is nowhere.
    """
    where, names = preset.model.pretrained_model_name_or_path, preset.model
    known = published(where) if not os.path.lexists(where) else None
    if known and not isinstance(try_to_load_from_cache(where, INDEX), str):
        return blueprint_of_published(known)
    try:
        files = find_model_files(where, names.model_type, names.components_from, parts=names.part_files)
    except UserError as error:
        if known:
            return blueprint_of_published(known)
        if os.path.lexists(where):
            return _of_single_file(where, names.model_type, error)
        raise UserError(
            f"{error}{nearest(where, known_models())} Without a connection, a plan knows {', '.join(known_models())}."
        ) from error
    here = files.hub is None or any((files.components / "transformer").glob("*.safetensors"))
    return blueprint_of_folder(files.family, files.components, files.name, downloads=not here)


def _of_single_file(where: str, model_type: str | None, error: UserError) -> Blueprint:
    """A file whose family's own model on the hub, which has the rest, cannot be asked."""
    if not os.path.isfile(where):
        raise error
    family = family_of_checkpoint(checkpoint_keys(Path(where)), model_type)
    known = published(family.default_components) if family else None
    if not known:
        raise error
    return blueprint_of_published(known)


def _teacher(
    name: str, own: Teacher, shapes: Mapping[str, tuple[int, int]], family: Family, assumed: list[str]
) -> PlannedTeacher:
    whole = bool(own.checkpoint) and not own.extract_rank
    if not own.loras and not own.extract_rank:
        return PlannedTeacher({}, 0, own.guidance_scale, whole)
    rank, size, lacking = own.extract_rank or 0, 0, []
    for file in own.loras:
        found = _lora_file(file)
        rank, size = rank + (found[0] if found else USUAL_RANK), size + (found[1] if found else 0)
        if not found:
            lacking.append(file)
    layers = dict.fromkeys(_ending(shapes, family.lora_targets), rank)
    if lacking or own.extract_rank:
        ranks = USUAL_RANK * len(lacking) + (own.extract_rank or 0)
        size += sum(2 * ranks * sum(shapes[layer]) for layer in layers)
    if lacking:
        assumed.append(f"teacher {name}: {lacking[0]} is not here, so rank {USUAL_RANK} is assumed")
    return PlannedTeacher(layers, size, own.guidance_scale)


def _lora_file(file: str) -> tuple[int, int] | None:
    """Return a LoRA file's largest rank and its bytes in 16 bits; None if it is not here."""
    path = Path(file)
    if path.is_dir():
        path = next(iter(sorted(path.glob("*.safetensors"))), path)
    if not path.is_file():
        return None
    shapes = read_header(path, "LoRA").shapes
    ranks = [shape[0] for tensor, shape in shapes.items() if tensor.endswith(DOWN) and shape]
    return max(ranks, default=USUAL_RANK), 2 * sum(map(prod, shapes.values()))


def _data(preset: Preset, blueprint: Blueprint, assumed: list[str]) -> Plan | None:
    """Read the run's data; None, with a sentence in `assumed`, if its files are not there yet."""
    options, training = preset.danceopd, preset.training
    try:
        return load_data(
            list(options.teachers), dataset_config=preset.dataset.dataset_config, prompts=options.prompts,
            resolution=preset.dataset.resolution, weights=options.routes or None, seed=training.seed,
            train_batch_size=training.train_batch_size, micro_batches=training.gradient_accumulation_steps,
            every_route=not options.merges and METHODS[options.method].every_route, sources=_rules(blueprint),
        ).plan  # fmt: skip
    except UserError as error:
        texts = counted(USUAL_TEXTS, "prompt")
        assumed.append(
            f"the data cannot be read yet ({str(error).rstrip('.')}), so {texts} of {USUAL_TOKENS} tokens for each "
            f"route at resolution = {preset.dataset.resolution} are assumed"
        )
        return None


def _rules(blueprint: Blueprint) -> SourceImages:
    limits = blueprint.family.size_limits(blueprint.whole_config, blueprint.pixels_per_latent)
    return source_rules(blueprint.family, blueprint.pixels_per_latent, limits.multiple)


def _sources(data: Plan | None, preset: Preset, blueprint: Blueprint, sizes: Sequence[Size]) -> Sequence[Size]:
    """The sizes of the source images of the edit with the most pixels."""
    family = blueprint.family
    if data:
        return max((item.source_sizes for item in data.items()), key=lambda own: sum(map(prod, own)), default=())
    files = [file for own in preset.danceopd.prompts.values() for file in own]
    if not family.can_edit or all(file.lower().endswith(".txt") for file in files):
        return ()
    drawn = max(sizes, key=prod)  # one source image, as large as the picture
    return (family.source_size(drawn, blueprint.pixels_per_latent, drawn),)


def _tokens(data: Plan) -> int:
    longest = max((len(item.text) for item in data.items()), default=0)
    return max(32, -(-(longest // LETTERS + TEMPLATE) // 32) * 32)
