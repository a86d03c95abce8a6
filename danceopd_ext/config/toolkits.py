"""Lists the toolkits that a preset can name, one row each, with all that code outside a toolkit's package needs.

A new toolkit is a package in danceopd_ext/toolkits and a row here. The rows are in `config` because the preset's schema
reads them. They only name things in the packages, which are imported when they are needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from danceopd_ext.models.registry import CLASSES


@dataclass(frozen=True)
class Tested:
    """A version that our trainers were run with. version: the toolkit's own name for it; empty if it has no numbers."""

    version: str
    commit: str
    name: str


@dataclass(frozen=True, kw_only=True)
class CheckoutRules:
    """How a user's checkout of a toolkit is found and distinguished from any other folder.

    variable: in the environment, names the checkout. marks: files that every checkout has, and no other toolkit's.
    packaging: a file of its packaging and a pattern of what is in it. tested: oldest first.
    """

    variable: str
    marks: tuple[str, ...]
    packaging: tuple[str, str]
    tested: tuple[Tested, ...]


@dataclass(frozen=True, kw_only=True)
class Toolkit:
    """name: the preset's word, and the name of its repository. package: ours, in danceopd_ext.toolkits.

    models: model_type -> `module:NAME` of what describes the model, relative to the package if it begins with a dot.
    other_words: other words for models without a family of ours, in lower-case letters and digits -> model_type.
    spelled: model_type of a family -> how a preset asks this toolkit for that model, where not by the same word.
    checkout: how the user's checkout in which it runs is found; None for our own. datasets: whether
    [danceopd.datasets] has a meaning.
    """

    name: str
    package: str
    models: Mapping[str, str]
    other_words: Mapping[str, str] = field(default_factory=dict)
    spelled: Mapping[str, str] = field(default_factory=dict)
    checkout: CheckoutRules | None = None
    datasets: bool = False

    def part(self, place: str) -> Any:
        """Return the object at `module:NAME` in the toolkit's package."""
        module, _, name = place.partition(":")
        return getattr(importlib.import_module(module, self.package), name)


NATIVE = Toolkit(name="native", package="danceopd_ext.toolkits.native", models=CLASSES)

SD_SCRIPTS = Toolkit(
    name="sd-scripts",
    package="danceopd_ext.toolkits.sd_scripts",
    models={
        "sd3": ".adapters.sd3:SD3",
        "flux": ".adapters.flux:FLUX",
        "chroma": ".adapters.flux:CHROMA",
        "lumina": ".adapters.lumina:LUMINA",
        "hunyuan_image": ".adapters.hunyuan_image:HUNYUAN_IMAGE",
        "anima": ".adapters.anima:ANIMA",
    },
    other_words={"lumina2": "lumina", "luminaimage2": "lumina", "hunyuanimage21": "hunyuan_image"},
    checkout=CheckoutRules(
        variable="SD_SCRIPTS_DIR",
        marks=("train_network.py", "library/train_util.py"),
        packaging=("setup.py", r"""\bname\s*=\s*["']library["']"""),
        tested=(
            Tested("", "18e62515c49fe502ca31b30ea2214a97a2e99633", "2025-08, commit 18e62515"),
            Tested("", "48d368fa557731ad0488c07304dfeba8c07910eb", "2026-02, commit 48d368fa"),
            Tested("", "6721028c79ee85a78b3a06dfd8954dae310a1cce", "v0.11.1 of 2026-06, commit 6721028c"),
        ),
    ),
)

MUSUBI = Toolkit(
    name="musubi-tuner",
    package="danceopd_ext.toolkits.musubi",
    models={
        "z_image": ".adapters.z_image:Z_IMAGE",
        "flux_kontext": ".adapters.flux_kontext:FLUX_KONTEXT",
        "flux_2": ".adapters.flux_2:FLUX_2",
        "qwen_image": ".adapters.qwen_image:QWEN_IMAGE",
        "qwen_image_edit": ".adapters.qwen_image:QWEN_IMAGE_EDIT",
    },
    spelled={
        "flux_2_klein": 'model_type = "flux_2" with model_version',
        "qwen_image_edit_plus": 'model_type = "qwen_image_edit" with model_version',
    },
    checkout=CheckoutRules(
        variable="MUSUBI_TUNER_DIR",
        marks=("src/musubi_tuner/networks/lora.py", "src/musubi_tuner/dataset/config_utils.py"),
        packaging=("pyproject.toml", r"""(?m)^name\s*=\s*["']musubi-tuner["']"""),
        tested=(
            Tested("0.3.4", "30c658c4f4b0bf05038b3346eff9670259b10fc7", "0.3.4, commit 30c658c"),
            Tested("0.3.4", "fe4818daf4e41bc6d98959a35f55627f07f70d90", "0.3.4 of 2026-07, commit fe4818d"),
        ),
    ),
    datasets=True,
)

TOOLKITS: dict[str, Toolkit] = {toolkit.name: toolkit for toolkit in (NATIVE, SD_SCRIPTS, MUSUBI)}


def quoted(toolkits: Mapping[str, Toolkit]) -> str:
    """Return their names as a preset writes them: `"a" or "b"`."""
    return " or ".join(f'"{name}"' for name in toolkits)


def hosted_toolkits() -> dict[str, Toolkit]:
    """Return the toolkits that run in the user's checkout."""
    return {name: toolkit for name, toolkit in TOOLKITS.items() if toolkit.checkout}
