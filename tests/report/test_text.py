"""

What a reader is told of the data and the models, word by word.
"""

from __future__ import annotations

import io
import math
from itertools import pairwise

import pytest
import torch

from lit_cascade.core.contract import answers_here
from lit_cascade.core.curve import readable_threshold
from lit_cascade.report.text import data_notes, model_notes, show
from lit_cascade.utilities.units import percent, quantity, times


@pytest.mark.parametrize(
    ("share", "digits", "text"),
    [(0.124, 1, "12.4 %"), (0.0, 1, "0.0 %"), (1.0, 1, "100.0 %"), (0.98765, 2, "98.77 %")],
)
def test_percent(share, digits, text):
    assert percent(share, digits) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (7, "7"),
        (950, "950"),
        (999.4, "999"),
        (999.5, "1 k"),
        (1000, "1 k"),
        (18_944, "18.9 k"),
        (999_499, "999 k"),
        (999_500, "1 M"),
        (999_500_000, "1 G"),
        (4.1e9, "4.1 G"),
        (2.5e15, "2.5 P"),
        (2.5e18, "2500 P"),
    ],
)
def test_quantity(value, text):
    assert quantity(value) == text


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (0.25, "4.0x less"),
        (1.0, "1.0x more"),
        (1.25, "1.2x more"),
        (2.0, "2.0x more"),
        (0, "infinitely less"),
    ],
)
def test_times(ratio, text):
    assert times(ratio) == text


def same_cascade(scores, threshold, text):
    return torch.equal(answers_here(scores, threshold), answers_here(scores, float(text)))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scale", [1.0, 1e-3, -8.0])
def test_a_readable_threshold_routes_as_the_exact_one(seed, scale):
    torch.manual_seed(seed)
    scores = (torch.rand(300) * scale).unique()
    values = [-math.inf, *scores.tolist()]
    for below, threshold in pairwise(values):
        assert same_cascade(scores, threshold, readable_threshold(threshold, below))


@pytest.mark.parametrize("start", [0.0, 1e-12, 1e-5, 0.1, 0.5, 0.7, 0.9999, -0.3, -2.0])
def test_adjacent_scores_are_told_apart(start):
    score = torch.tensor([start])
    scores = [score]
    for _ in range(200):
        scores.append(scores[-1].nextafter(torch.tensor([2.0])))
    scores = torch.cat(scores)
    values = [-math.inf, *scores.tolist()]
    for below, threshold in pairwise(values):
        assert same_cascade(scores, threshold, readable_threshold(threshold, below))


def test_a_readable_threshold_is_short():
    assert readable_threshold(0.87312, below=0.86901) == "0.87"
    assert readable_threshold(0.5, below=0.1) == "0.5"
    assert readable_threshold(0.8731, below=0.8709) == "0.873"


def test_infinities_are_words():
    assert readable_threshold(math.inf, 0.5) == "inf"
    assert readable_threshold(-math.inf, -math.inf) == "-inf"


MISSING = "No such file or directory"


@pytest.mark.parametrize(
    ("data", "notes"),
    [
        ({}, []),
        ({"name": "pets", "split": "validation", "left_out": [], "remarks": {}}, []),
        ({"limited_to": "8 of 21 samples"}, ["only 8 of 21 samples of the split were read"]),
        (
            {"left_out": [[4, "row 4: no image"]]},
            ["1 sample is left out: row 4: no image"],
        ),
        (
            {"left_out": [["a", "a: x"], ["b", "b: y"], ["c", "c: z"]]},
            ["3 samples are left out: a: x; b: y; c: z"],
        ),
        (
            {"left_out": [[k, f"{k}: {MISSING}"] for k in range(5)]},
            [
                f"5 samples are left out: 0: {MISSING}; 1: {MISSING}; 2: {MISSING}; and 2 more",
            ],
        ),
        (
            {"left_out": [[0, "0: x"], *([k, "no label"] for k in range(1, 1235))]},
            ["1,235 samples are left out: no label (1,234); 0: x"],
        ),
        (
            {"remarks": {"EXIF rotation not applied": 1, "converted to RGB from CMYK": 1234}},
            ["1 sample: EXIF rotation not applied", "1,234 samples: converted to RGB from CMYK"],
        ),
        (
            {"findings": ["2 of the 5 classes have no image", "3 files are no images"]},
            ["2 of the 5 classes have no image", "3 files are no images"],
        ),
        (
            {
                "findings": ["f"], "remarks": {"r": 2}, "left_out": [["a", "l"]],
                "limited_to": "4 of 9 samples",
            },
            [
                "only 4 of 9 samples of the split were read", "1 sample is left out: l",
                "2 samples: r", "f",
            ],
        ),
    ],
)  # fmt: skip
def test_each_thing_has_a_note_of_its_own(data, notes):
    assert data_notes(data) == [f"Note: {note}." for note in notes]


@pytest.mark.parametrize(
    ("models", "notes"),
    [
        ([], []),
        ([("a", {}, 10)], []),
        ([("a", {"known_classes": 10}, 10)], []),  # in another order
        (
            [("a", {"known_classes": 1000}, 200), ("b", {}, 200)],
            ["1 of the 2 models knows 1,000 classes and answers among the 200 of the data only"],
        ),
        (
            [("a", {"known_classes": 1000}, 200), ("b", {"known_classes": 1000}, 200)],
            ["2 of the 2 models know 1,000 classes and answer among the 200 of the data only"],
        ),
        (
            [
                ("a", {"known_classes": 21841}, 1000), ("b", {}, 1000),
                ("c", {"known_classes": 10}, 1000), ("d", {"known_classes": 21841}, 1000),
            ],
            [
                "2 of the 4 models know 21,841 classes and answer among the 1,000 of the data only",
                "1 of the 4 models knows 10 classes and answers among the 1,000 of the data only",
            ],
        ),
    ],
)  # fmt: skip
def test_models_that_know_more_classes_are_counted(models, notes):
    assert model_notes(models) == [f"Note: {note}." for note in notes]


@pytest.mark.parametrize("tty", [True, False])
def test_sentences_are_folded_at_spaces_in_a_terminal_alone(tty, monkeypatch):
    sentence = " ".join(f"word{number}" for number in range(30)) + "."
    output = io.StringIO()
    monkeypatch.setattr(output, "isatty", lambda: tty, raising=False)
    monkeypatch.setattr("sys.stdout", output)
    monkeypatch.setenv("COLUMNS", "50")
    show(sentence)
    lines = output.getvalue().splitlines()
    assert (len(lines) > 1) == tty
    assert max(map(len, lines)) <= 50 or not tty
    assert " ".join(line.strip() for line in lines) == sentence
