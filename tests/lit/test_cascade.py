"""Cascades as modules: their stages, classes and policy."""

import pytest
import torch

from lit_cascade import (
    CascadeError,
    LitCascade,
    Policy,
    PolicyOptions,
    Stage,
    UsageError,
)
from lit_cascade.core.contract import replay
from lit_cascade.data import Datasets
from tests.lit.cascades import cascade, points, trainer
from tests.toys import BadNet, Net, Points


def test_without_thresholds_the_policy_is_undecided():
    model = cascade(3, PolicyOptions(floors=[0.2, 0.4], combine="average"))
    assert model.cascade.policy == Policy(stages=3, floors=(0.2, 0.4), combine="average")


def test_stages_with_different_numbers_of_classes_are_refused():
    model = LitCascade({"a": Stage(Net(4)), "b": Stage(Net(8, classes=4))})
    with pytest.raises(CascadeError, match=r"a has 3, b has 4"):
        trainer().record(model, points())


@pytest.mark.parametrize("live", [False, True])
def test_classes_are_aligned_by_name_whatever_their_order(live):
    orders = {"a": ["dog", "cat", "owl"], "b": ["owl", "dog", "cat"]}
    data = Datasets(validation=Points(21), batch_size=4, class_names=["cat", "dog", "owl"])
    plain = LitCascade({name: Stage(Net(4, seed=k)) for k, name in enumerate(orders)})
    model = LitCascade(
        {
            name: Stage(Net(4, seed=k), classes=order)
            for k, (name, order) in enumerate(orders.items())
        },
        policy=PolicyOptions(thresholds=[0.45]),
    )
    if live:
        done = trainer().execute(model, data)
        expected = replay(
            [record.logits for record in trainer().record(model, data)],
            Policy(thresholds=(0.45,)),
        )
        assert torch.equal(done.prediction, expected.prediction)
        assert 0 < int(done.stage.sum()) < 21
        return
    for record, bare in zip(*(trainer().record(m, data) for m in (model, plain)), strict=True):
        order = orders[record.name]
        for column, name in enumerate(["cat", "dog", "owl"]):
            assert torch.equal(record.logits[:, column], bare.logits[:, order.index(name)])
        assert record.classes == ("cat", "dog", "owl")
        assert "known_classes" in record.model


def test_the_first_of_equal_orders_is_left_as_it_is():
    names = ["cat", "dog", "owl"]
    data = Datasets(validation=Points(21), batch_size=4, class_names=names)
    model = LitCascade({name: Stage(Net(4), classes=names) for name in ("a", "b")})
    assert all("known_classes" not in record.model for record in trainer().record(model, data))


@pytest.mark.parametrize(
    ("mine", "says"),
    [
        (["cat", "dog", "emu"], r"'a' and the data cannot be aligned: .*cat, dog, owl.*lacks 1 of"),
        (["cat", "dog", "owl", "emu"], r"has 4 .cat, dog, owl, ....*has 1 others, first 'emu'"),
        (["cat", "owl", "dog", "owl"], "two or more distinct class names, got 'owl' twice"),
    ],
)
def test_classes_that_cannot_be_aligned_are_refused_before_any_model_runs(mine, says):
    names = ["cat", "dog", "owl"]
    data = Datasets(validation=Points(21), batch_size=4, class_names=names)
    stages = {"a": Stage(BadNet(4), classes=mine), "b": Stage(BadNet(8))}
    with pytest.raises(CascadeError, match=says):
        trainer().record(LitCascade(stages), data)


def test_stages_without_a_class_in_common_are_refused_when_they_are_built():
    stages = {
        "a": Stage(Net(4), classes=["cat", "dog", "owl"]),
        "b": Stage(Net(8), classes=["cat", "dog", "emu"]),
    }
    with pytest.raises(CascadeError, match=r"'b' and stage 'a' cannot be aligned"):
        LitCascade(stages)


def test_one_stage_is_no_cascade():
    with pytest.raises(UsageError, match=r"at least 2, got 1 \(only\)"):
        LitCascade({"only": Stage(Net())})
