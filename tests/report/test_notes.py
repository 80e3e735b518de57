"""What a reader is told of the data and the models, word by word."""

import pytest

from lit_cascade.report.notes import data_notes, model_notes

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
