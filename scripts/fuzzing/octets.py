"""Damage to bytes, whatever they mean, and files that are no plain files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from random import Random

TOKENS = (
    b"\0", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xc0\x80", b"\x1b[2J",
    b'"', b"'", b"\\", b"\n", b"\r", b"{",
    b"[", b"]", b"}", b"=", b",", b";", b"#", b"--w ", b"--ci ", b"9" * 5000, b"[" * 2000, b"1e999", b"nan",
    b"\x80\x04.",
)  # fmt: skip


#: a Python module that lies beside every preset
STRANGER = "stranger"


def damaged(data: bytes, rng: Random) -> tuple[bytes, str]:
    """The bytes with a few flipped, cut off, moved or put in, and what was done, in words."""
    kind, size = (
        rng.choice(("flip", "flip", "cut", "drop", "repeat", "insert", "insert", "encode", "random")),
        len(data),
    )
    out = bytearray(data)
    first = rng.randint(0, max(size - 1, 0))
    length = rng.choice((1, 1, 4, 8, 64, 1000))
    if kind == "flip" and size:
        for _ in range(rng.choice((1, 1, 3, 30))):
            out[rng.choice((first, rng.randrange(size), rng.randrange(min(size, 64))))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del out[first:]
    elif kind == "drop":
        del out[first : first + length]
    elif kind == "repeat":
        out[first:first] = out[first : first + length] * rng.choice((1, 2, 50))
    elif kind == "insert":
        out[first:first] = rng.choice(TOKENS)
    elif kind == "encode":
        return _encoded(data, rng)
    else:
        out[first : first + length] = rng.randbytes(length)
    return bytes(out), f"{kind} at {first} of {size}"


def _encoded(data: bytes, rng: Random) -> tuple[bytes, str]:
    name = rng.choice(("utf-16", "utf-16-le", "utf-32", "latin-1", "shift-jis", "utf-7", "cp037"))
    text = data.decode("utf-8", "replace") + rng.choice(("", "äöü", "猫"))
    return text.encode(name, "replace"), f"in {name}"


def make_odd_files(folder: Path) -> None:
    """Put a device, a FIFO, a loop of links, folders with names of files and a Python module into the folder."""
    if os.name == "posix":
        for ending in ("", ".safetensors", ".txt", ".csv"):
            os.mkfifo(folder / f"fifo{ending}")
        for ending in (".safetensors", ".txt", ".toml", ".json"):
            (folder / f"zero{ending}").symlink_to("/dev/zero")
        for ending in ("", ".safetensors"):
            (folder / f"loop{ending}").symlink_to(f"loop{ending}")
    for ending in ("", ".txt", ".safetensors"):
        (folder / f"folder{ending}").mkdir()
    (folder / "strange\x1b[2J.txt").write_text("a cat\n", encoding="utf-8")
    (folder / f"{STRANGER}.py").write_text(
        "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\nclass Thing: ...\n", encoding="utf-8"
    )


def replace_file(path: Path, rng: Random) -> str:
    """Put something else in the place of a file; what, in words."""
    kinds = ["empty", "missing", "folder", "blanks", "large"] + ["zero", "fifo", "loop", "null"] * (os.name == "posix")
    kind = rng.choice(kinds)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind in ("zero", "null"):
        path.symlink_to(f"/dev/{kind}")
    elif kind != "missing":
        path.write_bytes({"empty": b"", "blanks": b" \n" * 50_000, "large": b"x" * 3_000_000}[kind])
    return f"{path.name} is {kind}"
