"""Labelled images through the Trainer: what cannot be read, and what each model sees."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from lit_cascade import (
    CascadeError,
    LitCascade,
    LitZoo,
    Policy,
    PolicyOptions,
    Record,
    Stage,
)
from lit_cascade.cli import main
from lit_cascade.core.contract import replay
from lit_cascade.core.metrics import is_right
from lit_cascade.data import Datasets, ImageData, RawSample
from lit_cascade.data import images as reading
from lit_cascade.lit import LitClassifier
from lit_cascade.models import ImagePreprocessing
from tests.cli.runs import done, together
from tests.lit.cascades import trainer

ROOT = Path(__file__).parents[2]
CLASSES = ("cat", "dog", "owl")
N = 14


def preprocessing(size=8, **changes):
    config = {
        "input_size": (3, size, size), "interpolation": "bilinear", "crop_pct": 1.0,
        "crop_mode": "center", "mean": (0.5, 0.5, 0.5),
    }  # fmt: skip
    return ImagePreprocessing.of(config | changes)


class Seer(nn.Module):
    """A convolution and a linear layer over images of some size; weights depend on the seed."""

    def __init__(self, size=8, width=4, seed=0, classes=3):
        super().__init__()
        self.preprocessing = preprocessing(size)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Conv2d(3, width, 3), nn.ReLU(), nn.Flatten(),
                nn.Linear(width * (size - 2) ** 2, classes),
            )  # fmt: skip
        self.seen = []

    def forward(self, images):
        self.seen.append(images)
        return self.layers(images.float() / 255)


class Bare(nn.Module):
    """Takes the data as they are: tensors of 3 x 10 x 10."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(300, 3)
        self.seen = []

    def forward(self, images):
        self.seen.append(images)
        return self.layer(images.float().flatten(1) / 255)


def write(root, broken=(), grey=()):
    """Images of three classes, of which some are no images and some are grey."""
    for k in range(N):
        path = root / CLASSES[k % 3] / f"{k:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(k).integers(0, 256, (9 + k % 3, 12, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        (image.convert("L") if k in grey else image).save(path)
        if k in broken:
            path.write_bytes(path.read_bytes()[:50])
    return root


def paths():
    """The ids in order, and the number of the image that each belongs to."""
    return sorted((f"{CLASSES[k % 3]}/{k:02d}.png", k) for k in range(N))


def number(name):
    return int(name.split("/")[1][:2])


def images(root, **options):
    return ImageData(str(root), **{"num_workers": 0, "batch_size": 4} | options)


def pair(policy=None, sizes=(8, 8), **options):
    stages = {
        f"seer{k}": Stage(Seer(size, 3 * k + 2, seed=k), **options) for k, size in enumerate(sizes)
    }
    return LitCascade(stages, policy)


PLACES = [position for position, _ in enumerate(paths())]
# by place in the split, so that batches of 4 are composed as each test says
BROKEN = {"one": (2,), "some": (0, 5, 13), "a batch": (4, 5, 6, 7), "the last": (12, 13)}


def at(places):
    return [paths()[place][1] for place in places]


@pytest.mark.parametrize(("which", "workers"), [*((name, 0) for name in BROKEN), ("some", 2)])
def test_unreadable_images_are_left_out_and_change_nothing_else(tmp_path, which, workers):
    gone = BROKEN[which]
    model = pair()
    whole = trainer().record(model, images(write(tmp_path / "good" / "pets")))
    root = write(tmp_path / "bad" / "pets", broken=at(gone))
    found = trainer().record(model, images(root, num_workers=workers))
    kept = [place for place in PLACES if place not in gone]
    names = [name for name, _ in paths()]
    for good, bad in zip(whole, found, strict=True):
        assert bad.ids == tuple(names[place] for place in kept)
        assert torch.equal(bad.logits, good.logits[kept])
        assert torch.equal(bad.labels, good.labels[kept])
        assert bad.data["left_out"] == [
            [names[place], f"{names[place]}: image file is truncated"] for place in gone
        ]
        assert "limited_to" not in bad.data
        assert good.data.keys() == {"name", "split", "source"}
    for k, name in enumerate(found[0].ids):
        assert CLASSES[found[0].labels[k]] == name.split("/")[0]


