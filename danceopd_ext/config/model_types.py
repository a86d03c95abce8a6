"""Explains a model_type that the preset's toolkit does not have."""

from __future__ import annotations

from danceopd_ext.config.toolkits import TOOLKITS
from danceopd_ext.errors import nearest
from danceopd_ext.models.registry import FAMILIES

#: beginnings of the names of models that predict noise (or the like) in discrete steps, and of their derivatives
NOT_FLOW = (
    "sd1", "sd2", "sdv1", "sdv2", "sdxl", "stablediffusion1", "stablediffusion2", "stablediffusionxl", "pony",
    "illustrious", "noobai", "animagine", "juggernaut", "kolors", "pixart", "hunyuandit", "stablecascade", "playground",
)  # fmt: skip
#: the same, as whole names
NOT_FLOW_EITHER = ("sd", "xl", "stablediffusion", "cascade")


def explain_model_type(word: str, toolkit: str) -> str:
    """Return why this toolkit does not have the model, or which one has it; the nearest name for an unknown word.

    The sentence begins with a blank; it may be empty.
    """
    plain = "".join(letter for letter in word.lower() if letter.isalnum())
    if plain.startswith(NOT_FLOW) or plain in NOT_FLOW_EITHER:
        return (
            f" {word} is not a flow-matching model, and the method needs one: its students learn velocities. Train on "
            "one of these."
        )
    name = _known(plain)
    if name is None:
        return nearest(word, list(TOOLKITS[toolkit].models))
    if name in TOOLKITS[toolkit].models:
        return f' Did you mean "{name}"?'
    places = _places(name)
    if toolkit in places:
        return f" Write {places[toolkit]}."
    who = ", or ".join(f'toolkit = "{one}" with {how}' for one, how in places.items())
    return f" {word} is trained with {who}."


def _known(plain: str) -> str | None:
    """Return the model_type with this spelling, punctuation aside, or with this alternative word."""
    rows = TOOLKITS.values()
    names = {name.replace("_", ""): name for toolkit in rows for name in toolkit.models}
    others = {word: name for toolkit in rows for word, name in toolkit.other_words.items()}
    if plain in names or plain in others:
        return names.get(plain) or others[plain]
    return next((name for name, family in FAMILIES.items() if plain in family.other_words), None)


def _places(name: str) -> dict[str, str]:
    """Return toolkit -> how a preset asks for this model there."""
    own = {key: f'model_type = "{name}"' for key, toolkit in TOOLKITS.items() if name in toolkit.models}
    return {**own, **{key: toolkit.spelled[name] for key, toolkit in TOOLKITS.items() if name in toolkit.spelled}}
