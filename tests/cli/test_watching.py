"""`check` on a cascade that runs: a stream of its answers, and its metrics."""

import http.server
import io
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml

from lit_cascade import Policy
from lit_cascade.analysis import Monitor, Tally
from lit_cascade.cli import main
from lit_cascade.core.contract import stage_outputs
from lit_cascade.serve import metrics
from tests.cli.test_select import json_in, made, saved, select
from tests.forks import ROOT

NAMES = ("small", "large")


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    """A policy with a promise of its own for each target."""
    folder = tmp_path_factory.mktemp("chosen")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["lit-cascade"])
        Path("a").mkdir()
        pair = saved(made(4000, 0), "a")
        for target, limit in (
            ("max_accuracy_drop", 0.02), ("min_accuracy", 0.8), ("max_disagreement", 0.1),
            ("deferral_rate", 0.4), ("max_cost_ratio", 0.5),
        ):  # fmt: skip
            assert select(pair, f"--{target}", limit, "--quiet", out=target) == 0
    return folder


@pytest.fixture(autouse=True)
def here(chosen, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lit-cascade"])
    for file in chosen.glob("*/policy.yaml"):
        (tmp_path / f"{file.parent.name}.yaml").write_text(file.read_text())


def answers(n, seed, target="max_accuracy_drop", *, noise=1.0, scale=1.0, label=True, audit=True):
    """Answers of the cascade, as `serve` gives them, and the small stage's score of all samples."""
    policy = Policy.load(f"{target}.yaml")
    records = made(n, seed, noise=noise)
    outputs = stage_outputs([scale * record.logits.float() for record in records], policy)
    small, large = (one.tolist() for one in outputs.alone)
    lines = []
    for k, score in enumerate(outputs.scores[0].tolist()):
        stage = int(score < policy.thresholds[0])
        line = {
            "stage": NAMES[stage], "score": score, "scored": score,
            "prediction": (small, large)[stage][k],
        }  # fmt: skip
        if label is True or (label and k % label == 0):
            line["label"] = int(records[0].labels[k])
        if audit is True or (audit and k % audit == 0):
            line["audit"] = large[k]
        lines.append(line)
    return lines


def written(lines, name="answers.jsonl", how="w"):
    with Path(name).open(how) as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


class Piped:
    """Answers on stdin."""

    def __init__(self, lines):
        self.buffer = io.BytesIO("".join(json.dumps(line) + "\n" for line in lines).encode())


def follow(*words, target="max_accuracy_drop", stream="answers.jsonl"):
    return main(["check", "--policy", f"{target}.yaml", "--follow", stream, *map(str, words)])


def test_a_stream_of_the_same_kind_passes_and_a_line_a_window_is_printed(capsys):
    written(answers(10_300, 1))
    assert follow("--out", "k") == 0
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if re.match(r" *[0-9,]+  ", line)]
    assert "an e-value of 80 raises an alarm" in out
    assert [row.split()[0] for row in rows] == [f"{k},000" for k in range(1, 11)] + ["10,300"]
    assert max(map(len, rows)) <= 80
    assert "Nothing needs to be done." in out
    found = json_in("k/check.json")
    assert found["passed"]
    assert found["outcome"] == "open"
    assert found["since"] is None
    lines = answers(10_300, 1)
    lost = sum((a["audit"] == a["label"]) - (a["prediction"] == a["label"]) for a in lines)
    assert found["value"] == pytest.approx(lost / len(lines), abs=1e-12)
    assert found["stages"][0]["rate"] == pytest.approx(
        sum(a["stage"] == "large" for a in lines) / len(lines)
    )


def test_a_shift_is_seen_and_dated_without_labels(capsys):
    written(answers(5000, 1, label=False, audit=False))
    written(answers(5000, 2, noise=1.6, label=False, audit=False), how="a")
    assert follow("--out", "k") == 1
    said = capsys.readouterr()
    assert "since line 5,001" in said.err
    assert "other data than those it was chosen on" in said.err
    assert "ALARM" in said.out
    assert "Label or audit answers from there on" in said.out
    found = json_in("k/check.json")
    assert (found["outcome"], found["drifted"], found["n"]) == ("unknown", True, 6000)
    assert found["since"] == "line 5,001"


