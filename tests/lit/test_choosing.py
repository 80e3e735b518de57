"""Calibration and thresholds that are set in the model."""

from dataclasses import replace

import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule
from torch.utils.data import (
    DataLoader,
)

from lit_cascade import (
    PolicyOptions,
    Promise,
    UsageError,
)
from lit_cascade.core.contract import replay
from lit_cascade.data.splits import shared_ids
from tests.lit.cascades import cascade, points, trainer
from tests.toys import Points


def test_calibration_sets_the_temperature_of_the_stages_that_defer():
    model = cascade(3)
    result = trainer().calibrate(model, points(200), split="validation")
    fitted, records = result.fitted, result.records
    assert set(fitted) == {"net0", "net1"}
    assert model.cascade.policy.temperatures[:2] == tuple(
        found.temperature for found in fitted.values()
    )
    assert model.cascade.policy.temperatures[2] == 1.0
    assert len(records) == 3


@pytest.mark.parametrize("combine", ["later", "average", "most_confident"])
def test_a_calibrated_cascade_runs_as_its_replay(combine):
    """Live, replayed, and replayed from the options as a config holds them."""
    data = points(200)
    model = cascade(3, PolicyOptions(thresholds=[0.5, 0.4], combine=combine))
    records = (
        trainer()
        .calibrate(model, data, split="validation", stages=["net0", "net1", "net2"], share=0.5)
        .records
    )
    policy = model.cascade.policy
    assert 1.0 not in policy.temperatures
    done = trainer().execute(model, data)
    expected = replay([record.logits for record in records], policy)
    assert torch.equal(done.prediction, expected.prediction)
    assert torch.equal(done.stage, expected.stage)
    options = yaml.safe_load(yaml.safe_dump(policy.to_dict()))
    assert cascade(3, PolicyOptions(**options)).cascade.policy == policy
    metrics = model.metrics_at([0.5])
    metrics.update([r.logits for r in records], records[0].labels, torch.ones(200, 3))
    shared = replay([r.logits for r in records], replace(policy, thresholds=(0.5, 0.5)))
    right = float((shared.prediction == records[0].labels).double().mean())
    assert float(metrics.compute()["accuracy"]) == right


def test_calibration_without_a_method_sets_temperatures_back():
    model, data = cascade(), points(200)
    trainer().calibrate(model, data, split="validation")
    assert model.cascade.policy.temperatures[0] != 1
    trainer().calibrate(model, data, split="validation", method="none")
    assert model.cascade.policy.temperatures == (1.0, 1.0)


def test_an_unknown_stage_to_calibrate_is_named():
    with pytest.raises(UsageError, match=r"'net9' is unknown; known are net0, net1"):
        trainer().calibrate(cascade(), points(), split="validation", stages=["net9"])


def test_a_data_module_that_prepares_each_split_in_its_own_stage():
    class Staged(LightningDataModule):
        def setup(self, stage):
            if stage == "fit":
                self.held_back = Points(10)
            if stage == "validate":
                self.judged = Points(10, first=8)

        def calibration_dataloader(self):
            return DataLoader(self.held_back, batch_size=4)

        def val_dataloader(self):
            return DataLoader(self.judged, batch_size=4)

    assert list(trainer().calibrate(cascade(), Staged()).fitted) == ["net0"]
    assert shared_ids(Staged(), "calibration", "validation") == [8, 9]


def test_thresholds_with_a_promise_are_set_in_the_model():
    model, data = cascade(), points(calibration=Points(400))
    found = trainer().select(model, data, deferral_rate=0.5)
    assert model.policy.evidence["promise"]["n"] == 400
    assert model.policy.thresholds == found.chosen.typed_thresholds
    done = trainer().execute(model, data, "calibration")
    assert float((done.stage > 0).double().mean()) == found.chosen.deferral_rate
    before = model.cascade.policy
    nothing = trainer().select(model, data, Promise("accuracy_drop", 0.0))
    assert nothing.chosen is None
    assert model.cascade.policy == before
