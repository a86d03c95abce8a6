"""A chat template or tokenizer that never ends is one message, and sound ones give what transformers gives."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from danceopd_ext.errors import UserError
from danceopd_ext.models import limited_process
from danceopd_ext.models.model_files import find_model_files
from danceopd_ext.models.text_pipeline import load_text_pipeline
from scripts.campaigns.hostile_models import CODES, ENDLESS, copy
from tests.tiny.families.parts import tokenizer

CHAT = [{"role": "system", "content": "Draw."}, {"role": "user", "content": "a red <cat> \u00e9\n{{ x }}"}]
BLOCKS = [{"role": "user", "content": [{"type": "text", "text": "a cat"}, {"type": "text", "text": "and a dog"}]}]
#: what the templates of text encoders do
TEMPLATES = {
    "loop": "{% for m in messages %}\n  {{ m['role'] }}: {{ m.content }}\n{% endfor %}\n"
    "{% if add_generation_prompt %}go{% endif %}",
    "namespace": "{%- set ns = namespace(last=true, at=messages|length - 1) %}{%- for m in messages[::-1] %}"
    "{%- set index = (messages|length - 1) - loop.index0 %}{%- if ns.last and m.role == 'user' %}"
    "{%- set ns.last = false %}{%- set ns.at = index %}{%- endif %}{%- endfor %}at {{ ns.at }}",
    "macro": "{%- macro say(c) -%}{%- if c is string -%}{{ c|trim }}{%- else -%}{%- for b in c -%}{{ b.text }};"
    "{%- endfor -%}{%- endif -%}{%- endmacro -%}{%- for m in messages %}{{ say(m.content) }}{% endfor -%}",
    "json": "{{ messages | tojson }}{{ messages | tojson(indent=1, sort_keys=True) }}",
    "generation": "{% for m in messages %}{% generation %}{{ m.role }}{% endgeneration %}"
    "{% if loop.first %}{% continue %}{% endif %}{% break %}{% endfor %}",
    "tokens": "{{ bos_token }}{{ messages[0].role }}{{ eos_token }}{% if tools %}tools{% endif %}"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>{% endif %}{{ padding is defined }}",
    "range": "{% for n in range(messages|length) %}{{ messages[n].role[:1].upper() ~ n }}{% endfor %}\n",
}


@pytest.fixture
def short(monkeypatch):
    """One second for a text. The process starts before, however busy the machine is."""
    limited_process.render("ready", {}, Path("x"))
    monkeypatch.setattr(limited_process, "LONGEST", 1.0)


@pytest.fixture
def model(pipelines, tmp_path) -> Path:
    return copy(pipelines["z_image"], tmp_path / "model")


def encoded(folder: Path):
    source = find_model_files(str(folder))
    pipeline = load_text_pipeline(source, torch.float32, "cpu")
    return source.family.encode_prompts(pipeline, ["red cat"])


class Pipeline:
    def __init__(self, part):
        self.components = {"tokenizer": part, "none": None}


@pytest.mark.parametrize("chat", [CHAT, BLOCKS, [CHAT, CHAT[1:]]], ids=["texts", "blocks", "several"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_gives_what_transformers_gives(tmp_path, name, chat):
    plain, limited = tokenizer(), tokenizer()
    plain.chat_template = limited.chat_template = TEMPLATES[name]
    limited_process.limit_tokenizers(Pipeline(limited), tmp_path)
    for more in ({}, {"add_generation_prompt": True, "enable_thinking": False}):
        expected = plain.apply_chat_template(chat, tokenize=False, **more)
        assert limited.apply_chat_template(chat, tokenize=False, **more) == expected
    assert limited("red cat").input_ids == plain("red cat").input_ids


def test_a_chat_is_split_like_its_text(tmp_path):
    plain, limited = tokenizer(), tokenizer()
    limited_process.limit_tokenizers(Pipeline(limited), tmp_path)
    keys = {"tokenize": True, "padding": "max_length", "max_length": 9, "truncation": True, "return_dict": True}
    chats = [[{"role": "user", "content": "red cat"}], [{"role": "user", "content": "blue"}]]
    expected, found = (one.apply_chat_template(chats, **keys) for one in (plain, limited))
    assert found["input_ids"] == expected["input_ids"] and len(found["input_ids"][0]) == 9
    assert isinstance(limited, type(plain)) and type(limited).__name__ == type(plain).__name__


def test_a_model_may_be_named_from_the_current_directory(model, monkeypatch):
    monkeypatch.chdir(model.parent)
    assert encoded(Path("model"))


@pytest.mark.parametrize("name", ENDLESS)
def test_what_never_ends_is_a_message(model, tmp_path, short, name):
    ENDLESS[name](model, tmp_path / "ran")
    begin = time.monotonic()
    with pytest.raises(UserError) as error:
        encoded(model)
    assert str(model / "tokenizer") in str(error.value)
    assert time.monotonic() - begin < 60


def test_a_template_leaves_no_sandbox(model, tmp_path):
    CODES["chat template that leaves its sandbox"](model, tmp_path / "ran")
    with pytest.raises(UserError, match=r"its chat template cannot be used \(SecurityError"):
        encoded(model)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('no') }}", "{% for %}", "{{ messages[5].content.x }}", "{{ 1 / 0 }}", 7, None]
)
def test_a_template_that_fails_is_a_message(model, template):
    (model / "tokenizer" / "chat_template.jinja").unlink(missing_ok=True)
    settings = model / "tokenizer" / "tokenizer_config.json"
    values = json.loads(settings.read_text(encoding="utf-8"))
    settings.write_text(json.dumps({**values, "chat_template": template}), encoding="utf-8")
    with pytest.raises(UserError, match="chat template"):
        encoded(model)


@pytest.mark.parametrize("text", ["{", "[]", '{"model": 3}', ""])
def test_a_tokenizer_that_cannot_be_read_is_a_message(model, text):
    (model / "tokenizer" / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="this tokenizer cannot be used"):
        encoded(model)


def test_after_one_that_never_ends_others_are_rendered(short, monkeypatch):
    with pytest.raises(UserError, match="needs more than 1 seconds"):
        limited_process.render(
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", {}, Path("x")
        )
    monkeypatch.setattr(limited_process, "LONGEST", 20.0)
    assert limited_process.render("{{ a }}", {"a": "b"}, Path("x")) == "b"


def test_a_tokenizer_is_found_from_the_folder_that_the_user_is_in(tmp_path, monkeypatch):
    """The other process works in another folder."""
    tokenizer().save_pretrained(tmp_path / "model" / "tokenizer")
    monkeypatch.chdir(tmp_path)
    limited_process.load_tokenizers(Path("model"))
