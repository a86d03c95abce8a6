"""Values that a parser takes, or nearly takes, and that hardly any program has been tried with."""

from __future__ import annotations

from random import Random
from typing import Any


class Raw(str):
    """Text that stands in a file as it is, whatever the format would make of a string."""


class Twin(str):
    """A key that is equal to none, so that a table has it twice."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


DEEP = 2000
ESCAPES = ("\x1b[31m\x1b[2J", "\x07\x08", "\u202eabc", "\x9b31m", "a\rb", "\x1b]0;title\x07")
#: never end on a text of some letters that they do not match
ENDLESS_PATTERNS = (r"^(([a-z_0-9]+)\.?)+!$", r"(.*)*!", r"^(\w|\w\w)*!$", r"((a|aa|[a-z_.0-9])+)+!", r"(x+x+)+y")
PATTERNS = (
    "(",
    "[",
    "*",
    "(?P<a>x)(?P<a>y)",
    "\\",
    "^" + "(a?)" * 50 + "a{50}$",
    "(" * 500 + ")" * 500,
    "(?i)to_q|to_k",
)
NUMBERS = (
    0, 1, -1, 2, 7, 255, 2**15, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 2**70, -(2**31),
    -(2**63) - 1,
    10**6, 10**7, 10**9, 10**12, 10**18, 0.0, -0.0, 0.5, 1.5, -0.5, 1e-45, 1e-320, 1e30, 1e300, 1.7e308, float("nan"),
    float("inf"), float("-inf"),
)  # fmt: skip
RAW_NUMBERS = (
    Raw("1e400"), Raw("-1e400"), Raw("1" + "0" * 400), Raw("9" * 4301), Raw("-" + "7" * 5000), Raw("1" * 100_000),
    Raw("0." + "3" * 6000), Raw("1e999999999"), Raw("0x" + "f" * 6000), Raw("1_000"), Raw("+1"), Raw("007"),
)  # fmt: skip
RAW_WORDS = (
    Raw("null"), Raw("NaN"), Raw("nan"), Raw("-inf"), Raw("Infinity"), Raw("undefined"), Raw("True"), Raw("{"),
    Raw("["),
    Raw("1979-05-27T07:32:00Z"), Raw("07:32:00"), Raw("1979-05-27"), Raw("'"), Raw('"'), Raw('"""'), Raw("'C:\\new'"),
    Raw('"\\ud800"'), Raw('"\\u0000"'), Raw('"\\x1b"'), Raw('"\\U00110000"'), Raw('"C:\\new\\x.txt"'), Raw(""),
)  # fmt: skip
PLACES = (
    "/dev/zero", "/dev/null", "/dev/stdin", "/dev/full", "/dev/tty", "/proc/self/mem", "/proc/self/environ", "/",
    ".", "..",
    "~", "~nobody/x", "~no_such_user/x.txt", "nothing.txt", "loras/style", "owner/name",
    "owner/name/file.safetensors",
    "fifo", "loop", "zero.safetensors", "zero.txt", "zero.toml", "zero.json", "fifo.safetensors", "fifo.txt",
    "fifo.csv",
    "loop.safetensors", "folder", "folder.txt", "folder.safetensors", "C:\\models\\x.safetensors",
    "\\\\host\\share\\x",
    "file:///etc/passwd", "https://localhost/x.safetensors", "a" * 300, "a/" * 3000, "x" * 254 + ".txt",
    "preset.toml", "base.txt", "style.safetensors", "pictures/0.png", "pictures/0.txt",
    "../" * 40 + "etc/passwd", "x\0y.txt", "NUL", "con.txt", "a\nb.txt", " ", "*.txt", "stranger.py",
    "strange\x1b[2J.txt",
)  # fmt: skip
STRINGS = (
    "", " ", "\t", "\n", "x", "none", "None", "null", "true", "nan", "inf", "-1", "0", "1e400", "9" * 4301, "1,2",
    "1024,", ",",
    "0,0", "-64,64", "64x64", "1024,1024,1024", "１２", "²", "٣", "1_0", "0x10", "%s%n%d", "{", "}", "{0}", "{" * 2000,
    "((((",
    "{a|b}", "{{", "{" + "|" * 5000 + "}", "__class__", "__import__('os').getpid()", "a=b", "=", "a=", "=b", "a=b=c",
    "betas=0.9,nan", "lr=1", "eps=1e400", "x=" + "[" * 2000, "a" * 10_000, "a" * 1_000_000, "ü" * 300,
    "e\u0301" * 100,
    "\ufeff", "\ufdd0", "\U0010ffff", "a\0b", "\ud800", "\udfff\ud800", "😀" * 1000, "..x.y", ".x", "x.", "...",
    "stranger.Thing",
    "stranger", "torch.optim.Optimizer", "torch.optim.LBFGS", "torch.optim", "builtins.print", "json.loads",
    "math.pi",
    "torch.optim.adam.Adam", "transformers.Adafactor", "os.getcwd", "functools.partial", "typing.Any", "enum.Enum",
    "AdamW", "Adafactor", "Prodigy", "sgd", "cosine", "polynomial", "constant_with_warmup", "native", "sd-scripts",
    "musubi-tuner", "student", "base", "type", "wandb", "all", "tensorboard", "bf16", "fp16", "fp8", "sd3", "flux",
)  # fmt: skip


