"""Makes the untrained parts of the demo's pipeline that any Z-Image has: tokenizer, text encoder, transformer."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, ZImageTransformer2DModel
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

from danceopd_ext.demo.scene import BACKGROUNDS, CELLS, COLOURS, COUNT_WORDS, SHAPES
from danceopd_ext.foreign.json import read_object

TEXT_DIM = 64
SPECIAL_WORDS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def vocabulary() -> list[str]:
    """Every word of the world's captions and of the chat template, special words first."""
    plurals = [f"{shape}es" if shape == "cross" else f"{shape}s" for shape in SHAPES]
    places = sorted({word for cell in CELLS for word in cell.split()})
    words = [*SHAPES, *plurals, *COLOURS, *BACKGROUNDS, *places, *COUNT_WORDS.values(), "hollow", "checkered"]
    return [*SPECIAL_WORDS, "user", "assistant", "a", "at", "the", "on", "background", *words]


def build_tokenizer(
    vocabulary: Sequence[str] = tuple(vocabulary()), special: Sequence[str] = ("<|im_start|>",)
) -> PreTrainedTokenizerFast:
    """One token per word, with a chat template in the style of Qwen; `special` words need no space around them."""
    words = {word: index for index, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=list(special),
        model_max_length=512,
        padding_side="right",
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_text_encoder(seed: int = 0, vocabulary: Sequence[str] = tuple(vocabulary())) -> Qwen3Model:
    """Frozen at its random start, with orthogonal word embeddings of variance 1: words are easy to tell apart."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=TEXT_DIM,
        hidden_size=TEXT_DIM,
        intermediate_size=2 * TEXT_DIM,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=TEXT_DIM // 2,
        max_position_embeddings=512,
        initializer_range=0.05,
        use_cache=False,
    )
    if len(vocabulary) > config.vocab_size:
        raise ValueError(f"{len(vocabulary)} words do not fit into {config.vocab_size} orthogonal embeddings")
    encoder = Qwen3Model(config)
    with torch.no_grad():
        torch.nn.init.orthogonal_(encoder.embed_tokens.weight).mul_(TEXT_DIM**0.5)
    return encoder.eval().requires_grad_(False)


def build_transformer(
    latent_channels: int, dim: int = 72, layers: int = 3, seed: int = 0, **more: int
) -> ZImageTransformer2DModel:
    """A fresh transformer with heads of 24 numbers: 8 each for the sequence, row and column positions."""
    torch.manual_seed(seed)
    transformer = ZImageTransformer2DModel(
        in_channels=latent_channels,
        dim=dim,
        n_layers=layers,
        n_refiner_layers=1,
        n_heads=dim // 24,
        n_kv_heads=dim // 24,
        cap_feat_dim=TEXT_DIM,
        axes_dims=[8, 8, 8],
        axes_lens=[256, 64, 64],
        **more,
    )
    with torch.no_grad():
        for token in (transformer.x_pad_token, transformer.cap_pad_token):
            token.normal_(std=0.5)
        # Predict zero at first: the final layer learns what the noise level asks for.
        for final in transformer.all_final_layer.values():
            final.linear.weight.zero_()
            final.linear.bias.zero_()
    return transformer


def save_pipeline(pipeline: DiffusionPipeline, folder: Path, fresh_tokenizer: PreTrainedTokenizerFast) -> None:
    """Saves in diffusers format, readable by older releases too, and without traces of this machine's folders.

    `fresh_tokenizer`: the pipeline's, as it was built: a used one would remember its last padding.
    """
    pipeline.save_pretrained(folder)
    fresh_tokenizer.save_pretrained(folder / "tokenizer")
    # transformers 5 writes names that transformers 4 does not know; both know these.
    tokenizer_class = "PreTrainedTokenizerFast"
    edit_json(folder / "model_index.json", {"tokenizer": ["transformers", tokenizer_class]}, drop=("_name_or_path",))
    edit_json(
        folder / "tokenizer" / "tokenizer_config.json",
        {"tokenizer_class": tokenizer_class},
        drop=("backend", "extra_special_tokens", "is_local", "local_files_only"),
    )
    for part in ("vae", "transformer", "text_encoder", "scheduler", "siglip"):
        for file in (folder / part).glob("*config.json"):
            edit_json(file, {}, drop=("_name_or_path",))


def edit_json(file: Path, changes: dict, drop: tuple[str, ...]) -> None:
    """Change values of a JSON object in a file and remove the keys of `drop`."""
    content = read_object(file) | changes
    content = {key: value for key, value in content.items() if key not in drop}
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8", newline="\n")
