"""A zoo recorded from Python, and what is known of a split before it is read."""

import pytest
import torch
from torch.utils.data import DataLoader, SubsetRandomSampler

from lit_cascade import CascadeError, LitZoo, Record, Stage, UsageError
from lit_cascade.data import Datasets
from lit_cascade.lit.reading import preview_split, read_split
from lit_cascade.lit.recording import check_same
from lit_cascade.records import Ids
from tests.lit.test_trainer import cascade, points, trainer
from tests.toys import Named, Net, Points


def zoo():
    return LitZoo({f"net{k}": Stage(lambda k=k: Net(4**k + 3, seed=k)) for k in range(3)})


def test_a_zoo_is_recorded_as_a_cascade_of_its_models_is(tmp_path):
    announced = []
    written, failed = trainer().record_zoo(
        zoo(), points(), tmp_path, dtype="float32", announce=lambda *told: announced.append(told)
    )
    for record, short in zip(trainer().record(cascade(3), points()), written, strict=True):
        found = Record.load(tmp_path / f"{record.name}.safetensors")
        assert torch.equal(found.logits, record.logits)
        assert torch.equal(found.cost(), record.cost())
        assert found.model == record.model  # without a config, which only a command has
        assert found.samples.difference(record.samples) is None
        assert short.accuracy == float((record.logits.argmax(1) == record.labels).double().mean())
        assert short.costs == {"flops": float(record.cost().mean())}
        assert short.size == short.path.stat().st_size
    assert not failed
    assert announced == [(k + 1, 3, f"net{k}", False) for k in range(3)]


def test_a_selected_model_is_recorded_alone():
    model = zoo()
    model.select("net1")
    (record,) = trainer().record(model, points())
    assert record.name == "net1"
    model.release()
    assert not model.networks()
    assert not list(model.parameters())


def test_finished_records_are_kept(tmp_path):
    trainer().record_zoo(zoo(), points(), tmp_path, only=["net2"])
    done = trainer().record_zoo(zoo(), points(), tmp_path).written
    assert [record.kept for record in done] == [False, False, True]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"only": ["net9"]}, "'net9' is unknown"),
        ({"dtype": "int8"}, "dtype: 'int8' is unknown; known are float16, float32"),
        ({"split": "tset"}, "'tset' is unknown"),
    ],
)
def test_what_is_unknown_is_named_before_any_work(tmp_path, options, says):
    with pytest.raises(UsageError, match=says):
        trainer().record_zoo(zoo(), points(), tmp_path / "o", **options)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("limit", [1.0, 2, 0.5])
@pytest.mark.parametrize("dataset", [Points, Named])
def test_a_look_tells_what_a_loop_finds(limit, dataset):
    run, model = trainer(limit_val_batches=limit), cascade()
    data = points(dataset=dataset)
    preview = preview_split(run, model, data, "validation")
    assert run.limit_val_batches == limit
    found = read_split(run, model, data, "validation")()
    assert list(preview.ids) == list(found.ids)
    assert (preview.classes, preview.data, preview.batch_size) == (
        found.classes, found.data, found.batch_size,
    )  # fmt: skip
    assert len(preview.ids) == {1.0: 21, 2: 8, 0.5: 12}[limit]


def test_a_look_reads_nothing():
    class Unread(Points):
        def __getitem__(self, position):
            raise AssertionError

    assert len(preview_split(trainer(), cascade(), points(dataset=Unread), "validation").ids) == 21


def test_a_sampler_of_a_part_is_seen_as_that_part():
    loader = DataLoader(Points(21), batch_size=4, sampler=SubsetRandomSampler(range(5, 15)))

    class Part(Datasets):
        def val_dataloader(self):
            return loader

    preview = preview_split(trainer(), cascade(), Part(validation=Points(21)), "validation")
    assert preview.ids.tolist() == list(range(5, 15))


EXPECTED = {
    "name": "net",
    "dtype": "float32",
    "model": {"class": "Net", "weights": "ab", "config": {"network": {"init_args": {"width": 3}}}},
    "data": {"name": "points", "split": "validation", "source": None},
    "precision": "32-true",
    "batch_size": 4,
}
SAMPLES = {"ids": Ids(torch.arange(2)), "classes": ("0", "1")}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, None),
        ({"classes": None}, None),
        ({"name": "other"}, 'name is "net", and here it is "other"'),
        ({"dtype": "float16"}, 'dtype is "float32", and here it is "float16"'),
        (
            {"model": EXPECTED["model"] | {"config": {"network": {"init_args": {"width": 4}}}}},
            "model.config.network.init_args.width is 3, and here it is 4",
        ),
        (
            {"model": {"class": "Net", "weights": "ab"}},
            "model.config is .*, and here it is not given",
        ),
        ({"data": EXPECTED["data"] | {"split": "test"}}, "data.split is"),
        ({"precision": "16-mixed"}, "precision is"),
        ({"batch_size": 8}, "batch_size is 4, and here it is 8"),
        ({"ids": Ids(torch.tensor([0, 5]))}, "ids, first at position 1: 1 against 5"),
        ({"ids": Ids(torch.arange(3))}, "ids, 2 against 3"),
        ({"classes": ("1", "0")}, "class order, first at position 0"),
    ],
)
def test_a_record_is_kept_only_if_it_is_the_same(changes, says):
    record = Record.from_arrays(
        "net", [[1.0, 0.0], [0.0, 1.0]], [0, 1], flops=1,
        model=EXPECTED["model"], data=EXPECTED["data"],
        info={"date": "1970-01-01", "precision": "32-true", "batch_size": 4},
    )  # fmt: skip
    samples = {key: changes.get(key, value) for key, value in SAMPLES.items()}
    expected = EXPECTED | {key: changes[key] for key in changes.keys() - SAMPLES.keys()}
    if says is None:
        check_same(record, expected, **samples)
        return
    with pytest.raises(CascadeError, match=says):
        check_same(record, expected, **samples)