#: Jinja, in which tokenizers write how a conversation looks
TEMPLATES = (
    "{% for i in range(10**9) %}{% endfor %}", "{{ 'a' * 10**9 }}", "{{ 'a' * 10**11 }}", "{{ 10**10**8 }}",
    "{% for", "{{ x.y.z }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ messages[99] }}", "{{ raise_exception('\x1b[2J') }}", "",
    "\x1b[2J",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{% set x = namespace(y=[]) %}{% for i in range(10**7) %}{% endfor %}",
    "{{ cycler.__init__.__globals__.os.getpid() }}",
    "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}",
)  # fmt: skip


def odd_text(rng: Random) -> str:
    """A text: odd words, names of odd files, terminal sequences."""
    return rng.choice(rng.choice((STRINGS, STRINGS, PLACES, PLACES, ESCAPES, ENDLESS_PATTERNS, PATTERNS)))


def odd_key(rng: Random) -> str:
    """A key of a table."""
    return rng.choice((*STRINGS[:40], *ESCAPES, "a" * 300, "a.b.c", "teacher", "lora", "prompt", "__proto__", "größe"))


def odd_value(rng: Random, depth: int = 0) -> Any:
    """A value of any type for a TOML or JSON file."""
    kind = rng.random()
    if kind < 0.24:
        return rng.choice(NUMBERS)
    if kind < 0.34:
        return rng.choice(RAW_NUMBERS)
    if kind < 0.62:
        return odd_text(rng)
    if kind < 0.70:
        return rng.choice((True, False, {}, [], [[]], [{}], {"": ""}, [""], [None], {"a": {}}))
    if kind < 0.78:
        return rng.choice(RAW_WORDS)
    if kind < 0.86:
        return deep(rng)
    if kind < 0.90:
        return rng.choice(([0] * 10_000, ["x"] * 5000, {f"k{i}": i for i in range(2000)}, [1, "x", None, {}, [2]]))
    if depth > 2:
        return 0
    if kind < 0.96:
        return [odd_value(rng, depth + 1) for _ in range(rng.randint(1, 4))]
    return {odd_key(rng): odd_value(rng, depth + 1) for _ in range(rng.randint(1, 3))}


def deep(rng: Random) -> Raw:
    """Brackets in brackets: more than a parser that calls itself can follow."""
    levels = rng.choice((50, 900, DEEP, 5 * DEEP, 50 * DEEP))
    opening, closing = rng.choice((("[", "]"), ('{"a": ', "}"), ("{a = ", "}"), ("[{", "}]"), ("[", ""), ("((", "))")))
    return Raw(opening * levels + rng.choice(("", "1", '"x"')) + closing * levels)