def test_logits_are_those_of_the_images_one_by_one(tmp_path):
    from timm.data import create_transform

    root = write(tmp_path / "pets", broken=[3], grey=[5])
    model = pair(sizes=(8, 6))
    for record, network in zip(
        trainer().record(model, images(root)), model.cascade.stages, strict=True
    ):
        size = network.preprocessing.input_size
        transform = create_transform(
            size, interpolation="bilinear", crop_pct=1.0, use_prefetcher=True
        )
        for logits, name in zip(record.logits, record.ids, strict=True):
            image = Image.open(root / name).convert("RGB")
            view = torch.as_tensor(transform(image))[None]
            torch.testing.assert_close(logits, network(view)[0].detach())


def test_all_images_unreadable_is_an_error(tmp_path):
    root = write(tmp_path / "pets", broken=range(N))
    with pytest.raises(
        CascadeError,
        match=r"no sample .*'validation' could be read, of 14; first: cat/00.png: ",
    ):
        trainer().record(pair(), images(root))


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_stop_where_they_are_to(tmp_path, workers):
    root = write(tmp_path / "pets", broken=at([6]))
    name = paths()[6][0]
    with pytest.raises(CascadeError) as caught:
        trainer().record(pair(), images(root, unreadable="stop", num_workers=workers))
    assert str(caught.value) == (
        f"data: {name}: image file is truncated. To leave out what cannot be read: "
        "data.init_args.unreadable: leave_out."
    )


def test_remarks_are_counted_but_not_those_of_images_that_are_left_out(tmp_path):
    root = write(tmp_path / "pets", broken=[4], grey=[1, 4, 5, 9])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (9, 9)).save(root / "owl/turned.jpg", exif=exif)
    for record in trainer().record(pair(), images(root)):
        assert record.data["remarks"] == {
            "EXIF rotation not applied": 1, "converted to RGB from greyscale": 4,
        }  # fmt: skip
        assert [name for name, _ in record.data["left_out"]] == ["dog/04.png"]


def test_the_calibration_split_leaves_out_its_own(tmp_path):
    root = write(tmp_path / "pets", broken=range(0, N, 2))
    data = images(root, calibration_size=6, seed=2)
    found = {
        split: trainer().record(pair(), data, split=split)[0]
        for split in ("calibration", "validation")
    }
    ids = []
    for record in found.values():
        gone = [name for name, _ in record.data["left_out"]]
        assert gone
        assert all(number(name) % 2 == 0 for name in gone)
        assert all(number(name) % 2 for name in record.ids)
        ids += [*gone, *record.ids]
    assert sorted(ids) == [name for name, _ in paths()]
    assert len(found["calibration"]) + len(found["calibration"].data["left_out"]) == 6


def test_a_limit_of_batches_and_images_that_are_left_out(tmp_path):
    root = write(tmp_path / "pets", broken=at([2, 9]))
    (record, _) = trainer(limit_val_batches=2).record(pair(), images(root))
    assert record.data["limited_to"] == "8 of 14 samples"
    assert len(record) == 7
    assert [name for name, _ in record.data["left_out"]] == [paths()[2][0]]


def zoo(**options):
    return LitZoo({f"seer{k}": Stage(lambda k=k: Seer(width=k + 2, seed=k)) for k in range(2)})


def test_a_zoo_is_resumed_though_images_are_left_out(tmp_path):
    root = write(tmp_path / "pets", broken=[3, 8], grey=[1])
    first = trainer().record_zoo(zoo(), images(root), tmp_path / "o")
    before = {path: path.read_bytes() for path in (tmp_path / "o").iterdir()}
    (tmp_path / "o/seer1.safetensors").unlink()
    again = trainer().record_zoo(zoo(), images(root), tmp_path / "o")
    assert [one.kept for one in first.written] == [False, False]
    assert [one.kept for one in again.written] == [True, False]
    assert {path: path.read_bytes() for path in (tmp_path / "o").iterdir()} == before
    record = Record.load(tmp_path / "o/seer0.safetensors")
    assert (len(record), len(record.data["left_out"])) == (12, 2)
    write(tmp_path / "pets")
    (root / "cat/zz.png").write_bytes((root / "cat/00.png").read_bytes())
    with pytest.raises(CascadeError, match=r"not a record of this run.* it differs in ids, "):
        trainer().record_zoo(zoo(), images(root), tmp_path / "o")


# views


@pytest.fixture
def decoded(monkeypatch):
    """The files that are decoded, one by one."""
    found = []
    plain = reading.decode

    def counting(file):
        found.append(file)
        return plain(file)

    monkeypatch.setattr(reading, "decode", counting)
    return found


