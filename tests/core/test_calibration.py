import logging
import math
import warnings

import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.utils.data import DataLoader, TensorDataset

from lit_cascade.core.calibration import (
    HIGHEST,
    LOWEST,
    _derivatives,
    cross_fit,
    fit_temperature,
    negative_log_likelihood,
)
from lit_cascade.errors import CascadeError
from lit_cascade.records.record import Record
from tests.oracles import mean_nll

CASES = [
    (classes, scale, seed) for classes in (2, 10, 100) for scale in (0.4, 3.0) for seed in range(3)
]

RECORDED = [
    "cifar10/calibration/resnet8-w32-s2",
    "cifar10/calibration/resnet14-w64",
    "glue/sst2/calibration/conv-gate",
    "glue/mrpc/calibration/conv",
    "glue/rte/calibration/bag",
    "glue/cola/calibration/minilm6",
]


def drawn(classes, scale, seed, n=500):
    """Logits whose honest temperature is near `scale`."""
    torch.manual_seed(seed)
    honest = torch.randn(n, classes) * 2
    labels = torch.distributions.Categorical(logits=honest).sample()
    return honest * scale, labels


def netcal_temperature(logits, labels):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # docstrings with invalid escapes, at import
        from netcal.scaling import TemperatureScaling
    probabilities = logits.double().softmax(dim=1).numpy()
    if logits.shape[1] == 2:
        probabilities = probabilities[:, 1]
    scaling = TemperatureScaling()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "independent is deprecated")  # of pyro, called by netcal
        scaling.fit(probabilities, labels.numpy(), tensorboard=False)
    return 1 / float(scaling.weights.reshape(-1)[0])


def torch_uncertainty_temperature(logits, labels):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations of its dependencies, at import
        from torch_uncertainty.post_processing import TemperatureScaler
    logging.disable(logging.WARNING)  # it says that it has no model, which is meant
    scaler = TemperatureScaler()
    scaler.fit(DataLoader(TensorDataset(logits, labels), batch_size=len(logits)), progress=False)
    logging.disable(logging.NOTSET)
    return 1 / scaler.inv_temp.item()


@pytest.mark.parametrize(("classes", "scale", "seed"), CASES)
@pytest.mark.parametrize("other", [netcal_temperature, torch_uncertainty_temperature])
def test_no_other_library_fits_better(classes, scale, seed, other):
    logits, labels = drawn(classes, scale, seed)
    fit = fit_temperature(logits, labels)
    temperature = other(logits, labels)
    theirs = negative_log_likelihood(logits, labels, temperature)
    assert fit.nll_after <= theirs + 1e-12
    assert fit.nll_after == pytest.approx(theirs, abs=1e-4)
    assert fit.temperature == pytest.approx(temperature, rel=0.05)


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("other", [netcal_temperature, torch_uncertainty_temperature])
def test_other_libraries_agree_on_recorded_models(name, other):
    record = Record.load(f"checkpoints/{name}.safetensors")
    logits, labels = record.logits_for("a test")
    logits = logits.float()
    fit = fit_temperature(logits, labels)
    theirs = negative_log_likelihood(logits, labels, other(logits, labels))
    assert fit.nll_after <= theirs + 1e-12
    assert fit.nll_after == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize(("classes", "scale", "seed"), CASES)
