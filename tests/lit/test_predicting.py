import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from lit_cascade import CascadeError, LitCascade, PolicyOptions, Stage, UsageError
from lit_cascade.core.combination import COMBINATIONS
from lit_cascade.core.contract import replay
from lit_cascade.data import (
    Datasets,
    GlueData,
    ImageData,
    TextData,
    UnlabelledImages,
    UnlabelledTexts,
)
from lit_cascade.lit import predicting as answers
from lit_cascade.lit.predicting import PARTS, PredictionFiles, unfinished_predictions
from lit_cascade.models import Timm
from tests.hazards import Crowded
from tests.lit.cascades import cascade, points, trainer
from tests.toys import CLASSES, Named, Points

N = 61


def model(combine="later", stages=2):
    options = PolicyOptions(
        thresholds=[0.5] * (stages - 1), combine=combine, temperatures=[2.0, *[0.7] * (stages - 1)]
    )
    return cascade(stages, options)


def table(folder, name="predictions.parquet"):
    path = folder / name
    return (pq.read_table(path) if name.endswith("parquet") else pa_csv.read_csv(path)).to_pydict()


@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize("combine", COMBINATIONS)
def test_answers_are_those_of_the_replay(tmp_path, combine, stages):
    net, data = model(combine, stages), points(N, Named)
    records = trainer().record(net, data)
    told = replay([record.logits for record in records], net.cascade.policy)
    done = trainer().answer(net, data, tmp_path, gather=3)
    found = table(tmp_path)
    places = {name: i for i, name in enumerate(records[0].ids)}
    order = [places[one] for one in found["id"]]
    assert found["id"] == Named(N).ids, "in the order of the data"
    assert found["class"] == [CLASSES[int(told.prediction[i])] for i in order]
    assert found["stage"] == [net.names[int(told.stage[i])] for i in order]
    assert done.n == N
    assert list(done.by_stage) == [found["stage"].count(name) for name in net.names]
    for at, i in enumerate(order):
        shares = [
            net.cascade.policy.probabilities(k, record.logits[i][None])[0]
            for k, record in enumerate(records[: int(told.stage[i]) + 1])
        ]
        answer = int(told.prediction[i])
        if combine == "average":
            expected = torch.stack(shares).mean(dim=0)[answer]
        elif combine == "later":
            expected = shares[-1][answer]
        else:  # the score is the largest of these
            expected = max(share.max() for share in shares)
        assert found["probability"][at] == pytest.approx(float(expected), rel=1e-4)
    assert not (tmp_path / PARTS).exists()


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    trainer().answer(model(), points(N), whole, gather=2)
    expected = (whole / "predictions.parquet").read_bytes()
    kept = answers.write_atomically
    for stop in (1, 3, 6):
        folder, written = tmp_path / f"stopped{stop}", []

        def stopping(path, content, stop=stop, written=written):
            if path.suffix == ".parquet":
                if len(written) == stop:
                    raise KeyboardInterrupt
                written.append(path)
            kept(path, content)

        monkeypatch.setattr(answers, "write_atomically", stopping)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            trainer().answer(model(), points(N), folder, gather=2)
        assert not (folder / "predictions.parquet").exists()
        assert len(list((folder / PARTS).glob("*.parquet"))) == stop
        monkeypatch.setattr(answers, "write_atomically", kept)
        done = trainer().answer(model(), points(N), folder, gather=2)
        assert done.resumed == 8 * stop
        assert (folder / "predictions.parquet").read_bytes() == expected


