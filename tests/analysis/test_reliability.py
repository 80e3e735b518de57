"""Calibration metrics against torchmetrics, netcal, scikit-learn and hand arithmetic."""

import math
import warnings

import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.classification import BinaryCalibrationError, MulticlassCalibrationError
from torchmetrics.functional.classification import binary_calibration_error

from lit_cascade.analysis.reliability import BINS, calibration_metrics
from lit_cascade.records.record import Record

RECORDED = [
    "cifar10/calibration/resnet8-w32-s2",
    "cifar10/test/resnet14-w64",
    "glue/sst2/calibration/conv-gate",
    "glue/mrpc/validation/bag",
    "glue/cola/calibration/minilm6",
]


def recorded(name):
    logits, labels = Record.load(f"checkpoints/{name}.safetensors").logits_for("a test")
    return logits, labels


def drawn(classes, scale, seed=0, n=500):
    torch.manual_seed(seed)
    honest = torch.randn(n, classes) * 2
    labels = torch.distributions.Categorical(logits=honest).sample()
    return honest * scale, labels


CASES = [recorded(name) for name in RECORDED] + [
    drawn(classes, scale) for classes in (2, 10) for scale in (0.4, 3.0, 60.0)
]


def netcal_ece(confidence, right, *, equal_width):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # docstrings with invalid escapes, at import
        from netcal.metrics import ECE
    both = torch.stack([1 - confidence, confidence], dim=1).numpy()
    return ECE(BINS, equal_intervals=equal_width).measure(both, right.long().numpy())


@pytest.mark.parametrize("case", range(len(CASES)))
def test_calibration_errors_are_those_of_netcal_and_torchmetrics(case):
    logits, labels = CASES[case]
    found = calibration_metrics(logits, labels)
    probabilities = logits.double().softmax(dim=1)
    confidence, answer = probabilities.max(dim=1)
    right = answer == labels
    assert found.ece == pytest.approx(netcal_ece(confidence, right, equal_width=True), abs=1e-12)
    quantiles = torch.linspace(0, 1, BINS + 1, dtype=torch.float64)
    if bool((confidence.quantile(quantiles).diff() > 0).all()):  # netcal wants distinct edges
        assert found.ece_equal_mass == pytest.approx(
            netcal_ece(confidence, right, equal_width=False), abs=1e-12
        )
    if float(confidence.max()) < 1:  # torchmetrics has a separate bin for 1
        binary = BinaryCalibrationError(n_bins=BINS, norm="l1")
        assert found.ece == pytest.approx(binary(confidence, right.long()).item(), abs=1e-7)
        exact = binary_calibration_error(confidence, right.long(), n_bins=BINS, norm="l1")
        assert found.ece == float(exact)
        # single precision moves a few samples into another bin
        metric = MulticlassCalibrationError(num_classes=logits.shape[1], n_bins=BINS, norm="l1")
        assert found.ece == pytest.approx(metric(probabilities, labels).item(), abs=2e-5)


def test_equal_mass_with_shared_confidences():
    """By hand: of the quantiles of 20 ones and 10 halves, only 0, 1/2 and 1 differ."""
    logits = torch.tensor([[40.0, 0.0]] * 20 + [[0.0, 0.0]] * 10)
    labels = torch.tensor([0] * 15 + [1] * 5 + [0] * 3 + [1] * 7)
    found = calibration_metrics(logits, labels)
    assert found.ece_equal_mass == pytest.approx(20 / 30 * 0.25 + 10 / 30 * 0.2, abs=1e-12)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_other_figures_are_those_of_scikit_learn(case):
    logits, labels = CASES[case]
    found = calibration_metrics(logits, labels)
    probabilities = logits.double().softmax(dim=1).numpy()
    classes = list(range(logits.shape[1]))
    truth = torch.nn.functional.one_hot(labels, len(classes)).numpy()
    by_class = [brier_score_loss(truth[:, c], probabilities[:, c]) for c in classes]
    assert found.brier == pytest.approx(sum(by_class), abs=1e-12)
    rows = torch.arange(len(labels)).numpy()
    if probabilities[rows, labels.numpy()].min() > 1e-15:  # below which scikit-learn clips
        expected = log_loss(labels.numpy(), probabilities, labels=classes)
        assert found.nll == pytest.approx(expected, abs=1e-9)
    assert found.accuracy == float((logits.argmax(dim=1) == labels).double().mean())


@pytest.mark.parametrize("case", range(len(CASES)))
def test_the_diagram_is_that_of_scikit_learn(case):
    logits, labels = CASES[case]
    diagram = calibration_metrics(logits, labels).diagram
    confidence, answer = logits.double().softmax(dim=1).max(dim=1)
    right = (answer == labels).numpy()
    accuracy, mean = calibration_curve(right, confidence.numpy(), n_bins=BINS, strategy="uniform")
    full = [k for k, count in enumerate(diagram.counts) if count]
    assert [diagram.accuracy[k] for k in full] == pytest.approx(accuracy, abs=1e-12)
    assert [diagram.confidence[k] for k in full] == pytest.approx(mean, abs=1e-12)
    assert sum(diagram.counts) == len(labels)
    assert all(math.isnan(diagram.accuracy[k]) for k in range(BINS) if k not in full)


def test_by_hand():
    logits = torch.log(torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]]))
    found = calibration_metrics(logits, torch.tensor([0, 1, 0, 1]))
    assert found.ece == pytest.approx(0.5 * 0.4 + 0.5 * 0.4)
    assert found.brier == pytest.approx((0.02 + 1.62 + 0.32 + 0.32) / 4)
    assert found.accuracy == 0.75
    assert found.confidence == pytest.approx(0.75)


def test_one_sample_and_equal_confidences():
    one = calibration_metrics(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    assert one.ece == one.ece_equal_mass == pytest.approx(1 - one.confidence)
    same = calibration_metrics(torch.tensor([[2.0, 0.0]] * 10), torch.tensor([0] * 7 + [1] * 3))
    assert same.ece == same.ece_equal_mass == pytest.approx(abs(same.confidence - 0.7))


@pytest.mark.parametrize("case", range(len(CASES)))
def test_blocks_rows_and_temperatures_give_the_figures_of_a_copy(case, monkeypatch):
    """The copies: double precision, a one-hot matrix and the softmax of all rows at once."""
    logits, labels = CASES[case]
    rows = torch.arange(len(labels))[::3]
    temperatures = 0.5 + torch.rand(len(rows), dtype=torch.float64)
    monkeypatch.setattr("lit_cascade.core.calibration._BLOCK_ELEMENTS", 17 * logits.shape[1])
    found = calibration_metrics(logits, labels, temperatures, rows)
    scaled, truth = logits[rows].double() / temperatures[:, None], labels[rows]
    probabilities = scaled.softmax(dim=1)
    errors = probabilities - torch.nn.functional.one_hot(truth, logits.shape[1])
    assert found.brier == pytest.approx(float(errors.square().sum()) / len(rows), rel=1e-12)
    nll = torch.nn.functional.cross_entropy(scaled, truth)
    assert found.nll == pytest.approx(float(nll), rel=1e-12)
    assert found.confidence == pytest.approx(float(probabilities.amax(dim=1).mean()), rel=1e-13)
    whole = calibration_metrics(scaled, truth)
    assert found.diagram.counts == whole.diagram.counts
    assert (found.ece, found.ece_equal_mass) == (whole.ece, whole.ece_equal_mass)
