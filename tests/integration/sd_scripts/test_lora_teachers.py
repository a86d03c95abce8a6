"""A LoRA file of any dialect is the same teacher: its velocity is that of a model whose weights hold the change."""

import copy

import pytest
import torch
from safetensors.torch import save_file

from danceopd_ext.config.schema import DanceOPDSection, Teacher
from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.hosted.teacher_networks import attach_teachers
from danceopd_ext.toolkits.sd_scripts.registry import ARCHITECTURES
from danceopd_ext.toolkits.sd_scripts.teacher_network import network_maker
from tests.integration.sd_scripts import tiny_anima, tiny_flux, tiny_hunyuan_image, tiny_lumina
from tests.integration.sd_scripts.stand_ins import HERE
from tests.integration.sd_scripts.velocity_checks import SIGMAS, difference

RANK = 3
MODELS = {
    "flux": lambda: tiny_flux.make("dev"),
    "chroma": lambda: tiny_flux.make("chroma", 0.0, masked=True),
    "lumina": tiny_lumina.make,
    "hunyuan_image": tiny_hunyuan_image.make,
    "anima": tiny_anima.make,
}
#: those that this version of the toolkit has
FOUND = [model_type for model_type in MODELS if model_type in HERE]
FLUX_LAYERS = (
    "double_blocks.0.img_attn.qkv", "double_blocks.0.txt_attn.proj", "double_blocks.1.txt_mlp.0",
    "single_blocks.0.linear1", "single_blocks.1.linear2",
)  # fmt: skip
LAYERS = {
    "flux": FLUX_LAYERS,
    "chroma": FLUX_LAYERS,
    "lumina": ("layers.0.attention.qkv", "layers.1.feed_forward.w2", "context_refiner.0.attention.out"),
    "hunyuan_image": ("double_blocks.0.img_attn_qkv", "double_blocks.1.txt_mlp.fc1", "single_blocks.0.linear1"),
    "anima": ("blocks.0.self_attn.q_proj", "blocks.1.mlp.layer2", "llm_adapter.blocks.0.cross_attn.v_proj"),
}
#: what diffusers calls the parts of a FLUX layer -> their shares of its outputs
DIFFUSERS = {
    "double_blocks.0.img_attn.qkv": {f"transformer_blocks.0.attn.to_{part}": 1 for part in "qkv"},
    "double_blocks.0.txt_attn.proj": {"transformer_blocks.0.attn.to_add_out": 1},
    "double_blocks.1.txt_mlp.0": {"transformer_blocks.1.ff_context.net.0.proj": 1},
    "single_blocks.0.linear1": {
        **{f"single_transformer_blocks.0.attn.to_{part}": 1 for part in "qkv"},
        "single_transformer_blocks.0.proj_mlp": 4,
    },
    "single_blocks.1.linear2": {"single_transformer_blocks.1.proj_out": 1},
}
#: what ComfyUI calls layers of HunyuanImage
COMFYUI = {"img_attn_qkv": "img_attn.qkv", "txt_mlp.fc1": "txt_mlp.0"}