@pytest.mark.parametrize(
    ("target", "given", "outcome"),
    [
        ("min_accuracy", {"label": True, "audit": False}, "broken"),
        ("min_accuracy", {"label": 4, "audit": False}, "broken"),
        ("max_disagreement", {"label": False, "audit": True}, "broken"),
        ("max_disagreement", {"label": False, "audit": 3}, "broken"),
        ("deferral_rate", {"label": False, "audit": False}, "broken"),
        ("max_cost_ratio", {"label": False, "audit": False}, "unknown"),
        ("min_accuracy", {"label": False, "audit": True}, "unknown"),
    ],
)
def test_each_promise_is_tested_by_what_it_needs(target, given, outcome):
    """Noise makes answers worse than promised, and smaller logits defer more."""
    kind = {"scale": 0.5} if target == "deferral_rate" else {"noise": 3.0}
    written(answers(20_000, 3, target, **kind, **given))
    policy = yaml.safe_load(Path(f"{target}.yaml").read_text())
    # evidence of such data: its own bets are to be tested, not those on the scores
    fresh = answers(20_000, 4, target, **kind)
    evidence = policy["policy"]["evidence"]["scores"]["small"]
    edges = torch.tensor(evidence["edges"], dtype=torch.float64)
    scores = torch.tensor([line["scored"] for line in fresh], dtype=torch.float64)
    counts = torch.searchsorted(edges, scores, right=True).bincount(minlength=len(edges) + 1)
    evidence |= {
        "n": 20_000, "counts": counts.tolist(),
        "deferred": sum(line["stage"] == "large" for line in fresh),
    }  # fmt: skip
    Path(f"{target}.yaml").write_text(yaml.safe_dump(policy))
    code = follow("--out", "k", target=target)
    found = json_in("k/check.json")
    assert (found["outcome"], found["drifted"]) == (outcome, False)
    assert code == (outcome == "broken")


def test_a_price_is_tested_with_the_costs_of_a_file():
    Path("flops.json").write_text(json.dumps({"small": {"flops": 1e3}, "large": {"flops": 1e4}}))
    written(answers(5000, 5, "max_cost_ratio", noise=1.5))
    words = ("--cost", "flops=flops.json", "--out", "k")
    assert follow(*words, target="max_cost_ratio") == 1  # less noise is a shift too
    found, lines = json_in("k/check.json"), answers(5000, 5, "max_cost_ratio", noise=1.5)
    spent = sum(1e3 + 1e4 * (line["stage"] == "large") for line in lines[: found["n"]])
    assert found["value"] == pytest.approx(spent / found["n"] / 1e4)
    assert found["outcome"] == "kept"


def test_audits_without_labels_can_show_that_a_drop_is_small(capsys):
    written(answers(20_000, 6, label=False))
    Path("flops.json").write_text("{}")
    assert follow("--out", "k") == 0
    found = json_in("k/check.json")
    assert found["value"] is None
    assert found["outcome"] in {"kept", "unknown"}
    assert "of the answers differ from the last stage's" in capsys.readouterr().out


def test_a_restarted_follow_continues_exactly(capsys):
    whole = answers(7500, 1)
    written(whole)
    assert follow("--out", "one", "--state", "one.state") == 0
    one = json.loads(Path("one.state").read_text())
    capsys.readouterr()
    Path("answers.jsonl").unlink()
    for part in (whole[:2300], whole[2300:2301], [], whole[2301:7500]):
        written(part, how="a")
        assert follow("--out", "two", "--overwrite", "--state", "two.state") == 0
    two = json.loads(Path("two.state").read_text())
    assert two == one
    assert json_in("two/check.json") | {"files": 0} == json_in("one/check.json") | {"files": 0}
    assert one["source"]["lines"] == 7000  # the unfinished window is read again
    assert sorted(path.name for path in Path().glob("*.state*")) == ["one.state", "two.state"]


