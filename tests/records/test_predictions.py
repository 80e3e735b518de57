"""Records that hold which class a model answers, and no logits."""

import math

import pytest
import torch

from lit_cascade import Record, curve, replay
from lit_cascade.errors import CascadeError
from tests.oracles import stage_of

CLASSES = 4


def predicted(name, k, n=200, *, score=True, logits=False):
    """A record of predictions, with the same numbers for the same name, and its plain values."""
    generator = torch.Generator().manual_seed(k)
    labels = torch.arange(n) % CLASSES
    drawn = torch.randint(CLASSES, (n,), generator=generator)
    prediction = torch.where(torch.rand(n, generator=generator) < 0.4 + 0.2 * k, labels, drawn)
    confidence = (torch.rand(n, generator=generator) * 8).round() / 8  # many ties
    given = {"prediction": prediction}
    if score:
        given["score"] = confidence
    if logits:  # with the softmax of these, the largest probability is a function of the answer
        given = {"logits": torch.nn.functional.one_hot(prediction, CLASSES).float() * (k + 1)}
    return Record.from_arrays(name, labels=labels, flops=10.0**k, **given)


@pytest.mark.parametrize("stages", [2, 3, 4])
@pytest.mark.parametrize("kind", ["score", "alone", "mixed"])
def test_agreement_of_recorded_answers_is_a_loop(stages, kind):
    records = [
        predicted(f"net{k}", k, score=kind != "alone", logits=kind == "mixed" and k % 2 == 1)
        for k in range(stages)
    ]
    tables = [record.columns() for record in records]
    for threshold in (-math.inf, 0.0, 0.5, 1.0, 1.25, math.inf):
        rule = {"score": "agreement", "thresholds": [threshold] * (stages - 1)}
        found = replay(records, rule)
        for i in range(200):
            scores, answers = [], []
            for table in tables:
                answer = table["prediction"][i]
                confidence = torch.tensor(table["score"][i] if "score" in table else 0.0)
                scores.append(float(confidence + (answer in answers)))
                answers.append(answer)
            stop = stage_of(scores[:-1], [threshold] * (stages - 1))
            assert (found.stage[i], found.prediction[i]) == (stop, answers[stop])
            assert found.score[i] == scores[stop]
            assert found.correct[i] == (answers[stop] == i % CLASSES)


def test_a_curve_of_predictions_alone_has_the_two_models_and_nothing_between():
    found = curve([predicted("small", 1, score=False), predicted("large", 2, score=False)])
    assert found.thresholds.tolist() == [-math.inf, math.inf]


def test_predictions_survive_their_file_in_little_space(tmp_path):
    record = predicted("net", 1)
    assert Record.from_arrays("net", prediction=[0, 300], flops=1).prediction.tolist() == [0, 300]
    path = tmp_path / "net.safetensors"
    record.save(path)
    loaded = Record.load(path)
    for name in ("prediction", "labels", "score"):
        assert torch.equal(getattr(loaded, name), getattr(record, name))
    assert loaded.ids == record.ids
    assert loaded.prediction.dtype == loaded.labels.dtype == torch.int64
    assert loaded.to_bytes() == record.to_bytes()
    # a byte for prediction and label, four for the score, and none for ids that are positions
    assert path.stat().st_size < 200 * (1 + 1 + 4) + 1500
    assert loaded.rows([3, 1]).prediction.tolist() == record.prediction[[3, 1]].tolist()
    assert "predictions and scores without logits" in repr(loaded)


@pytest.mark.parametrize("ids", [[1, 2, 0], [0, 1, 3], ["a", "b", "c"], [0, 1, 2]])
def test_ids_that_are_no_positions_survive_too(tmp_path, ids):
    record = Record.from_arrays("net", prediction=[0, 1, 0], labels=[0, 1, 1], flops=1, ids=ids)
    record.save(tmp_path / "net.safetensors")
    assert Record.load(tmp_path / "net.safetensors").ids.tolist() == ids


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prediction": [0, 4], "classes": list("abcd")}, r"1 prediction outside the 4 .* row 1"),
        ({"prediction": [-1, 0], "classes": list("abcd")}, "first -1 at row 0"),
        ({"prediction": [0.5, 1]}, "whole numbers"),
        ({"prediction": [[0, 1]]}, r"got torch.int64 of shape \(1, 2\)"),
        ({"prediction": [0, 1], "labels": [0, 1], "correct": [1, 0]}, "first at row 1; leave it"),
        ({"prediction": []}, "no samples"),
    ],
)
def test_what_cannot_be_predictions_is_refused(change, words):
    with pytest.raises(CascadeError, match=words):
        Record.from_arrays("net", flops=1, **change)


def test_agreement_needs_answers():
    known = predicted("small", 1)
    judged = {"score": known.score, "correct": known.right, "labels": known.labels}
    unknown = Record.from_arrays("large", flops=100, **judged)
    assert unknown.right.tolist() == known.right.tolist()
    with pytest.raises(CascadeError, match="'large' holds which answers are right and not"):
        curve([known, unknown], {"score": "agreement"})
