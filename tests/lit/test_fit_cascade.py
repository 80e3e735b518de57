"""`fit_cascade` from every form of samples, and `load_cascade`."""

import math

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lit_cascade import (
    CascadeError,
    Policy,
    UsageError,
    fit_cascade,
    load_cascade,
    select,
)
from lit_cascade.data import Datasets, DigitsData
from lit_cascade.models import Perceptron
from tests.lit.cascades import trainer

N = 400


@pytest.fixture(scope="module")
def stages():
    torch.manual_seed(0)
    small = nn.Linear(4, 3)
    large = nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 3))
    return [small, large]


@pytest.fixture(scope="module")
def samples(stages):
    inputs = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
    return inputs, stages[1](inputs).argmax(dim=1)


@pytest.fixture(scope="module")
def expected(stages, samples):
    return fit_cascade(stages, samples, deferral_rate=0.4).policy


@pytest.mark.filterwarnings("ignore:.*pin_memory.*")  # Lightning pins on CPUs too
def test_every_form_of_samples_gives_the_same_policy(stages, samples, expected):
    inputs, labels = samples
    dataset = TensorDataset(inputs, labels)
    module = LightningDataModule.from_datasets(val_dataset=dataset, batch_size=32)
    for calibration, options in (
        (DataLoader(dataset, batch_size=64), {}),
        (DataLoader(dataset, batch_size=7, shuffle=True), {}),
        (dataset, {"batch_size": 50}),
        ((inputs.numpy(), labels.numpy()), {}),
        ([inputs.tolist(), labels.tolist()], {}),
        (Datasets(calibration=dataset), {}),
        (module, {"split": "validation"}),
        (dataset, {"trainer": trainer()}),
        (dataset, {"split": "validation"}),
    ):
        made = fit_cascade(stages, calibration, deferral_rate=0.4, **options)
        assert made.policy.thresholds == pytest.approx(expected.thresholds, abs=1e-4)
        assert made.policy.evidence["promise"]["n"] == N
        assert not made.training


def test_records_of_the_stages_need_not_run_again(stages, samples, expected, tmp_path):
    data = Datasets(calibration=TensorDataset(*samples))
    model = fit_cascade({"small": stages[0], "large": stages[1]}, data, deferral_rate=0.4)
    records = trainer().record(model, data, "calibration")
    made = fit_cascade(stages, records, deferral_rate=0.4)
    assert made.names == ("small", "large")
    assert made.policy == model.policy == select(records, deferral_rate=0.4).policy
    assert made.policy.thresholds == pytest.approx(expected.thresholds, abs=1e-4)
    paths = []
    for one in records:
        one.save(tmp_path / f"{one.name}.safetensors")
        paths.append(str(tmp_path / f"{one.name}.safetensors"))
    assert fit_cascade(stages, paths, deferral_rate=0.4).policy == made.policy
    with pytest.raises(UsageError, match="of small, large; the stages are stage0"):
        fit_cascade([*stages, stages[1]], records, deferral_rate=0.4)
    with pytest.raises(UsageError, match="records: they are of small, large; the stages are a, b"):
        fit_cascade({"a": stages[0], "b": stages[1]}, records, deferral_rate=0.4)


def test_temperatures_are_fitted_on_other_samples_than_thresholds(stages, samples):
    made = fit_cascade(stages, samples, deferral_rate=0.4, temperature_share=0.25)
    evidence = made.policy.evidence
    assert made.policy.temperatures[0] != 1.0
    assert (evidence["temperatures"]["n"], evidence["promise"]["n"]) == (100, 300)


def test_a_score_of_ones_choice_is_kept(stages, samples):
    made = fit_cascade(stages, samples, policy=Policy(0.5, "margin"), deferral_rate=0.4)
    assert made.policy.score == "margin"
    assert made.policy.thresholds != (0.5,)


class Endless(IterableDataset):
    def __iter__(self):
        yield torch.zeros(4), 0