def test_an_alarm_stays(capsys):
    written(answers(3000, 2, noise=1.8))
    assert follow("--state", "s") == 1
    written(answers(20_000, 1), how="a")
    capsys.readouterr()
    assert follow("--state", "s") == 1
    said = capsys.readouterr()
    assert "begin another --state" in said.err
    assert "since line 1" in said.err


def test_a_state_of_something_else_is_refused(capsys):
    written(answers(1500, 1))
    assert follow("--state", "s") == 0
    for words, code, says in (
        (("--confidence", 0.99), 1, "of confidence 0.95, not 0.99"),
        (("--state", "s"), 1, "state: it is of policy"),
    ):
        target = "max_accuracy_drop" if "--confidence" in words else "min_accuracy"
        assert follow("--state", "s", *words, target=target) == code
        assert says in capsys.readouterr().err
    for text in ("", "{}", "[1]", '{"monitor": {}, "source": 3}', "\x00"):
        Path("s").write_text(text)
        assert follow("--state", "s") == 2
        assert "begin another file" in capsys.readouterr().err
    content = {"monitor": {"policy": 1}, "source": {"stream": "answers.jsonl"}}
    Path("s").write_text(json.dumps(content))
    assert follow("--state", "s") == 1


MALFORMED = [
    ("{", 'expected JSON such as {"stage": "small", "score": 0.93}, got {'),
    ("[1, 2]", "expected JSON such as"),
    ("small,0.9", "got small,0.9"),
    ("[" * 100_000, "got [[["),
    ('{"score": 0.9}', "stage: expected one of small, large or 0 to 1, got nothing"),
    ('{"stage": "medium"}', "stage: expected one of small, large or 0 to 1, got medium"),
    ('{"stage": true}', "got true"),
    ('{"stage": 2}', "got 2"),
    ('{"stage": "small"}', "expected the number with which 'small' answered, got nothing"),
    ('{"stage": "small", "score": NaN}', "answered, got NaN"),
    ('{"stage": "small", "score": "0.9"}', "answered, got 0.9"),
    ('{"stage": "small", "score": 0.3}', "answered at 0.3; is it another policy"),
    ('{"stage": 1, "label": 2}', "prediction: expected a class to compare label with, got nothing"),
    ('{"stage": 1, "label": "cat", "prediction": 2}', "label: expected a class like prediction, 2"),
    ("\x1b[31m", r"got \x1b[31m"),
]


@pytest.mark.parametrize(("line", "says"), MALFORMED)
def test_a_line_that_is_no_answer_is_named(capsys, line, says):
    written(answers(3, 1))
    with Path("answers.jsonl").open("a") as file:
        file.write(f"\n{line}\n")
    assert follow() == 2
    said = capsys.readouterr().err
    assert said.startswith("lit-cascade check: error: --follow: line 5 of 'answers.jsonl': ")
    assert says in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("n", [0, 1])
def test_few_answers_are_no_alarm(capsys, n):
    written(answers(1, 1)[:n])
    assert follow("--out", "k") == 0
    assert json_in("k/check.json")["n"] == n


def test_nan_scores_defer(capsys):
    """A stage whose scores became NaN defers all: the answers are the last stage's."""
    written([{"stage": "large", "score": float("nan"), "prediction": 1}] * 1000)
    assert follow() == 1
    assert "100.0 %" in capsys.readouterr().out


def test_the_last_line_may_be_half_written(capsys):
    written(answers(10, 1))
    whole = Path("answers.jsonl").read_text()
    for cut, n, note in ((-1, 10, False), (-5, 9, True)):
        Path("answers.jsonl").write_text(whole[:cut])
        assert follow("--out", "k", "--overwrite") == 0
        assert json_in("k/check.json")["n"] == n
        assert ("Line 10 of answers.jsonl is not whole yet" in capsys.readouterr().err) == note


def test_a_file_that_grows_is_followed_and_a_new_one_is_read_from_its_beginning(capsys):
    lines = answers(4000, 1)
    written(lines[:1500])

    def later():
        time.sleep(0.5)
        written(lines[1500:], how="a")

    thread = threading.Thread(target=later)
    thread.start()
    assert follow("--state", "s", "--wait", 2, "--out", "k") == 0
    thread.join()
    assert json_in("k/check.json")["n"] == 4000
    written(lines[:1000])
    assert follow("--state", "s", "--out", "l") == 0
    assert "is read from its beginning" in capsys.readouterr().err
    assert json_in("l/check.json")["n"] == 5000


