"""Tables of comma-separated values: what is no CSV is a message that names file and line."""

import pytest

from danceopd_ext.errors import UserError
from danceopd_ext.foreign.csv import LONGEST_FIELD, parse_csv, read_csv


def rows(text, **options):
    return list(parse_csv(text, "a.csv", **options))


def test_rows_have_the_number_of_their_last_line():
    assert rows('a,b\n\n"1\n2",3\n') == [(1, ["a", "b"]), (4, ["1\n2", "3"])]
    assert rows("a;b", delimiter=";", first=3) == [(3, ["a", "b"])]


@pytest.mark.parametrize(
    "text",
    [
        '"prompt\na cat\n',
        'prompt\n"a cat\n',
        'prompt\n"a" cat\n',
        f"prompt\n{'a' * 200_000}\n",
        f"prompt\n{'a' * (LONGEST_FIELD + 1)}\n",
        f'"{"a" * 200_000}',
    ],
    ids=["header not closed", "field not closed", "text behind a quote", "csv's limit", "our limit", "long header"],
)
def test_what_is_no_table_is_told_with_its_line(text):
    with pytest.raises(UserError, match=r"^a\.csv, line \d: .*Is a closing quote missing\?$"):
        rows(text)


def test_a_long_field_is_read():
    assert rows("a" * LONGEST_FIELD) == [(1, ["a" * LONGEST_FIELD])]


def test_a_file_is_read_by_its_columns(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbfname,value\r\none,1\r\ntwo,\r\n")
    assert read_csv(path) == [{"name": "one", "value": "1"}, {"name": "two", "value": ""}]


def test_a_row_has_a_field_for_each_column(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("name,value\none,1\ntwo\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.csv, line 3: 1 fields, but the table has 2 columns"):
        read_csv(path)
    path.write_text("", encoding="utf-8")
    assert read_csv(path) == []
