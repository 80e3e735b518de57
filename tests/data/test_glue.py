"""GLUE: what is published of its tasks, and whole sentences held back of SST-2."""

from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Value

from lit_cascade import UsageError
from lit_cascade.data import GlueData
from lit_cascade.data.glue import _TASKS, phrases_of, whole_sentences
from lit_cascade.data.splits import describe, shared_ids, split_loader

REAL = Path(__file__).parents[3] / "shared" / "data" / "glue"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the GLUE files are not there")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def write(root, task, names=True, **splits):
    """Files of a task as the hub has them, of so many rows or of some texts; the root again."""
    about = _TASKS[task]
    folder = root / (about.folder or task)
    folder.mkdir(parents=True, exist_ok=True)
    for split, given in splits.items():
        texts = [f"{split} {i}" for i in range(given)] if isinstance(given, int) else given
        n = len(texts)
        columns = dict.fromkeys(about.columns, texts)
        labels = {"label": [i % len(about.classes) for i in range(n)], "idx": list(range(n))}
        kind = ClassLabel(names=list(about.classes)) if names else Value("int64")
        rows = Dataset.from_dict(columns | labels).cast_column("label", kind)
        rows.to_parquet(str(folder / f"{split}.parquet"))
    return root


def ready(task, root, **options):
    data = GlueData(task, str(root), **options)
    data.prepare_data()
    data.setup()
    return data


def part(data, split="validation"):
    return split_loader(data, split).dataset


@pytest.mark.parametrize("task", list(_TASKS))
def test_every_task_is_read(tmp_path, task):
    about = _TASKS[task]
    published = about.validation[0]
    data = ready(task, write(tmp_path, task, **{"train": 8, published: 5, "test": 4}))
    assert data.name == f"glue/{task}"
    assert data.splits == ("train", "validation") + (("test",) if task == "mrpc" else ())
    info = describe(part(data))
    folder = "mnli" if task.startswith("mnli") else task
    assert (info.source, info.n) == (f"nyu-mll/glue/{folder}/{published}", 5)
    assert info.classes == about.classes
    assert info.metric == {"mrpc": "f1", "qqp": "f1", "cola": "matthews"}.get(task)
    assert not info.restricts
    first = part(data)[0].input
    assert isinstance(first, tuple) == (len(about.columns) == 2)
    assert describe(part(data, "train")).source == f"nyu-mll/glue/{folder}/train"


def test_the_two_validation_sets_of_mnli_stay_apart(tmp_path):
    write(tmp_path, "mnli", validation=5, validation_mismatched=7)
    matched, other = ready("mnli", tmp_path), ready("mnli_mismatched", tmp_path)
    assert (len(part(matched)), len(part(other))) == (5, 7)
    assert describe(part(matched)).source == "nyu-mll/glue/mnli/validation_matched"
    assert describe(part(other)).source == "nyu-mll/glue/mnli/validation_mismatched"


def test_a_sample_of_train_is_read_if_named_and_said(tmp_path):
    write(tmp_path, "qnli", names=False, train_subset=9)
    write(tmp_path, "qnli", validation=5)
    data = ready("qnli", tmp_path, calibration_size=2)
    assert data.splits == ("calibration", "validation")
    assert describe(part(data, "calibration")).source == "nyu-mll/glue/qnli/validation"
    data = ready("qnli", tmp_path, calibration_size=2, train_split="train_subset")
    assert data.splits == ("train", "calibration", "validation")
    for split, n in (("train", 7), ("calibration", 2)):
        info = describe(part(data, split))
        assert info.n == n
        assert info.source == "nyu-mll/glue/qnli/train_subset"
        assert info.findings == ("train_subset: 9 texts, not the official train set",)
        assert info.classes == ("entailment", "not_entailment")
    assert describe(part(data)).findings == ()
    with pytest.raises(
        UsageError, match=r"data.train_split: 'subset' is unknown; known are train_"
    ):
        ready("qnli", tmp_path, train_split="subset")


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("stsb", r"stsb is a regression, .* from 0 to 5, and .* needs classes; .* are sst2, mrpc,"),
        ("sst", r"data.task: 'sst' is unknown; known are sst2, .*Did you mean 'sst2'\?"),
        ("ax", r"data.task: 'ax' is unknown; known are sst2, mrpc, rte, cola, qnli, qqp, mnli,"),
    ],
)
def test_other_tasks_are_refused(task, says):
    with pytest.raises(UsageError, match=says):
        GlueData(task)