def test_stdin(capsys, monkeypatch):
    lines = answers(2500, 1)

    monkeypatch.setattr("sys.stdin", Piped(lines))
    assert follow("--json", "--state", "s", stream="-") == 0
    assert json.loads(capsys.readouterr().out)["n"] == 2500
    kept = json.loads(Path("s").read_text())
    assert kept["source"] == {"stream": "-", "bytes": 0, "lines": 2000}
    seen = kept["monitor"]["seen"]
    assert [*seen["answered"], *seen["deferred"]] == [
        sum(line["stage"] == name for line in lines) for name in NAMES
    ]


def test_a_follow_that_is_ended_keeps_its_state(tmp_path):
    lines = answers(2500, 1)
    written(lines)
    words = ["--policy", "max_accuracy_drop.yaml", "--follow", "answers.jsonl", "--state", "s"]
    # a shell has what it starts in the background ignore the signal
    program = (
        "import signal; from lit_cascade.cli import main; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); raise SystemExit(main())"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", program, "check", *words, "--wait", "inf"],
        env={**__import__("os").environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
    )  # fmt: skip
    for row in run.stdout:
        if row.strip().startswith(b"2,000"):
            break
    second = main(["check", *words])  # while it runs
    run.send_signal(2)
    run.communicate()
    assert run.returncode == 130
    assert second == 2
    assert json.loads(Path("s").read_text())["source"]["lines"] == 2000
    assert follow("--state", "s", "--out", "k") == 0
    assert json_in("k/check.json")["n"] == 2500


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--every", 0), "--every: expected a number of at least 1, got 0"),
        (("--wait", -1), "--wait: expected seconds of at least 0, or inf, got -1"),
        (("--calls_per_month", 5), "--calls_per_month: it needs --records"),
        (("--metrics", "m"), "got --metrics and --follow"),
        (("--confidence", 0.3), "confidence: expected a probability from 0.5"),
        (("--cost", "usd"), "--cost: the policy was chosen by its cost in flops; got 'usd'"),
    ],
)
def test_wrong_options_are_refused(capsys, words, says):
    written(answers(3, 1))
    assert follow(*words) == 2
    assert says in capsys.readouterr().err


def test_one_source_is_needed(capsys):
    for words, says in (
        ([], "expected --policy FILE --records FILE ... or --policy FILE --metrics URL"),
        (["--policy", "max_accuracy_drop.yaml"], "or --metrics or --follow for answers; got none"),
        (
            ["--policy", "max_accuracy_drop.yaml", "--follow", "no"],
            "there is no file or folder 'no'",
        ),
        (["--policy", "max_accuracy_drop.yaml", "--metrics", "no"], "there is no file or folder"),
    ):
        assert main(["check", *words]) == 2
        assert says in capsys.readouterr().err


def exposed(lines, target="max_accuracy_drop", *, audited=(), fingerprint=None):
    """What a server exposes after some answers."""
    policy = Policy.load(f"{target}.yaml")
    rows = [
        f'{metrics.POLICY}{{fingerprint="{fingerprint or policy.fingerprint}"}} 1.0',
        f'{metrics.COST}{{stage="small",unit="flops"}} 1000.0',
        f'{metrics.COST}{{stage="large",unit="flops"}} 10000.0',
    ]
    deferred = sum(line["stage"] == "large" for line in lines)
    for stage, outcome, n in (
        ("small", "answered", len(lines) - deferred), ("small", "deferred", deferred),
        ("large", "answered", deferred),
    ):  # fmt: skip
        rows.append(f'{metrics.SAMPLES}{{stage="{stage}",outcome="{outcome}"}} {n}.0')
    scores = torch.tensor([line["scored"] for line in lines], dtype=torch.float64)
    for bound in (*metrics.score_buckets(policy.evidence, "small"), float("inf")):
        le = "+Inf" if bound == float("inf") else repr(bound)
        n = int((scores <= bound).sum())
        rows.append(f'{metrics.SCORE}_bucket{{stage="small",le="{le}"}} {n}.0')
    for outcome in ("agreed", "disagreed"):
        n = sum((line["prediction"] == line["audit"]) == (outcome == "agreed") for line in audited)
        rows.append(f'{metrics.AUDITS}{{stage="small",outcome="{outcome}"}} {n}.0')
    return "\n".join(rows) + "\n"


