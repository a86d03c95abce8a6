"""Text files are ordinary files of a bounded size in UTF-8; anything else is a message that names the file."""

import os
import socket

import pytest

from danceopd_ext.errors import MissingFile, UserError
from danceopd_ext.foreign import files, text
from danceopd_ext.foreign.text import read_text

POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no such files in folders")


def refused(path, **limit):
    with pytest.raises(UserError) as error:
        read_text(path, "prompt file", **limit)
    assert path.name in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
def test_the_text_has_plain_line_ends(tmp_path, mark):
    path = tmp_path / "prompts.txt"
    path.write_bytes(mark + "a fête\r\ntwo\rthree\n".encode())
    assert read_text(path, "prompt file") == "a fête\ntwo\nthree\n"


@POSIX
def test_a_symbolic_link_to_a_file_is_read(tmp_path):
    (tmp_path / "real.txt").write_text("a cat", encoding="utf-8")
    (tmp_path / "link.txt").symlink_to("real.txt")
    assert read_text(tmp_path / "link.txt", "prompt file") == "a cat"


def test_a_folder_is_no_file(tmp_path):
    assert "expected a prompt file, but this is a folder" in refused(tmp_path)


def test_a_missing_file_is_told_apart(tmp_path):
    with pytest.raises(MissingFile, match="prompt file not found"):
        read_text(tmp_path / "none.txt", "prompt file")


@POSIX
@pytest.mark.parametrize("linked", [False, True], ids=["itself", "by a link"])
def test_a_pipe_is_not_waited_for(tmp_path, linked):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    if linked:
        path = tmp_path / "link"
        path.symlink_to("pipe")
    assert "but this is a pipe" in refused(path)


@POSIX
def test_a_socket_is_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # addresses of sockets are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        assert "but this is a socket" in refused(tmp_path / "socket")


@POSIX
@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null"])
def test_a_device_is_not_read(tmp_path, name):
    path = tmp_path / "device"
    path.symlink_to(name)
    assert "but this is a device" in refused(path)


def test_a_file_of_more_than_the_limit_is_not_read(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"a" * 4_000_000)
    assert "3.8 MiB, and at most 1 MiB are read" in refused(path, most=files.MIB)
    assert len(read_text(path, "prompt file", most=4_000_000)) == 4_000_000


def test_a_file_that_grows_while_it_is_read_has_the_limit_too(tmp_path, monkeypatch):
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"a" * 3_000_000)
    empty = tmp_path / "empty"
    empty.touch()
    monkeypatch.setattr(files, "check_file", lambda *_: os.stat(empty))
    assert "at most 1 MiB are read" in refused(path, most=files.MIB)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("a cat".encode("utf-16"), "UTF-16"),
        ("a cat".encode("utf-16-be"), "UTF-16"),
        ("a cat".encode("utf-32"), "UTF-32"),
        ("a cat\na fête".encode("latin-1"), "line 2"),
        (b"a cat\n\n\0", "line 3"),
    ],
)
def test_another_encoding_is_named(tmp_path, content, told):
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    message = refused(path)
    assert "not UTF-8" in message and told in message and "Save it again as UTF-8" in message


def test_a_name_that_no_file_has_is_shown_readably(tmp_path):
    with pytest.raises(UserError, match=r"a\\x00b.*Check the path"):
        read_text(tmp_path / "a\0b", "prompt file")
    with pytest.raises(UserError, match=r"characters\).*cannot be read"):
        read_text(tmp_path / ("x" * 5000), "prompt file")


def test_a_text_file_has_a_limit_by_default():
    assert text.MOST == 256 * files.MIB