def test_files_that_are_missing_are_named(tmp_path):
    write(tmp_path, "rte", train=4)
    with pytest.raises(UsageError, match=r"data.config: folder in .*'cola' is unknown; .* are rte"):
        ready("cola", tmp_path)
    with pytest.raises(UsageError, match=r"table of rte: 'validation' is unknown; known are train"):
        ready("rte", tmp_path)


def test_of_the_hub_only_the_split_of_the_task_is_fetched(tmp_path, monkeypatch):
    asked = []

    def fetched(name, *, repo_type, allow_patterns):
        asked.append((name, repo_type, allow_patterns))
        return str(tmp_path)

    write(
        tmp_path, "mnli", **{
            "validation_matched-00000-of-00001": 5, "validation_mismatched-00000-of-00001": 7,
            "train-00000-of-00001": 9,
        },
    )  # fmt: skip
    write(tmp_path, "rte", **{"train-00000-of-00001": 3})
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    monkeypatch.setattr("datasets.get_dataset_split_names", None)
    data = ready("mnli", "nyu-mll/glue")
    assert data.splits == ("train", "validation")
    assert len(part(data)) == 5
    assert asked == [("nyu-mll/glue", "dataset", ["*mnli/*validation_matched*"])]
    assert len(part(data, "train")) == 9
    assert describe(part(data)).source == "nyu-mll/glue/mnli/validation_matched"


# sentences and their phrases


def runs(text):
    """All runs of words of a text, the slow way."""
    words = text.split()
    n = len(words)
    return {tuple(words[i:j]) for i in range(n) for j in range(i + 1, n + 1)}