def test_a_run_of_something_else_is_not_gone_on_with(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    kept = answers.pq.write_table
    monkeypatch.setattr(answers.pq, "write_table", stop)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer().answer(model(), points(N), tmp_path)
    monkeypatch.setattr(answers.pq, "write_table", kept)
    other = cascade(2, PolicyOptions(thresholds=[0.9]))
    with pytest.raises(UsageError, match=r"holds an interrupted run with another policy"):
        trainer().answer(other, points(N), tmp_path)
    with pytest.raises(UsageError, match=r"another data"):
        trainer().answer(model(), points(N - 1), tmp_path)
    with pytest.raises(UsageError, match=r"another settings"):
        trainer().answer(model(), points(N), tmp_path, gather=5)
    (tmp_path / PARTS / "plan.json").write_text("{")
    with pytest.raises(UsageError, match=r"is damaged; remove"):
        trainer().answer(model(), points(N), tmp_path)


def test_a_damaged_part_is_named(tmp_path, monkeypatch):
    def stop(*_, **__):
        raise CascadeError("stop")

    net, data = model(), points(N)
    with monkeypatch.context() as patch:
        patch.setattr(PredictionFiles, "join", stop)
        with pytest.raises(CascadeError, match="stop"):
            trainer().answer(net, data, tmp_path, gather=2)
    part = sorted((tmp_path / PARTS).glob("*.parquet"))[1]
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(CascadeError, match=rf"part .*{part.name}.* is damaged .*remove it"):
        trainer().answer(net, data, tmp_path, gather=2)
    part.unlink()
    assert trainer().answer(net, data, tmp_path, gather=2).n == N


class Small(Timm):
    """A network of timm's that tests can afford."""

    def __init__(self, size):
        super().__init__("test_resnet.r160_in1k", pretrained=False)
        self.size = size


def images(root, n=9):
    for i in range(n):
        path = root / ("a" if i % 2 else "b/c") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40 + i, 50), (20 * i, 90, 200 - 20 * i)).save(path)
    (root / "a" / "broken.jpg").write_bytes(b"no image")
    return UnlabelledImages(str(root), batch_size=4, num_workers=0)


def test_images_without_labels_and_one_that_cannot_be_read(tmp_path):
    torch.manual_seed(0)
    stages = {name: Stage(lambda: Small(160)) for name in ("one", "two")}
    net = LitCascade(stages, PolicyOptions(thresholds=[float("inf")]))
    data = images(tmp_path / "images")
    done = trainer().answer(net, data, tmp_path / "out", "predict", "predictions.csv", gather=1)
    found = table(tmp_path / "out", "predictions.csv")
    good = [f"a/{i}.png" for i in (1, 3, 5, 7)], [f"b/c/{i}.png" for i in (0, 2, 4, 6, 8)]
    assert found["id"] == [*good[0], "a/broken.jpg", *good[1]], "one row per file, in order"
    assert found["stage"] == ["two"] * 4 + [""] + ["two"] * 5
    assert found["class"][4] == ""
    assert found["probability"][4] is found["score"][4] is None
    assert found["error"] == [""] * 4 + ["not an image"] + [""] * 5
    assert list(done.left_out) == [("a/broken.jpg", "not an image")]
    assert done.by_stage == (0, 9)


def test_a_folder_without_images_or_none_at_all(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "a.txt").write_text("a")
    for folder, message in (
        ("empty", "no images in .*, which is empty"),
        ("papers", "no images in .*, which holds 1 other files"),
        ("paper", r"there is no file or folder .*paper'. Did you mean '.*/papers'\?"),
        ("papers/a.txt", r"is no image by its name; the data of the config are images"),
    ):
        with pytest.raises(UsageError, match=message):
            UnlabelledImages(str(tmp_path / folder)).setup()


