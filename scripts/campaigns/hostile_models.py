"""Copies of a diffusers folder that try to run code, or never end, when they are opened.

Each variant is a function of a folder and of a marker: the file that its code would make.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: runs when it is imported, and looks like anything that is asked for
CODE = """from pathlib import Path
Path({marker!r}).touch()
def __getattr__(name):
    Path({marker!r}).touch()
    return type(name, (), {{"from_pretrained": classmethod(lambda cls, *a, **k: cls())}})
"""
#: a template that leaves no sandbox, but would make the marker where there is none
ESCAPING = "{{% for c in ''.__class__.__mro__[1].__subclasses__() %}}{{% if c.__name__ == 'Popen' %}}{{{{ c(['touch', {marker!r}]) }}}}{{% endif %}}{{% endfor %}}"  # noqa: E501
#: templates that end after hours, or never
LOOPS = "{%- for a in range(99999) %}{%- for b in range(99999) %}{%- for c in range(99999) %}{%- endfor %}{%- endfor %}{%- endfor %}"  # noqa: E501
RECURSION = "{%- macro m(n) %}{{ m(n + 1) }}{{ m(n + 1) }}{%- endmacro %}{{ m(0) }}"
POWER = "{{ (messages | length + 9) ** (9 ** 9 ** messages | length) }}"
MEMORY = "{{ messages[0].content * 10 ** 11 }}"

Variant = Callable[[Path, Path], None]


def copy(source: Path, folder: Path) -> Path:
    """A copy whose large files are shared with the source where the file system can."""
    shutil.copytree(source, folder, copy_function=_link)
    return folder


def _link(source: str, target: str) -> None:
    if not source.endswith(".safetensors"):
        shutil.copy2(source, target)
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def change(path: Path, **values: Any) -> None:
    """Set keys of a JSON file."""
    settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**settings, **values}), encoding="utf-8")


def _index(folder: Path, **values: Any) -> None:
    change(folder / "model_index.json", **values)


def _code(path: Path, marker: Path) -> None:
    path.write_text(CODE.format(marker=str(marker)), encoding="utf-8")


def part(name: str, module: str = "evil_part") -> Variant:
    """A part of a module in its own folder."""

    def make(folder: Path, marker: Path) -> None:
        _index(folder, **{name: [module, "Evil"]})
        _code(folder / name / f"{module}.py", marker)

    return make


def shadow(name: str, library: str) -> Variant:
    """A module that is called like the library, in a part's folder."""
    return lambda folder, marker: _code(folder / name / f"{library}.py", marker)


def pipeline_class(folder: Path, marker: Path) -> None:
    """A pipeline of the folder's own."""
    _index(folder, _class_name=["evil_pipeline", "EvilPipeline"])
    _code(folder / "evil_pipeline.py", marker)


def none_pipeline(folder: Path, marker: Path) -> None:
    """What diffusers takes for the custom pipeline that was not asked for."""
    _code(folder / "None.py", marker)


def module(folder: Path, marker: Path) -> None:
    """A part of a module that stands in the working directory."""
    _index(folder, text_encoder=["evil_module", "Evil"])
    _code(marker.parent / "evil_module.py", marker)


def python(folder: Path, marker: Path) -> None:
    """A part that is a function of Python."""
    _index(folder, text_encoder=["os", "system"])


def model_map(cls: str | None) -> Variant:
    """A text encoder with a class of its own. cls: what the index calls it; None leaves the index as it is."""

    def make(folder: Path, marker: Path) -> None:
        own = {"AutoConfig": "modeling_evil.Config", "AutoModel": "modeling_evil.Model"}
        change(folder / "text_encoder" / "config.json", auto_map=own, model_type="evil" if cls else "qwen3")
        _code(folder / "text_encoder" / "modeling_evil.py", marker)
        if cls:
            _index(folder, text_encoder=["transformers", cls])

    return make


def tokenizer_map(cls: str | None) -> Variant:
    """A tokenizer with a class of its own."""

    def make(folder: Path, marker: Path) -> None:
        own = {"AutoTokenizer": ["tokenization_evil.Evil", "tokenization_evil.Evil"]}
        change(folder / "tokenizer" / "tokenizer_config.json", auto_map=own, tokenizer_class="Evil")
        _code(folder / "tokenizer" / "tokenization_evil.py", marker)
        if cls:
            _index(folder, tokenizer=["transformers", cls])

    return make


def kernel(folder: Path, marker: Path) -> None:
    """Attention by code from the hub."""
    change(folder / "text_encoder" / "config.json", _attn_implementation="evil/kernel")


def template(text: str) -> Variant:
    """A chat template."""

    def make(folder: Path, marker: Path) -> None:
        words = text.format(marker=str(marker)) if text is ESCAPING else text
        (folder / "tokenizer" / "chat_template.jinja").write_text(words, encoding="utf-8")
        change(folder / "tokenizer" / "tokenizer_config.json", chat_template=words)

    return make


def growing(folder: Path, marker: Path) -> None:
    """A tokenizer that makes a word of a few letters longer than the memory."""
    path = folder / "tokenizer" / "tokenizer.json"
    double = {"type": "Replace", "pattern": {"Regex": "."}, "content": "aaaaaaaaaa"}
    change(path, normalizer={"type": "Sequence", "normalizers": [double] * 14})


def longest(folder: Path, marker: Path) -> None:
    """A tokenizer for texts of a length that is none."""
    change(folder / "tokenizer" / "tokenizer_config.json", model_max_length="all")


#: what would run code
CODES: dict[str, Variant] = {
    "part of its own: text_encoder": part("text_encoder"),
    "part of its own: tokenizer": part("tokenizer"),
    "part of its own: scheduler": part("scheduler"),
    "part of its own: vae": part("vae"),
    "module called transformers": shadow("text_encoder", "transformers"),
    "module called diffusers": shadow("scheduler", "diffusers"),
    "pipeline of its own": pipeline_class,
    "None.py": none_pipeline,
    "module in the working directory": module,
    "os.system": python,
    "auto_map: text_encoder": model_map(None),
    "auto_map: AutoModel": model_map("AutoModel"),
    "auto_map: tokenizer": tokenizer_map(None),
    "auto_map: AutoTokenizer": tokenizer_map("AutoTokenizer"),
    "kernel from the hub": kernel,
    "chat template that leaves its sandbox": template(ESCAPING),
}
#: what would never end, or need all memory
ENDLESS: dict[str, Variant] = {
    "chat template: loops": template(LOOPS),
    "chat template: recursion": template(RECURSION),
    "chat template: power": template(POWER),
    "chat template: memory": template(MEMORY),
    "tokenizer that grows": growing,
    "model_max_length": longest,
}
