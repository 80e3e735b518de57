"""The command as a user runs it, its files checked against the records in plain loops."""

import csv
import dataclasses
import importlib
import itertools
import json
import math
import pickle
import re
import shlex
import struct
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from lit_cascade import Record
from lit_cascade.cli import main
from lit_cascade.core.contract import replay
from lit_cascade.core.policy import Policy
from lit_cascade.core.scores import score_and_answer
from lit_cascade.core.search.front import Band
from lit_cascade.core.search.search import search_zoo
from lit_cascade.core.search.zoo import Zoo
from tests.core.search.test_heldout import plain_held_out, plain_reduction
from tests.search_oracles import Plain, agreeing_zoo, undominated

searching = importlib.import_module("lit_cascade.analysis.search")

N = 48
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder, and few resamples."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lit-cascade"])
    monkeypatch.setattr(searching, "_RESAMPLES", 3)
    monkeypatch.setattr(searching, "_RESAMPLES_ALONE", 3)
    return tmp_path


def write(folder="zoo", split="test", *, n=N, models=4, first=0, seed=0, **changes):
    """Records of models that find the same samples hard; each is paid for in two units."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=generator)
    easy = 0.3 + 3 * torch.rand(n, 1, generator=generator)
    Path(folder).mkdir(exist_ok=True, parents=True)
    for k in range(models):
        noise = torch.randn(n, 3, generator=generator)
        skill = (0.5, 0.0, 1.0, 1.6)[k]
        seconds = (0.2, 0.1, 0.4, 0.8)[k] + 0.1 * torch.rand(n, generator=generator)
        parts = {
            "flops": 5.0**k,
            "costs": {"latency_s": seconds},
            "ids": list(range(first, first + n)),
            "data": {"name": "toy", "split": split, "source": "here"},
        }
        logits = skill * easy * torch.eye(3)[labels] + 0.8 * noise
        Record.from_arrays(f"m{k}", logits, labels, **(parts | changes)).save(
            f"{folder}/m{k}-{split}.safetensors"
        )
    return folder


def run(*words, out="o", records="zoo"):
    given = ["search", "--records", records, "--out", out, *words]
    assert main([str(word) for word in given]) == 0
    return json.loads(Path(out, "summary.json").read_text())


def rows_of(out="o"):
    with Path(out, "frontier.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def numbers(text):
    return tuple(float(part) for part in text.split(";") if part)


def records_of(summary, split="test"):
    return {
        model["name"]: Record.load(f"zoo/{model['name']}-{split}.safetensors")
        for model in summary["models"]
    }


def replayed(records, names, thresholds, floors, summary):
    """(cost, accuracy) of a cascade, sample by sample."""
    temperatures = {model["name"]: model["temperature"] for model in summary["models"]}
    costs = [records[name].cost(summary["unit"]).tolist() for name in names]
    labels = records[names[0]].labels.tolist()
    if len(names) == 1:
        stage = [0] * len(labels)
        answers = records[names[0]].logits.argmax(dim=1).tolist()
    else:
        policy = Policy(
            thresholds,
            summary["rule"]["score"],
            tuple(temperatures[name] for name in names),
            summary["rule"]["combine"],
            floors,
        )
        done = replay([records[name].logits for name in names], policy)
        stage, answers = done.stage.tolist(), done.prediction.tolist()
    spent = sum(costs[k][i] for i, last in enumerate(stage) for k in range(last + 1))
    right = sum(a == b for a, b in zip(answers, labels, strict=True))
    return spent / len(labels), right / len(labels)


def close(pair):
    return pytest.approx(pair, rel=1e-9)


def check_csv(summary, split, chosen=None):
    """Every row does what it says; returns the points on the samples of the choice."""
    unit, rows = summary["unit"], rows_of()
    columns = [unit, "accuracy", "stages", "thresholds"]
    columns += ["floors"] if summary["settings"]["window"] else []
    columns += [f"chosen_{unit}", "chosen_accuracy"] if chosen else []
    assert list(rows[0]) == columns
    assert len(rows) == summary["points"]
    points = []
    for row in rows:
        names = row["stages"].split(";")
        assert len(names) <= summary["settings"]["stages"]
        rule = names, numbers(row["thresholds"]), numbers(row.get("floors", ""))
        assert (float(row[unit]), float(row["accuracy"])) == close(
            replayed(records_of(summary, split), *rule, summary)
        )
        if chosen:
            points.append((float(row[f"chosen_{unit}"]), float(row["chosen_accuracy"])))
            assert points[-1] == close(replayed(records_of(summary, chosen), *rule, summary))
        else:
            points.append((float(row[unit]), float(row["accuracy"])))
    for (cost, accuracy), (dearer, better) in itertools.pairwise(points):
        assert cost < dearer
        assert accuracy < better
    return points


def check_bands(summary, points, split):
    """Average compute reductions, from the records."""
    records = records_of(summary, split)
    alone = [replayed(records, [name], (), (), summary) for name in records]
    singles = undominated(alone)
    low, high = singles[0][1], singles[-1][1]
    for band, share in zip(summary["bands"], (1 / 2, 1 / 4), strict=True):
        assert (band["low"], band["high"]) == pytest.approx((high - share * (high - low), high))
        of = Band(band["low"], band["high"])
        for key, interpolated in (("", False), ("_interpolated", True)):
            expected, _ = plain_reduction(singles, points, points, of, interpolated=interpolated)
            assert band[f"average_compute_reduction{key}"] == pytest.approx(expected, rel=1e-9)
    assert [band["name"] for band in summary["bands"]] == ["top half", "top quarter"]


def check_cascades(summary, split, capsys, *, apart):
    """The configs give with `validate` exactly what the summary states."""
    records, configs = records_of(summary, split), []
    temperatures = {model["name"]: model["temperature"] for model in summary["models"]}
    for found in summary["cascades"]:
        assert (found["config"] is None) == (len(found["stages"]) == 1)
        stated = found[summary["unit"]], found["accuracy"]
        rule = (
            found["stages"],
            tuple(map(float, found["thresholds"].values())),
            tuple(map(float, found["floors"].values())),
        )
        assert stated == close(replayed(records, *rule, summary))
        single = replayed(records, [found["single"]], (), (), summary)
        assert found["saving"] == pytest.approx(single[0] / stated[0])
        assert found["accuracy_difference"] == pytest.approx(stated[1] - single[1], abs=1e-12)
        if found["config"] is None:
            continue
        configs.append(found["config"])
        text = Path("o", found["config"]).read_text()
        config = yaml.safe_load(text)
        assert config["records"] == [f"zoo/{name}-{split}.safetensors" for name in found["stages"]]
        policy = config["policy"]
        if summary["rule"]["calibrate"]:
            assert policy["temperatures"] == {name: temperatures[name] for name in found["stages"]}
        command = [line[4:] for line in text.splitlines() if "lit-cascade validate" in line]
        words = shlex.split(command[0].replace("cascade-", "o/cascade-"))
        if not apart:
            refused = [word for word in words if word != "--allow_overlap"]
            assert main([*refused[1:], "--out", "no"]) == 1
            assert "samples are among those that the thresholds" in capsys.readouterr().err
        assert main([*words[1:], "--out", f"v-{found['config']}"]) == 0
        judged = json.loads(Path(f"v-{found['config']}", "summary.json").read_text())
        assert judged["unit"] == summary["unit"]
        assert judged["policy"]["accuracy"] == found["accuracy"]
        assert judged["policy"][summary["unit"]] == pytest.approx(stated[0], rel=1e-12)
        assert judged["policy"]["thresholds"] == found["thresholds"]
        assert judged["combine"] == summary["rule"]["combine"]
        assert judged["score"] == summary["rule"]["score"]
    assert configs == [f"cascade-{number}.yaml" for number in range(1, len(configs) + 1)]
    assert {path.name for path in Path("o").iterdir()} == {
        "frontier.csv", "frontier.png", "summary.json", *configs,
    }  # fmt: skip
    assert Path("o/frontier.png").read_bytes().startswith(PNG)
    return configs


def zoo_of(summary, split="test"):
    """What the search sees, from the records."""
    records = list(records_of(summary, split).values())
    judged = [score_and_answer(record.logits) for record in records]
    return Zoo(
        tuple(record.name for record in records),
        torch.stack([scores for scores, _ in judged]),
        torch.stack(
            [answer == record.labels for (_, answer), record in zip(judged, records, strict=True)]
        ),
        torch.stack([record.cost()[:1] for record in records]),
    )


def test_one_split(capsys):
    write()
    summary = run("--repeats", 2, "--seed", 3)
    out = capsys.readouterr().out
    points = check_csv(summary, "test")
    zoo = zoo_of(summary)
    plain = Plain(zoo)
    assert points == [close(point) for point in plain.front(2)]
    check_bands(summary, points, "test")
    assert check_cascades(summary, "test", capsys, apart=False)
    assert summary["same_samples"] is True
    assert (summary["n"], summary["holdout"], summary["unit"]) == (N, 0.5, "flops")
    assert [model["name"] for model in summary["models"]] == ["m0", "m1", "m2", "m3"]
    assert [model["flops"] for model in summary["models"]] == [1, 5, 25, 125]
    assert [model["accuracy"] for model in summary["models"]] == zoo.accuracy.tolist()
    for where in ("chosen_on", "reported_on"):
        data = {"name": "toy", "split": "test", "source": "here"}
        assert summary[where] == {"n": N, "data": data}
    # held out, from the same draws
    trials = []
    generator = torch.Generator().manual_seed(3)
    for _ in range(2):
        order = torch.randperm(N, generator=generator)
        rows, others = order[N // 2 :].sort().values, order[: N // 2].sort().values
        trials.append((zoo.rows(rows), zoo.rows(others), search_zoo(zoo.rows(rows))))

    def bands(singles):
        low, high = float(singles.accuracy[0]), float(singles.accuracy[-1])
        return [Band((low + high) / 2, high), Band(high - (high - low) / 4, high)]

    expected = plain_held_out(trials, bands)
    for number, band in enumerate(summary["bands"]):
        mine = [row[1:] for row in expected if row[0] == number]
        found = band["held_out"]
        assert found["repeats"] == 2
        for key, column in zip(
            ("chosen", "reported", "reported_interpolated", "accuracy_shortfall"),
            zip(*mine, strict=True),
            strict=True,
        ):
            assert found[key] == pytest.approx(sum(column) / 2, rel=1e-9, abs=1e-12)
        assert found["optimism"] == found["chosen"] - found["reported"]
        assert len(found["interval_95"]) == 2
    assert "held out" in out
    assert f"{summary['bands'][0]['held_out']['reported']:.2f}x fewer FLOPs" in out


def test_the_baselines_of_the_summary(capsys):
    write()
    summary = run("--holdout", 0)
    plain = Plain(zoo_of(summary))
    singles = [plain.means(plain.point((m,), ())) for m in range(4)]
    front = undominated(singles)
    models = [singles.index(point) for point in front]
    pairs = list(itertools.combinations(range(4), 2))
    neighbours = [
        plain.means(plain.point(pair, (t,)))
        for pair in itertools.pairwise(models)
        for t in plain.thresholds((), pair[0])
    ]
    shared = [plain.means(plain.point(pair, (summary["shared_threshold"],))) for pair in pairs]
    chance, bound = [], []
    for one, two in pairs:
        (c, a), (d, b) = singles[one], singles[two]
        chance += [(c + k / 100 * d, a + k / 100 * (b - a)) for k in range(1, 101)]
        gains = sum(plain.correct[two][i] > plain.correct[one][i] for i in range(N))
        bound += [(c + k * d / N, a + k / N) for k in range(gains + 1)]
    expected = {
        "neighbouring pairs only": neighbours,
        "one threshold for all pairs": shared,
        "random deferral": chance,
        "oracle deferral (bound)": bound,
    }
    assert list(summary["baselines"]) == list(expected)
    for name, points in expected.items():
        way = undominated(points + singles)
        for band in summary["baselines"][name]:
            of = Band(band["low"], band["high"])
            assert band["average_compute_reduction"] == pytest.approx(
                plain_reduction(front, way, way, of)[0], rel=1e-6
            )
    assert summary["holdout"] == 0
    for band in summary["bands"]:  # chosen on the very samples: no optimism to be seen
        assert band["held_out"]["optimism"] == pytest.approx(0, abs=1e-9)
    assert "of the samples that models and thresholds were chosen on" in capsys.readouterr().out


def two_splits():
    write(split="calibration", seed=1)
    write(split="test", seed=2, first=1000)


@pytest.mark.parametrize(
    ("words", "n"),
    [
        (("--calibrate", "--combine", "average"), N),
        (("--window", "--score", "margin"), N),
        (("--stages", 3, "--combine", "most_confident", "--calibrate"), 24),
        (("--cost", "latency_s", "--score", "negative_entropy"), N),
    ],
)
def test_two_splits(capsys, words, n):
    write(split="calibration", seed=1, n=n)
    write(split="test", seed=2, first=1000, n=n)
    summary = run(*words)
    points = check_csv(summary, "test", "calibration")
    check_bands(summary, points, "calibration")
    check_cascades(summary, "test", capsys, apart=True)
    assert summary["same_samples"] is False
    assert summary["holdout"] is None
    for band in summary["bands"]:
        assert band["held_out"]["repeats"] == 1
        assert band["held_out"]["chosen"] == pytest.approx(band["average_compute_reduction"])
    if "--calibrate" in words:
        assert all(model["temperature"] != 1 for model in summary["models"])
    if "--window" in words:
        assert any(floor > -math.inf for row in rows_of() for floor in numbers(row["floors"]))
    if 3 in words:
        assert any(row["stages"].count(";") == 2 for row in rows_of())
    if "latency_s" in words:
        assert [model["name"] for model in summary["models"]] == ["m1", "m0", "m2", "m3"]


def test_bands_and_tables_of_published_models(capsys):
    write()
    Path("own.csv").write_text("model,top1,flops\nx,50,1\ny,90,300\n")
    words = ("--holdout", 0, "--bands", "0.6:0.7", "0.65:0.75")
    plain = run(*words)
    picture = Path("o/frontier.png").read_bytes()
    summary = run(*words, "--overwrite", "--baseline", "own.csv")
    assert Path("o/frontier.png").read_bytes() != picture
    assert [(band["low"], band["high"]) for band in summary["bands"]] == [(0.6, 0.7), (0.65, 0.75)]
    assert [band["name"] for band in summary["bands"]] == ["0.6:0.7", "0.65:0.75"]
    assert summary["cascades"] == plain["cascades"]
    points = [(float(row["flops"]), float(row["accuracy"])) for row in rows_of()]
    singles = undominated([(model["flops"], model["accuracy"]) for model in plain["models"]])
    for band in summary["bands"]:
        of = Band(band["low"], band["high"])
        expected = plain_reduction(singles, points, points, of)[0]
        assert band["average_compute_reduction"] == pytest.approx(expected)
    assert "60.0 % to 70.0 %" in capsys.readouterr().out


def test_ways_to_decide_are_compared(capsys):
    write(n=24, models=3)
    summary = run("--compare", "--repeats", 1)
    assert len(summary["comparison"]) == 13
    default = summary["comparison"]["max softmax, later answer (default)"]
    assert default == summary["bands"]
    for name, words in (
        ("score: margin", ("--score", "margin")),
        ("combine: average, calibrated", ("--combine", "average", "--calibrate")),
    ):
        assert summary["comparison"][name] != default
        alone = run("--repeats", 1, *words, out=f"only {name}")
        assert summary["comparison"][name] == alone["bands"]
    out = capsys.readouterr().out
    assert all(name in out for name in summary["comparison"])


def test_the_splits_may_be_named(capsys):
    two_splits()
    write(split="third", seed=3, first=2000)
    summary = run("--split", "third", "--choose_on", "test")
    assert summary["chosen_on"]["data"]["split"] == "test"
    assert summary["reported_on"]["data"]["split"] == "third"
    check_csv(summary, "third", "test")
    assert "chosen on the split 'test' (48 samples)" in " ".join(capsys.readouterr().out.split())


def test_the_same_search_gives_the_same_bytes(capsys):
    write()
    run("--repeats", 2)
    run("--repeats", 2, out="again")
    files = {path.name: path.read_bytes() for path in Path("o").iterdir()}
    assert len(files) > 3
    assert {path.name: path.read_bytes() for path in Path("again").iterdir()} == files
    out = capsys.readouterr().out.replace("again/", "o/")
    first, second = out[: len(out) // 2], out[len(out) // 2 :]
    assert first == second
    other = run("--repeats", 2, "--seed", 1, out="other")
    assert other["bands"] != json.loads(files["summary.json"])["bands"]
    assert Path("other/frontier.csv").read_bytes() == files["frontier.csv"]


@pytest.mark.parametrize("name", ["frontier.csv", "summary.json", "frontier.png", "cascade-9.yaml"])
def test_results_are_not_overwritten_unless_asked(capsys, name):
    write(models=3)
    Path("o").mkdir()
    Path("o", name).write_text("mine")
    Path("o/notes.txt").write_text("mine")
    words = ["search", "--records", "zoo", "--out", "o", "--holdout", "0"]
    assert main(words) == 2
    assert f"--out: 'o' already holds {name}" in capsys.readouterr().err
    assert {path.name for path in Path("o").iterdir()} == {name, "notes.txt"}
    assert Path("o", name).read_text() == "mine"
    if name in {"frontier.csv", "cascade-9.yaml"}:
        assert main([*words, "--overwrite"]) == 0
        summary = json.loads(Path("o/summary.json").read_text())
        configs = {found["config"] for found in summary["cascades"]} - {None}
        assert {path.name for path in Path("o").iterdir()} == configs | {
            "frontier.csv", "frontier.png", "summary.json", "notes.txt",
        }  # fmt: skip
        assert Path("o/notes.txt").read_text() == "mine"


def test_models_behind_an_api(capsys):
    """Scores and right or wrong, and what each call costs; the config names the records."""
    generator = torch.Generator().manual_seed(0)
    Path("zoo").mkdir()
    for k in range(3):
        sure = torch.rand(40, generator=generator)
        right = torch.rand(40, generator=generator) < 0.3 + 0.2 * k + 0.3 * sure
        Record.from_arrays(
            f"m{k}", score=sure, correct=right, costs={"usd": 0.0 if k == 0 else 10.0**k}
        ).save(f"zoo/m{k}.safetensors")
    summary = run("--cost", "usd", "--repeats", 1)
    assert summary["unit"] == "usd"
    assert summary["models"][0]["usd"] == 0
    assert summary["cascades"][0]["saving"] == "inf"
    (first, *_) = (found for found in summary["cascades"] if found["config"])
    records = [Record.load(f"zoo/{name}.safetensors") for name in first["stages"]]
    (threshold,) = first["thresholds"].values()
    spent = right = 0
    for i in range(40):
        last = 0 if records[0].score[i] >= threshold else 1
        spent += sum(float(record.cost("usd")[i]) for record in records[: last + 1])
        right += bool(records[last].correct[i])
    assert (first["usd"], first["accuracy"]) == close((spent / 40, right / 40))
    words = ["validate", "--config", f"o/{first['config']}", "--allow_overlap", "--out", "v"]
    assert main(words) == 0
    judged = json.loads(Path("v/summary.json").read_text())["policy"]
    assert (judged["usd"], judged["accuracy"]) == close((first["usd"], first["accuracy"]))


def test_notes_say_what_the_reader_must_know(capsys):
    write(data={"name": "toy", "split": "test", "limited_to": "48 of 100 samples"})
    summary = run("--holdout", 0)
    limited, alone = summary["notes"]
    assert limited == "Note: only 48 of 100 samples of a split were recorded."
    assert alone.startswith("1 of the 4 models is no use alone: another is cheaper and at least")
    out = capsys.readouterr().out
    assert all(note in out for note in summary["notes"])


def test_no_cascade_may_be_worth_it(capsys):
    labels = torch.arange(12) % 2
    wrong = torch.eye(2)[labels]
    wrong[:4] = wrong[:4].flip(1)  # as sure where it is wrong
    Path("zoo").mkdir()
    for name, logits, flops in (("m0", wrong, 1.0), ("m1", torch.eye(2)[labels], 1.1)):
        Record.from_arrays(name, logits, labels, flops=flops).save(f"zoo/{name}.safetensors")
    summary = run("--holdout", 0)
    assert summary["notes"] == ["No cascade beats the single models on these samples."]
    assert [found["config"] for found in summary["cascades"]] == [None, None]
    assert all(band["average_compute_reduction"] == 1 for band in summary["bands"])


# for real


CONFIG = Path(__file__).parents[2] / "configs/digits_pair.yaml"


@pytest.fixture
def digits(records):
    """Records of the bundled pair that know how their models and data are made."""
    whole = yaml.safe_load(CONFIG.read_text())
    Path("zoo").mkdir()
    for path in records:
        record = Record.load(path)
        name = record.name
        config = record.model.get("config") or whole["model"]["stages"][name]
        record = dataclasses.replace(
            record,
            model={**record.model, "config": config},
            data={**record.data, "config": record.data.get("config") or whole["data"]},
            costs={**record.costs, "latency_s": record.cost() * 1e-9},
        )
        record.save(f"zoo/{name}.safetensors")


def test_a_config_runs_for_real(digits, capsys):
    summary = run("--holdout", 0)
    (found, *_) = (one for one in summary["cascades"] if one["config"])
    text = Path("o", found["config"]).read_text()
    config = yaml.safe_load(text)
    assert set(config) == {"model", "data", "policy"}
    assert list(config["model"]["stages"]) == found["stages"] == ["small", "large"]
    commands = re.findall(r"^#   lit-cascade (.*)$", text, flags=re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["validate", "test"]
    assert all(
        command.endswith(f"{found['config']} --split validation --allow_overlap")
        for command in commands
    )
    words = shlex.split(commands[1].replace("cascade-", "o/cascade-"))
    assert main([*words, "--out", "t", "--trainer.accelerator", "cpu"]) == 0
    tested = json.loads(Path("t/test.json").read_text())
    assert tested["accuracy"] == found["accuracy"]
    assert tested["flops"] == pytest.approx(found["flops"], rel=1e-12)
    assert tested["thresholds"] == found["thresholds"]
    assert main([*words[:-1], "--out", "no", "--trainer.accelerator", "cpu"]) == 1
    assert "were fitted on" in capsys.readouterr().err
    assert not Path("no").exists()


def test_what_runs_live_knows_no_other_cost_so_the_config_names_records(digits, capsys):
    summary = run("--holdout", 0, "--cost", "latency_s")
    (found, *_) = (one for one in summary["cascades"] if one["config"])
    text = Path("o", found["config"]).read_text()
    config = yaml.safe_load(text)
    assert set(config) == {"records", "cost", "policy"}
    assert "lit-cascade test" not in text
    words = ["validate", "--config", f"o/{found['config']}", "--allow_overlap", "--out", "v"]
    assert main(words) == 0
    judged = json.loads(Path("v/summary.json").read_text())["policy"]
    assert judged["latency_s"] == pytest.approx(found["latency_s"])


@pytest.mark.parametrize("missing", ["model", "data"])
def test_a_config_names_records_unless_all_of_them_remember(digits, missing):
    for name in ["small"] if missing == "model" else ["small", "large"]:
        one = Record.load(f"zoo/{name}.safetensors")
        part = getattr(one, missing)
        kept = {key: value for key, value in part.items() if key != "config"}
        dataclasses.replace(one, **{missing: kept}).save(f"zoo/{name}.safetensors")
    summary = run("--holdout", 0)
    (found, *_) = (one for one in summary["cascades"] if one["config"])
    assert set(yaml.safe_load(Path("o", found["config"]).read_text())) == {"records", "policy"}


# agreement


def write_answers(*, surely, split="test", seed=0, n=60):
    """Records of predictions of five models, the dearer the oftener right; surely: and scores."""
    torch.manual_seed(seed)
    zoo = agreeing_zoo(n, confidences="no ties" if surely else "unknown")
    labels = zoo.answers[zoo.correct.int().argmax(dim=0), torch.arange(n)].long()
    Path("zoo").mkdir(exist_ok=True)
    for k, name in enumerate(zoo.names):
        Record.from_arrays(
            name,
            prediction=zoo.answers[k].long(),
            labels=labels,
            score=zoo.scores[k] if surely else None,
            classes="abcd",
            costs={"usd": float(zoo.costs[k, 0])},
            ids=[f"{split}-{i}" for i in range(n)],
            data={"name": "toy", "split": split, "source": "here"},
        ).save(f"zoo/{name}-{split}.safetensors")


@pytest.mark.parametrize("surely", [False, True])
@pytest.mark.parametrize("stages", [3, 4])
def test_cascades_of_agreement_do_what_the_search_says(stages, surely, capsys):
    write_answers(surely=surely)
    words = ["--score", "agreement", "--stages", stages, "--cost", "usd", "--repeats", 2]
    summary = run(*words)
    out = capsys.readouterr().out
    assert "plus 1 where an earlier stage agrees" in out
    first = summary["bands"][0], *(one[0] for one in summary["baselines"].values())
    assert len(first) == stages + 3
    found = [one for one in summary["cascades"] if one["config"]]
    assert found
    for one in found:
        config = yaml.safe_load(Path("o", one["config"]).read_text())
        assert config["policy"]["score"] == "agreement"
        assert list(config["policy"]["thresholds"]) == one["stages"][:-1]
        given = ["--config", f"o/{one['config']}", "--allow_overlap", "--overwrite"]
        assert main(["validate", *given, "--out", "v"]) == 0
        judged = json.loads(Path("v/summary.json").read_text())["policy"]
        assert judged["accuracy"] == one["accuracy"]
        assert judged["usd"] == pytest.approx(one["usd"], rel=1e-12)
    voters = [one for one in found if "inf" in one["thresholds"].values()]
    assert ("votes" in out) == bool(voters)
    assert voters or surely


def test_agreement_chosen_on_one_split_and_reported_on_another():
    write_answers(surely=True, split="calibration")
    write_answers(surely=True, split="test", seed=1)
    summary = run("--score", "agreement", "--stages", 3, "--cost", "usd", "--split", "test")
    (one, *_) = (one for one in summary["cascades"] if len(one["stages"]) == 3)
    main(["validate", "--config", f"o/{one['config']}", "--out", "v"])
    judged = json.loads(Path("v/summary.json").read_text())["policy"]
    assert judged["accuracy"] == one["accuracy"]
    assert judged["usd"] == pytest.approx(one["usd"], rel=1e-12)


def test_predictions_alone_ask_for_agreement(capsys):
    write_answers(surely=False)
    run("--cost", "usd", "--holdout", 0)
    assert "--score agreement --stages 3" in capsys.readouterr().out.replace("\n", " ")


# what a user may get wrong


def fails(capsys, *words, code, records=("zoo",)):
    """One message, nothing written."""
    capsys.readouterr()
    before = sorted(Path().rglob("*"))
    given = ["--records", *records] if records else []
    assert main(["search", *map(str, given), "--out", "o", *map(str, words)]) == code
    captured = capsys.readouterr()
    message = [line for line in captured.err.splitlines() if ": error: " in line]
    assert len(message) == 1
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert sorted(Path().rglob("*")) == before
    return message[0]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--stages", 5), 2, "stages: expected 2, 3 or 4, got 5"),
        (("--stages", 1), 2, "stages: expected 2, 3 or 4, got 1"),
        (("--score", "agreement"), 2, "stages: the first stage has none to agree.*3 or 4, got 2"),
        (
            ("--score", "agreement", "--stages", 3, "--combine", "average"),
            2,
            "combine: a search of agreement.*expected later, got average",
        ),
        (
            ("--score", "agreement", "--stages", 3, "--window"),
            2,
            "window: floors are not searched for with agreement",
        ),
        (("--stages", "two"), 2, "stages.*two"),
        (("--stages", 3, "--window"), 2, "window: floors are searched for with 2 stages only"),
        (("--levels", 0), 2, "levels: expected at least 1 threshold per stage, got 0"),
        (("--candidates", 2), 2, "candidates: a triple needs at least 3, got 2"),
        (("--holdout", 1), 2, "--holdout: 1 is not a share"),
        (("--holdout", "100%"), 2, "--holdout: expected a share from 0 to below 1, got 1.0"),
        (("--holdout", -0.1), 2, "--holdout: expected a share.*got '-0.1'"),
        (("--holdout", ".nan"), 2, "--holdout: expected a share.*got '.nan'"),
        (("--repeats", 0), 2, "--repeats: expected at least 1, got 0"),
        (("--seed", 2**63), 2, "--seed: expected a number from 0 to below 2.63"),
        (("--seed", -1), 2, "--seed: expected a number from 0"),
        (("--bands", "0.8-0.9"), 2, "--bands: expected two accuracies with a colon between"),
        (
            ("--bands", "a:b"),
            2,
            "--bands: expected a share from 0 to 1, such as 0.05 or 5%, got 'a'",
        ),
        (("--bands", "0.9:0.8"), 2, "bands: expected two accuracies with 0 <= low < high <= 1"),
        (("--bands", "80:86"), 2, "--bands: 80 is not a share: for 80 percent write 0.8 or 80%"),
        (("--bands", "0.5:0.999"), 2, "bands: 0.5 to 0.999 reaches above the most accurate of the"),
        (("--bands", "0.999:"), 2, "bands: 0.999 to 1 reaches above the most accurate of the"),
        (("--bands",), 2, "--bands: expected one or more values"),
        (("--score", "softmax"), 2, "max_softmax.*margin.*negative_entropy.*softmax"),
        (("--combine", "mean"), 2, "later.*average.*most_confident.*mean"),
        (
            ("--cost", "usd"),
            1,
            r"no cost 'usd'; it has flops, latency_s. \('zoo/m0.*usd=FILE.csv\)",
        ),
        (("--split", "tset"), 2, "--split: 'tset' is unknown; known are test. Did you mean 'test'"),
        (("--choose_on", "cal"), 2, "--choose_on: 'cal' is unknown; known are test"),
        (("--baseline", "no.csv"), 2, "--baseline: there is no file 'no.csv'"),
        (("--records", "nowhere"), 2, "--records: there is no file or folder 'nowhere'"),
        (("--foo", 1), 2, "--foo: there is no such option"),
        (("--out", "zoo/m0-test.safetensors"), 2, "--out: 'zoo/m0-test.safetensors' is a file"),
    ],
)
def test_a_mistake_is_one_clear_message(capsys, words, code, says):
    write()
    message = fails(capsys, *words, code=code)
    assert re.search(says, message), message


def test_records_are_needed(capsys):
    assert "expected --records FILE ...; for example" in fails(capsys, code=2, records=None)
    Path("empty").mkdir()
    message = fails(capsys, code=2, records=["empty"])
    assert "--records: there are no records in 'empty'; `lit-cascade record`" in message
    write(models=1)
    message = fails(capsys, code=2)
    assert "at least 2 models, got only 'zoo/m0-test.safetensors'" in message


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


def cut(content):
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda _: b"", "cannot be read as a record"),
        (cut, "cannot be read as a record"),
        (lambda _: pickle.dumps(Bomb()), "cannot be read as a record"),
        (lambda _: struct.pack("<Q", 10**15) + b"{}", "cannot be read as a record"),
    ],
)
def test_a_damaged_record_is_named(capsys, spoil, says):
    path = Path(write(), "m2-test.safetensors")
    path.write_bytes(spoil(path.read_bytes()))
    message = fails(capsys, code=1)
    assert "'zoo/m2-test.safetensors'" in message
    assert says in message


def test_a_foreign_file_is_named(capsys):
    save_file({"weight": torch.ones(2)}, Path(write(), "model.safetensors"))
    message = fails(capsys, code=1)
    assert "'zoo/model.safetensors' is not a record: its header says format None" in message
    assert "Give the folder that holds the records alone" in message


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ids": [*range(N - 1), 99]}, "differ in ids, first at position 47: 47 against 99"),
        ({"classes": ["0", "2", "1"]}, "differ in class order, first at position 1: '1' against"),
    ],
)
def test_records_that_do_not_fit_are_both_named(capsys, changes, says):
    write("zoo/rest")
    write("zoo/one", models=1, **changes)
    Path("zoo/rest/m0-test.safetensors").unlink()
    message = fails(capsys, code=1)
    assert "'zoo/one/m0-test.safetensors' and 'zoo/rest/m1-test.safetensors' differ in" in message
    assert re.search(r"differ in (ids|class order), first at position (47|1):", message)
    assert says.split(":")[0] in message


def test_other_labels_are_named(capsys):
    write()
    record = Record.load("zoo/m1-test.safetensors")
    labels = record.labels.clone()
    labels[5] = (labels[5] + 1) % 3
    dataclasses.replace(record, labels=labels).save("zoo/m1-test.safetensors")
    message = fails(capsys, code=1)
    assert "'zoo/m0-test.safetensors' and 'zoo/m1-test.safetensors' differ in labels" in message
    assert f"first at position 5: {int(record.labels[5])} against {int(labels[5])}" in message


def test_a_model_twice_is_named(capsys):
    write("zoo/one")
    write("zoo/two", models=1)
    message = fails(capsys, code=2)
    assert (
        "'m0' is there twice, as 'zoo/one/m0-test.safetensors' and 'zoo/two/m0-test.sa" in message
    )


def test_splits_that_do_not_fit(capsys):
    write(split="calibration")
    write(split="test", first=N - 3)
    message = fails(capsys, code=1)
    assert "3 samples are in both splits, 'calibration' and 'test' (first id 45)" in message
    assert "--allow_overlap" in message
    run("--allow_overlap")
    write(split="test", first=1000, models=3)
    Path("zoo/m3-test.safetensors").unlink()
    message = fails(capsys, "--overwrite", code=1)
    assert "m3 was not recorded on both splits" in message


def test_which_split_must_be_said(capsys):
    for number, split in enumerate(("calibration", "test", "validation")):
        write(split=split, first=100 * number, models=2)
    message = fails(capsys, code=2)
    assert "--split: the records are of the splits calibration, test, validation" in message


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--calibrate",), "record 'm0' holds scores and no logits, which a temperature needs"),
        (("--combine", "average"), "holds scores and no logits, which an average of answers needs"),
        (
            ("--score", "agreement", "--stages", 3),
            "record 'm0' holds which answers are right and not the answers, which agreement needs",
        ),
    ],
)
def test_what_scores_do_not_allow(capsys, words, says):
    Path("zoo").mkdir()
    labels = [0, 1] * 6
    for k in range(2):
        right = [i >= 6 - 4 * k for i in range(12)]
        Record.from_arrays(
            f"m{k}", score=torch.rand(12), correct=right, labels=labels, flops=1.0 + k
        ).save(f"zoo/m{k}.safetensors")
    assert says in fails(capsys, *words, code=1)


def test_one_model_that_beats_all(capsys):
    write(models=2)
    assert "one model is both the cheapest and the most accurate" in fails(capsys, code=1)
