"""One program: a table's name, or a command beside the tables."""

import pytest

from danceopd_ext.cli import run as exit_code
from danceopd_ext.reproduce import dispatch
from danceopd_ext.reproduce.command import OTHERS
from danceopd_ext.reproduce.tables import TABLES


@pytest.mark.parametrize("name", dispatch.COMMANDS)
def test_a_command_gets_the_words_after_its_name(monkeypatch, name):
    heard = []
    monkeypatch.setitem(dispatch.COMMANDS, name, lambda argv: heard.append(list(argv)))
    dispatch.main([name, "style", "--budget", "smoke"])
    assert heard == [["style", "--budget", "smoke"]]


@pytest.mark.parametrize("name", TABLES)
def test_a_table_gets_all_words(monkeypatch, name):
    heard = []
    monkeypatch.setattr(dispatch.command, "main", lambda argv: heard.append(list(argv)))
    dispatch.main([name, "--seeds", "1"])
    assert heard == [[name, "--seeds", "1"]]


def test_the_help_names_every_table_and_every_command(capsys):
    with pytest.raises(SystemExit) as end:
        dispatch.main(["--help"])
    assert end.value.code == 0
    told = capsys.readouterr().out
    assert OTHERS in told
    assert all(name in told for name in TABLES)
    assert [line.split()[0] for line in OTHERS.splitlines()[1:]] == list(dispatch.COMMANDS)


@pytest.mark.parametrize("name", dispatch.COMMANDS)
def test_the_help_of_a_command_shows_how_it_is_called(capsys, name):
    with pytest.raises(SystemExit) as end:
        dispatch.main([name, "--help"])
    assert end.value.code == 0
    assert f"usage: scripts/reproduce.py {name} " in capsys.readouterr().out


def test_a_wrong_file_of_a_command_ends_with_a_message(tmp_path, capsys):
    assert exit_code(dispatch.main, ["join", "style", str(tmp_path), str(tmp_path / "more")]) == 2
    assert "does not contain the table style" in capsys.readouterr().err
