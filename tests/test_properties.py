"""What holds for any records, policies and streams."""

import math
import os
from dataclasses import replace

import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lit_cascade.core.combination import COMBINATIONS
from lit_cascade.core.contract import replay, stage_outputs
from lit_cascade.core.curve import sweep
from lit_cascade.core.policy import Policy
from lit_cascade.core.scores import SCORES, score_named
from lit_cascade.errors import CascadeError
from lit_cascade.live.cascade import Cascade
from lit_cascade.live.stream import Stream
from lit_cascade.options import PolicyOptions
from lit_cascade.records.record import Record
from lit_cascade.records.samples import Samples
from tests.live.test_stream import Table
from tests.oracles import combined_answer, softmax, stage_of

# few numbers, so that ties are many
NUMBERS = st.sampled_from([0.0, 0.5, 1.0, -1.0, 3.0, -7.5, 1e4, -1e4])
settings.register_profile(
    "suite", deadline=None, max_examples=int(os.environ.get("EXAMPLES", "60")), derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
settings.load_profile("suite")


@st.composite
def logits(draw, stages=None, least=1):
    """Logits of some stages on some samples."""
    stages = draw(st.integers(2, 4)) if stages is None else stages
    n, classes = draw(st.integers(least, 12)), draw(st.integers(2, 4))
    row = st.lists(NUMBERS, min_size=classes, max_size=classes)
    table = st.lists(row, min_size=n, max_size=n)
    return [torch.tensor(draw(table)) for _ in range(stages)]


@st.composite
def policies(draw, stages):
    """A policy for so many stages, with thresholds that its score can reach."""
    score = score_named(draw(st.sampled_from([*SCORES, "agreement"])))
    low, high = max(score.low, -3.0), min(score.high, 3.0)
    finite = st.floats(low, high, width=32)
    threshold = st.one_of(finite, st.sampled_from([-math.inf, math.inf]))
    thresholds = tuple(draw(threshold) for _ in range(stages - 1))
    floors = tuple(draw(st.sampled_from([-math.inf, min(low, one)])) for one in thresholds)
    temperature = st.floats(0.05, 20.0)
    return Policy(
        thresholds,
        score.name,
        tuple(draw(temperature) for _ in range(stages)),
        draw(st.sampled_from(COMBINATIONS)),
        floors,
    )


@st.composite
def cascades(draw):
    found = draw(logits())
    return found, draw(policies(len(found)))


@st.composite
def ties(draw):
    """Cascades whose thresholds and floors are scores that occur, some of them of NaN."""
    said = draw(logits())
    for stage in said:
        for row in draw(st.lists(st.integers(0, len(stage) - 1), max_size=2)):
            stage[row, draw(st.integers(0, stage.shape[1] - 1))] = math.nan
    policy = draw(policies(len(said)))
    thresholds, floors = [], []
    for column in stage_outputs(said, policy).scores[:-1]:
        occur = [s for s in column.tolist() if not math.isnan(s)]
        thresholds.append(draw(st.sampled_from([-math.inf, *occur, math.inf])))
        lower = [s for s in occur if s <= thresholds[-1]]
        floors.append(draw(st.sampled_from([-math.inf, *lower])))
    return said, replace(policy, thresholds=tuple(thresholds), floors=tuple(floors))


def score_of(name, chances, answers):
    """A score of one sample, from its class probabilities and the answers of all stages so far."""
    if any(map(math.isnan, chances)):
        return math.nan
    if name == "agreement":
        return max(chances) + (answers[-1] in answers[:-1])
    first, second = sorted(chances, reverse=True)[:2]
    entropy = sum(p * math.log(p) for p in chances if p > 0)
    return {"max_softmax": first, "margin": first - second, "negative_entropy": entropy}[name]


def near(found, expected):
    return math.isclose(found, expected, abs_tol=1e-5) or (
        math.isnan(found) and math.isnan(expected)
    )


@given(ties())
def test_replay_is_a_loop_over_samples(case):
    """In plain Python; only how a score rounds is taken from the code, so that ties are ties."""
    said, policy = case
    found = replay(said, policy)
    for i in range(len(said[0])):
        scores, answers, chances, judged = [], [], [], []
        for k, stage in enumerate(said):
            row = stage[i].tolist()
            if any(map(math.isnan, row)):
                answers.append(next(c for c, value in enumerate(row) if math.isnan(value)))
                chances.append([math.nan] * len(row))
            else:
                answers.append(row.index(max(row)))
                chances.append(softmax(row, policy.temperatures[k]))
            judged.append(policy.judge(k, stage[i : i + 1], judged))
            scores.append(judged[-1].score.item())
            assert near(scores[-1], score_of(policy.score, chances[-1], answers))
            shares = policy.probabilities(k, stage[i : i + 1])[0].tolist()
            assert all(map(near, shares, chances[-1]))
        stop = stage_of(scores[:-1], policy.thresholds, policy.floors)
        assert found.stage[i] == stop
        ran = slice(0, stop + 1)
        if stop and policy.combine == "average":
            totals = [sum(column) for column in zip(*chances[ran], strict=True)]
            if any(map(math.isnan, totals)):
                assert found.prediction[i] == 0
            else:  # which of two that are all but equal is a matter of rounding
                assert totals[found.prediction[i]] >= max(totals) - 1e-5
        else:
            combine = policy.combine if stop else "later"
            expected = combined_answer(combine, scores[ran], answers[ran], chances[ran])
            assert found.prediction[i] == expected


@given(ties(), st.integers(1, 5), st.integers(1, 4), st.integers(1, 6))
def test_replay_cascade_and_stream_are_one(case, size, gather, later):
    said, policy = case
    numbers = torch.arange(len(said[0]))
    cascade = Cascade([Table(stage) for stage in said], policy)
    expected, whole = replay(said, policy), cascade(numbers)
    found = list(Stream(cascade, gather, later).run(numbers.split(size)))
    columns = [torch.cat(column) for column in zip(*(one.output for one in found), strict=True)]
    for told in (whole, columns):
        assert told[2].tolist() == expected.stage.tolist()
        assert told[1].tolist() == expected.prediction.tolist()
    for one, other in zip(whole, columns, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@given(cascades(), st.randoms())
def test_the_order_of_samples_changes_nothing(case, dice):
    said, policy = case
    order = list(range(len(said[0])))
    dice.shuffle(order)
    one, other = replay(said, policy), replay([stage[order] for stage in said], policy)
    assert one.stage[order].tolist() == other.stage.tolist()
    assert one.prediction[order].tolist() == other.prediction.tolist()


@given(cascades())
def test_higher_thresholds_never_answer_sooner(case):
    said, policy = case
    policy = Policy(policy.thresholds, policy.score, policy.temperatures, policy.combine)
    higher = tuple(
        min(math.inf if one == math.inf else one + 0.1, max(one, score_named(policy.score).high))
        for one in policy.thresholds
    )
    later = Policy(higher, policy.score, policy.temperatures, policy.combine)
    assert bool((replay(said, later).stage >= replay(said, policy).stage).all())


@given(cascades())
def test_options_in_yaml_are_the_policy(case):
    said, policy = case
    names = [f"stage-{k}" for k in range(len(said))]
    written = yaml.safe_dump(
        {
            "score": policy.score,
            "combine": policy.combine,
            "thresholds": dict(zip(names, policy.thresholds, strict=False)),
            "temperatures": dict(zip(names, policy.temperatures, strict=True)),
            "floors": dict(zip(names, policy.floors, strict=False)),
        }
    )
    assert Policy.from_options(PolicyOptions(**yaml.safe_load(written)), names) == policy


@given(st.data())
def test_a_record_is_what_was_saved(tmp_path, data):
    (said,) = data.draw(logits(stages=1))
    n, classes = said.shape
    labels = data.draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n))
    text = st.text(st.characters(codec="utf-8"), max_size=5)
    ids = data.draw(
        st.one_of(
            st.none(),
            st.lists(st.integers(-(2**63), 2**63 - 1), min_size=n, max_size=n, unique=True),
            st.lists(text, min_size=n, max_size=n, unique=True),
        )
    )
    costs = data.draw(st.lists(st.floats(0, 1e12), min_size=n, max_size=n))
    try:
        record = Record.from_arrays("net", said, labels, ids=ids, flops=costs)
    except CascadeError:
        return  # such as strings with a NUL in them: refused, and nothing is written
    path = tmp_path / "net.safetensors"
    record.save(path)
    first = path.read_bytes()
    again = Record.load(path)
    assert torch.equal(again.logits, said)
    assert again.labels.tolist() == labels
    assert again.ids == (range(n) if ids is None else ids)
    assert again.classes == tuple(map(str, range(classes)))
    assert again.cost().tolist() == costs
    assert again.samples.fingerprint == record.samples.fingerprint
    again.save(path)
    assert path.read_bytes() == first


