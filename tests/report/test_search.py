import csv
import importlib
import io
import json
import math
from dataclasses import replace

import pytest
import torch

from lit_cascade.analysis.protocol import protocol_of
from lit_cascade.analysis.search import Reduction, frontier_of
from lit_cascade.core.search.front import Band, Front
from lit_cascade.core.search.heldout import HeldOut
from lit_cascade.core.search.search import SearchSettings
from lit_cascade.records.record import Record
from lit_cascade.report.search import (
    draw_frontier,
    frontier_csv,
    frontier_summary,
    print_comparison,
    print_frontier,
    strategy_summary,
)
from lit_cascade.utilities.text import plain

searching = importlib.import_module("lit_cascade.analysis.search")

SIZE = (1440, 1000)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Two models, two splits of four samples: every figure can be checked by hand."""
    folder = tmp_path_factory.mktemp("records")
    few, searching._RESAMPLES_ALONE = searching._RESAMPLES_ALONE, 3
    margins = {
        ("calibration", "small"): [4.0, 3.0, -2.0, -1.0],
        ("calibration", "large"): [5.0, 5.0, 5.0, 5.0],
        ("test", "small"): [4.0, -3.5, 2.9, -1.0],
        ("test", "large"): [5.0, 5.0, 5.0, -5.0],
    }
    for number, split in enumerate(("calibration", "test")):
        for name, flops in (("small", 2.0), ("large", 2000.0)):
            rows = [[margin, 0.0] for margin in margins[split, name]]
            data = {"name": "toy", "split": split, "source": "here"}
            ids = [10 * number + i for i in range(4)]
            Record.from_arrays(name, rows, [0] * 4, flops=flops, ids=ids, data=data).save(
                folder / f"{name}-{split}.safetensors"
            )
    result = frontier_of(protocol_of([str(folder)]), settings=SearchSettings(window=2))
    searching._RESAMPLES_ALONE = few
    return result


def test_the_table_of_points(found):
    rows = list(csv.reader(io.StringIO(frontier_csv(found))))
    assert rows[0] == [
        "flops", "accuracy", "stages", "thresholds", "floors", "chosen_flops", "chosen_accuracy",
    ]  # fmt: skip
    first, *_, last = rows[1:]
    assert first == ["2.0", "0.5", "small", "", "", "2.0", "0.5"]
    # the two of which small is least sure are deferred: above 0.8808, the confidence of 2
    assert last[2] == "small;large"
    assert 0.8808 < float(last[3]) <= 0.9526
    assert last[4] == "-inf"
    assert (float(last[5]), float(last[6])) == (1002, 1)
    # on the other split the two of 2.9 and -1 are deferred, and one remains wrong
    assert (float(last[0]), float(last[1])) == (1002, 0.5)


def test_what_the_summary_says_of_a_cascade(found):
    summary = plain(frontier_summary(found, {found.picks[-1]: "c.yaml"}))
    last = summary["cascades"][-1]
    assert last["stages"] == ["small", "large"]
    assert list(last["thresholds"]) == ["small"]
    assert last["floors"] == {"small": "-inf"}
    assert (last["flops"], last["accuracy"]) == (1002, 0.5)
    assert (last["chosen_flops"], last["chosen_accuracy"]) == (1002, 1)
    assert (last["single"], last["saving"]) == ("large", pytest.approx(2000 / 1002))
    assert last["accuracy_difference"] == -0.25
    assert (last["config"], summary["cascades"][0]["config"]) == ("c.yaml", None)
    rest = {"parameters": 0, "temperature": 1, "norm": None}
    assert summary["models"] == [
        {"name": "small", "flops": 2, "accuracy": 0.5, **rest},
        {"name": "large", "flops": 2000, "accuracy": 0.75, **rest},
    ]
    assert (summary["same_samples"], summary["holdout"]) == (False, None)
    assert set(summary["provenance"]) == {"chosen_on", "reported_on", "models", "recorded"}
    assert summary["provenance"]["chosen_on"] != summary["provenance"]["reported_on"]
    json.dumps(summary, allow_nan=False)


def test_numbers_without_end_can_be_written(found):
    band = Band(0.5, 0.6, "b")
    held = HeldOut(band, math.inf, 1.0, math.nan, 0.0, math.inf, (0.5, math.inf), 2)
    reduction = Reduction(band, math.inf, 0.0, held)
    strategy = replace(found.strategies[0], reductions=(reduction,))
    (written,) = plain(strategy_summary([strategy]))[strategy.name]
    assert written["average_compute_reduction"] == "inf"
    assert written["held_out"] == {
        "chosen": "inf",
        "reported": 1.0,
        "reported_interpolated": None,
        "optimism": "inf",
        "interval_95": [0.5, "inf"],
        "spread": "inf",
        "accuracy_shortfall": 0.0,
        "repeats": 2,
    }
    json.dumps(written, allow_nan=False)
    (bound,) = strategy_summary(
        [replace(strategy, reductions=(replace(reduction, held_out=None),))]
    )[strategy.name]
    assert bound["held_out"] is None


def test_what_is_printed(found, capsys):
    print_frontier(found, {found.picks[-1]: "c.yaml"}, ["Note: a note."])
    captured = capsys.readouterr()
    assert captured.err == ""
    text = captured.out
    assert "The front of 2 models on toy, split 'test': 4 samples" in text
    (row,) = (line for line in text.splitlines() if "c.yaml" in line)
    for part in ("small → large", "1 k", "501", "50.00 %", "100.00 %", "2.00x", "-25.00"):
        assert part in row
    assert "Bands of accuracy: top half: 75.0 % to 100.0 %; top quarter: 87.5 % to 100.0 %." in text
    assert "on the split 'calibration' (4 samples), which also promised the accuracies." in text
    assert text.rstrip().endswith("Note: a note.")
    print_comparison(found.strategies[:1], found)
    assert "cascades of up to 2, window" in capsys.readouterr().out


def test_printed_thresholds_defer_the_same_samples(found, capsys):
    print_frontier(found, {found.picks[-1]: "c.yaml"})
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "c.yaml" in line)
    shown = float(row.split("small → large")[1].split()[0])
    scores = found.zoo.scores[0]
    exact = found.picks[-1].point.thresholds[0]
    assert (scores >= shown).tolist() == (scores >= exact).tolist()
    assert shown == 0.95  # 0.9 would not defer the one of 0.9478
    assert len(str(shown)) < len(str(exact))


def test_the_picture(found):
    picture = draw_frontier(found)
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = (int.from_bytes(picture[at : at + 4]) for at in (16, 20))
    assert (width, height) == SIZE
    assert draw_frontier(found) == picture
    published = Front(torch.tensor([1.0, 900.0]).double(), torch.tensor([0.4, 0.9]).double())
    assert draw_frontier(found, published) != picture