@pytest.mark.parametrize(("sizes", "views"), [((8, 8), 1), ((8, 6), 2), ((8, 6, 8), 2)])
def test_one_decoding_gives_every_model_its_view(tmp_path, decoded, monkeypatch, sizes, views):
    root = write(tmp_path / "pets")
    made = []
    plain = ImagePreprocessing.__call__

    def counting(self, sample):
        made.append(self.input_size)
        return plain(self, sample)

    monkeypatch.setattr(ImagePreprocessing, "__call__", counting)
    model = pair(sizes=sizes)
    trainer().record(model, images(root))
    assert len(decoded) == len(set(decoded)) == N
    assert len(made) == N * views
    networks = [stage.network for stage in model.cascade.stages]
    for network, size in zip(networks, sizes, strict=True):
        assert {tuple(view.shape[1:]) for view in network.seen} == {(3, size, size)}
        assert {view.dtype for view in network.seen} == {torch.uint8}
    first = [view for view in networks[0].seen if len(view) > 1]
    other = [view for view in networks[-1].seen if len(view) > 1]
    assert (first[0] is other[0]) == (sizes[0] == sizes[-1])


class Tensors(Dataset):
    """Images as uint8 tensors."""

    source = "tensors"
    classes = CLASSES

    def __init__(self, n=10):
        generator = torch.Generator().manual_seed(3)
        self.x = torch.randint(256, (n, 3, 10, 10), generator=generator, dtype=torch.uint8)
        self.y = torch.randint(3, (n,), generator=generator)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, position):
        return self.x[position], self.y[position]


def test_a_model_without_preprocessing_gets_the_data_as_they_are():
    bare, seer = Bare(), Seer(size=6)
    model = LitCascade({"bare": Stage(bare), "seer": Stage(seer)})
    data = Datasets(validation=Tensors(), batch_size=4, name="tensors")
    records = trainer().record(model, data)
    assert torch.equal(torch.cat([x for x in bare.seen if len(x) > 1]), Tensors().x)
    assert {tuple(view.shape[1:]) for view in seer.seen} == {(3, 6, 6)}
    torch.testing.assert_close(records[0].logits, bare(Tensors().x).detach())
    views = torch.stack([seer.preprocessing(x) for x in Tensors().x])
    torch.testing.assert_close(records[1].logits, seer(views).detach())
    assert torch.equal(records[0].labels, Tensors().y)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("beside", [False, True])
def test_raw_images_and_a_model_without_preprocessing_are_one_error(tmp_path, workers, beside):
    root = write(tmp_path / "pets")
    model = LitCascade({"bare": Stage(Bare()), "other": Stage(Seer() if beside else Bare())})
    with pytest.raises(
        CascadeError, match=r"^data: no batch can be made of Images .*Timm"
    ) as caught:
        trainer().record(model, images(root, num_workers=workers))
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_wrong_with_the_data_is_one_error_from_workers_too(tmp_path, workers):
    root = write(tmp_path / "pets")
    (tmp_path / "sets.json").write_text('{"00.png": ["cat"]}')
    data = images(
        root, num_workers=workers, classes="folders", label_sets=str(tmp_path / "sets.json")
    )
    with pytest.raises(
        CascadeError, match=r"^data.label_sets: .* has no image called 'cat/03"
    ) as e:
        trainer().record(pair(), data)
    assert "Traceback" not in str(e.value)


def test_words_for_a_model_of_images_are_one_error():
    class Words(Tensors):
        def __getitem__(self, position):
            return "word", self.y[position]

    data = Datasets(validation=Words(), batch_size=4)
    with pytest.raises(CascadeError, match=r"takes images: PIL images, or uint8 .*; .* gave str\."):
        trainer().record(pair(), data)


# what else reads images


@pytest.mark.parametrize("sizes", [(8, 8), (8, 6)])
def test_running_for_real_is_the_replay(tmp_path, sizes):
    root = write(tmp_path / "pets", broken=[0, 4], grey=[2])
    model = pair(PolicyOptions(thresholds=[0.5]), sizes)
    records = trainer().record(model, images(root))
    for threshold in records[0].logits.softmax(dim=1).amax(dim=1).sort().values[::4].tolist():
        model.cascade.policy = Policy((threshold + 1e-4,))
        told = trainer().execute(model, images(root))
        replayed = replay([record.logits for record in records], model.cascade.policy)
        assert torch.equal(told.stage, replayed.stage)
        assert torch.equal(told.prediction, replayed.prediction)
        assert told.samples.difference(records[0].samples) is None
        assert told.data == dict(records[0].data)
        assert int(told.stage.sum()) > 0