@given(st.permutations(range(6)), st.permutations("abcd"), st.lists(st.integers(0, 3), min_size=6))
def test_a_fingerprint_is_of_ids_labels_and_classes_in_their_order(ids, classes, labels):
    plain = Samples(torch.arange(6), torch.zeros(6).long(), tuple("abcd"))
    named = Samples(tuple(map(str, range(6))), plain.labels, plain.classes)
    labels = torch.tensor(labels[:6])
    for one, known in ((torch.tensor(ids), plain), (tuple(map(str, ids)), named)):
        for changed, same in (
            (Samples(one, known.labels, known.classes), ids == list(range(6))),
            (Samples(known.ids, labels, known.classes), not labels.any()),
            (Samples(known.ids, known.labels, tuple(classes)), "".join(classes) == "abcd"),
        ):
            assert (changed.fingerprint == known.fingerprint) == same


@given(logits(stages=2), st.data())
def test_the_curve_is_brute_force(said, data):
    small = said[0]
    n, classes = small.shape
    labels = torch.tensor(data.draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n)))
    scores = small.softmax(dim=1).amax(dim=1)
    right = torch.stack([stage.argmax(dim=1) == labels for stage in said], dim=1)
    costs = torch.tensor([[1.0, 10.0]]).double().expand(n, 2)
    curve = sweep(scores[:, None], right, costs, right)
    for threshold, accuracy, rate in zip(
        curve.thresholds.tolist(), curve.accuracy.tolist(), curve.deferral_rate.tolist(),
        strict=True,
    ):  # fmt: skip
        deferred = [not score >= threshold for score in scores.double().tolist()]
        hits = [right[i, int(gone)].item() for i, gone in enumerate(deferred)]
        assert math.isclose(accuracy, sum(hits) / n)
        assert math.isclose(rate, sum(deferred) / n)
    distinct = len(set(scores.tolist()))
    assert len(curve.thresholds) == distinct + 1
    assert curve.thresholds[0] == -math.inf