def changes(model: torch.nn.Module, names: tuple[str, ...]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Layer -> (down, up)."""
    rng = torch.Generator().manual_seed(9)
    layers = {name: model.get_submodule(name) for name in names}
    return {
        name: (
            torch.randn(RANK, layer.in_features, generator=rng) / layer.in_features**0.5,
            torch.randn(layer.out_features, RANK, generator=rng),
        )
        for name, layer in layers.items()
    }


def kohya(changed):
    """With an alpha of twice the rank, and the ups halved for it."""
    tensors = {}
    for name, (down, up) in changed.items():
        layer = "lora_unet_" + name.replace(".", "_")
        tensors |= {f"{layer}.lora_down.weight": down.clone(), f"{layer}.lora_up.weight": up / 2}
        tensors[f"{layer}.alpha"] = torch.tensor(2.0 * RANK)
    return tensors


def comfyui(changed):
    tensors = {}
    for name, (down, up) in changed.items():
        for ours, theirs in COMFYUI.items():
            name = name.replace(ours, theirs)
        tensors |= {f"diffusion_model.{name}.lora_A.weight": down, f"diffusion_model.{name}.lora_B.weight": up}
    return tensors


def diffusers(changed):
    tensors = {}
    for name, (down, up) in changed.items():
        parts = DIFFUSERS[name]
        unit = len(up) // sum(parts.values())
        for part, rows in zip(parts, up.split([unit * share for share in parts.values()]), strict=True):
            tensors[f"transformer.{part}.lora_A.weight"] = down.clone()
            tensors[f"transformer.{part}.lora_B.weight"] = rows.clone()
    return tensors


def cases():
    for model_type in FOUND:
        dialects = [kohya, comfyui, *([diffusers] if model_type in ("flux", "chroma") else [])]
        yield from (pytest.param(model_type, write, id=f"{model_type}-{write.__name__}") for write in dialects)


def attach(model_type: str, model: torch.nn.Module, file, **more) -> dict[str, torch.nn.Module]:
    teachers = {"base": Teacher(), "style": Teacher(lora=str(file), **more)}
    options, architecture = DanceOPDSection(toolkit="sd-scripts", teachers=teachers), ARCHITECTURES[model_type]
    encoders = [torch.nn.Identity()]
    make = network_maker(architecture, encoders, model)
    return attach_teachers(options, architecture, make, model, torch.device("cpu"), torch.float32, encoders)


@pytest.mark.parametrize(("model_type", "write"), cases())
def test_the_teachers_velocity_is_that_of_changed_weights(model_type, write, tmp_path):
    it = MODELS[model_type]()
    changed = changes(it.model, LAYERS[model_type])
    other = copy.deepcopy(it.model)
    for name, (down, up) in changed.items():
        other.get_submodule(name).weight += 0.5 * up @ down
    z, condition = it.noise(), it.condition()
    expected = it.adapter.velocity(other, z, SIGMAS, condition)
    base = it.adapter.velocity(it.model, z, SIGMAS, condition)

    save_file(write(changed), tmp_path / "style.safetensors")
    networks = attach(model_type, it.model, tmp_path / "style.safetensors", strength=0.5)
    assert list(networks) == ["style"]
    assert torch.equal(it.adapter.velocity(it.model, z, SIGMAS, condition), base)  # silent until it is asked
    networks["style"].set_enabled(True)
    answer = it.adapter.velocity(it.model, z, SIGMAS, condition)
    assert difference(answer, expected) < 1e-5
    assert difference(answer, base) > 1e-2
    networks["style"].set_enabled(False)
    assert torch.equal(it.adapter.velocity(it.model, z, SIGMAS, condition), base)


@pytest.mark.parametrize("model_type", FOUND)
def test_a_layer_that_the_model_lacks_is_told(model_type, tmp_path):
    it = MODELS[model_type]()
    changed = changes(it.model, LAYERS[model_type])
    tensors = kohya({"blocks.99.no_such_layer": next(iter(changed.values())), **changed})
    save_file(tensors, tmp_path / "style.safetensors")
    with pytest.raises(UserError, match=r"teachers\.style.*no_such_layer"):
        attach(model_type, it.model, tmp_path / "style.safetensors")


def test_an_embedder_is_held_with_a_rank_of_its_own(tmp_path):
    it = tiny_lumina.make()
    layer = it.model.x_embedder
    change = torch.zeros(RANK, layer.in_features), torch.zeros(layer.out_features, RANK)
    file = tmp_path / "style.safetensors"
    save_file(kohya({"x_embedder": change, **changes(it.model, LAYERS["lumina"])}), file)
    attached = attach("lumina", it.model, file)["style"]
    assert "lora_unet_x_embedder" in {module.lora_name for module in attached.unet_loras}


@pytest.mark.parametrize("model_type", [name for name in ("hunyuan_image",) if name in FOUND])
def test_a_layer_that_the_network_module_cannot_hold_is_told(model_type, tmp_path):
    it, file = MODELS[model_type](), tmp_path / "style.safetensors"
    layer = it.model.time_in.mlp[0]
    change = torch.zeros(RANK, layer.in_features), torch.zeros(layer.out_features, RANK)
    save_file(kohya({"time_in.mlp.0": change, **changes(it.model, LAYERS[model_type])}), file)
    with pytest.raises(UserError, match="time_in"):
        attach(model_type, it.model, file)