@pytest.mark.parametrize("workers", [0, 2])
def test_only_deferred_images_are_made_for_the_later_stage(tmp_path, workers, monkeypatch):
    monkeypatch.setattr("lit_cascade.lit.cascade._SMALLEST_PIECE", 1)
    root = write(tmp_path / "pets")
    model = pair(PolicyOptions(thresholds=[0.5]), (8, 6))
    scores = trainer().record(model, images(root))[0].logits.softmax(dim=1).amax(dim=1)
    model.cascade.policy = Policy((float(scores.sort().values[3]),))
    later = model.networks()["seer1"].network
    later.preprocessing = Counting(later.preprocessing, tmp_path / "log")
    later.seen.clear()
    told = trainer().execute(model, images(root, num_workers=workers))
    deferred = [name for name, stage in zip(told.samples.ids, told.stage, strict=True) if stage]
    assert len(deferred) == 3
    made = (tmp_path / "log").read_text().split()
    assert len(made) == 3 + 1, "and one image, to know what the stage alone would cost"
    (batch,) = [one for one in later.seen if len(one) == 3]
    for row, name in zip(batch, deferred, strict=True):
        with Image.open(root / name) as image:
            assert torch.equal(row, later.preprocessing.inner(image.convert("RGB")))


class Counting:
    """Writes down that it was asked, from whatever process."""

    def __init__(self, inner, log):
        self.inner, self.log, self.key = inner, log, inner.key

    def __call__(self, image):
        with self.log.open("a") as file:
            file.write("made\n")
        return self.inner(image)


@pytest.mark.parametrize("live", [False, True])
def test_a_whole_batch_that_is_left_out_ends_no_loop(tmp_path, live):
    root = write(tmp_path / "pets", broken=at(range(4, 8)))
    model = pair(PolicyOptions(thresholds=[0.5]))
    run, data = trainer(), images(root)
    found = run.execute(model, data) if live else run.record(model, data)[0]
    assert len(found.samples.ids) == N - 4


def test_one_classifier_is_judged_on_what_can_be_read(tmp_path):
    root = write(tmp_path / "pets", broken=[0, 4, 7])
    network = Seer(seed=4)
    model = LitClassifier(name="seer", network=lambda: network)
    found = trainer().evaluate(model, images(root), "validation")
    record = trainer().record(pair(), images(root))[0]
    assert found.n == len(record) == N - 3
    views = [network.preprocessing(Image.open(root / name).convert("RGB")) for name in record.ids]
    answers = network(torch.stack(views)).argmax(dim=1)
    assert found.accuracy == int((answers == record.labels).sum()) / found.n
    assert found.data["left_out"] == record.data["left_out"]


def test_several_labels_are_recorded_and_run_for_real(tmp_path):
    root = write(tmp_path / "pets", broken=[3])
    sets = {f"{k:02d}.png": [CLASSES[(k + i) % 3] for i in range(1 + k % 2)] for k in range(N)}
    sets["06.png"] = []
    (tmp_path / "sets.json").write_text(json.dumps(sets))
    options = {"classes": ["owl", "cat", "dog"], "label_sets": str(tmp_path / "sets.json")}
    data = images(root, **options)
    model = pair(PolicyOptions(thresholds=[0.45]))
    record = trainer().record(model, data)[0]
    assert dict(record.data["left_out"]) == {
        "cat/03.png": "cat/03.png: image file is truncated",
        "cat/06.png": "no label in the label set",
    }
    order = options["classes"]
    for name, labels in zip(record.ids, record.labels.tolist(), strict=True):
        named = [order[label] for label in labels if label >= 0]
        assert named == sets[name.split("/")[1]]
    told = trainer().execute(model, data)
    assert torch.equal(told.samples.labels, record.labels)
    right = [
        order[answer] in sets[name.split("/")[1]]
        for name, answer in zip(record.ids, told.prediction.tolist(), strict=True)
    ]
    assert is_right(told.prediction, told.samples.labels).tolist() == right
    assert 0 < sum(right) < len(right)


@pytest.mark.parametrize("given", ["imagenet-like", "bare"])
def test_a_model_that_knows_more_answers_only_if_it_is_asked(tmp_path, given):
    root = write(tmp_path / "pets")
    known = ["ant", "owl", "bee", "cat", "dog"]
    stages = {name: Stage(Seer(seed=k, classes=5), classes=known) for k, name in enumerate("ab")}
    model = LitCascade(stages)
    if given == "bare":
        with pytest.raises(CascadeError, match=r"has 2 others, first 'ant'; .*init_args.classes"):
            trainer().record(model, images(root))
        return
    whole = LitCascade({name: Stage(Seer(seed=k, classes=5)) for k, name in enumerate("ab")})
    wide = trainer().record(whole, images(root, classes=known))
    for record, all_of_it in zip(
        trainer().record(model, images(root, classes="folders")), wide, strict=True
    ):
        columns = [known.index(name) for name in CLASSES]
        assert torch.equal(record.logits, all_of_it.logits[:, columns])
        assert record.classes == CLASSES
        assert record.model["known_classes"] == 5


