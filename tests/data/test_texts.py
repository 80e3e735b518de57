"""Labelled texts of any set: columns, classes, splits, and those that are held back."""

import datasets
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from torch.utils.data import RandomSampler

from lit_cascade import CascadeError, UsageError
from lit_cascade.data import EvaluationData, TextData
from lit_cascade.data.buckets import LengthBuckets
from lit_cascade.data.splits import describe, has_split, shared_ids, split_loader
from lit_cascade.data.texts import read_texts

NAMES = ["bad", "good"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def words(n, start=0):
    return [f"text {i} " + "word " * (i % 7) for i in range(start, start + n)]


def table(n=8, labels=None, kind=None, texts=None, **columns):
    """N rows of texts with labels of some kind, and columns of plain values."""
    labels = [i % 2 for i in range(n)] if labels is None else labels
    texts = words(len(labels)) if texts is None else texts
    kind = ClassLabel(names=NAMES) if kind is None else kind
    rows = Dataset.from_dict({"text": texts, "label": labels} | columns)
    return rows.cast_column("label", kind)


def write(folder, **splits):
    """A Parquet file per split; the folder again."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        rows.to_parquet(str(folder / f"{split}.parquet"))
    return folder


def ready(source, **options):
    data = TextData(str(source), **options)
    data.prepare_data()
    data.setup()
    return data


def part(data, split="validation"):
    return split_loader(data, split).dataset


def shown(dataset):
    return [dataset[i].input for i in range(len(dataset))]


@pytest.fixture
def both(tmp_path):
    return write(tmp_path / "reviews", train=table(40), validation=table(9, texts=words(9, 90)))


# splits


def test_splits_are_those_that_are_published(both):
    data = ready(both)
    assert data.splits == ("train", "validation")
    assert data.name == "reviews"
    assert shown(part(data, "train")) == words(40)
    assert shown(part(data)) == words(9, 90)
    info = describe(part(data))
    assert (info.source, info.classes) == ("reviews/validation", tuple(NAMES))
    assert (info.metric, info.restricts, info.findings) == (None, False, ())
    assert info.ids.tolist() == list(range(9))
    sample = part(data)[3]
    assert (int(sample.label), sample.remarks, sample.left_out) == (1, (), None)


def test_texts_are_held_back_from_train(both):
    data = ready(both, calibration_size=7, development_size=5)
    assert data.splits == ("train", "development", "calibration", "validation")
    found = {split: describe(part(data, split)).ids.tolist() for split in data.splits}
    sizes = {split: len(ids) for split, ids in found.items()}
    assert sizes == {"train": 28, "development": 5, "calibration": 7, "validation": 9}
    train = found["train"] + found["development"] + found["calibration"]
    assert sorted(train) == list(range(40))
    assert found["calibration"] != list(range(7))
    for split in ("train", "development", "calibration"):
        dataset = part(data, split)
        assert shown(dataset) == [words(40)[i] for i in found[split]]
        assert dataset.labels.tolist() == [i % 2 for i in found[split]]
        assert describe(dataset).source == "reviews/train"
    for one in data.splits:
        for other in data.splits:
            assert bool(shared_ids(data, one, other)) == (one == other)


def test_what_is_held_back_is_drawn_by_the_seed(both):
    drawn = [
        describe(part(ready(both, calibration_size=9, seed=seed), "calibration")).ids.tolist()
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("asked", [True, False])
def test_texts_are_held_back_from_validation_if_asked_or_without_train(both, asked):
    if not asked:
        (both / "train.parquet").unlink()
    options = {"held_back_from": "validation"} if asked else {}
    data = ready(both, calibration_size=3, **options)
    assert data.splits == (("train",) if asked else ()) + ("calibration", "validation")
    ids = [describe(part(data, split)).ids.tolist() for split in ("calibration", "validation")]
    assert sorted(ids[0] + ids[1]) == list(range(9))
    assert describe(part(data, "calibration")).source == "reviews/validation"
    assert shared_ids(data, "calibration", "validation") == []
    if asked:
        assert len(part(data, "train")) == 40


def test_nothing_can_be_held_back_from_a_train_set_that_is_not_there(both):
    (both / "train.parquet").unlink()
    with pytest.raises(UsageError, match=r"held_back_from: expected validation, got train"):
        ready(both, calibration_size=3, held_back_from="train")


@pytest.mark.parametrize(("calibration", "development"), [(40, 0), (30, 10), (0, 41)])
def test_something_must_be_left(both, calibration, development):
    data = ready(both, calibration_size=calibration, development_size=development)
    with pytest.raises(
        UsageError,
        match=rf"less than the 40 texts of train, got {calibration + development}",
    ):
        data.train_dataloader()


@pytest.mark.parametrize("which", ["calibration_size", "development_size"])
def test_fewer_than_none_cannot_be_held_back(both, which):
    with pytest.raises(UsageError, match=rf"data.{which}: expected a number .* share .*, got -1"):
        TextData(str(both), **{which: -1})


def test_a_split_that_is_not_there_is_named_with_those_there_are(both):
    data = ready(both)
    assert not has_split(data, "test")
    assert not has_split(data, "calibration")
    with pytest.raises(UsageError, match=r"'test' is unknown; known are train, validation"):
        split_loader(data, "test")
    with pytest.raises(UsageError, match=r"there are train, validation.*calibration_size"):
        data.calibration_dataloader()


def test_files_beside_are_splits_of_their_own(tmp_path):
    root = write(
        tmp_path / "r", train_subset=table(30), validation=table(9), validation_other=table(5)
    )
    data = ready(root)
    assert data.splits == ("validation",)
    assert len(part(data)) == 9
    data = ready(root, train_split="train_subset", validation_split="validation_other")
    assert (len(part(data, "train")), len(part(data))) == (30, 5)
    assert describe(part(data, "train")).source == "r/train_subset"


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"train_split": "tran"}, "data.train_split: 'tran' is unknown; known are train, val"),
        ({"validation_split": "x"}, "data.validation_split: 'x' is unknown; known are train, val"),
        (
            {"train_split": "train", "validation_split": "dev"},
            "data.validation_split: 'dev' is unknown; known are train, validation",
        ),
        ({"test_split": "test"}, "data.test_split: 'test' is unknown; known are train, val"),
    ],
)
def test_a_split_of_another_name_is_refused(both, option, says):
    with pytest.raises(UsageError, match=says):
        ready(both, **option)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train", "test"), {"train": 3, "validation": 4}),
        (("train", "dev", "test"), {"train": 3, "validation": 4}),
        (("test",), {"validation": 3}),
        (("train",), {"validation": 3}),
    ],
)
def test_which_published_split_is_which(tmp_path, names, expected):
    write(tmp_path / "r", **{name: table(3 + k) for k, name in enumerate(names)})
    data = ready(tmp_path / "r")
    assert {split: len(part(data, split)) for split in data.splits} == expected


def test_a_named_test_set_is_a_split(tmp_path):
    root = write(tmp_path / "r", train=table(5), validation=table(4), test=table(3))
    assert ready(root).splits == ("train", "validation")
    data = ready(root, test_split="test")
    assert data.splits == ("train", "validation", "test")
    assert len(data.test_dataloader().dataset) == 3


def test_of_strange_splits_the_user_chooses(tmp_path):
    saved = DatasetDict(one=table(3), two=table(4))
    saved.save_to_disk(str(tmp_path / "r"))
    with pytest.raises(UsageError, match=r"data.validation_split: .*one, two"):
        ready(tmp_path / "r")
    data = ready(tmp_path / "r", validation_split="two", train_split="one")
    assert [len(part(data, split)) for split in data.splits] == [3, 4]
    assert describe(part(data)).source == "r/two"


def test_a_subset_is_a_folder_in_the_folder(tmp_path):
    write(tmp_path / "r/easy", validation=table(3))
    write(tmp_path / "r/hard", validation=table(5))
    data = ready(tmp_path / "r", config="hard")
    assert (data.name, len(part(data))) == ("r/hard", 5)
    assert describe(part(data)).source == "r/hard/validation"
    with pytest.raises(UsageError, match=r"data.config: .*'hrd' is unknown; known are easy, hard"):
        ready(tmp_path / "r", config="hrd")


def test_splits_are_read_when_they_are_asked_for(both, monkeypatch):
    read = []
    loaded = datasets.load_dataset

    def counted(*args, split, **options):
        read.append(split)
        return loaded(*args, split=split, **options)

    monkeypatch.setattr("datasets.load_dataset", counted)
    data = ready(both)
    assert read == ["validation"]
    part(data)
    part(data, "train")
    part(data, "train")
    assert read == ["validation", "train"]


# files


@pytest.mark.parametrize("kind", ["csv", "json", "jsonl", "parquet"])
@pytest.mark.parametrize("how", ["file", "folder", "wildcard"])
def test_files_of_rows_are_read(tmp_path, kind, how):
    texts = ["NA", "null", "", 'a "quoted", text', "été"]
    rows = Dataset.from_dict({"text": texts, "label": ["x", "y", "x", "y", "y"]})
    (tmp_path / "r").mkdir()
    path = tmp_path / "r" / f"validation.{kind}"
    write = {"csv": rows.to_csv, "parquet": rows.to_parquet}.get(kind, rows.to_json)
    write(str(path))
    places = {"file": path, "folder": tmp_path / "r", "wildcard": tmp_path / "r" / f"*.{kind}"}
    data = ready(places[how])
    assert data.splits == ("validation",)
    assert shown(part(data)) == texts
    assert part(data).labels.tolist() == [0, 1, 0, 1, 1]
    assert describe(part(data)).classes == ("x", "y")


def test_shards_are_one_split(tmp_path):
    root = tmp_path / "r/data"
    root.mkdir(parents=True)
    for k in range(2):
        rows = table(3, texts=words(3, 3 * k))
        rows.to_parquet(str(root / f"validation-0000{k}-of-00002.parquet"))
    assert shown(part(ready(tmp_path / "r"))) == words(6)


def test_a_single_table_has_no_splits(tmp_path):
    path = write(tmp_path, all=table(4)) / "all.parquet"
    with pytest.raises(UsageError, match=r"data.train_split: .*single table without splits"):
        ready(path, train_split="train")


@pytest.mark.parametrize("source", ["nobody/nothing", "nowhere/*.parquet"])
def test_what_is_nowhere_is_one_error(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"data.source: .* is neither a data set") as error:
        ready(source)
    assert "\n" not in str(error.value)


# columns


def test_pairs_of_texts(tmp_path):
    rows = table(3, texts=["a", "b", " "], other=["x", "y", "z"])
    root = write(tmp_path / "r", validation=rows)
    with pytest.raises(
        UsageError,
        match=r"data.text_columns: of the columns text, label, other text, other could be it",
    ):
        ready(root).val_dataloader()
    dataset = part(ready(root, text_columns=["other", "text"]))
    assert shown(dataset) == [("x", "a"), ("y", "b"), ("z", " ")]
    assert [dataset[i].remarks for i in range(3)] == [(), (), ("empty text",)]
    assert shown(part(ready(root, text_columns=["text"]))) == ["a", "b", " "]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"text_columns": ["tixt"]}, "data.text_columns: 'tixt' is unknown; known are text, lab"),
        (
            {"text_columns": ["label"]},
            "expected a column of texts .*, got 'label' of int64",
        ),
        ({"text_columns": []}, "data.text_columns: expected one or two, got 0"),
        ({"text_columns": ["text"] * 3}, "data.text_columns: expected one or two, got 3"),
        ({"label_column": "lable"}, "data.label_column: 'lable' is unknown; known are text, label"),
    ],
)
def test_columns_that_do_not_fit_are_named(both, options, says):
    with pytest.raises(UsageError, match=says):
        ready(both, **options).val_dataloader()


def test_a_table_without_texts_or_labels(tmp_path):
    root = write(tmp_path / "r", validation=table(3).remove_columns("text"))
    with pytest.raises(UsageError, match=r"of the columns label none seems to hold texts"):
        ready(root).val_dataloader()
    root = write(tmp_path / "q", validation=table(3).remove_columns("label"))
    with pytest.raises(UsageError, match=r"of the columns text none seems to hold labels"):
        ready(root).val_dataloader()


@pytest.mark.parametrize("idx", [[7, 3, 5], [7, 7, 5], [7, None, 5], [0.5, 1.5, 2.5], None])
def test_ids_are_distinct_whole_numbers_of_idx_or_positions(tmp_path, idx):
    rows = table(3, **({} if idx is None else {"idx": idx}))
    dataset = part(ready(write(tmp_path / "r", validation=rows)))
    assert describe(dataset).ids.tolist() == ([7, 3, 5] if idx == [7, 3, 5] else [0, 1, 2])


@pytest.mark.parametrize("second", [False, True])
def test_a_row_without_a_text_is_named(tmp_path, second):
    texts = ["a", "b", None, None]
    columns = {"texts": words(4), "other": texts} if second else {"texts": texts}
    root = write(tmp_path / "r", validation=table(4, **columns))
    given = ["text", "other"] if second else ["text"]
    with pytest.raises(
        UsageError, match=rf"2 of the 4 rows of 'r/validation' have no text in '{given[-1]}', .*w 2"
    ):
        ready(root, text_columns=given).val_dataloader()


def test_empty_texts_are_answered_and_remarked(tmp_path):
    root = write(tmp_path / "r", validation=table(4, texts=["a", "", " \n\t", "b"]))
    dataset = part(ready(root))
    assert [dataset[i].remarks for i in range(4)] == [(), ("empty text",), ("empty text",), ()]
    assert not any(dataset[i].left_out for i in range(4))
    assert len(dataset) == 4


def test_an_empty_split_is_named(tmp_path):
    root = write(tmp_path / "r", validation=table(4).select([]), train=table(3))
    with pytest.raises(
        CascadeError, match=r"data.source: '.*r' is empty: .*\"validation\" .* no dat"
    ):
        ready(root)
    with pytest.raises(CascadeError, match=r"data.source: 'r/validation' is empty: it has no rows"):
        read_texts(table(4).select([]), "r/validation")


# classes


@pytest.mark.parametrize(
    ("given", "numbers"),
    [
        (None, [1, 0, 1]),
        (["bad", "good"], [1, 0, 1]),
        (["good", "bad"], [0, 1, 0]),
        (["no", "yes"], [1, 0, 1]),
    ],
)
def test_named_classes_in_some_order(tmp_path, given, numbers):
    root = write(tmp_path / "r", validation=table(labels=[1, 0, 1]))
    info = describe(part(ready(root, classes=given)))
    assert part(ready(root, classes=given)).labels.tolist() == numbers
    assert info.classes == tuple(given or NAMES)
    assert info.restricts == (given is not None)


@pytest.mark.parametrize("given", [["bad", "fine"], ["bad", "good", "great"], ["yes"]])
def test_classes_that_are_not_those_of_the_data(both, given):
    with pytest.raises(
        UsageError, match=r"data.classes: expected the classes of the data, bad, go"
    ):
        ready(both, classes=given).val_dataloader()


def test_bare_numbers_name_no_classes(tmp_path):
    root = write(tmp_path / "r", validation=table(labels=[2, 0, 1], kind=Value("int64")))
    assert describe(part(ready(root))).classes is None
    assert part(ready(root)).labels.tolist() == [2, 0, 1]
    named = part(ready(root, classes=["x", "y", "z"]))
    assert describe(named).classes == ("x", "y", "z")
    with pytest.raises(UsageError, match=r"1 of the 3 rows .* none of 0, 1: first 2 in row 0"):
        ready(root, classes=["x", "y"]).val_dataloader()


def test_yes_and_no_are_classes(tmp_path):
    root = write(tmp_path / "r", validation=table(labels=[True, False], kind=Value("bool")))
    labels = part(ready(root)).labels
    assert (labels.tolist(), labels.dtype) == ([1, 0], torch.int64)


def test_names_in_the_rows_are_the_same_classes_in_all_splits(tmp_path):
    word = Value("string")
    root = write(
        tmp_path / "r",
        train=table(labels=["owl", "cat", "owl"], kind=word),
        validation=table(labels=["owl", "dog"], kind=word),
    )
    data = ready(root)
    for split, labels in (("train", [2, 0, 2]), ("validation", [2, 1])):
        assert describe(part(data, split)).classes == ("cat", "dog", "owl")
        assert part(data, split).labels.tolist() == labels
    with pytest.raises(
        UsageError, match=r"2 of the 3 rows .* none of cat, dog: first 'owl' in row"
    ):
        ready(root, classes=["cat", "dog"]).train_dataloader()


@pytest.mark.parametrize("kind", [Value("int64"), None])
def test_hidden_labels_are_refused_with_the_reason(tmp_path, kind):
    root = write(tmp_path / "r", validation=table(4), test=table(labels=[-1] * 3, kind=kind))
    data = ready(root, test_split="test")
    with pytest.raises(UsageError, match=r"labels of 'r/test' are hidden \(-1\).*use a split with"):
        data.test_dataloader()
    assert len(data.val_dataloader().dataset) == 4


@pytest.mark.parametrize("strange", [-1, None, 5])
@pytest.mark.parametrize("kind", [Value("int64"), None])
def test_labels_outside_of_the_classes_name_the_row(tmp_path, strange, kind):
    classes = None if kind is None else NAMES
    if strange == 5 and kind is None:
        rows = table(labels=[0, 1, 5], kind=Value("int64"))
        rows = rows.cast(Features({"text": Value("string"), "label": Value("int64")}))
        classes = NAMES
    else:
        rows = table(labels=[0, 1, strange], kind=kind)
    root = write(tmp_path / "r", validation=rows)
    with pytest.raises(
        UsageError,
        match=rf"1 of the 3 rows of 'r/validation' .* none of 0, 1: first {strange} in r",
    ):
        ready(root, classes=classes).val_dataloader()


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_a_regression_is_refused(tmp_path, kind):
    root = write(tmp_path / "r", validation=table(labels=[3.5, 0.0], kind=Value(kind)))
    with pytest.raises(UsageError, match=r"'label' holds numbers such as 3.5: that is a regressio"):
        ready(root).val_dataloader()


def test_several_labels_per_text_are_refused(tmp_path):
    kind = datasets.List(Value("int64"))
    root = write(tmp_path / "r", validation=table(labels=[[1, 2], [0]], kind=kind))
    with pytest.raises(UsageError, match=r"'label' holds no class per text: \[1, 2\]"):
        ready(root).val_dataloader()


# the hub


def on_the_hub(tmp_path, monkeypatch, files):
    """A snapshot that holds files by their names, whatever was asked for; what was asked for."""
    asked = []

    def fetched(name, *, repo_type, allow_patterns):
        asked.append((name, repo_type, allow_patterns))
        for path, rows in files.items():
            (tmp_path / "snapshot" / path).parent.mkdir(parents=True, exist_ok=True)
            rows.to_parquet(str(tmp_path / "snapshot" / path))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    return asked


def test_of_the_hub_only_the_split_of_the_subset_is_fetched(tmp_path, monkeypatch):
    files = {
        "easy/validation-00000-of-00001.parquet": table(3),
        "hard/train-00000-of-00001.parquet": table(9),
        "hard/validation-00000-of-00002.parquet": table(4, texts=words(4)),
        "hard/validation-00001-of-00002.parquet": table(2, texts=words(2, 4)),
        "hard/validation_other-00000-of-00001.parquet": table(2),
        "hard/test-00000-of-00001.parquet": table(7),
    }
    asked = on_the_hub(tmp_path, monkeypatch, files)
    named = []

    def split_names(*args):
        named.append(args)
        return ["train", "validation", "validation_other", "test"]

    monkeypatch.setattr("datasets.get_dataset_split_names", split_names)
    data = ready("owner/reviews", config="hard")
    assert asked == [("owner/reviews", "dataset", ["*hard/*validation*"])]
    assert named == [("owner/reviews", "hard")]
    assert data.splits == ("train", "validation")
    assert shown(part(data)) == words(6)
    assert describe(part(data)).source == "owner/reviews/hard/validation"
    assert len(part(data, "train")) == 9
    assert asked[1:] == [("owner/reviews", "dataset", ["*hard/*train*"])]


def test_splits_that_are_named_are_not_asked_for(tmp_path, monkeypatch):
    asked = on_the_hub(tmp_path, monkeypatch, {"data/dev_b-00000-of-00001.parquet": table(3)})
    monkeypatch.setattr("datasets.get_dataset_split_names", None)
    data = ready("owner/reviews", train_split="train", validation_split="dev_b")
    assert len(part(data)) == 3
    assert asked == [("owner/reviews", "dataset", ["*dev_b*"])]


def test_of_files_that_do_not_tell_the_subset_all_is_loaded(tmp_path, monkeypatch):
    on_the_hub(tmp_path, monkeypatch, {"elsewhere/validation.parquet": table(3)})
    monkeypatch.setattr("datasets.get_dataset_split_names", lambda *_: ["validation"])
    sets = {("o/r", "hard", "validation"): table(5)}
    monkeypatch.setattr("datasets.load_dataset", lambda *args, split: sets[(*args, split)])
    assert len(part(ready("o/r", config="hard"))) == 5


def test_splits_in_several_folders_are_left_to_datasets(tmp_path, monkeypatch):
    files = {f"{name}/validation.parquet": table(3) for name in ("easy", "hard")}
    on_the_hub(tmp_path, monkeypatch, files)
    monkeypatch.setattr("datasets.get_dataset_split_names", lambda *_: ["validation"])

    def refused(name, split):
        raise ValueError("Config name is missing.\nPlease pick one among: ['easy', 'hard']\nMore")

    monkeypatch.setattr("datasets.load_dataset", refused)
    with pytest.raises(UsageError, match=r"Config name is missing. Please pick one .*'hard'\]$"):
        ready("o/r")


# batches


def test_batches_are_of_texts_and_labels(both):
    data = ready(both, batch_size=6, num_workers=0)
    loader = data.train_dataloader()
    assert isinstance(loader.batch_sampler, LengthBuckets)
    assert isinstance(loader.batch_sampler.sampler, RandomSampler)
    texts, labels = next(iter(loader))
    assert len(texts) == len(labels) == 6
    assert {t: int(y) for t, y in zip(texts, labels, strict=True)}.items() <= {
        text: i % 2 for i, text in enumerate(words(40))
    }.items()
    seen = sorted(text for batch, _ in loader for text in batch)
    assert seen == sorted(words(40))


def test_lengths_are_about_those_of_tokens(tmp_path):
    texts = ["", "cat", "it 's a film .", "unbelievably", "a, b!", "新しい 映画"]
    root = write(tmp_path / "r", validation=table(6, texts=texts, other=["x"] * 6))
    assert part(ready(root, text_columns=["text"])).lengths == [0, 1, 6, 2, 4, 2]
    dataset = part(ready(root, text_columns=["text", "other"]))
    assert dataset.lengths == [1, 2, 7, 3, 5, 3]
    loader = ready(root, text_columns=["text"], batch_size=2).val_dataloader()
    assert [batch[0] for batch in loader] == [
        ["it 's a film .", "a, b!"], ["unbelievably", "新しい 映画"], ["cat", ""],
    ]  # fmt: skip


@pytest.mark.parametrize("workers", [0, 2])
def test_a_split_is_read_for_evaluation(both, workers):
    data = EvaluationData(TextData(str(both), batch_size=4, num_workers=workers), "validation")
    data.prepare_data()
    data.setup()
    batches = list(data.val_dataloader())
    assert data.batch_size == 4
    found = {}
    for batch in batches:
        texts, labels = batch.batch
        for position, text, label in zip(batch.positions.tolist(), texts, labels, strict=True):
            found[position] = (text, int(label))
    assert found == {i: (text, i % 2) for i, text in enumerate(words(9, 90))}


def test_the_metric_is_described(both):
    assert (
        describe(part(ready(both, metric="f1", calibration_size=2), "calibration")).metric == "f1"
    )
