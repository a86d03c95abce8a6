"""Words for models that a preset's model_type may hold, and what to tell a user whose toolkit does not have that model.

The names are those of the toolkits' registries; this module only knows them, so that config needs no toolkit.
"""

from __future__ import annotations

from danceopd_ext.errors import nearest
from danceopd_ext.models.registry import FAMILIES

#: toolkit -> its model types
MODEL_TYPES: dict[str, tuple[str, ...]] = {
    "native": tuple(FAMILIES),
    "sd-scripts": ("sd3", "flux", "chroma", "lumina", "hunyuan_image", "anima"),
    "musubi-tuner": ("z_image", "flux_kontext", "flux_2", "qwen_image", "qwen_image_edit"),
}  # fmt: skip

#: how names of models begin that predict noise (or its like) in discrete steps, and of those made of them
NOT_FLOW = (
    "sd1", "sd2", "sdv1", "sdv2", "sdxl", "stablediffusion1", "stablediffusion2", "stablediffusionxl", "pony",
    "illustrious", "noobai", "animagine", "juggernaut", "kolors", "pixart", "hunyuandit", "stablecascade", "playground",
)  # fmt: skip
#: the same, as whole names
NOT_FLOW_EITHER = ("sd", "xl", "stablediffusion", "cascade")

#: other words for models that only a toolkit has, without signs -> their model_type
OTHER_WORDS = {"lumina2": "lumina", "luminaimage2": "lumina", "hunyuanimage21": "hunyuan_image"}

#: how a model type of one toolkit is written in another
ELSEWHERE = {
    ("flux_2_klein", "musubi-tuner"): 'model_type = "flux_2" with model_version',
    ("qwen_image_edit_plus", "musubi-tuner"): 'model_type = "qwen_image_edit" with model_version',
}


def explain_model_type(word: str, toolkit: str) -> str:
    """Why this toolkit does not have the model, or who has it; the nearest name if the word is unknown.

    A sentence that begins with a blank, or nothing.
    """
    plain = "".join(letter for letter in word.lower() if letter.isalnum())
    if plain.startswith(NOT_FLOW) or plain in NOT_FLOW_EITHER:
        return (
            f" {word} is not a flow-matching model, and the method needs one: its students learn velocities. Train on "
            "one of these."
        )
    name = _known(plain)
    if name is None:
        return nearest(word, MODEL_TYPES[toolkit])
    if name in MODEL_TYPES[toolkit]:
        return f' Did you mean "{name}"?'
    places = _places(name)
    if toolkit in places:
        return f" Write {places[toolkit]}."
    who = ", or ".join(f'toolkit = "{one}" with {how}' for one, how in places.items())
    return f" {word} is trained with {who}."


def _known(plain: str) -> str | None:
    """The model_type that is written so, whatever its signs, or that has this other word."""
    names = {name.replace("_", ""): name for names in MODEL_TYPES.values() for name in names}
    if plain in names or plain in OTHER_WORDS:
        return names.get(plain) or OTHER_WORDS[plain]
    return next((name for name, family in FAMILIES.items() if plain in family.other_words), None)


def _places(name: str) -> dict[str, str]:
    """Toolkit -> how this model is asked for there."""
    own = {toolkit: f'model_type = "{name}"' for toolkit, names in MODEL_TYPES.items() if name in names}
    return {**own, **{toolkit: how for (other, toolkit), how in ELSEWHERE.items() if other == name}}
