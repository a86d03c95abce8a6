"""Makes the VAE and the text encoders of a pipeline from files of their own, by the configuration of the component.

The tensors' names in such files are those of the original release or of an older transformers. They are turned into
the module's own names, first for the sizes in the header, which shows whether the file fits, and then for its tensors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from danceopd_ext.foreign.json import read_object
from danceopd_ext.models.configuration import built_from, library_class, on_paper, read_configuration
from danceopd_ext.models.model_folder import INDEX
from danceopd_ext.models.part_files import PartFile

if TYPE_CHECKING:
    from danceopd_ext.models.family import Family

Tensors = Mapping[str, torch.Tensor]

#: beginnings of names in files -> in the module, for text encoders; the first that gives a name of the module counts
BEGINNINGS = (
    ("", ""),
    ("text_model.", ""),
    ("", "text_model."),
    ("model.", ""),
    ("model.", "language_model."),
    ("language_model.model.", "language_model."),
)
#: what a text encoder needs for pictures only
SIGHT = ("vision_tower.", "visual.", "multi_modal_projector.")
#: classes with a layer of words on top, which no pipeline asks; the class without it ends in Model
SPEAKERS = re.compile("For(CausalLM|ConditionalGeneration)$")
#: the count of batches is not used, and files may lack it
UNUSED = "num_batches_tracked"
PROJECTION = "text_projection.weight"
LAYER = re.compile(r"^(?:model\.|language_model\.)*layers\.(\d+)\.")


@dataclass(frozen=True)
class PartModule:
    """A component as its configuration describes it.

    shapes: name of each tensor that a file must have -> its sizes. own_names: turns a file's tensors into the module's.
    load: makes the module of tensors with its own names, in a dtype.
    """

    shapes: Mapping[str, tuple[int, ...]]
    own_names: Callable[[Tensors], dict[str, torch.Tensor]]
    load: Callable[[Tensors, torch.dtype], torch.nn.Module]


def part_module(family: Family, spec: PartFile, components: Path, names: Iterable[str]) -> PartModule:
    """Return what a component needs. `names`: the file's, which can have fewer layers. Raises UserError."""
    if spec.component == "vae":
        return _vae(family, components)
    return _text_encoder(family, spec, components, names)


def _vae(family: Family, components: Path) -> PartModule:
    cls, file = library_class(family.vae_class), components / "vae" / "config.json"
    config = read_configuration(components, "vae", cls)
    model = on_paper(cls, config, file)
    shapes = _shapes(model)

    def own_names(tensors: Tensors) -> dict[str, torch.Tensor]:
        if shapes.keys() <= tensors.keys():
            return dict(tensors)
        return family.vae_from_original(tensors, model.config)

    def load(tensors: Tensors, dtype: torch.dtype) -> torch.nn.Module:
        made = cls.from_config(config)
        made.load_state_dict(dict(tensors), strict=False)
        return made.to(dtype)

    return PartModule(shapes, own_names, load)


def _text_encoder(family: Family, spec: PartFile, components: Path, names: Iterable[str]) -> PartModule:
    import transformers  # here: it takes seconds to import

    folder = components / spec.component
    name = read_object(components / INDEX, "model index")[spec.component][1]
    cls = getattr(transformers, SPEAKERS.sub("Model", name))
    with built_from(folder / "config.json"), torch.device("meta"):
        config = cls.config_class.from_dict(read_object(folder / "config.json", "configuration of the text encoder"))
        cut = _cut_to(spec, config.get_text_config(), names)
        model = cls(config)
    optional = [*SIGHT] if not family.text_sees_sources else []
    optional += ["norm.", "language_model.norm."] if cut else []
    optional += [PROJECTION] if spec.plain_projection else []
    optional += getattr(model, "_tied_weights_keys", None) or []
    every = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    shapes = {name: size for name, size in every.items() if not name.startswith(tuple(optional))}

    def own_names(tensors: Tensors) -> dict[str, torch.Tensor]:
        found = {_own_name(name, every): tensor for name, tensor in tensors.items()}
        if spec.plain_projection and PROJECTION in every:
            found[PROJECTION] = torch.eye(*every[PROJECTION])
        return found

    def load(tensors: Tensors, dtype: torch.dtype) -> torch.nn.Module:
        known = {name: tensor for name, tensor in tensors.items() if name in every}
        made = cls.from_pretrained(None, config=config, state_dict=known, dtype=dtype, use_safetensors=True)
        lacking = {name.split(".")[0] for name in every if name.startswith(SIGHT) and name not in known}
        for module in lacking:  # its weights would be random
            setattr(made, module, torch.nn.Identity())
        if cut:  # the last hidden state that is read comes before the norm
            getattr(made, "language_model", made).norm = torch.nn.Identity()
        return made.eval()

    return PartModule(shapes, own_names, load)


def _cut_to(spec: PartFile, config: Any, names: Iterable[str]) -> bool:
    """Leave out the layers that the file lacks, if the pipeline does not read them; return whether any were."""
    count = 1 + max((int(found[1]) for name in names if (found := LAYER.match(name))), default=-1)
    if spec.last_state is None or not spec.last_state <= count < config.num_hidden_layers:
        return False
    config.num_hidden_layers = count
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:count]
    return True


def _own_name(name: str, every: Mapping[str, Any]) -> str:
    """Return the module's name of a tensor; for one that it lacks, that of another layer with its number."""
    forms = [new + name.removeprefix(old) for old, new in BEGINNINGS if name.startswith(old)]
    return next((form for form in forms if form in every), None) or _of_layer(forms, every) or name


def _of_layer(forms: list[str], every: Mapping[str, Any]) -> str | None:
    """Return the form that has the name of a layer of the module, but for its number."""
    return next((form for form in forms if form.replace(*_zeroed(form)) in every), None)


def _zeroed(form: str) -> tuple[str, str]:
    number = re.search(r"(?:layers|block)\.\d+\.", form)
    return (number[0], re.sub(r"\d+", "0", number[0])) if number else ("", "")


def _shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(one.shape) for name, one in model.state_dict().items() if not name.endswith(UNUSED)}


def misfit(module: PartModule, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return what keeps a file with these tensors from being the component, "" if it can be."""
    sizes = {name: torch.empty(size, device="meta") for name, size in shapes.items()}
    try:
        found = {name: tuple(tensor.shape) for name, tensor in module.own_names(sizes).items()}
    except Exception:  # names of another kind of model cause any error in the tables of names
        found = {}
    missing = [name for name in module.shapes if name not in found]
    if missing:
        return f"{len(missing)} of {len(module.shapes)} tensors are missing, such as {missing[0]}"
    for name, size in module.shapes.items():
        if found[name] != size:
            return f"{name} has the sizes {found[name]}, and its configuration says {size}"
    kinds = {re.sub(r"\d+", "0", name) for name in module.shapes}
    more = next((name for name in found if name not in module.shapes and re.sub(r"\d+", "0", name) in kinds), None)
    return f"it has more layers than its configuration says, such as {more}" if more else ""