@pytest.mark.parametrize("options", [{"num_workers": 2}, {"batch_size": 1}, {"batch_size": 100}])
def test_workers_and_batch_sizes_do_not_matter(tmp_path, options):
    root = write(tmp_path / "pets", broken=[4, 9], grey=[2, 3])
    plain = trainer().record(pair(), images(root))
    for one, other in zip(plain, trainer().record(pair(), images(root, **options)), strict=True):
        torch.testing.assert_close(one.logits, other.logits, rtol=1e-6, atol=1e-6)
        assert one.samples.difference(other.samples) is None
        assert one.data == other.data
        if "num_workers" in options:
            assert torch.equal(one.logits, other.logits)


def test_samples_of_ones_own_may_be_left_out_too():
    class Own(Tensors):
        ids = range(100, 110)

        def __getitem__(self, position):
            reason = "too dark" if position in {1, 8} else None
            remarks = ("brightened",) if position % 2 else ()
            return RawSample(self.x[position], self.y[position], remarks, reason)

    model = LitCascade({"bare": Stage(Bare()), "seer": Stage(Seer())})
    for batch_size in (4, 1):
        data = Datasets(validation=Own(), batch_size=batch_size, name="own")
        record = trainer().record(model, data)[0]
        assert record.ids.tolist() == [100, 102, 103, 104, 105, 106, 107, 109]
        assert record.data["left_out"] == [[101, "too dark"], [108, "too dark"]]
        assert record.data["remarks"] == {"brightened": 5}


def test_several_processes_write_the_bytes_of_one(tmp_path, monkeypatch, capsys):
    write(tmp_path / "pets", broken=at([0, 5, 13, *range(8, 12)]), grey=at([1, 2, 7]))
    network = "tests.lit.test_image_reading.Seer"
    config = {
        "model": {
            "stages": {
                name: {"network": {"class_path": network, "init_args": arguments}}
                for name, arguments in (("a", {"seed": 1}), ("b", {"size": 6, "seed": 2}))
            }
        },
        "data": {
            "class_path": "lit_cascade.data.ImageData",
            "init_args": {"source": "pets", "batch_size": 4, "num_workers": 0},
        },
        "trainer": {"accelerator": "cpu"},
    }
    (tmp_path / "zoo.yaml").write_text(yaml.safe_dump(config))
    words = ["record", "--config", "zoo.yaml", "--out"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lit-cascade"])
    assert main([*words, "one"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "7 samples are left out: cat/00.png: image file is truncated; " in shown
    assert "3 samples: converted to RGB from greyscale" in shown
    done(together(2, [*words, "two"], cwd=tmp_path))
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()}
        for folder in ("one", "two")
    )
    assert one == two
    assert sorted(one) == ["a.safetensors", "b.safetensors"]
    record = Record.load(tmp_path / "two/a.safetensors")
    assert (len(record), len(record.data["left_out"])) == (7, 7)
    assert record.data["remarks"] == {"converted to RGB from greyscale": 3}


def test_a_stand_in_may_give_anything_in_a_real_run(tmp_path):
    class Standardising(Seer):
        """Divides by the spread of each image, which is 0 for the stand-in."""

        def forward(self, images):
            return super().forward(images) / images.float().std(dim=(1, 2, 3))[:, None]

    root = write(tmp_path / "images", broken=(4,))
    stages = {"a": Stage(lambda: Standardising(seed=1)), "b": Stage(lambda: Standardising(seed=2))}
    model = LitCascade(stages, PolicyOptions(thresholds=[0.4]))
    data = ImageData(str(root), batch_size=3, num_workers=0)
    assert len(trainer().record(model, data)[0]) == N - 1
    assert len(trainer().execute(model, data).prediction) == N - 1


def test_processes_of_a_machine_share_its_cores(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(12))
    from tests.images import image_folder

    data = images(image_folder(tmp_path, 4), num_workers=None)
    data.setup()
    assert data.val_dataloader().num_workers == 8
    data.trainer = SimpleNamespace(num_devices=5)
    loader = data.val_dataloader()
    assert (loader.num_workers, loader.timeout) == (2, 600)
    data.trainer = SimpleNamespace(num_devices=40)
    assert data.val_dataloader().num_workers == 1
    assert images(tmp_path, num_workers=0).num_workers == 0
