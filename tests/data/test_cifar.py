import io
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Pillow

from lit_cascade import CascadeError, CascadeTrainer, LitCascade, Stage, UsageError
from lit_cascade.cli import main
from lit_cascade.data import CifarData
from lit_cascade.data.cifar import _decoded, _shifted_and_mirrored
from lit_cascade.data.splits import describe, has_split, shared_ids
from lit_cascade.models import ResNet

REAL = Path(__file__).parents[3] / "shared" / "data" / "cifar10"
NAMES = ("plane", "ship", "toad")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def png(pixels):
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, "png")
    return {"bytes": buffer.getvalue(), "path": None}


def write(folder, sizes=None, names=NAMES, side=8, label="label", features=None):
    """Parquet files of random images as the hub has them; returns pixels and labels by split."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for split, n in (sizes or {"train": 20, "test": 9}).items():
        generator = np.random.default_rng(n)
        pixels = generator.integers(0, 256, (n, side, side, 3), dtype=np.uint8)
        labels = [int(i) for i in generator.integers(0, 3, n)]
        kind = ClassLabel(names=list(names)) if names else Value("int64")
        rows = Dataset.from_dict(
            {"img": [png(image) for image in pixels], label: labels},
            features=features or Features({"img": Image(), label: kind}),
        )
        rows.to_parquet(str(folder / f"{split}.parquet"))
        made[split] = (torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.tensor(labels))
    return made


def ready(folder, **options):
    data = CifarData(str(folder), **{"batch_size": 4, "calibration_size": 6} | options)
    data.prepare_data()
    data.setup()
    return data


def whole(loader):
    batches = list(loader)
    return [torch.cat(column) for column in zip(*batches, strict=True)]


def test_splits_hold_the_pixels_of_the_files(tmp_path):
    made, data = write(tmp_path / "c"), ready(tmp_path / "c")
    parts = {
        "calibration": (data.calibration_dataloader(), made["train"], range(14, 20)),
        "test": (data.test_dataloader(), made["test"], range(9)),
    }
    for loader, (pixels, labels), ids in parts.values():
        images, told = whole(loader)
        assert images.dtype == torch.uint8
        assert torch.equal(images, pixels[ids.start : ids.stop])
        assert torch.equal(told, labels[ids.start : ids.stop])
        assert describe(loader.dataset).ids.tolist() == list(ids)
        assert describe(loader.dataset).classes == NAMES


def test_training_images_are_shuffled_whole_batches_of_the_rest(tmp_path):
    pixels, labels = write(tmp_path / "c")["train"]
    data = ready(tmp_path / "c")
    loader = data.train_dataloader()
    images, told = whole(loader)
    assert len(images) == 12  # 3 whole batches of the 14 that are not held back
    places = [int((pixels == image).flatten(1).all(dim=1).nonzero()) for image in images]
    assert sorted(set(places)) == sorted(places) != places
    assert max(places) < 14
    assert told.tolist() == [int(labels[place]) for place in places]
    assert len(loader.dataset) == 14
    assert loader.dataset.ids.tolist() == list(range(14))


def test_no_sample_is_in_two_splits(tmp_path):
    write(tmp_path / "c")
    data = ready(tmp_path / "c")
    for one, other in (("train", "calibration"), ("train", "test"), ("calibration", "test")):
        assert shared_ids(data, one, other) == []
    sources = [
        describe(loader.dataset).source
        for loader in (
            data.train_dataloader(), data.calibration_dataloader(), data.test_dataloader()
        )
    ]  # fmt: skip
    assert sources == ["cifar10/train", "cifar10/train", "cifar10/test"]
    assert shared_ids(data, "train", "train") == list(range(14))


def test_setting_up_twice_reads_once(tmp_path):
    write(tmp_path / "c")
    data = ready(tmp_path / "c")
    before = data.test_dataloader().dataset
    data.setup("fit")
    assert data.test_dataloader().dataset is before


def test_plain_numbers_as_labels_name_no_classes(tmp_path):
    made = write(tmp_path / "c", names=())
    data = ready(tmp_path / "c")
    assert describe(data.test_dataloader().dataset).classes is None
    assert torch.equal(whole(data.test_dataloader())[1], made["test"][1])


def test_grey_images_become_colours(tmp_path):
    (tmp_path / "c").mkdir()
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for split in ("train", "test"):
        rows = Dataset.from_dict(
            {"img": [png(grey)] * 3, "label": [0, 1, 2]},
            features=Features({"img": Image(), "label": Value("int64")}),
        )
        rows.to_parquet(str(tmp_path / "c" / f"{split}.parquet"))
    images, _ = whole(ready(tmp_path / "c", calibration_size=1).test_dataloader())
    assert torch.equal(images[0], torch.from_numpy(grey).expand(3, 8, 8))


@pytest.mark.parametrize("size", [20, 21, -1, 5000])
def test_a_calibration_split_of_all_or_less_than_none_is_refused(tmp_path, size):
    write(tmp_path / "c")
    with pytest.raises(
        UsageError, match=f"calibration_size: expected 0 to 19 of the 20.*got {size}"
    ):
        ready(tmp_path / "c", calibration_size=size)


def test_the_largest_calibration_split_leaves_one_image(tmp_path):
    write(tmp_path / "c")
    data = ready(tmp_path / "c", calibration_size=19)
    assert data.calibration_dataloader().dataset.ids.tolist() == list(range(1, 20))
    assert data.train_dataloader().dataset.ids.tolist() == [0]


def test_without_a_calibration_split_there_is_none(tmp_path):
    write(tmp_path / "c")
    data = ready(tmp_path / "c", calibration_size=0)
    assert not has_split(data, "calibration")
    assert len(data.train_dataloader().dataset) == 20
    stages = {name: Stage(ResNet([2], [1], classes=3)) for name in "ab"}
    with pytest.raises(UsageError, match="'calibration' is unknown; known are test, train"):
        quiet_trainer().record(LitCascade(stages), data, split="calibration")


def test_a_missing_column_is_named_with_those_there_are(tmp_path):
    write(tmp_path / "c", label="fine_label")
    with pytest.raises(CascadeError, match="has no column 'label'; it has img, fine_label"):
        ready(tmp_path / "c")


@pytest.mark.parametrize("content", [None, b"", b"no parquet at all"])
def test_files_that_are_missing_or_damaged_are_a_usage_error(tmp_path, content):
    write(tmp_path / "c", sizes={"train": 9})
    if content is not None:
        (tmp_path / "c" / "test.parquet").write_bytes(content)
    with pytest.raises(
        UsageError, match=r"data.source: .*a folder with train.parquet and test.parquet"
    ):
        ready(tmp_path / "c")


def test_without_a_network_the_hub_is_named(tmp_path):
    with pytest.raises(
        UsageError, match=r"'nobody/nothing' is neither a folder with train.parquet and"
    ):
        ready("nobody/nothing")


@pytest.mark.parametrize("images", ["words", "sizes"])
def test_a_column_of_something_else_is_refused(tmp_path, images):
    (tmp_path / "c").mkdir()
    sizes = [png(np.zeros((side, side, 3), np.uint8))["bytes"] for side in (4, 5)]
    values = ["neither", "image"] if images == "words" else sizes
    for split in ("train", "test"):
        rows = Dataset.from_dict({"img": values, "label": [0, 1]})
        rows.to_parquet(str(tmp_path / "c" / f"{split}.parquet"))
    with pytest.raises(CascadeError, match=r"column 'img' of .* must hold images of one size"):
        ready(tmp_path / "c", calibration_size=1)


def moved(image, down, right, mirrored):
    """One image shifted and then mirrored, pixel by pixel; what comes in is 0."""
    channels, height, width = len(image), len(image[0]), len(image[0][0])
    found = []
    for c in range(channels):
        rows = []
        for y in range(height):
            row = []
            for x in range(width):
                from_y, from_x = y - down, (width - 1 - x if mirrored else x) - right
                inside = 0 <= from_y < height and 0 <= from_x < width
                row.append(image[c][from_y][from_x] if inside else 0)
            rows.append(row)
        found.append(rows)
    return found


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_each_image_is_moved_by_its_own_chance(shift):
    images = torch.randint(1, 256, (120, 3, 5, 7), dtype=torch.uint8)
    before = images.clone()
    found = _shifted_and_mirrored(images, shift)
    assert torch.equal(images, before)
    assert found.dtype == torch.uint8
    moves = [
        (down, right, mirrored)
        for down in range(-shift, shift + 1)
        for right in range(-shift, shift + 1)
        for mirrored in (False, True)
    ]
    seen = []
    for image, augmented in zip(images.tolist(), found.tolist(), strict=True):
        matching = [move for move in moves if moved(image, *move) == augmented]
        assert len(matching) == 1
        seen += matching
    assert len(set(seen)) > 0.6 * len(moves)
    for value in {move[0] for move in moves}:
        assert value in {move[0] for move in seen}
        assert value in {move[1] for move in seen}
    assert 30 < sum(mirrored for *_, mirrored in seen) < 90


def test_the_same_seed_moves_images_the_same_way():
    images = torch.randint(0, 256, (9, 3, 8, 8), dtype=torch.uint8)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(_shifted_and_mirrored(images, 2))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


class Seeing(ResNet):
    """Keeps the batches that it sees, by whether it was training."""

    def __init__(self):
        super().__init__([2], [1], classes=3)
        self.seen = {True: [], False: []}

    def forward(self, images):
        self.seen[self.training].append(images.clone())
        return super().forward(images)


def quiet_trainer(**options):
    return CascadeTrainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, **options,
    )  # fmt: skip


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.filterwarnings("ignore:.*number of training batches.*")
@pytest.mark.filterwarnings("ignore:Total length of .list. across ranks is zero")
def test_images_are_augmented_only_while_training(tmp_path, augment):
    from lit_cascade.lit import LitClassifier

    made = write(tmp_path / "c")
    known = {bytes(image.flatten().tolist()) for image in made["train"][0][:14]}
    held_back = made["train"][0][14:]
    network = Seeing()
    model = LitClassifier(name="net", network=lambda: network)
    data = ready(tmp_path / "c", augment=augment)
    run = quiet_trainer(max_epochs=2)
    run.fit(model, datamodule=data)  # a Trainer that validates where there is a split for it
    trained = torch.cat(network.seen[True])
    same = sum(bytes(image.flatten().tolist()) in known for image in trained)
    assert len(trained) == 24
    assert (same < 6) if augment else (same == 24)
    network.seen[False].clear()
    run.evaluate(model, data, "calibration")
    judged = torch.cat([batch for batch in network.seen[False] if len(batch) > 1])
    assert torch.equal(judged, held_back)


def test_records_are_of_the_images_as_they_are(tmp_path):
    made, data = write(tmp_path / "c"), ready(tmp_path / "c")
    stages = {name: Stage(ResNet([2], [k + 1], classes=3)) for k, name in enumerate("ab")}
    model = LitCascade(stages)
    for split, ids in (("test", range(9)), ("calibration", range(14, 20))):
        records = quiet_trainer().record(model, data, split=split)
        pixels = made["test" if split == "test" else "train"][0][ids.start : ids.stop]
        for record, network in zip(records, model.cascade.stages, strict=True):
            torch.testing.assert_close(record.logits, network(pixels).detach())
            assert record.ids.tolist() == list(ids)
            assert record.classes == NAMES
        assert records[0].data["name"] == "CIFAR-10"


@pytest.mark.parametrize("calibration_size", [0, 6])
@pytest.mark.filterwarnings("ignore:.*deterministic.*")
@pytest.mark.filterwarnings("ignore:.*number of training batches.*")
def test_fit_trains_on_files_and_writes_a_card(tmp_path, monkeypatch, capsys, calibration_size):
    write(tmp_path / "c", sizes={"train": 40, "test": 9})
    network = {"widths": [2, 4], "blocks": [1, 1], "classes": 3}
    config = {
        "model": {
            "name": "tiny",
            "network": {"class_path": "lit_cascade.models.ResNet", "init_args": network},
        },
        "data": {
            "init_args": {
                "source": "c", "name": "tiny images", "batch_size": 8,
                "calibration_size": calibration_size,
            }
        },
        "trainer": {
            "max_epochs": 1, "precision": "32", "accelerator": "cpu",
            "enable_progress_bar": False,
        },
    }  # fmt: skip
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lit-cascade"])
    words = ["fit", "--config", "cifar10/fit.yaml", "--config", "tiny.yaml", "--out", "out"]
    assert main(words) == 0
    assert "tiny, trained on tiny images" in capsys.readouterr().out
    head = yaml.safe_load((tmp_path / "out/tiny.md").read_text().split("---")[1])
    held_back = {"calibration": 6} if calibration_size else {}
    assert head["samples"] == held_back | {"test": 9}
    stage = Stage(lambda: ResNet(**network), str(tmp_path / "out/tiny.safetensors")).build("a")
    classes = stage.class_names
    assert classes == NAMES


@pytest.mark.skipif(
    not all((REAL / f"{split}.parquet").is_file() for split in ("train", "test")),
    reason="the CIFAR-10 files are not there",
)
def test_the_real_images_are_read():
    data = CifarData(str(REAL))
    for published, n in (("train", 50_000), ("test", 10_000)):
        rows = data._read(published)
        assert len(rows) == n
        images, labels, classes = _decoded(rows.select(range(300)), "real")
        assert images.shape == (300, 3, 32, 32)
        assert 100 < images.float().mean() < 140
        assert set(labels.tolist()) == set(range(10))
        assert classes[:3] == ("airplane", "automobile", "bird")
