"""The architectures of musubi-tuner by the preset's model_type. A new one is an adapter file and an entry here."""

from __future__ import annotations

from dataclasses import dataclass

from danceopd_ext.config.model_types import explain_model_type
from danceopd_ext.errors import UserError
from danceopd_ext.models.layer_names import LayerNames
from danceopd_ext.models.registry import NAMES
from danceopd_ext.toolkits.musubi.adapter import MusubiAdapter
from danceopd_ext.toolkits.musubi.flux_2 import Flux2Adapter
from danceopd_ext.toolkits.musubi.flux_kontext import FluxKontextAdapter
from danceopd_ext.toolkits.musubi.qwen_image import QwenImageAdapter, QwenImageEditAdapter
from danceopd_ext.toolkits.musubi.z_image import ZImageAdapter


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One of musubi's trainers.

    name: the preset's model_type. title: for messages. module, trainer, parser: where musubi has it. network_module:
    of a student where the user names none. names: the layers' names in LoRA files; None: only musubi's own are known.
    """

    name: str
    title: str
    module: str
    trainer: str
    parser: str
    network_module: str
    adapter: type[MusubiAdapter]
    names: LayerNames | None


ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        Architecture(
            name="z_image",
            title="Z-Image",
            module="musubi_tuner.zimage_train_network",
            trainer="ZImageNetworkTrainer",
            parser="zimage_setup_parser",
            network_module="networks.lora_zimage",
            adapter=ZImageAdapter,
            names=NAMES["z_image"],
        ),
        Architecture(
            name="flux_kontext",
            title="FLUX.1 Kontext",
            module="musubi_tuner.flux_kontext_train_network",
            trainer="FluxKontextNetworkTrainer",
            parser="flux_kontext_setup_parser",
            network_module="networks.lora_flux",
            adapter=FluxKontextAdapter,
            names=NAMES["flux"],
        ),
        Architecture(
            name="flux_2",
            title="FLUX.2",
            module="musubi_tuner.flux_2_train_network",
            trainer="Flux2NetworkTrainer",
            parser="flux2_setup_parser",
            network_module="networks.lora_flux_2",
            adapter=Flux2Adapter,
            names=NAMES["flux_2"],
        ),
        Architecture(
            name="qwen_image",
            title="Qwen-Image",
            module="musubi_tuner.qwen_image_train_network",
            trainer="QwenImageNetworkTrainer",
            parser="qwen_image_setup_parser",
            network_module="networks.lora_qwen_image",
            adapter=QwenImageAdapter,
            names=NAMES["qwen_image"],
        ),
        Architecture(
            name="qwen_image_edit",
            title="Qwen-Image-Edit",
            module="musubi_tuner.qwen_image_train_network",
            trainer="QwenImageNetworkTrainer",
            parser="qwen_image_setup_parser",
            network_module="networks.lora_qwen_image",
            adapter=QwenImageEditAdapter,
            names=NAMES["qwen_image"],
        ),
    )
}


def find_architecture(model_type: str | None) -> Architecture:
    """The architecture of a preset. Raises UserError with those that there are."""
    known = ", ".join(ARCHITECTURES)
    if model_type is None:
        raise UserError(f"model_type is missing: say which of musubi-tuner's models this is: {known}.")
    if model_type not in ARCHITECTURES:
        raise UserError(
            f'model_type = "{model_type}": with toolkit = "musubi-tuner" there are {known}.'
            f"{explain_model_type(model_type, 'musubi-tuner')}"
        )
    return ARCHITECTURES[model_type]