def test_the_fit_is_the_optimum_that_scipy_finds(classes, scale, seed):
    logits, labels = drawn(classes, scale, seed)
    found = minimize_scalar(
        lambda b: negative_log_likelihood(logits, labels, 1 / b),
        bounds=(1 / HIGHEST, 1 / LOWEST),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert fit_temperature(logits, labels).temperature == pytest.approx(1 / found.x, abs=1e-6)


@pytest.mark.parametrize(("classes", "scale", "seed"), CASES)
def test_the_slope_is_zero_at_the_optimum(classes, scale, seed):
    logits, labels = drawn(classes, scale, seed)
    fit = fit_temperature(logits, labels)
    assert not fit.at_bound
    assert abs(_derivatives(logits, labels, -math.log(fit.temperature))[1].mean()) < 1e-9
    step = 1e-4
    around = [
        negative_log_likelihood(logits, labels, fit.temperature * (1 + d)) for d in (-step, step)
    ]
    assert min(around) >= fit.nll_after
    assert fit.nll_after <= fit.nll_before


def test_slope_and_curvature_are_derivatives():
    logits, labels = drawn(5, 1.0, 0, n=40)
    h = 1e-4
    low, mid, high = (
        negative_log_likelihood(logits, labels, 1 / b) for b in (0.7 - h, 0.7, 0.7 + h)
    )
    each = _derivatives(logits, labels, math.log(0.7)).mean(dim=1)  # by log b
    slope, curvature = float(each[1] / 0.7), float((each[2] - each[1]) / 0.7**2)
    assert slope == pytest.approx((high - low) / (2 * h), abs=1e-7)
    assert curvature == pytest.approx((high - 2 * mid + low) / h**2, rel=1e-4)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_likelihood_is_the_formula_and_needs_no_block(temperature):
    logits, labels = drawn(7, 2.0, 1, n=60)
    expected = mean_nll(logits.tolist(), labels.tolist(), temperature)
    assert negative_log_likelihood(logits, labels, temperature) == pytest.approx(
        expected, rel=1e-12
    )


def test_blocks_of_rows_change_nothing(monkeypatch):
    logits, labels = drawn(10, 3.0, 0)
    whole = fit_temperature(logits, labels)
    monkeypatch.setattr("lit_cascade.core.calibration._BLOCK_ELEMENTS", 700)
    parts = fit_temperature(logits, labels)
    assert parts.temperature == pytest.approx(whole.temperature, rel=1e-9)
    assert parts.nll_after == pytest.approx(whole.nll_after, rel=1e-12)


@pytest.mark.parametrize("factor", [0.1, 0.5, 3.0, 10.0])
def test_scaling_the_logits_scales_the_temperature(factor):
    logits, labels = drawn(10, 1.0, 0)
    one, other = (
        fit_temperature(logits.double(), labels),
        fit_temperature(logits.double() * factor, labels),
    )
    assert other.temperature == pytest.approx(factor * one.temperature, rel=1e-9)
    assert other.nll_after == pytest.approx(one.nll_after, rel=1e-12)


@pytest.mark.parametrize("size", [1.0, 20.0, 1e4])
def test_all_right_stops_at_the_lower_bound(size):
    labels = torch.arange(30) % 3
    fit = fit_temperature(torch.eye(3)[labels] * size, labels)
    assert fit.at_bound
    assert fit.temperature == pytest.approx(LOWEST)
    assert 0 <= fit.nll_after < 1e-9


def test_all_right_by_far_stops_at_the_lower_bound():
    labels = torch.arange(30) % 3
    fit = fit_temperature(torch.eye(3)[labels] * 1e6, labels)
    assert (fit.at_bound, fit.temperature) == (True, pytest.approx(LOWEST))


@pytest.mark.parametrize("size", [1.0, 20.0, 1e4])
def test_all_wrong_stops_at_the_upper_bound(size):
    labels = torch.arange(30) % 3
    fit = fit_temperature(torch.eye(3)[(labels + 1) % 3] * size, labels)
    assert fit.at_bound
    assert fit.temperature == pytest.approx(HIGHEST)
    assert math.isfinite(fit.nll_after)


def test_half_precision_fits_as_its_exact_values():
    logits, labels = drawn(10, 3.0, 0)
    half = logits.half()
    assert fit_temperature(half, labels) == fit_temperature(half.double(), labels)


@pytest.mark.parametrize(("classes", "scale", "seed"), CASES)
def test_a_dozen_steps_are_enough(classes, scale, seed):
    logits, labels = drawn(classes, scale, seed)
    few, many = fit_temperature(logits, labels, steps=12), fit_temperature(logits, labels)
    assert few.temperature == pytest.approx(many.temperature, rel=1e-9)


def test_one_sample_fits():
    right = fit_temperature(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    wrong = fit_temperature(torch.tensor([[2.0, 0.0]]), torch.tensor([1]))
    assert (right.temperature, right.at_bound) == (pytest.approx(LOWEST), True)
    assert (wrong.temperature, wrong.at_bound) == (pytest.approx(HIGHEST), True)


def test_three_in_four_right_by_hand():
    logits = torch.tensor([[4.0, 0.0]] * 4)
    fit = fit_temperature(logits, torch.tensor([0, 0, 0, 1]))
    assert fit.temperature == pytest.approx(4 / math.log(3), rel=1e-12)
    assert fit.nll_after == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8, torch.int64])
