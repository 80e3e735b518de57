import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_cascade.report.text import csv_text
from lit_cascade.utilities.text import (
    as_cell,
    from_cell,
    in_markdown,
    json_text,
    printable,
    single_line,
)

HIDDEN = ["\x1b", "\x07", "\x9b", "\r", "\t", "\x7f", "\u202e", "\u2066", "\u2028", "\udc80"]


@pytest.mark.parametrize("character", HIDDEN)
def test_hidden_characters_are_shown_by_their_escapes(character):
    shown = printable(f"a{character}b")
    assert shown == f"a{ascii(character)[1:-1]}b"
    assert printable(shown) == shown, "once is enough"


def test_lines_stay_lines_unless_there_may_be_one():
    assert printable("two\nlines") == "two\nlines"
    assert single_line("two\nlines") == r"two\nlines"
    assert printable("größer → 猫 e\u0301") == "größer → 猫 e\u0301"


@pytest.mark.parametrize("character", HIDDEN)
def test_json_holds_hidden_characters_as_escapes_and_the_same_text(character):
    text = json_text({"name": f"a{character}b"})
    assert printable(text) == text
    assert json.loads(text) == {"name": f"a{character}b"}


@given(st.text(alphabet=" '=+-@\t\r;ab1.\n\"", max_size=8))
def test_every_text_comes_back_from_a_cell_and_none_begins_as_a_formula(text):
    cell = as_cell(text)
    assert from_cell(cell) == text
    if cell[:1] and cell[0] in "=+-@\t\r":
        assert [float(part) for part in cell.split(";")], "only numbers may"


def test_names_in_csv_files_are_no_formulas():
    text = csv_text(["name", "cost"], [["=1+1;x", 1.0], ["@a", 2.0]])
    header, *rows = csv.reader(io.StringIO(text))
    assert [row[0] for row in rows] == ["'=1+1;x", "'@a"]
    assert header == ["name", "cost"]


def test_numbers_are_no_formulas():
    assert csv_text(["score"], [[-0.5], [float("-inf")]]) == "score\n-0.5\n-inf\n"
    assert as_cell("-0.25;-inf") == "-0.25;-inf"


def test_marks_of_markdown_are_shown():
    assert in_markdown("a|b `c` <i>\n") == r"a\|b \`c\` \<i\>\\n"