def test_ids_of_several_files_and_folders_are_as_they_are_given(tmp_path, monkeypatch):
    images(tmp_path / "photos", 3)
    (tmp_path / "photos" / "list.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    data = UnlabelledImages(["photos/a", "photos/b/c/0.png", "photos/a/1.png", "photos/a"])
    samples = data.dataset("predict")
    assert samples.ids == ("photos/a/1.png", "photos/a/broken.jpg", "photos/b/c/0.png")
    assert [samples[i].left_out for i in range(3)] == [
        None,
        "photos/a/broken.jpg: not an image",
        None,
    ]
    assert data.name == "a and 2 more"
    one = UnlabelledImages("photos").dataset("predict")
    assert one.ids == ("a/1.png", "a/broken.jpg", "b/c/0.png", "b/c/2.png")
    assert one.findings == ("1 file is no image by its name",)


def test_texts_without_labels(tmp_path):
    rows = [{"text": f"word {i}", "n": i} for i in range(5)]
    path = tmp_path / "texts.json"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    data = UnlabelledTexts(str(path), batch_size=2)
    data.setup()
    samples = data.predict_dataloader().dataset
    assert [samples[i].input for i in range(5)] == [row["text"] for row in rows]
    assert all(int(samples[i].label) == -1 for i in range(5))


def test_lines_of_files_and_of_standard_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_bytes("\ufeffone\r\n\n  \nfour, über".encode())
    Path("b.txt").write_text("x\ty\n\nu\tv\n")
    lines = UnlabelledTexts("a.txt").dataset("predict")
    assert [lines[i].input for i in range(4)] == ["one", "", "  ", "four, über"]
    assert [lines[i].left_out for i in range(4)] == [None, "no text", "no text", None]
    assert lines.ids.tolist() == [1, 2, 3, 4]
    pairs = UnlabelledTexts("b.txt", text_columns=["p", "q"]).dataset("predict")
    assert [pairs[i].input for i in range(3)] == [("x", "y"), ("", ""), ("u", "v")]
    both = UnlabelledTexts(["a.txt", "b.txt", "a.txt"]).dataset("predict")
    assert both.ids[3:] == ("a.txt:4", "b.txt:1", "b.txt:2", "b.txt:3")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"typed\nhere\n")))
    typed = UnlabelledTexts("-").dataset("predict")
    assert [typed[i].input for i in range(len(typed))] == ["typed", "here"]
    Path("a.txt").write_text("one\n\n\nother")
    assert UnlabelledTexts("a.txt").dataset("predict").source != lines.source


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        (b"", None, r"'t.txt' is empty"),
        (b"fine\n\xff\xfe\n", None, r"line 2 of 't.txt' is not in UTF-8"),
        (b"a\tb\nalone\n", ["a", "b"], r"line 2 of 't.txt' holds 1 texts: .* a tab between"),
    ],
)
def test_lines_that_cannot_be_read(tmp_path, monkeypatch, content, columns, message):
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_bytes(content)
    with pytest.raises(CascadeError, match=message):
        UnlabelledTexts("t.txt", text_columns=columns).setup()


def test_inputs_take_the_place_of_labelled_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text("a\nb\n")
    Path("photos").mkdir()
    texts = TextData("gone", classes=["no", "yes"], batch_size=7).unlabelled(["t.txt"])
    assert (texts.batch_size, texts.dataset("predict").classes) == (7, ("no", "yes"))
    pairs = GlueData("mrpc", source="gone").unlabelled(["t.txt"])
    with pytest.raises(UsageError, match="are pairs of texts"):
        pairs.setup()
    for one, message in (
        ("photos", "is a folder; the data of the config are texts"),
        ("t.tx", r"no file or folder 't.tx'. Did you mean 't.txt'\?"),
    ):
        with pytest.raises(UsageError, match=message):
            texts.unlabelled([one])
    images = ImageData("gone", classes=["cat", "dog"], batch_size=5, num_workers=2)
    images = images.unlabelled(["a.png"]).unlabelled(["t.txt"])
    assert (images.batch_size, images.num_workers) == (5, 2)
    with pytest.raises(UsageError, match="is no image by its name"):
        images.setup()
    with pytest.raises(UsageError, match=r"Datasets reads no files of your own, got 't.txt'"):
        points(N).unlabelled(["t.txt"])


