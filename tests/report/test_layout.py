"""Tables in terminals of any width: what is left out, folded and shortened, and what never is."""

from __future__ import annotations

import pytest

from lit_cascade.report.text import Column, Table, printing, show

NAMES = (
    "vit_base_patch16_clip_224.laion2b_ft_in12k_in1k",
    "vit_base_patch16_clip_224.openai_ft_in12k_in1k",
)
HEADINGS = (
    "stages",
    "threshold",
    "FLOPs",
    Column("MACs", 1),
    "accuracy",
    Column("notes", 2, left=True),
)
ROWS = [
    (NAMES[0], "", "123 456 M", "61 728 M", "85.17 %", "alone"),
    (" → ".join(NAMES), "0.123456789", "98.7 M", "49.4 M", "86.00 %", "12,345,678 samples"),
]


def table(rows=ROWS, headings=HEADINGS):
    made = Table("The front", *headings)
    for row in rows:
        made.add_row(*row)
    return made


def printed(capsys, monkeypatch, width, *parts, **options):
    monkeypatch.setenv("COLUMNS", "" if width is None else str(width))
    with printing(**options):
        show(*(parts or [table()]))
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200, 400])
def test_a_table_fits_and_keeps_every_number_that_decides(capsys, monkeypatch, width):
    lines = printed(capsys, monkeypatch, width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for number in ("0.123456789", "123 456 M", "98.7 M", "85.17 %", "86.00 %"):
        assert number in text


def test_details_are_left_out_the_greatest_first_and_a_line_names_them(capsys, monkeypatch):
    def shown(width):
        return "\n".join(printed(capsys, monkeypatch, width))

    assert "--wide" not in shown(200)
    assert "alone" in shown(200)
    assert "alone" not in shown(100)
    assert "61 728 M" in shown(100)
    assert "More columns with --wide: notes." in shown(100)
    assert "61 728 M" not in shown(80)
    assert "More columns with --wide: MACs, notes." in shown(80)


def test_names_of_a_cascade_are_folded_at_their_arrow(capsys, monkeypatch):
    lines = printed(capsys, monkeypatch, 100)
    (first,) = (k for k, line in enumerate(lines) if "→" in line)
    assert lines[first].split()[:2] == [NAMES[0], "→"]
    assert "98.7 M" in lines[first]
    assert lines[first + 1].split() == [NAMES[1]]


def test_shortened_names_stay_different(capsys, monkeypatch):
    rows = [(name, *ROWS[0][1:]) for name in NAMES]
    lines = printed(capsys, monkeypatch, 60, table(rows))
    short = {line.split()[0] for line in lines if "…" in line}
    assert len(short) == len(NAMES)
    for one, name in zip(sorted(short), sorted(NAMES), strict=True):
        before, after = one.split("…")
        assert name.startswith(before)
        assert name.endswith(after)


def test_long_headings_are_folded_before_anything_is_left_out(capsys, monkeypatch):
    made = Table("t", "name", "a heading of many words", Column("another one of many words", 1))
    made.add_row("x", "1", "2")
    lines = printed(capsys, monkeypatch, 30, made)
    assert max(map(len, lines)) <= 30
    assert "--wide" not in "\n".join(lines)
    assert {"heading", "another"} <= {word for line in lines for word in line.split()}


@pytest.mark.parametrize("options", [{"width": None}, {"width": 20, "wide": True}])
def test_all_columns_and_whole_names_where_the_width_is_unknown_or_does_not_matter(
    capsys, monkeypatch, options
):
    text = "\n".join(printed(capsys, monkeypatch, **options))
    for part in (*NAMES, "MACs", "notes", "12,345,678 samples"):
        assert part in text
    assert "--wide" not in text


def test_numbers_stay_whole_where_nothing_can_be_done(capsys, monkeypatch):
    text = "\n".join(printed(capsys, monkeypatch, 10))
    assert "0.123456789" in text
    assert "123 456 M" in text


def test_sections_are_apart(capsys, monkeypatch):
    made = Table("t", "name", "n")
    made.add_section()
    made.add_row("one", "1")
    made.add_section()
    made.add_row("two", "2")
    lines = printed(capsys, monkeypatch, 80, made)
    assert lines[2:7] == ["  name  n", " ────────", "  one   1", "", "  two   2"]


def test_text_is_printed_as_it_is(capsys, monkeypatch):
    made = Table("[bold]t :apple:", "name", "n")
    made.add_row("[red].jpg", ":warning:")
    lines = printed(capsys, monkeypatch, 80, made, "Note: [1] :smile: first images/[a].jpg.")
    text = "\n".join(lines)
    for part in ("[bold]t :apple:", "[red].jpg", ":warning:", "[1] :smile: first images/[a].jpg."):
        assert part in text


@pytest.mark.parametrize("options", [{"quiet": True}, {"json": True}])
def test_nothing_is_printed_if_so_asked(capsys, monkeypatch, options):
    assert printed(capsys, monkeypatch, 80, **options) == []


def test_a_row_of_other_length_is_refused():
    with pytest.raises(ValueError, match="expected 6 cells, got 1"):
        table().add_row("x")