def scraped(*words, target="max_accuracy_drop", place="m.txt"):
    words = ["--metrics", *place.split(), *map(str, words)]
    return main(["check", "--policy", f"{target}.yaml", *words])


def test_metrics_and_a_stream_of_the_same_answers_give_the_same_tests():
    lines = answers(1000, 7, noise=1.1)
    written(lines)
    Path("m.txt").write_text(exposed(lines))
    scraped("--state", "m")
    follow("--state", "f")
    kept = [json.loads(Path(name).read_text())["monitor"] for name in "mf"]
    scores = [one["tests"][-1]["capital"] for one in kept]
    torch.testing.assert_close(*map(torch.tensor, scores))
    assert kept[0]["seen"]["deferred"] == kept[1]["seen"]["deferred"]


def test_scrapes_are_compared_and_a_restart_is_no_alarm(capsys):
    lines = answers(9000, 1)
    counts = [(0, 3000), (0, 5000), (5000, 6000), (5000, 9000)]  # started again after 5,000
    for number, (start, end) in enumerate(counts):
        Path("m.txt").write_text(exposed(lines[start:end]))
        assert scraped("--state", "s", "--out", f"k{number}") == 0
    found = json_in("k3/check.json")
    assert found["n"] == 9000
    deferred = sum(line["stage"] == "large" for line in lines)
    assert found["stages"][0]["rate"] == pytest.approx(deferred / 9000)
    Path("m.txt").write_text(exposed(answers(4000, 2, noise=1.8)))
    assert scraped("--state", "s") == 1
    assert "since 20" in capsys.readouterr().err  # the time of the scrape before
    assert scraped("--state", "s") == 1  # the alarm stays


def test_several_servers_are_tested_together(capsys):
    """As one server with all the answers, though the first of them is started again."""
    lines = answers(6000, 1)
    rounds = [((0, 2000), (2000, 3000), (0, 3000)), ((5000, 6000), (2000, 5000), (0, 6000))]
    for parts in rounds:
        for name, (start, end) in zip(("a", "b", "m.txt"), parts, strict=True):
            Path(name).write_text(exposed(lines[start:end]))
        assert scraped("--state", "two", place="a b") == 0
        assert scraped("--state", "one") == 0
    one, two = (json.loads(Path(name).read_text())["monitor"] for name in ("one", "two"))
    assert one["seen"] == two["seen"]
    assert one["tests"] == two["tests"]
    assert scraped("--state", "two") == 2
    assert "--state: it is of 2 servers, and --metrics names 1" in capsys.readouterr().err


def test_states_of_streams_and_metrics_are_told_apart(capsys):
    lines = answers(1000, 1)
    written(lines)
    Path("m.txt").write_text(exposed(lines))
    assert scraped("--state", "m") == 0
    assert follow("--state", "f") == 0
    assert follow("--state", "m") == 2
    assert "--state: it is one of --metrics; begin another file" in capsys.readouterr().err
    assert scraped("--state", "f") == 2
    assert "--state: it is one of --follow; begin another file" in capsys.readouterr().err


def test_audits_in_metrics_test_a_promised_disagreement():
    target = "max_disagreement"
    lines = answers(20_000, 8, target, noise=3.0)
    early = [line for line in lines if line["stage"] == "small"]
    Path("m.txt").write_text(exposed(lines, target, audited=early[::20]))
    assert scraped("--out", "k", target=target) == 1
    found = json_in("k/check.json")
    share = sum(line["prediction"] != line["audit"] for line in early[::20]) / len(early[::20])
    assert found["value"] == pytest.approx(share * len(early) / len(lines))
    assert found["outcome"] == "broken"


