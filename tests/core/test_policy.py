import math
from dataclasses import replace

import pytest
import torch

from lit_cascade.core.contract import replay
from lit_cascade.core.deferral_head import DeferralHead, LogOdds
from lit_cascade.core.policy import Policy
from lit_cascade.core.scores import SCORES
from lit_cascade.errors import UsageError
from lit_cascade.options import PolicyOptions


def test_a_policy_fills_in_temperatures():
    policy = Policy((0.5, 0.6))
    assert policy.temperatures == (1.0, 1.0, 1.0)
    assert policy.stages == 3


def test_nan_is_no_threshold():
    with pytest.raises(UsageError, match="thresholds: NaN"):
        Policy((0.5, math.nan))


@pytest.mark.parametrize(
    ("score", "threshold"),
    [
        ("max_softmax", 1.0001),
        ("max_softmax", -0.1),
        ("margin", 50),
        ("margin", -1e-9),
        ("negative_entropy", 0.5),
    ],
)
def test_a_threshold_the_score_cannot_reach_is_refused(score, threshold):
    with pytest.raises(UsageError, match="outside the range of the score") as caught:
        Policy((threshold,), score)
    assert repr(score) in str(caught.value)
    assert str(float(threshold)) in str(caught.value)


@pytest.mark.parametrize("score", list(SCORES))
def test_the_ends_of_the_range_and_the_infinities_are_thresholds(score):
    for threshold in (SCORES[score].low, SCORES[score].high, -math.inf, math.inf):
        assert Policy((threshold,), score).thresholds == (threshold,)


@pytest.mark.parametrize("temperatures", [(1.0,), (1.0, 1.0, 1.0)])
def test_temperatures_must_be_one_per_stage(temperatures):
    with pytest.raises(UsageError, match="temperatures: expected one for each of 2 stages"):
        Policy((0.5,), temperatures=temperatures)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_temperatures_must_be_finite_and_positive(temperature):
    with pytest.raises(UsageError, match="temperatures: expected finite numbers above 0"):
        Policy((0.5,), temperatures=(1.0, temperature))


def test_an_unknown_score_is_refused():
    with pytest.raises(UsageError, match=r"'entropy' is unknown"):
        Policy((0.5,), "entropy")


def test_a_policy_fills_in_floors():
    assert Policy((0.5, 0.6)).floors == (-math.inf, -math.inf)
    assert Policy((0.5, 0.6), floors=(0.5, -math.inf)).floors == (0.5, -math.inf)


@pytest.mark.parametrize(
    ("thresholds", "floors", "says"),
    [
        ((0.5,), (0.1, 0.1), r"floors: expected one per threshold \(1\), got 2"),
        ((0.5, 0.5), (0.1,), r"floors: expected one per threshold \(2\), got 1"),
        ((0.5,), (0.6,), "floors: 0.6 is above its threshold 0.5"),
        ((0.5,), (math.inf,), "floors: inf is above its threshold 0.5"),
        ((-math.inf,), (0.1,), "floors: 0.1 is above its threshold -inf"),
        ((0.5,), (math.nan,), "floors: nan is above its threshold"),
        ((0.5, 0.2), (0.1, 0.3), "floors: 0.3 is above its threshold 0.2"),
    ],
)
def test_floors_that_do_not_fit_are_refused(thresholds, floors, says):
    with pytest.raises(UsageError, match=says):
        Policy(thresholds, floors=floors)


def test_thresholds_may_be_undecided_until_they_are_needed():
    policy = Policy(stages=3, floors=(0.2, 0.4))
    assert (policy.thresholds, policy.temperatures, policy.stages) == (None, (1.0,) * 3, 3)
    assert Policy(temperatures=(2.0, 1.0)) == Policy(stages=2, temperatures=(2.0, 1.0))
    assert replace(policy, thresholds=(0.5, 0.5)) == Policy((0.5, 0.5), floors=(0.2, 0.4))
    with pytest.raises(UsageError, match=r"thresholds: running .* each of 2 deferring stages"):
        policy.required_thresholds()
    with pytest.raises(UsageError, match="needs a threshold for a, b; "):
        policy.required_thresholds(["a", "b", "c"])
    with pytest.raises(UsageError, match=r"policy\.thresholds: running a cascade needs"):
        replay([torch.zeros(1, 2)] * 3, policy)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "stages: a cascade needs at least 2, got 0"),
        ({"stages": 1}, "stages: a cascade needs at least 2, got 1"),
        ({"thresholds": ()}, "stages: a cascade needs at least 2, got 1"),
        ({"stages": 3, "thresholds": (0.5,)}, "thresholds: a cascade of 3 stages needs 2, got 1"),
        ({"stages": 3, "temperatures": (1.0, 1.0)}, "one for each of 3 stages, got 2"),
        ({"stages": 2, "floors": (math.nan,)}, "floors: nan is above its threshold inf"),
    ],
)
def test_numbers_of_stages_that_do_not_fit_are_refused(given, message):
    with pytest.raises(UsageError, match=message):
        Policy(**given)


def test_options_become_a_policy():
    names = ["small", "middle", "large"]
    options = PolicyOptions(
        score="margin",
        thresholds={"small": 0.9, "middle": 0.8},
        temperatures={"middle": 2.0},
        combine="average",
        floors={"middle": 0.1},
    )
    assert Policy.from_options(options, names) == Policy(
        (0.9, 0.8), "margin", (1.0, 2.0, 1.0), "average", (-math.inf, 0.1)
    )
    assert Policy.from_options(PolicyOptions(floors=[0.1, 0.2]), names) == Policy(
        stages=3, floors=(0.1, 0.2)
    )