@pytest.mark.parametrize(
    ("calibration", "options", "message"),
    [
        (None, {}, "calibration: expected a DataLoader, .*got NoneType"),
        (np.zeros((3, 4)), {}, "calibration: expected a DataLoader, .*got ndarray"),
        ((torch.zeros(3, 4), torch.zeros(2)), {}, "3 inputs need as many labels, got 2"),
        (DataLoader(Endless()), {}, "an iterable dataset cannot be read"),
        (Datasets(validation=[]), {}, "'calibration' is unknown"),
        (
            (torch.zeros(3, 4), torch.zeros(3)),
            {"max_cost": -1},
            "max_cost: expected a number of at least 0, got -1",
        ),
        ((torch.zeros(3, 4), torch.zeros(3)), {"temperature_share": 1.0}, "temperature_share"),
    ],
)
def test_wrong_samples_end_in_an_error_of_ours(stages, calibration, options, message):
    with pytest.raises(CascadeError, match=message) as caught:
        fit_cascade(stages, calibration, **options)
    assert len(str(caught.value)) < 300


def test_wrong_stages_end_in_an_error_of_ours(stages, samples):
    with pytest.raises(UsageError, match="stages: a cascade needs at least 2"):
        fit_cascade(stages[:1], samples)
    with pytest.raises(UsageError, match=r"stages: .* got the class Linear"):
        fit_cascade([nn.Linear, stages[1]], samples)
    with pytest.raises(CascadeError, match="different numbers of classes"):
        fit_cascade([nn.Linear(4, 2), stages[1]], samples)


def test_what_cannot_be_promised_is_told(stages, samples):
    with pytest.raises(CascadeError, match="no policy that costs less"):
        fit_cascade(stages, tuple(part[:20] for part in samples), max_disagreement=0.01)


def test_a_config_is_loaded_as_the_commands_do(tmp_path):
    plain = load_cascade("digits_pair.yaml")
    assert plain.names == ("small", "large")
    assert plain.policy == Policy(0.92)
    data = DigitsData(batch_size=450)
    data.setup()
    images, labels = next(iter(data.val_dataloader()))
    with torch.inference_mode():
        answers = plain(images)
    assert float((answers.prediction == labels).double().mean()) == pytest.approx(0.9956, abs=1e-4)
    path = tmp_path / "policy.yaml"
    Policy(0.5, "margin", (2.0, 1.0), names=("small", "large")).save(path)
    read = load_cascade("digits_pair.yaml", path)
    assert read.policy == Policy(0.5, "margin", (2.0, 1.0))
    assert load_cascade("digits_pair.yaml", Policy(math.inf)).policy == Policy(math.inf)
    path.write_text("policy:\n  temperatures:\n    small: 3.0\n  thresholds:\n")
    assert load_cascade("digits_pair.yaml", path).policy == Policy(temperatures=(3.0, 1.0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: 1", "describes no cascade; expected `model` with `stages`"),
        ("model: {stages: {}}", "a cascade needs at least 2"),
        ("model: {stages: {a: {network: nowhere.Net}, b: {network: x.Y}}}", "nowhere"),
        ("model: {stagse: {}}", "stagse"),
        ("- 1", "expected a mapping"),
    ],
)
def test_a_config_that_is_no_cascade_is_refused(tmp_path, text, message):
    (tmp_path / "pair.yaml").write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        load_cascade(tmp_path / "pair.yaml")
    assert len(str(caught.value)) < 500
    with pytest.raises(UsageError, match=r"config: there is no file 'digit_pair\.yaml'"):
        load_cascade("digit_pair.yaml")


def test_a_policy_for_other_stages_is_refused():
    with pytest.raises(UsageError, match="need 1 threshold"):
        load_cascade("digits_pair.yaml", Policy((0.5, 0.5)))
    assert isinstance(load_cascade("digits_pair.yaml").networks()["small"].network, Perceptron)
