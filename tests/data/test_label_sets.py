"""Images of which several classes are right: ReaL labels, JSON files, and records of them."""

import itertools
import json
import math
import pkgutil

import pytest
import torch
from PIL import Image

from lit_cascade import CascadeError, Policy, Record, UsageError
from lit_cascade.analysis.calibration import calibrate_record
from lit_cascade.analysis.curve import curve as curve_of
from lit_cascade.cli import main
from lit_cascade.core.combination import COMBINATIONS
from lit_cascade.core.contract import replay
from lit_cascade.core.metrics import is_right, likeliest_labels
from lit_cascade.core.search.search import SearchSettings, search_zoo
from lit_cascade.data.images import LabelSets
from lit_cascade.data.splits import describe
from lit_cascade.lit import CascadeMetrics
from lit_cascade.records.folder import RecordedZoo
from lit_cascade.records.record import score_and_correct
from lit_cascade.utilities.class_names import class_list
from tests.data.test_images import held, ready, tree
from tests.oracles import brute_force_curve, brute_force_point, combined_answer, mean_nll, softmax
from tests.points import point_of_records

PETS = {"cat": 2, "dog": 1, "owl": 1}
NAMES = ["owl", "cat", "dog"]
REAL = json.loads(pkgutil.get_data("timm.data", "_info/imagenet_real_labels.json"))


def file_name(number):
    return f"ILSVRC2012_val_{number:08d}.JPEG"


def filled(numbers):
    """Labels as the data give them, without what fills them up."""
    return [number for number in numbers.tolist() if number >= 0]


def labelled(tmp_path, sets, **options):
    """The four pets with labels of a JSON file."""
    if not (tmp_path / "pets").exists():
        tree(tmp_path / "pets", PETS)
    (tmp_path / "sets.json").write_text(json.dumps(sets) if isinstance(sets, dict) else sets)
    sets = str(tmp_path / "sets.json")
    return held(ready(tmp_path / "pets", **{"classes": NAMES, "label_sets": sets} | options))


SETS = {
    "cat/0.png": ["cat"], "cat/1.png": ["dog", "cat"], "dog/0.png": [],
    "owl/0.png": ["owl", "cat", "dog"],
}  # fmt: skip


def test_a_file_names_the_right_classes_of_each_image(tmp_path):
    dataset = labelled(tmp_path, SETS)
    samples = [dataset[k] for k in range(4)]
    assert [filled(sample.label) for sample in samples] == [[1], [2, 1], [], [0, 1, 2]]
    assert [sample.left_out for sample in samples] == [None, None, LabelSets.NONE, None]
    assert {len(sample.label) for sample in samples} == {3}
    assert describe(dataset).classes == tuple(NAMES)
    assert describe(dataset).findings == ()


def test_images_go_by_the_last_part_of_their_names_too(tmp_path):
    tree(tmp_path / "pets", {"cat": 1, "dog": 0, "owl": 0})
    sets = {"0.png": ["owl"]}
    assert filled(labelled(tmp_path, sets)[0].label) == [0]
    assert filled(labelled(tmp_path, sets | {"cat/0.png": ["dog"]})[0].label) == [2]


def test_one_label_each_is_still_a_set(tmp_path):
    sets = {name: [name.split("/")[0]] for name in SETS}
    dataset = labelled(tmp_path, sets)
    assert [dataset[k].label.tolist() for k in range(4)] == [[1, -1], [1, -1], [2, -1], [0, -1]]


def test_a_class_that_is_named_twice_is_one(tmp_path):
    assert filled(labelled(tmp_path, SETS | {"cat/0.png": ["cat", "cat"]})[0].label) == [1]


