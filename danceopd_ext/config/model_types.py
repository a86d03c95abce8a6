"""What to tell a user whose toolkit does not have the model that the preset's model_type names."""

from __future__ import annotations

from danceopd_ext.config.toolkits import TOOLKITS
from danceopd_ext.errors import nearest
from danceopd_ext.models.registry import FAMILIES

#: how names of models begin that predict noise (or its like) in discrete steps, and of those made of them
NOT_FLOW = (
    "sd1", "sd2", "sdv1", "sdv2", "sdxl", "stablediffusion1", "stablediffusion2", "stablediffusionxl", "pony",
    "illustrious", "noobai", "animagine", "juggernaut", "kolors", "pixart", "hunyuandit", "stablecascade", "playground",
)  # fmt: skip
#: the same, as whole names
NOT_FLOW_EITHER = ("sd", "xl", "stablediffusion", "cascade")


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
        return nearest(word, list(TOOLKITS[toolkit].models))
    if name in TOOLKITS[toolkit].models:
        return f' Did you mean "{name}"?'
    places = _places(name)
    if toolkit in places:
        return f" Write {places[toolkit]}."
    who = ", or ".join(f'toolkit = "{one}" with {how}' for one, how in places.items())
    return f" {word} is trained with {who}."


def _known(plain: str) -> str | None:
    """The model_type that is written so, whatever its signs, or that has this other word."""
    rows = TOOLKITS.values()
    names = {name.replace("_", ""): name for toolkit in rows for name in toolkit.models}
    others = {word: name for toolkit in rows for word, name in toolkit.other_words.items()}
    if plain in names or plain in others:
        return names.get(plain) or others[plain]
    return next((name for name, family in FAMILIES.items() if plain in family.other_words), None)


def _places(name: str) -> dict[str, str]:
    """Toolkit -> how this model is asked for there."""
    own = {key: f'model_type = "{name}"' for key, toolkit in TOOLKITS.items() if name in toolkit.models}
    return {**own, **{key: toolkit.spelled[name] for key, toolkit in TOOLKITS.items() if name in toolkit.spelled}}
