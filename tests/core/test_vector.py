"""Vector scaling: the fit against other optimisers, and what it does to logits."""

import numpy as np
import pytest
import torch
from scipy.optimize import approx_fprime
from sklearn.linear_model import LogisticRegression

from lit_cascade.core.calibration import fit_temperature, negative_log_likelihood
from lit_cascade.core.vector import (
    MOST_BIAS,
    VectorScaling,
    _above_least,
    _Objective,
    fit_vector_scaling,
)
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.records.record import Record


def drawn(classes, seed, n=400):
    """Logits that a factor and an offset per class would make honest."""
    torch.manual_seed(seed)
    honest = torch.randn(n, classes) * 2
    labels = torch.distributions.Categorical(logits=honest).sample()
    return (honest - torch.randn(classes)) / (0.5 + torch.rand(classes)), labels


def penalised(logits, labels, scale, bias, temperature, ridge):
    """The objective as it is documented, one sample at a time."""
    total = 0.0
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        z = [s * v + b for s, v, b in zip(scale, row, bias, strict=True)]
        top = max(z)
        total += top + np.log(sum(np.exp(value - top) for value in z)) - z[label]
    away = sum((s * temperature - 1) ** 2 for s in scale) + sum(b**2 for b in bias)
    return (total + ridge / 2 * away) / len(labels)


def slow_fit(logits, labels, temperature, ridge):
    """Full-batch descent by torch, from another start."""
    z = logits.double()
    x = torch.zeros(2, z.shape[1], dtype=torch.float64)
    x[0] = 0.3
    x.requires_grad_()
    descent = torch.optim.LBFGS(
        [x], lr=0.5, max_iter=3000, tolerance_grad=1e-11, tolerance_change=0,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure():
        descent.zero_grad()
        nll = torch.nn.functional.cross_entropy(z * x[0] + x[1], labels)
        away = (x[0] * temperature - 1).square().sum() + x[1].square().sum()
        loss = nll + ridge / 2 / len(z) * away
        loss.backward()
        return loss

    descent.step(closure)
    return x.detach()


@pytest.mark.parametrize(("classes", "seed"), [(2, 0), (3, 1), (10, 2), (30, 3)])
@pytest.mark.parametrize("ridge", [1.0, 0.01])
def test_the_fit_is_the_optimum_that_torch_finds(classes, seed, ridge):
    logits, labels = drawn(classes, seed)
    fit = fit_vector_scaling(logits, labels, ridge=ridge)
    temperature = fit_temperature(logits, labels).temperature
    scale, bias = slow_fit(logits, labels, temperature, ridge).tolist()
    found = fit.scaling
    mine = penalised(logits, labels, found.scale, found.bias, temperature, ridge)
    assert mine == pytest.approx(penalised(logits, labels, scale, bias, temperature, ridge))
    assert found.scale == pytest.approx(scale, abs=1e-4)
    assert found.bias == pytest.approx(bias, abs=1e-4)
    assert fit.above_least < 1e-9
    assert fit.nll_after < fit.nll_temperature <= fit.nll_before


def test_two_classes_are_a_logistic_regression():
    logits, labels = drawn(2, 5, n=2000)
    fit = fit_vector_scaling(logits, labels, ridge=1e-7)
    z = logits.double().numpy()
    plain = LogisticRegression(C=1e12, tol=1e-12, max_iter=10_000).fit(z, labels.numpy())
    first, second = fit.scaling.scale
    assert plain.coef_[0] == pytest.approx([-first, second], abs=1e-3)
    expected = -plain.predict_log_proba(z)[np.arange(len(z)), labels.numpy()].mean()
    assert fit.nll_after == pytest.approx(expected, abs=1e-8)


def test_a_full_matrix_fits_better_and_a_temperature_worse():
    record = Record.load("checkpoints/cifar10/calibration/resnet8-w32-s2.safetensors")
    logits, labels = record.logits_for("a test")
    fit = fit_vector_scaling(logits, labels)
    matrix = LogisticRegression(C=1e6, max_iter=1000).fit(logits.double().numpy(), labels.numpy())
    logs = matrix.predict_log_proba(logits.double().numpy())
    least = -logs[np.arange(len(labels)), labels.numpy()].mean()
    assert least < fit.nll_after < fit.nll_temperature - 0.003


def test_the_gradient_is_that_of_finite_differences():
    logits, labels = drawn(4, 0, n=50)
    objective = _Objective(logits, labels, 0.7, 0.5)
    at = np.linspace(-1, 2, 8)
    numbers = approx_fprime(at, lambda x: objective(x)[0], 1e-7)
    assert objective(at)[1] == pytest.approx(numbers, abs=1e-5)


def test_blocks_of_rows_change_nothing(monkeypatch):
    logits, labels = drawn(5, 0)
    whole = fit_vector_scaling(logits, labels)
    monkeypatch.setattr("lit_cascade.core.vector._BLOCK_ELEMENTS", 300)
    assert fit_vector_scaling(logits, labels).scaling.scale == pytest.approx(
        whole.scaling.scale, rel=1e-6
    )


def test_the_bound_on_the_distance_to_the_optimum_holds():
    logits, labels = drawn(4, 1, n=100)
    ridge, temperature = 1.0, fit_temperature(logits, labels).temperature
    fit = fit_vector_scaling(logits, labels, ridge=ridge)
    objective = _Objective(logits, labels, 1 / temperature, ridge)
    best = [*(s * temperature for s in fit.scaling.scale), *fit.scaling.bias]
    low, high = np.full(8, -MOST_BIAS), np.full(8, MOST_BIAS)
    least, slope = objective(np.array(best))
    assert _above_least(np.array(best), slope, low, high, ridge / 100) < 1e-9
    for seed in range(20):
        x = np.array(best) + np.random.default_rng(seed).normal(size=8)
        value, slope = objective(x)
        assert value - least <= _above_least(x, slope, low, high, ridge / 100)


def test_it_is_never_worse_than_a_temperature_however_odd_the_samples():
    for n in (1, 2, 3, 7):
        for seed in range(5):
            torch.manual_seed(seed)
            logits, labels = torch.randn(n, 4) * 10**seed, torch.randint(0, 4, (n,))
            fit = fit_vector_scaling(logits, labels)
            assert fit.nll_after <= fit.nll_temperature * (1 + 1e-12) + 1e-12
            assert all(0 < value <= 100 * (1 + 1e-9) for value in fit.scaling.scale)
            assert all(abs(value) <= MOST_BIAS for value in fit.scaling.bias)
            assert fit.above_least < 1e-6


@pytest.mark.parametrize("size", [1.0, 20.0, 1e4])
def test_perfectly_separable_samples_stop_at_the_bound(size):
    labels = torch.arange(30) % 3
    right = fit_vector_scaling(torch.eye(3)[labels] * size, labels)
    wrong = fit_vector_scaling(torch.eye(3)[(labels + 1) % 3] * size, labels)
    assert right.at_bound
    assert wrong.at_bound
    assert 0 <= right.nll_after < 1e-9
    assert np.isfinite(wrong.nll_after)


def test_a_class_without_samples_stays_where_it_can_be_answered():
    logits, labels = drawn(4, 0, n=1000)
    seen = labels != 2
    fit = fit_vector_scaling(logits[seen], labels[seen])
    assert -20 < fit.scaling.bias[2] < 0  # without the penalty it would run to the bound
    assert fit.above_least < 1e-9
    assert sum(fit.scaling.bias) == pytest.approx(0, abs=1e-6)


def test_each_row_is_scaled_on_its_own():
    scaling = VectorScaling((0.3, 1.7, 0.9), (0.1, -0.7, 1e-3))
    logits = torch.randn(1000, 3).half()
    together = scaling.apply(logits)
    assert together.dtype == torch.float32
    assert torch.equal(together, torch.cat([scaling.apply(row[None]) for row in logits]))
    double = scaling.apply(logits.double())
    assert double.dtype == torch.float64
    by_hand = [[0.3 * a + 0.1, 1.7 * b - 0.7, 0.9 * c + 1e-3] for a, b, c in logits.tolist()]
    assert torch.allclose(double, torch.tensor(by_hand, dtype=torch.float64))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (((1.0,), (0.0,)), "at least 2"),
        (((1.0, 1.0), (0.0,)), "got 2, 1 and 0"),
        (((1.0, 1.0), (0.0, 0.0), ("a",)), "got 2, 2 and 1"),
        (((1.0, 0.0), (0.0, 0.0)), r"factors above 0, got 0\.0"),
        (((1.0, float("nan")), (0.0, 0.0)), "factors above 0, got nan"),
        (((1.0, 1.0), (0.0, float("inf"))), "finite offsets, got inf"),
    ],
)
def test_what_is_no_vector_scaling_is_said(parts, message):
    with pytest.raises(UsageError, match=message):
        VectorScaling(*parts)