def test_labels_may_be_any_integers(dtype):
    logits, labels = drawn(3, 2.0, 0)
    assert fit_temperature(logits, labels.to(dtype)) == fit_temperature(logits, labels)


def test_bad_logits_and_labels_are_named():
    logits, labels = drawn(3, 1.0, 0, n=5)
    with pytest.raises(CascadeError, match="temperature fit: label 3 at row 0"):
        fit_temperature(logits, labels.clone().fill_(3))
    logits[2, 1] = math.nan
    with pytest.raises(CascadeError, match=r"temperature fit: NaN .* in 1 of 5 samples, .* row 2"):
        fit_temperature(logits, labels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("share", [1, 16])
def test_a_fit_on_some_rows_is_that_of_a_copy(dtype, share, monkeypatch):
    monkeypatch.setattr("lit_cascade.core.calibration._ENOUGH", 2000)
    logits, labels = drawn(10, 3.0, 0, n=4000)
    logits, rows = logits.to(dtype), torch.arange(0, 4000, share)
    assert fit_temperature(logits, labels, rows=rows) == fit_temperature(logits[rows], labels[rows])


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0, 30.0])
@pytest.mark.parametrize("classes", [2, 50])
def test_a_start_at_few_rows_ends_at_the_optimum_of_all(classes, scale, monkeypatch):
    """The optimum is that of scipy in double precision, over a softmax without blocks."""
    logits, labels = drawn(classes, scale, 5, n=5000)
    once = fit_temperature(logits, labels)
    monkeypatch.setattr("lit_cascade.core.calibration._ENOUGH", 1000)
    fit = fit_temperature(logits, labels)

    def nll(inverse):
        return float(torch.nn.functional.cross_entropy(logits.double() * inverse, labels))

    best = minimize_scalar(nll, bracket=(0.5 / scale, 1 / scale), options={"xtol": 1e-9})
    assert nll(1 / fit.temperature) - best.fun < 1e-12
    assert fit.nll_after == pytest.approx(best.fun, abs=1e-12)
    assert fit.temperature == pytest.approx(once.temperature, rel=1e-12)


def test_few_rows_that_are_all_right_do_not_decide_for_all(monkeypatch):
    monkeypatch.setattr("lit_cascade.core.calibration._ENOUGH", 10)
    logits = torch.tensor([[4.0, 0.0]] * 320)
    labels = torch.ones(320).long()
    labels[::16] = labels[1::16] = labels[2::16] = 0  # every 16th row is right
    # 13 of 16 are wrong: the likelihood would like the reverse order, and ends at the bound
    fit = fit_temperature(logits, labels)
    assert (fit.at_bound, fit.temperature) == (True, pytest.approx(HIGHEST))
    labels = torch.zeros(320).long()
    labels[3::16] = 1
    fit = fit_temperature(logits, labels)
    assert (fit.at_bound, fit.temperature) == (False, pytest.approx(4 / math.log(15), rel=1e-9))


@pytest.mark.parametrize("margin", [1.0, 5.0, 20.0, 1000.0])
def test_an_exponentially_small_slope_is_followed_to_the_bound(margin):
    logits, labels = torch.tensor([[margin, 0.0]] * 50), torch.zeros(50).long()
    fit = fit_temperature(logits, labels, steps=20)
    assert (fit.at_bound, fit.temperature) == (True, pytest.approx(LOWEST))


@pytest.mark.parametrize(("classes", "scale", "seed"), CASES)
def test_fits_of_folds_are_those_of_their_rows(classes, scale, seed):
    logits, labels = drawn(classes, scale, seed)
    whole = fit_temperature(logits, labels)
    parts = [torch.arange(500)[torch.arange(500) % 5 != k] for k in range(5)]
    found = cross_fit(logits, labels, parts, whole.temperature)
    alone = [fit_temperature(logits[rows], labels[rows]).temperature for rows in parts]
    assert found == pytest.approx(alone, rel=1e-9)


def test_a_fold_may_end_at_a_bound_where_the_whole_does_not():
    logits, labels = torch.tensor([[4.0, 0.0]] * 10), torch.tensor([0] * 9 + [1])
    near = fit_temperature(logits, labels).temperature
    assert cross_fit(logits, labels, [torch.arange(9)], near) == pytest.approx((LOWEST,))