def test_an_image_that_cannot_be_read_keeps_its_reason(tmp_path):
    tree(tmp_path / "pets", PETS)
    for name in ("cat/1.png", "dog/0.png"):  # the second has no label either
        (tmp_path / "pets" / name).write_text("word")
    dataset = labelled(tmp_path, SETS)
    assert dataset[1].left_out == "cat/1.png: not an image"
    assert dataset[2].left_out == LabelSets.NONE
    assert not labelled(tmp_path, SETS, unreadable="stop")[2].stop


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (SETS | {"cat/0.png": ["cow"]}, r"names the class 'cow', which is not among the 3 of"),
        (SETS | {"cat/0.png": "cat"}, r"must be JSON that maps .*: 'cat' is no list"),
        (SETS | {"cat/0.png": [["cat"]]}, r"must be JSON that maps"),
        (SETS | {"cat/0.png": None}, r"must be JSON that maps"),
        ("[1, 2]", r"must be JSON that maps names of images to lists of class names"),
        ("{", r"must be JSON that maps"),
    ],
)
def test_files_of_another_form(tmp_path, sets, says):
    with pytest.raises(CascadeError, match=rf"data.label_sets: .*{says}"):
        labelled(tmp_path, sets)


def test_an_image_that_the_file_does_not_know_is_named(tmp_path):
    dataset = labelled(tmp_path, {name: SETS[name] for name in list(SETS)[1:]})
    assert filled(dataset[1].label) == [2, 1]
    with pytest.raises(CascadeError, match=r"has no image called 'cat/0.png'; .* their files\."):
        dataset[0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"label_sets": "real"}, "data.label_sets: 'real' is neither a JSON file nor 'imagenet-"),
        ({"classes": None}, "data.label_sets: needs data.classes"),
        ({"label_sets": "imagenet-real"}, "needs data.classes imagenet-1k, got 3 classes"),
    ],
)
def test_settings_that_do_not_fit(tmp_path, options, says):
    with pytest.raises(UsageError, match=says):
        labelled(tmp_path, SETS, **options)


# ReaL


@pytest.fixture(scope="module")
def real():
    return LabelSets.load("imagenet-real", class_list("imagenet-1k", "classes"))


def test_answers_are_right_where_timms_own_evaluation_has_them_right(real):
    from timm.data import RealLabelsImagenet

    n = 3000
    names = [file_name(number) for number in range(1, 50_001)]
    labels = [real.of(f"n01440764/{name}") for name in names[:n]]
    # of the likely answers one in three is a label
    logits = torch.randn(n, 1000)
    for row in range(0, n, 3):
        if labels[row] is not None:
            logits[row, labels[row][0]] += 9
    theirs = RealLabelsImagenet(names, topk=(1,))
    theirs.add_result(logits)
    some = [row for row in range(n) if labels[row] is not None]
    mine = is_right(logits[some].argmax(dim=1), torch.stack([labels[row] for row in some]))
    assert mine.tolist() == theirs.is_correct[1]
    assert len(some) < n
    assert 0.2 < mine.double().mean() < 0.5


def test_every_image_of_the_validation_set_has_its_labels(real):
    for number in (1, 2, 3, 99, 12345, 50_000):
        found = real.of(file_name(number))
        assert (found is None) == (not REAL[number - 1])
        assert found is None or filled(found) == REAL[number - 1]
    assert sum(not numbers for numbers in REAL) == 50_000 - 46_837
    for name in (file_name(50_001), "cat.jpg", ""):
        with pytest.raises(CascadeError, match=r"imagenet-real has no image .*00000001.JPEG"):
            real.of(name)


def test_a_name_may_hold_more_than_the_number(real):
    named = real.of("ILSVRC2012_val_00000293_n01440764.JPEG")
    assert filled(named) == REAL[292]


def test_a_folder_of_imagenet_with_real_labels(tmp_path):
    synsets = class_list("imagenet-1k", "classes")
    empty = next(number for number, found in enumerate(REAL, start=1) if not found)
    several = next(number for number, found in enumerate(REAL, start=1) if len(found) > 2)
    numbers = sorted([1, 2, empty, several, 50_000])
    for k, number in enumerate(numbers):
        folder = tmp_path / "val" / synsets[9 * k]
        folder.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(folder / file_name(number))
    options = {"classes": "imagenet-1k", "label_sets": "imagenet-real"}
    dataset = held(ready(tmp_path, **options))
    assert len(dataset) == 5
    for k, number in enumerate(numbers):
        assert dataset.ids[k] == f"{synsets[9 * k]}/{file_name(number)}"
        assert filled(dataset[k].label) == REAL[number - 1]
        assert dataset[k].left_out == (LabelSets.NONE if number == empty else None)


