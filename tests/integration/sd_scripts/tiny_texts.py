"""Tiny text encoders of the real classes, and a tokenizer that reads letters, for whole training runs."""

from __future__ import annotations

import string
from types import SimpleNamespace

import torch

LETTERS = string.printable
VOCABULARY = len(LETTERS) + 4


def tokenizer(end: bool = True):
    """A letter a token; pad 0, end 1, unknown 2. `end`: every text, also the empty one, ends with the end token."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "</s>", "<unk>", *LETTERS]
    it = Tokenizer(WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    it.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    if end:
        it.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=it, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def from_pretrained(end: bool = True) -> SimpleNamespace:
    """In the place of a tokenizer class that would download its files."""
    return SimpleNamespace(from_pretrained=lambda *_, **__: tokenizer(end))


def frozen(model: torch.nn.Module, seed: int = 5) -> torch.nn.Module:
    from tests.integration.sd_scripts.tiny_models import randomise

    return randomise(model, seed).eval()


def clip(width: int):
    from transformers import CLIPTextConfig, CLIPTextModel

    return frozen(
        CLIPTextModel(
            CLIPTextConfig(
                hidden_size=width, intermediate_size=width, num_hidden_layers=1, num_attention_heads=2,
                vocab_size=VOCABULARY, max_position_embeddings=77, eos_token_id=1, pad_token_id=0, bos_token_id=0,
            )
        )
    )  # fmt: skip


def t5(width: int):
    from transformers import T5Config, T5EncoderModel

    return frozen(
        T5EncoderModel(T5Config(d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=VOCABULARY))
    )


def _decoder(kind: str, width: int, layers: int, **more):
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        hidden_size=width, intermediate_size=width, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, vocab_size=VOCABULARY, pad_token_id=0, eos_token_id=1, **more,
    )  # fmt: skip
    return frozen(getattr(transformers, f"{kind}Model")(config))


def gemma2(width: int):
    return _decoder("Gemma2", width, 2)


def qwen2(width: int):
    """In the place of Qwen2.5-VL: the toolkit reads its third last hidden state, and shows it no picture."""
    return _decoder("Qwen2", width, 3)


def qwen3(width: int):
    return _decoder("Qwen3", width, 1)


class NoAutoencoder(torch.nn.Module):
    """In the place of a VAE: no picture is encoded or decoded in these runs."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.weight.device