def test_one_number_is_a_threshold():
    for given in (0.9, 0.9, (0.9,), [0.9], torch.tensor(0.9, dtype=torch.float64)):
        assert Policy(given) == Policy((0.9,))
    assert Policy(1).thresholds == (1.0,)


@pytest.mark.parametrize(
    "given", ["0.9", object(), [0.9, "a"], [None], torch.zeros(2, 2), {0.1: {}}]
)
def test_what_is_no_number_is_refused(given):
    if isinstance(given, dict):
        assert Policy(given).thresholds == (0.1,)
        return
    with pytest.raises(UsageError, match=r"^thresholds: expected a number.*got .*\.$") as caught:
        Policy(given)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("names", [("a",), ("a", "a"), ("a", "b", "c")])
def test_names_are_one_per_stage(names):
    with pytest.raises(UsageError, match="names: expected 2 distinct names of stages"):
        Policy(0.5, names=names)


def test_a_policy_has_several_forms():
    names = ("small", "large")
    expected = Policy(0.9, names=names)
    for given in (0.9, [0.9], Policy(0.9), PolicyOptions(thresholds={"small": 0.9})):
        policy = Policy.of(given, names)
        assert (policy, policy.names) == (expected, names)
    assert Policy.of(None, names) == Policy(stages=2)
    with pytest.raises(UsageError, match="the stages a, b, c need 2 thresholds, got 1"):
        Policy.of(Policy(0.9), ["a", "b", "c"])
    with pytest.raises(UsageError, match="it is for the stages small, large; these are a, b"):
        Policy.of(expected, ["a", "b"])
    with pytest.raises(UsageError, match="thresholds: a cascade of 3 stages needs 2, got 1"):
        Policy.of(0.9, ["a", "b", "c"])
    with pytest.raises(UsageError, match="thresholds: expected a number"):
        Policy.of("policy.yaml", names)


EVENT = LogOdds(0.5, (1.0, 2.0, 3.0, 4.0, 5.0), (0.1, 0.2))
HEAD = DeferralHead(EVENT, EVENT)


@pytest.mark.parametrize(
    "policy",
    [
        Policy(0.9, names=("small", "large")),
        Policy((0.9, -math.inf), "margin", (1.5, 2.0, 1.0), "average", (0.1, -math.inf)),
        Policy(stages=3, temperatures=(1.5, 1.0, 1.0), names=("a", "b", "c")),
        Policy(-0.3, "learned", heads=(HEAD,), names=("small", "large"), evidence={"n": 7}),
        Policy(0.123456789012345678, evidence={"thresholds": {"ids": "0..3"}}),
        Policy(12.5, "recorded", names=("small", "large")),
    ],
)
def test_a_policy_is_saved_and_loaded(policy, tmp_path):
    path = tmp_path / "folder" / "policy.yaml"
    policy.save(path, "two\nlines")
    assert path.read_text().startswith("# two\n# lines\npolicy:\n")
    loaded = Policy.load(path)
    assert (loaded, loaded.names, loaded.evidence) == (policy, policy.names, loaded.evidence)
    assert {**loaded.evidence, **policy.evidence} == loaded.evidence


def test_a_policy_without_the_name_of_its_last_stage_is_loaded(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text("policy:\n  thresholds:\n    small: 0.9\n")
    assert Policy.load(path) == Policy(0.9)
    assert Policy.load(path).names == ()
    assert Policy.load(path, ["small", "large"]).names == ("small", "large")
    with pytest.raises(UsageError, match="'small' is unknown"):
        Policy.load(path, ["tiny", "large"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file"),
        ("policy: [1", "is not YAML"),
        ("hello", "expected a mapping"),
        ("policy: 3", "holds no policy"),
        ("policy:\n  treshold: 0.9", "'treshold' is unknown; .*Did you mean 'thresholds'"),
        ("policy:\n  temperatures: {small: 2.0}", "does not name all stages: give names"),
    ],
)
def test_what_is_no_policy_is_refused(text, message, tmp_path):
    path = tmp_path / "policy.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=f"policy: .*{message}"):
        Policy.load(path)


@pytest.mark.parametrize(
    "policy",
    [
        Policy(0.9),
        Policy((-math.inf, math.inf)),
        Policy(stages=3),
        Policy(names=("small", "large")),
        Policy(temperatures=(1.5, 1.0)),
        Policy(-0.25, "negative_entropy", (2.0, 1.0), "average", -0.5, names=("a", "it's b")),
    ],
    ids=str,
)
def test_a_repr_is_a_program_that_makes_the_policy(policy):
    again = eval(repr(policy), {"Policy": Policy})  # noqa: S307
    assert again == policy
    assert again.names == policy.names
    assert repr(Policy(0.9)) == "Policy(0.9)"


def test_a_policy_is_a_table_of_its_stages():
    table = Policy((0.9, 0.8), floors=(0.1, -math.inf), names=("a", "b", "c")).to_pandas()
    assert list(table) == ["stage", "threshold", "temperature", "floor"]
    assert table["stage"].tolist() == ["a", "b", "c"]
    assert table["threshold"].tolist() == pytest.approx([0.9, 0.8, math.nan], nan_ok=True)
    assert Policy(stages=2).to_pandas()["threshold"].isna().all()
    head = DeferralHead(LogOdds(0.5, (1.0, 2.0, 3.0, 4.0, 5.0)))
    assert repr(Policy(score="learned", heads=(head,), stages=2)) == (
        "Policy(score='learned', heads=<1 learned>, stages=2)"
    )