# records of such labels


N, CLASSES = 40, 5


def records(n=N, models=2, seed=0, dtype=torch.float32):
    """Models of rising skill; images with one to three labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.full((n, 3), -1)
    for row in range(n):
        size = int(torch.randint(1, 4, (1,), generator=generator))
        labels[row, :size] = torch.randperm(CLASSES, generator=generator)[:size]
    found = []
    for k in range(models):
        logits = torch.randn(n, CLASSES, generator=generator)
        logits += (0.3 + 0.6 * k) * torch.eye(CLASSES)[labels[:, 0]]
        found.append(
            Record.from_arrays(
                f"m{k}", logits.to(dtype), labels, flops=10.0**k,
                data={"name": "pets", "split": "validation", "source": "pets"},
            )
        )  # fmt: skip
    return found


def right_by_hand(answer, labels):
    return answer in [label for label in labels if label >= 0]


def answers_by_hand(logits):
    return [row.index(max(row)) for row in logits.tolist()]


def judged_by_hand(found, combine):
    """Scores of the deferring stages, and whether the cascade is right after each of them."""
    scores = [score_and_correct(record)[0].tolist() for record in found]
    correct = []
    for i, labels in enumerate(found[0].labels.tolist()):
        rows = [record.logits[i].tolist() for record in found]
        said = [row.index(max(row)) for row in rows]
        correct.append(
            [
                right_by_hand(
                    combined_answer(
                        combine, [own[i] for own in scores[: k + 1]], said[: k + 1],
                        [softmax(row) for row in rows[: k + 1]],
                    ),
                    labels,
                )
                for k in range(len(found))
            ]
        )  # fmt: skip
    return [list(own) for own in zip(*scores[:-1], strict=True)], correct


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_record_is_saved_and_loaded(tmp_path, dtype):
    (record,) = records(models=1, dtype=dtype)
    record.save(tmp_path / "m0.safetensors")
    again = Record.load(tmp_path / "m0.safetensors")
    assert torch.equal(again.labels, record.labels)
    assert torch.equal(again.logits, record.logits)
    assert again.samples.fingerprint == record.samples.fingerprint
    assert again.to_bytes() == record.to_bytes()


def test_records_of_other_labels_are_told_apart():
    one, two = records()
    changed = two.labels.clone()
    changed[3] = torch.tensor([0, 1, 2])
    other = Record.from_arrays("m1", two.logits, changed, flops=1)
    assert "labels, first at position 3" in one.samples.difference(other.samples)
    with pytest.raises(CascadeError, match="differ in labels, first at position 3"):
        curve_of([one, other])


def test_accuracy_counts_answers_among_the_labels():
    for record in records(n=200):
        right = [
            right_by_hand(answer, labels)
            for answer, labels in zip(
                answers_by_hand(record.logits), record.labels.tolist(), strict=True
            )
        ]
        assert score_and_correct(record)[1].tolist() == right
        assert 0 < sum(right) < 200


def test_a_temperature_is_fitted_to_the_likeliest_labels():
    (record,) = records(n=150, models=1)
    rows = record.logits.tolist()
    labels = [
        max((label for label in own if label >= 0), key=lambda label, row=row: row[label])
        for row, own in zip(rows, record.labels.tolist(), strict=True)
    ]
    assert likeliest_labels(record.logits, record.labels).tolist() == labels
    fitted = calibrate_record(record)
    at = fitted.temperature
    for other in (at * 0.98, at * 1.02, 1.0):
        assert mean_nll(rows, labels, other) > mean_nll(rows, labels, at)
    assert fitted.before.nll == pytest.approx(mean_nll(rows, labels, 1.0))
    assert fitted.n == 150


@pytest.mark.parametrize("combine", COMBINATIONS)
@pytest.mark.parametrize("models", [2, 3])
def test_a_curve_is_that_of_every_threshold_by_hand(models, combine):
    found = records(models=models)
    scores, correct = judged_by_hand(found, combine)
    costs = [[10.0**k for k in range(models)]] * N
    curve = curve_of(found, Policy((0.5,) * (models - 1), combine=combine))
    rows = list(
        zip(
            curve.thresholds.tolist(), curve.deferral_rate.tolist(), curve.accuracy.tolist(),
            curve.cost.tolist(), strict=True,
        )
    )  # fmt: skip
    for threshold, *row in rows:
        assert row == pytest.approx(brute_force_point(scores, correct, costs, threshold))
    if models == 2:
        expected = brute_force_curve(scores, correct, costs)
        assert [row[0] for row in rows] == [row[0] for row in expected]
    for threshold in (-math.inf, 0.4, 0.55, math.inf):
        policy = Policy((threshold,) * (models - 1), combine=combine)
        told = point_of_records(found, policy)
        by_hand = brute_force_point(scores, correct, costs, threshold)
        assert (told.deferral_rate, told.accuracy, told.cost) == pytest.approx(by_hand)
        replayed = replay([record.logits for record in found], policy)
        assert is_right(replayed.prediction, found[0].labels).double().mean() == told.accuracy
        metrics = CascadeMetrics([threshold], num_stages=models, combine=combine)
        for part in torch.arange(N).split(7):
            flops = torch.tensor(costs)[part]
            metrics.update([one.logits[part] for one in found], found[0].labels[part], flops)
        assert float(metrics.compute()["accuracy"]) == pytest.approx(told.accuracy)


@pytest.mark.parametrize("combine", COMBINATIONS)
def test_a_search_finds_the_front_of_all_pairs_by_hand(tmp_path, combine):
    found = records(n=16, models=4, seed=3)
    for record in found:
        record.save(tmp_path / f"{record.name}.safetensors")
    zoo = RecordedZoo([tmp_path / f"m{k}.safetensors" for k in range(4)]).zoo(combine=combine)
    points = set()
    for record in found:
        right = score_and_correct(record)[1]
        points.add((float(record.cost()[0]), int(right.sum())))
    for one, two in itertools.combinations(found, 2):
        scores, correct = judged_by_hand([one, two], combine)
        costs = [[float(one.cost()[0]), float(two.cost()[0])]] * 16
        for _, _, accuracy, cost in brute_force_curve(scores, correct, costs):
            points.add((cost, round(16 * accuracy)))
    front = []
    for cost, right in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or right > front[-1][1]:
            front.append((cost, right))
    made = search_zoo(zoo, SearchSettings(stages=2, levels=17)).points
    assert [(point.cost, round(16 * point.accuracy)) for point in made] == [
        (pytest.approx(cost), right) for cost, right in front
    ]
    assert len(front) > 3


@pytest.mark.filterwarnings("ignore:.*deterministic.*")
def test_validate_and_calibrate_take_such_records(tmp_path, monkeypatch, capsys):
    found = records(n=60)
    paths = [str(tmp_path / f"{record.name}.safetensors") for record in found]
    for record, path in zip(found, paths, strict=True):
        record.save(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lit-cascade"])
    words = ["validate", "--records", *paths, "--policy.thresholds.m0", "0.5", "--out", "o"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    for record in found:
        right = score_and_correct(record)[1].double().mean()
        assert f"{100 * right:.2f} %" in shown
    told = point_of_records(found, Policy((0.5,)))
    assert f"{100 * told.accuracy:.2f} %" in shown
    assert main(["calibrate", "--records", *paths, "--out", "t"]) == 0
    assert f"{calibrate_record(found[0]).temperature:.3f}" in capsys.readouterr().out