@pytest.mark.parametrize("combine", COMBINATIONS)
def test_the_likeliest_classes_and_their_probabilities(tmp_path, combine):
    net, data = model(combine, 3), points(N, Named)
    records = trainer().record(net, data)
    told = replay([record.logits for record in records], net.cascade.policy)
    trainer().answer(net, data, tmp_path, gather=3, top=5)
    found = table(tmp_path)
    places = {name: i for i, name in enumerate(records[0].ids)}
    assert list(found) == [
        "id", "class", "probability", "stage", "score", "class_2", "probability_2", "class_3",
        "probability_3", "error",
    ]  # fmt: skip
    for at, name in enumerate(found["id"]):
        i = places[name]
        shares = [
            net.cascade.policy.probabilities(k, record.logits[i][None])[0]
            for k, record in enumerate(records[: int(told.stage[i]) + 1])
        ]
        if combine == "average":
            expected = torch.stack(shares).mean(dim=0)
        elif combine == "later":
            expected = shares[-1]
        else:
            expected = max(reversed(shares), key=lambda share: float(share.max()))
        order = expected.argsort(descending=True).tolist()
        ranks = ("", "_2", "_3")
        assert [found[f"class{rank}"][at] for rank in ranks] == [CLASSES[one] for one in order]
        for rank, one in zip(ranks, order, strict=True):
            assert found[f"probability{rank}"][at] == pytest.approx(float(expected[one]), rel=1e-4)
    trainer().answer(net, data, tmp_path / "one", gather=3)
    one = table(tmp_path / "one")
    assert one == {name: found[name] for name in one}
    with pytest.raises(UsageError, match="top: expected 1 or more classes, got 0"):
        trainer().answer(net, data, tmp_path / "none", top=0)