def test_costs_in_metrics_test_a_promised_price():
    lines = answers(5000, 9, "max_cost_ratio", scale=0.5)
    Path("m.txt").write_text(exposed(lines, "max_cost_ratio"))
    assert scraped("--out", "k", target="max_cost_ratio") == 1
    found = json_in("k/check.json")
    spent = sum(1e3 + 1e4 * (line["stage"] == "large") for line in lines) / len(lines) / 1e4
    assert found["value"] == pytest.approx(spent)
    assert found["outcome"] == "broken"


def test_metrics_of_something_else_are_refused(capsys):
    lines = answers(100, 1)
    for text, code, says in (
        (exposed(lines, fingerprint="0" * 16), 1, "the server runs the policy 0000000000000000"),
        ("", 2, "does not tell its policy"),
        ("up 1\n", 2, "does not tell its policy"),
        ("<html>\n", 2, "not in Prometheus' text format"),
        (exposed(lines).replace('outcome="answered"} ', 'outcome="answered"} -'), 2, "counts -"),
        (exposed(lines) + exposed(lines, fingerprint="1" * 16), 1, "2 policies; expected one"),
    ):
        Path("m.txt").write_text(text)
        assert scraped() == code
        assert says in capsys.readouterr().err


def test_metrics_are_read_from_an_address(capsys):
    text = exposed(answers(3000, 1)).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/metrics" else 404)
            self.end_headers()
            self.wfile.write(text if self.path == "/metrics" else b"")

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_address[1]}"
        assert scraped("--out", "k", place=f"{place}/metrics") == 0
        assert json_in("k/check.json")["n"] == 3000
        assert scraped(place=f"{place}/other") == 2
        server.shutdown()
    assert scraped(place=f"{place}/metrics") == 2
    assert "--metrics: cannot read 'http://127.0.0.1" in capsys.readouterr().err


PAGE = (ROOT / "docs/monitoring.md").read_text(encoding="utf-8")


def test_the_commands_of_the_page_run(capsys, monkeypatch):
    lines = answers(3000, 1)
    written(lines)
    Path("m.txt").write_text(exposed(lines))
    Path("max_accuracy_drop.yaml").rename("policy.yaml")
    commands = re.findall(r"^    (?:tail .* \| )?lit-cascade (check .*)$", PAGE, flags=re.MULTILINE)
    assert len(commands) == 3
    for number, command in enumerate(commands):
        monkeypatch.setattr("sys.stdin", Piped(lines))
        words = command.replace("http://localhost:8000/metrics", "m.txt")
        words = words.replace("watch.json", f"watch-{number}.json")
        assert main(words.split()) == 0
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    capsys.readouterr()
    exec(program, {})  # noqa: S102
    assert "3,000 new samples" in capsys.readouterr().out
    (where,) = re.findall(r'^    python -c "(.*)"$', PAGE, flags=re.MULTILINE)
    exec(where, {})  # noqa: S102
    assert json.loads(Path(capsys.readouterr().out.strip()).read_text())["title"] == "Cascade"


def test_the_answers_of_the_page_are_read():
    names = ("small", "large")
    evidence = Policy.load("max_accuracy_drop.yaml").evidence
    tally = Tally(Monitor(Policy(0.8, names=names, evidence=evidence)))
    (block,) = re.findall(r"```json\n(.*?)```", PAGE, flags=re.DOTALL)
    for number, line in enumerate(block.splitlines(), 1):
        assert tally.add(line, "the page", number)
    assert tally.window.ends == [2, 1]
    assert {name: one.n for name, one in tally.window.checked.items()} == {
        "accuracy": 1, "disagreement": 1,
    }  # fmt: skip


def test_the_page_shows_what_is_printed(capsys):
    """Answers as those that the policy was chosen on, and from line 3,001 on others."""
    written(answers(3000, 1))
    written(answers(3000, 2, noise=1.6), how="a")
    assert follow() == 1
    out = capsys.readouterr().out
    (block,) = re.findall(r"```text\n(accuracy drop.*?)```", PAGE, flags=re.DOTALL)
    assert out.startswith(block)
