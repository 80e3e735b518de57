import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    SequentialSampler,
    WeightedRandomSampler,
)

from lit_cascade import (
    CascadeError,
    CascadeTrainer,
    LitClassifier,
    UsageError,
)
from lit_cascade.data import Datasets, RawSample
from lit_cascade.data.loading import evaluation_loader, training_loader
from lit_cascade.live.batch import Views
from tests.lit.training.learners import Letters, Reader, Texts
from tests.toys import Net, Points

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*"),
]


def train(network, data, **options):
    run = CascadeTrainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, **({"max_epochs": 1} | options),
    )  # fmt: skip
    run.train(LitClassifier(lambda: network), data)
    return run


def loaders(points):
    alone = {"dataset": points}
    yield alone | {"batch_size": 4, "shuffle": True}
    yield alone | {"batch_size": 4, "shuffle": True, "drop_last": True}
    yield alone | {"batch_size": 4, "sampler": WeightedRandomSampler(torch.ones(len(points)), 9)}
    yield alone | {"batch_sampler": BatchSampler(SequentialSampler(points), 5, drop_last=False)}
    yield alone | {"batch_size": 5, "shuffle": True, "num_workers": 1}
    yield alone | {"batch_size": 4, "shuffle": True, "generator": torch.Generator().manual_seed(3)}


@pytest.mark.parametrize("kind", range(6))
def test_batches_are_those_of_the_loader_with_their_positions(kind):
    points = Points(21)
    options = list(loaders(points))[kind]

    def epochs(wrap):
        torch.manual_seed(1)
        if "generator" in options:
            options["generator"].manual_seed(3)
        loader = DataLoader(**options)
        loader = training_loader(loader, [None]) if wrap else loader
        return [batch for _ in range(2) for batch in loader]

    for plain, batch in zip(epochs(wrap=False), epochs(wrap=True), strict=True):
        assert torch.equal(plain[0], batch.batch[0])
        assert torch.equal(points.x[batch.positions], batch.batch[0])
        assert torch.equal(points.y[batch.positions], batch.batch[1])


def test_samples_go_through_the_networks_preprocessing():
    loader = DataLoader(Texts(9), batch_size=4, shuffle=True)
    for batch in training_loader(loader, [Letters()]):
        views, labels = batch.batch
        assert isinstance(views, Views)
        assert labels.tolist() == [position % 3 for position in batch.positions.tolist()]
        for position, letters in zip(batch.positions, views["letters"]["letters"], strict=True):
            assert torch.equal(letters[letters > 0], Letters()(Texts()[position][0])["letters"])


class Broken(Points):
    """Points, of which some cannot be read."""

    bad = (3, 4, 5, 6, 7, 9)
    stop = False

    def __getitem__(self, position):
        if position not in self.bad:
            return RawSample(self.x[position], self.y[position])
        nothing = torch.full((2,), torch.nan)
        return RawSample(nothing, -1, left_out=f"{position} is broken", stop=self.stop)


def test_what_cannot_be_read_is_not_learned_from():
    loader = DataLoader(Broken(11), batch_size=4)
    found = [batch.positions.tolist() for batch in training_loader(loader, [None])]
    assert found == [[0, 1, 2], [~4, ~5, ~6, ~7], [8, 10]]


def test_a_batch_of_nothing_that_can_be_read_changes_nothing():
    class Nothing(Broken):
        bad = range(8)

        def __getitem__(self, position):
            return RawSample(self.x[position], -1, left_out="broken")

    network = Net()
    before = network(Points(8).x)
    run = CascadeTrainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, max_epochs=1,
    )  # fmt: skip
    run.train(LitClassifier(lambda: network, weight_decay=0.0), Datasets(train=Nothing(8)))
    assert torch.equal(network(Points(8).x), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_be_read_ends_the_run_where_that_is_wanted(workers):
    class Strict(Broken):
        stop = True

    data = Datasets(train=Strict(11), batch_size=4, num_workers=workers)
    with pytest.raises(
        CascadeError, match=r"is broken\. To leave out what cannot be read"
    ) as error:
        train(Net(), data)
    assert "Traceback" not in str(error.value)


def test_a_stream_trains_networks_without_preprocessing_only():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([Points(9)[i] for i in range(9)])

    class Streaming(Datasets):
        def train_dataloader(self):
            return DataLoader(Stream(), batch_size=3)

    run = train(Net(), Streaming(train=Points(9)), max_steps=3)
    assert run.global_step == 3
    with pytest.raises(UsageError, match="map-style dataset"):
        train(Reader(), Streaming(train=Points(9)), max_steps=3)
    with pytest.raises(UsageError, match="needs to know the number of steps"):
        train(Net(), Streaming(train=Points(9)))


def test_the_hooks_of_the_data_module_are_applied_to_training_batches():
    seen = []

    class Hooked(Datasets):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            return batch[0] + 1, batch[1]

        def transfer_batch_to_device(self, batch, device, dataloader_idx):
            return batch[0] * 2, batch[1]

        def on_after_batch_transfer(self, batch, dataloader_idx):
            seen.append((self.trainer.training, batch[0]))
            return batch

    train(Net(), Hooked(train=Points(5), validation=Points(5), batch_size=5))
    for training in (True, False):
        points = torch.cat([x for is_training, x in seen if is_training is training])
        assert len(points) in {5, 10}  # the second time in Lightning's sanity check
        told = (Points(5).x + 1) * 2
        assert {tuple(x.tolist()) for x in points} == {tuple(x.tolist()) for x in told}


@pytest.mark.parametrize("n", [1, 7, 21])
@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_processes_share_whole_batches_once_each(n, processes):
    loader = DataLoader(Points(n), batch_size=4, shuffle=True)
    alone = [batch.positions.tolist() for batch in evaluation_loader(loader)]
    shares = [
        [batch.positions.tolist() for batch in evaluation_loader(loader, rank, processes)]
        for rank in range(processes)
    ]
    assert all(shares)  # none skips the loop
    own = [batch for share in shares for batch in share if min(batch) >= 0]
    assert sorted(own) == sorted(alone)
    assert sorted(position for batch in alone for position in batch) == list(range(n))


def test_a_batch_sampler_of_the_user_is_kept():
    loader = DataLoader(Points(6), batch_sampler=[[5, 0], [1, 2, 3], [4]])
    batches = [batch.positions.tolist() for batch in evaluation_loader(loader)]
    assert batches == [[5, 0], [1, 2, 3], [4]]


def test_a_sampler_that_repeats_is_refused():
    loader = DataLoader(Points(21), batch_size=4, sampler=WeightedRandomSampler([1.0] * 21, 90))
    with pytest.raises(UsageError, match="WeightedRandomSampler draws samples more than once"):
        evaluation_loader(loader)