def test_what_cannot_be_read_at_all_is_an_error_and_is_read_again(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(b"no image")
    net = LitCascade(
        {name: Stage(lambda: Small(160)) for name in ("one", "two")},
        PolicyOptions(thresholds=[float("inf")]),
    )

    def run():
        data = UnlabelledImages(str(folder), batch_size=1, num_workers=0)
        return trainer().answer(net, data, tmp_path / "out", "predict", gather=1)

    with pytest.raises(CascadeError, match=r"could be read, of 2; first a.png: not an image"):
        run()
    assert not list((tmp_path / "out").iterdir())
    Image.new("RGB", (40, 50)).save(folder / "b.png")
    done = run()
    assert [row["error"] for row in done.rows] == ["not an image", None]


def test_without_thresholds_there_is_nothing_to_run(tmp_path):
    with pytest.raises(UsageError, match=r"policy.thresholds: running a cascade needs"):
        trainer().answer(cascade(), points(N), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_set_smaller_than_a_batch(tmp_path):
    assert trainer().answer(model(), Datasets(validation=Points(1), name="one"), tmp_path).n == 1


def test_a_run_is_unfinished_until_what_is_told_of_it_is_written(tmp_path):
    seen = []

    def full(found):
        seen.append((found.n, found.resumed, sorted(path.name for path in tmp_path.iterdir())))
        raise CascadeError("no room")

    with pytest.raises(CascadeError, match="no room"):
        trainer().answer(model(), points(N), tmp_path, finish=full)
    assert seen == [(N, 0, ["predictions.parquet", PARTS])]
    assert unfinished_predictions(tmp_path)
    written = (tmp_path / "predictions.parquet").read_bytes()
    told = []
    done = trainer().answer(model(), points(N), tmp_path, finish=told.append)
    assert told == [done]
    assert done.resumed == N
    assert not unfinished_predictions(tmp_path)
    assert (tmp_path / "predictions.parquet").read_bytes() == written


def test_parts_without_a_plan_are_of_no_run(tmp_path):
    files = PredictionFiles(tmp_path, "predictions.parquet")
    assert files.resume({"a": 1}) == set()
    for window in (0, 2):
        files.write(window, pa.table({"position": [window], "stage": [0]}), {}, {})
    assert files.resume({"a": 1}) == {0, 2}
    (tmp_path / PARTS / "plan.json").unlink()
    assert files.resume({"a": 1}) == set()
    assert [path.name for path in (tmp_path / PARTS).iterdir()] == ["plan.json"]
    unfinished_predictions(tmp_path).remove()
    assert not list(tmp_path.iterdir())


def test_what_ran_in_parts_is_remembered_by_the_run_that_goes_on(tmp_path, monkeypatch):
    def stages():
        return {f"net{k}": Stage(Crowded(4**k + 3, seed=k)) for k in range(2)}

    net = LitCascade(stages(), PolicyOptions(thresholds=[0.5]))
    monkeypatch.setenv("ROOM", "2")
    kept = PredictionFiles.write

    def stopping(self, window, *rest):
        if window == 2:
            raise CascadeError("stop")
        kept(self, window, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(PredictionFiles, "write", stopping)
        with pytest.raises(CascadeError, match="stop"):
            trainer().answer(net, points(N), tmp_path, gather=2)
    monkeypatch.delenv("ROOM")
    net = LitCascade(stages(), PolicyOptions(thresholds=[0.5]))
    done = trainer().answer(net, points(N), tmp_path, gather=2)
    assert done.resumed == 16
    assert done.samples_per_forward == {"net0": 2, "net1": 2}
    assert net.samples_per_forward() == {}
    assert trainer().answer(net, points(N), tmp_path / "whole", gather=2).samples_per_forward == {}


def test_a_live_run_says_what_ran_in_parts(monkeypatch):
    stages = {f"net{k}": Stage(Crowded(4**k + 3, seed=k)) for k in range(2)}
    net = LitCascade(stages, PolicyOptions(thresholds=[0.5]))
    whole = trainer().execute(net, points(N))
    assert whole.samples_per_forward == {}
    monkeypatch.setenv("ROOM", "3")
    parts = trainer().execute(net, points(N))
    assert parts.samples_per_forward == {"net0": 2, "net1": 2}
    assert torch.equal(parts.prediction, whole.prediction)
    assert torch.equal(parts.flops, whole.flops)


@pytest.mark.parametrize("place", ["first", "last"])
def test_a_window_of_which_nothing_can_be_read(tmp_path, place):
    images = tmp_path / "images"
    images.mkdir()
    for i in range(6):
        path = images / f"{i}.png"
        if (i < 2) == (place == "first"):
            path.write_bytes(b"no image")
        else:
            Image.new("RGB", (40, 50), (20 * i, 90, 9)).save(path)
    net = LitCascade(
        {name: Stage(lambda: Small(160)) for name in ("one", "two")},
        PolicyOptions(thresholds=[float("inf")]),
    )
    data = UnlabelledImages(str(images), batch_size=2, num_workers=0)
    done = trainer().answer(net, data, tmp_path / "out", "predict", gather=1)
    read = [(i < 2) != (place == "first") for i in range(6)]
    found = table(tmp_path / "out")
    assert found["id"] == [f"{i}.png" for i in range(6)]
    assert [error is None for error in found["error"]] == read
    assert [stage is not None for stage in found["stage"]] == read
    assert done.n + len(done.left_out) == 6
    assert done.n == sum(read)
    assert (
        str(pq.read_schema(tmp_path / "out" / "predictions.parquet").field("id").type) == "string"
    )


def test_texts_in_csv_files_are_no_formulas_and_scores_stay_numbers():
    texts = ["=1+1", None, "- a film", "plain", "'@a"]
    columns = {"id": texts, "score": [-0.5, 0.0, 1.0, float("-inf"), -1.0]}
    file = io.BytesIO()
    answers._write_all(iter([pa.table(columns)]), file, "predictions.csv")
    found = pa_csv.read_csv(io.BytesIO(file.getvalue())).to_pydict()
    assert found["id"] == ["'=1+1", "", "'- a film", "plain", "''@a"]
    assert found["score"] == columns["score"]