def test_other_classes_are_refused():
    scaling = VectorScaling((1.0, 2.0), (0.0, 0.0), ("cat", "dog"))
    scaling.check_classes(("cat", "dog"), "stage 'a'")
    scaling.check_classes(None, "stage 'a'")
    with pytest.raises(
        CascadeError, match=r"stage 'a' was fitted to other classes.*'cat' in place"
    ):
        scaling.check_classes(("dog", "cat"), "stage 'a'")
    with pytest.raises(CascadeError, match="first in their number"):
        scaling.check_classes(("cat", "dog", "cow"), "stage 'a'")
    with pytest.raises(CascadeError, match=r"of 2 classes cannot be applied .* \(5, 3\)"):
        scaling.apply(torch.zeros(5, 3))


def test_bad_logits_labels_and_penalties_are_named():
    logits, labels = drawn(3, 0, n=5)
    with pytest.raises(CascadeError, match="vector scaling: label 3 at row 0"):
        fit_vector_scaling(logits, labels.clone().fill_(3))
    with pytest.raises(UsageError, match="ridge: expected a number above 0, got 0"):
        fit_vector_scaling(logits, labels, ridge=0)
    logits[1, 0] = float("nan")
    with pytest.raises(CascadeError, match="vector scaling: NaN"):
        fit_vector_scaling(logits, labels)


def test_the_figures_are_likelihoods():
    logits, labels = drawn(5, 4)
    fit = fit_vector_scaling(logits, labels)
    scaled = fit.scaling.apply(logits.double())
    assert fit.nll_after == negative_log_likelihood(scaled, labels)
    assert fit.nll_before == negative_log_likelihood(logits, labels)