def some_texts(seed, n=60):
    drawn = np.random.default_rng(seed)
    spaces = [" ", " ", " ", "  "]
    return [
        drawn.choice(spaces).join(drawn.choice(["a", "b", "ab", "c"], drawn.integers(1, 7)))
        + " " * drawn.integers(2)
        for _ in range(n)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_whole_sentences_are_a_part_of_no_other(seed):
    texts = some_texts(seed)
    distinct = {tuple(text.split()): i for i, text in reversed(list(enumerate(texts)))}
    expected = [
        i
        for words, i in distinct.items()
        if not any(words in runs(other) for other in texts if tuple(other.split()) != words)
    ]
    assert whole_sentences(texts) == sorted(expected)


@pytest.mark.parametrize("seed", range(20))
def test_phrases_are_runs_of_the_words_of_a_sentence(seed):
    texts = some_texts(seed)
    chosen = [texts[i] for i in np.random.default_rng(seed).choice(whole_sentences(texts), 3)]
    parts = set().union(*(runs(text) for text in chosen))
    assert phrases_of(chosen, texts) == [
        i for i, text in enumerate(texts) if tuple(text.split()) in parts
    ]


def treebank(n=30):
    """Sentences of distinct words, and all of their phrases of two words and more, mixed."""
    sentences = [" ".join(f"w{i}x{k}" for k in range(4 + i % 3)) + " " for i in range(n)]
    texts = [" ".join(run) + " " for text in sentences for run in runs(text) if len(run) > 1]
    texts.append(sentences[3])  # a sentence may be there twice
    return sentences, np.random.default_rng(0).permutation(texts).tolist()


def test_sst2_holds_whole_sentences_back_and_drops_their_phrases(tmp_path):
    sentences, texts = treebank()
    root = write(tmp_path, "sst2", train=texts, validation=5)
    data = ready("sst2", root, calibration_size=10, development_size=12)
    found = {
        split: [part(data, split)[i].input for i in range(len(part(data, split)))]
        for split in data.splits
    }
    held = found["calibration"] + found["development"]
    assert (len(found["calibration"]), len(found["development"])) == (10, 12)
    assert set(held) <= set(sentences)
    assert len(set(held)) == 22
    leaked = set().union(*(runs(text) for text in held))
    assert not any(tuple(text.split()) in leaked for text in found["train"])
    left = [text for text in texts if tuple(text.split()) not in leaked]
    assert found["train"] == left
    dropped = len(texts) - len(left) - 22
    said = (
        f"{dropped:,} of the {len(texts):,} texts are phrases of the 22 whole sentences held back, "
        "of 30, and are left out"
    )
    assert describe(part(data, "train")).findings == (said,)
    assert describe(part(data, "calibration")).findings == ()
    assert shared_ids(data, "train", "calibration") == []
    assert shared_ids(data, "development", "calibration") == []


def test_sst2_without_anything_held_back_is_whole(tmp_path):
    _, texts = treebank()
    data = ready("sst2", write(tmp_path, "sst2", train=texts, validation=5))
    assert len(part(data, "train")) == len(texts)
    assert describe(part(data, "train")).findings == ()


def test_sst2_held_back_from_validation_keeps_train(tmp_path):
    _, texts = treebank()
    data = ready(
        "sst2",
        write(tmp_path, "sst2", train=texts, validation=["a b", "a", "b"] * 3),
        calibration_size=4,
        held_back_from="validation",
    )
    sizes = {split: len(part(data, split)) for split in data.splits}
    assert sizes == {"train": len(texts), "calibration": 4, "validation": 5}


def test_sst2_must_leave_something_to_train_on(tmp_path):
    _, texts = treebank()
    root = write(tmp_path, "sst2", train=texts, validation=5)
    with pytest.raises(UsageError, match=r"less than the 30 whole sentences of train, got 30"):
        part(ready("sst2", root, calibration_size=30), "train")
    root = write(tmp_path / "two", "sst2", train=["a b", "b c", "b"], validation=5)
    assert len(part(ready("sst2", root, calibration_size=1), "train")) == 1


# the files themselves


@real
@pytest.mark.parametrize(
    ("task", "sizes"),
    [
        ("mrpc", {"train": 3668, "validation": 408, "test": 1725}),
        ("rte", {"train": 2490, "validation": 277}),
        ("cola", {"train": 8551, "validation": 1043}),
        ("qnli", {"validation": 5463}),
        ("mnli", {"validation": 9815}),
        ("mnli_mismatched", {"validation": 9832}),
    ],
)
def test_the_real_files_are_read(task, sizes):
    data = ready(task, REAL)
    assert {split: len(part(data, split)) for split in data.splits} == sizes
    rows = datasets.load_dataset(
        "parquet", data_files=str(REAL / data._config / f"{data._published['validation']}.parquet")
    )["train"]
    assert tuple(rows.features["label"].names) == _TASKS[task].classes
    assert part(data).labels.tolist() == list(rows["label"])
    assert describe(part(data)).ids.tolist() == list(rows["idx"])


@real
def test_the_real_sentences_of_sst2_are_held_back():
    data = ready("sst2", REAL, calibration_size=500, development_size=300)
    train, held = part(data, "train"), part(data, "calibration")
    assert (len(held), len(part(data, "development")), len(part(data))) == (500, 300, 872)
    validation = part(data)
    mean = sum(held.lengths) / len(held)
    assert abs(mean / (sum(validation.lengths) / len(validation)) - 1) < 0.1  # whole sentences
    assert mean > 1.8 * sum(train.lengths) / len(train)
    assert "of 6,885" in train.findings[0]
