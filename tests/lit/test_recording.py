"""A zoo recorded from Python, and what is known of a split before it is read."""

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    SubsetRandomSampler,
)

from lit_cascade import (
    CascadeError,
    LitZoo,
    PolicyOptions,
    Record,
    Stage,
    UsageError,
)
from lit_cascade.data import Datasets, EvaluationData
from lit_cascade.lit.reading import preview_split, read_split
from lit_cascade.lit.recording import check_same
from lit_cascade.records import Ids
from tests.lit.cascades import cascade, points, trainer
from tests.toys import BadNet, Dicts, Named, Net, Points, SharedPoints


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


@pytest.mark.parametrize("stages", [2, 3])
def test_records_hold_what_the_models_say(stages):
    model, data = cascade(stages), points()
    records = trainer().record(model, data)
    for record, network in zip(records, model.cascade.stages, strict=True):
        assert torch.equal(record.labels, Points(21).y)
        assert record.ids.tolist() == list(range(21))
        assert record.classes == ("cat", "dog", "owl")
        torch.testing.assert_close(record.logits, network(Points(21).x).detach())
    assert [record.name for record in records] == list(model.names)
    assert [float(record.cost()[0]) for record in records] == [
        2 * (2 * (4**k + 3) + 3 * (4**k + 3)) for k in range(stages)
    ]
    assert dict(records[0].data) == {"name": "points", "split": "validation", "source": "points"}


def test_string_ids_bring_rows_into_their_order():
    records = trainer().record(cascade(), points(dataset=Named))
    assert list(records[0].ids) == sorted(Named().ids)
    position = Named().ids.index(records[0].ids[3])
    assert records[0].labels[3] == Named().y[position]


def test_dicts_of_tensors_are_keyword_arguments():
    plain = trainer().record(cascade(), points())
    dicts = trainer().record(cascade(), points(dataset=Dicts))
    assert torch.equal(plain[1].logits, dicts[1].logits)


def test_an_unknown_split_names_those_there_are():
    with pytest.raises(UsageError, match=r"'validaton' is unknown.*Did you mean 'validation'"):
        trainer().record(cascade(), points(), split="validaton")


def test_a_split_that_was_not_given_names_those_that_were():
    with pytest.raises(UsageError, match=r"'test' is unknown; known are validation"):
        trainer().record(cascade(), points(), split="test")


def test_an_empty_split_is_refused():
    with pytest.raises(CascadeError, match=r"no samples"):
        trainer().record(cascade(), points(0))


def test_a_stream_is_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            yield from Points(4)

    with pytest.raises(UsageError, match=r"iterable"):
        trainer().record(cascade(), points(dataset=lambda n: Stream()))


def test_nan_logits_name_the_stage_and_the_row():
    first = int((Points(21).x[:, 0] >= 1).nonzero()[0])
    with pytest.raises(
        CascadeError, match=rf"'net0'.*NaN or infinite logits.*first at row {first}"
    ):
        trainer().record(cascade(net=BadNet), points())


def test_labels_outside_the_classes_are_refused():
    class Unlabelled(Points):
        def __getitem__(self, position):
            return self.x[position], torch.tensor(-1)

    with pytest.raises(CascadeError, match=r"label -1 at row 0"):
        trainer().record(cascade(), points(dataset=Unlabelled))


def test_a_batch_without_labels_is_explained():
    class Bare(Points):
        def __getitem__(self, position):
            return self.x[position]

    with pytest.raises(CascadeError, match=r"batches of .inputs, labels."):
        trainer().record(cascade(), points(dataset=Bare))


def test_a_check_can_stop_before_any_model_runs():
    def check(ids, data):
        raise CascadeError(f"{len(ids)} of {data['name']}")

    with pytest.raises(CascadeError, match=r"21 of points"):
        trainer().record(cascade(net=BadNet), points(), check=check)


def test_workers_change_nothing():
    alone = trainer().record(cascade(), points())
    data = Datasets(validation=Points(21), batch_size=4, num_workers=2, name="points")
    shared = trainer().record(cascade(), data)
    assert torch.equal(alone[0].logits, shared[0].logits)


def test_the_hooks_of_the_data_module_are_applied():
    class Doubling(Datasets):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return batch[0] * 2, batch[1]

    records = trainer().record(cascade(), Doubling(validation=Points(5), batch_size=4))
    network = cascade().cascade.stages[0]
    torch.testing.assert_close(records[0].logits, network(Points(5).x * 2).detach())
    assert EvaluationData(points(), "validation").inner is not None


@pytest.mark.parametrize("batched", [False, True])
def test_the_part_that_a_sampler_draws_is_the_part_that_is_read(batched):
    sampler = SubsetRandomSampler(range(5, 15))
    how = {"batch_sampler": BatchSampler(sampler, 4, drop_last=False)}
    loader = DataLoader(Points(21), **how if batched else {"batch_size": 4, "sampler": sampler})

    class Part(Datasets):
        def val_dataloader(self):
            return loader

    records = trainer().record(cascade(), Part(validation=Points(21), name="points"))
    assert records[0].ids.tolist() == list(range(5, 15))
    assert torch.equal(records[0].labels, Points(21).y[5:15])


@pytest.mark.parametrize(
    ("label", "says"),
    [
        (lambda y: y + 0.5, "labels must be whole numbers"),
        (lambda y: y[None], "labels must be 21 integers, one per sample"),
        (lambda y: torch.tensor([0, 0, 1]), r"labels .0, 0, 1. at row 0 repeat"),
        (lambda y: torch.tensor([-1, -1]), r"labels ..* at row 0 is outside"),
        (lambda y: torch.tensor([5, -1]), r"labels .5. at row 0 is outside"),
        (lambda y: torch.tensor(7), "label 7 at row 0 is outside the 3 classes"),
    ],
)
@pytest.mark.parametrize("live", [False, True])
def test_labels_are_checked_in_every_loop(label, says, live):
    class Odd(Points):
        def __getitem__(self, position):
            return self.x[position], label(self.y[position])

    run, model = trainer(), cascade(policy=PolicyOptions(thresholds=[0.5]))
    with pytest.raises(CascadeError, match=says):
        (run.execute if live else run.record)(model, points(dataset=Odd))


def test_class_names_of_the_user_come_before_those_of_the_dataset():
    data = Datasets(validation=Points(21), class_names=["x", "y", "z"], name="points")
    assert trainer().record(cascade(), data)[0].classes == ("x", "y", "z")


def test_data_without_a_name_goes_by_its_class():
    assert trainer().record(cascade(), SharedPoints())[0].data["name"] == "SharedPoints"


def test_a_limit_of_batches_is_told():
    records = trainer(limit_val_batches=2).record(cascade(), points())
    assert len(records[0]) == 8
    assert records[0].data["limited_to"] == "8 of 21 samples"


def test_a_limit_of_no_batches_is_refused():
    with pytest.raises(CascadeError, match="no samples of the split 'validation' were read"):
        trainer(limit_val_batches=0).record(cascade(), points())


def test_the_transfer_of_the_data_module_is_used():
    class Halving(Datasets):
        def transfer_batch_to_device(self, batch, device, dataloader_idx):
            return batch[0] / 2, batch[1]

    records = trainer().record(cascade(), Halving(validation=Points(5), batch_size=4))
    network = cascade().cascade.stages[0]
    torch.testing.assert_close(records[0].logits, network(Points(5).x / 2).detach())
