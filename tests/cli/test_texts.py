"""Texts from the command line: fine-tuned, distilled, recorded by two processes, judged, run."""

import json
from pathlib import Path

import pytest
import yaml
from datasets import Dataset

from lit_cascade import Record
from tests.cli.runs import done, together, within
from tests.texts import save_classifier, some_sentences

N = 48
CPU = ["--trainer.accelerator", "cpu"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with pairs of sentences as MRPC has them, and tiny models to begin with."""
    here = tmp_path_factory.mktemp("texts")
    texts, labels = some_sentences(N)
    rows = {"sentence1": texts, "sentence2": texts[::-1], "label": labels, "idx": list(range(N))}
    (here / "glue/mrpc").mkdir(parents=True)
    for split in ("train", "validation"):
        Dataset.from_dict(rows).to_parquet(here / f"glue/mrpc/{split}.parquet")
    for name, kind in (("base", "bert"), ("other", "roberta")):
        save_classifier(kind, here / name, texts, ("LABEL_0", "LABEL_1"))
    return here


def network(model, **settings):
    return {
        "class_path": "lit_cascade.models.TextClassifier",
        "init_args": {"model": model, **settings},
    }


def data(**settings):
    arguments = {"task": "mrpc", "source": "glue", "batch_size": 7, **settings}
    return {"class_path": "lit_cascade.data.GlueData", "init_args": arguments}


def write(place, name, content):
    (place / name).write_text(yaml.safe_dump(content, sort_keys=False))
    return name


NAMES = ["not_equivalent", "equivalent"]


def test_from_a_pretrained_model_to_a_cascade_that_runs(place):
    large = {"name": "large", "schedule": "linear", "network": network("other", classes=NAMES)}
    held = data(development_size=6, calibration_size=10)
    write(place, "large.yaml", {"model": large, "data": held, "trainer": {"max_epochs": 2}})
    run = done(within("fit", "--config", "large.yaml", "--patience", 1, "--out", ".", *CPU,
                           cwd=place))  # fmt: skip
    assert "F1" in run.stdout
    stages = {
        "small": {"network": network("base", classes=NAMES)},
        "large": {"network": network("other", pretrained=False), "checkpoint": "large.safetensors"},
    }
    write(place, "pair.yaml", {"model": {"stages": stages}, "data": held})
    record = ["record", "--config", "pair.yaml", "--dtype", "float32"]
    done(within(*record, "--only", "large", "--split", "train", "--out", "train", *CPU,
                     cwd=place))  # fmt: skip
    small = {
        "name": "small",
        "network": network("base", classes=NAMES),
        "teacher": {"record": "train/large.safetensors", "weight": 0.5},
        "gatekeeper": 0.5,
    }
    write(place, "small.yaml", {"model": small, "data": held, "trainer": {"max_epochs": 1}})
    done(within("fit", "--config", "small.yaml", "--out", ".", *CPU, cwd=place))
    stages["small"] = {
        "network": network("base", pretrained=False),
        "checkpoint": "small.safetensors",
    }
    write(place, "pair.yaml", {"model": {"stages": stages}, "data": held})

    done(within(*record, "--out", "one", *CPU, cwd=place))
    done(together(2, [*record, "--out", "two", *CPU], cwd=place))
    for name in stages:
        one, other = (place / folder / f"{name}.safetensors" for folder in ("one", "two"))
        assert one.read_bytes() == other.read_bytes()
        found = Record.load(one)
        assert found.data["metric"] == "f1"
        assert list(found.classes) == NAMES
        assert set(found.costs) == {"flops", "executed_flops"}
        assert bool((found.costs["executed_flops"] >= found.costs["flops"]).all())

    at = ["--policy.thresholds.small", 0.6]
    run = done(within("test", "--config", "pair.yaml", *at, "--out", "run", *CPU, cwd=place))
    assert "padding of batches" in run.stdout
    said = ["--records", "one/small.safetensors", "one/large.safetensors"]
    run = done(within("validate", *said, *at, "--out", "judged", cwd=place))
    assert "F1" in run.stdout
    live = json.loads((place / "run/test.json").read_text())
    replayed = json.loads((place / "judged/summary.json").read_text())["policy"]
    for key in ("accuracy", "f1", "deferral_rate", "flops"):
        assert live[key] == pytest.approx(replayed[key], rel=1e-9)
    assert sum(live["executed_flops"].values()) > live["flops"] * live["n"]


def test_hidden_labels_and_bare_classes_are_refused(place):
    texts, _ = some_sentences(N)
    hidden = {"sentence": texts, "label": [-1] * N, "idx": list(range(N))}
    (place / "glue/rte").mkdir(exist_ok=True)
    Dataset.from_dict({**hidden, "sentence1": texts, "sentence2": texts}).to_parquet(
        place / "glue/rte/validation.parquet"
    )
    stages = {name: {"network": network(name, classes=NAMES)} for name in ("base", "other")}
    write(place, "bare.yaml", {"model": {"stages": stages}, "data": data(task="rte")})
    refused = within("validate", "--config", "bare.yaml", *CPU, cwd=place)
    assert refused.returncode in {1, 2}
    assert "Traceback" not in refused.stderr
    assert "-1" in refused.stderr or "cannot be aligned" in refused.stderr
    assert not Path(place / "runs").exists()
