import math
from itertools import pairwise

import pytest
import torch

from lit_cascade.core.contract import answers_here
from lit_cascade.report.text import percent, quantity, readable_threshold, times


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
    [(0.25, "4.0x less"), (1.0, "1.0x more"), (1.25, "1.2x more"), (2.0, "2.0x more"), (0, "all")],
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
