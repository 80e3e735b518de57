import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lit_cascade.core.combination import COMBINATIONS
from lit_cascade.core.contract import replay, stage_outputs
from lit_cascade.core.policy import Policy
from lit_cascade.core.scores import SCORES, score_and_answer
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.live.batch import index_batch
from lit_cascade.live.cascade import Cascade
from lit_cascade.live.flops import FlopMeter, counting
from lit_cascade.options import PolicyOptions
from tests.oracles import combined_answer, softmax


class Recording(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module
        self.seen = []

    def forward(self, x):
        self.seen.append(x.clone())
        return self.module(x)


class Pair(nn.Module):
    """Takes two tensors, by position or by name."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, left, right):
        return self.left(left) + self.right(right)


class Fixed(nn.Module):
    """Gives back the logits that it holds, itself and not a copy."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, x):
        return self.logits[: len(x)]


def linears(stages, classes=5):
    return [nn.Linear(8, classes) for _ in range(stages)]


def run_in_batches(cascade, x, size):
    parts = [cascade(part) for part in x.split(size)]
    return [torch.cat(column) for column in zip(*parts, strict=True)]


@torch.no_grad()
@pytest.mark.parametrize("score", [*SCORES, "agreement", "max_logit_pnorm"])
@pytest.mark.parametrize("stages", [2, 3, 4])
@pytest.mark.parametrize("size", [1, 7, 64, 200])
def test_live_execution_equals_replay(score, stages, size):
    nets, x = linears(stages), torch.randn(200, 8) * 3
    logits = [torch.cat([net(row) for row in x.split(1)]) for net in nets]
    temperatures = (1.3, 0.8, 1.0, 1.0)[:stages]
    norms = (5, "max_softmax", 2.5)[: stages - 1] if score == "max_logit_pnorm" else ()
    rule = Policy(score=score, temperatures=temperatures, norms=norms)
    scores = stage_outputs(logits, rule).scores
    whole = [net(x) for net in nets]
    for q in torch.linspace(0.02, 0.98, 20).tolist():
        thresholds = []
        for column in scores[:-1]:
            ordered = column.sort().values.double()
            at = int(q * 199)
            thresholds.append(((ordered[at] + ordered[at + 1]) / 2).item())
        policy = replace(rule, thresholds=tuple(thresholds))
        live = run_in_batches(Cascade(nets, policy), x, size)
        expected = replay(logits, policy)
        assert torch.equal(live[2], expected.stage)
        assert torch.equal(live[1], expected.prediction)
        answered = expected.stage, torch.arange(200)
        for column, columns in ((live[0], whole), (live[3], scores)):
            own = torch.stack(columns)[answered]
            torch.testing.assert_close(column, own, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("score", list(SCORES))
def test_a_tie_answers_live_as_in_replay(score):
    small, large = torch.randn(100, 4), torch.randn(100, 4)
    nets = [Fixed(small), nn.Identity()]
    for threshold in score_and_answer(small, score)[0].unique().tolist():
        policy = Policy((threshold,), score)
        live, expected = Cascade(nets, policy)(large), replay([small, large], policy)
        assert torch.equal(live.stage, expected.stage)
        assert torch.equal(live.prediction, expected.prediction)


@pytest.mark.parametrize(
    "make", [tuple, list, lambda pair: dict(zip(("left", "right"), pair, strict=True))]
)
def test_inputs_may_be_several_tensors(make):
    nets = [Pair(), Pair()]
    pair = (torch.randn(50, 4) * 3, torch.randn(50, 2) * 3)
    policy = Policy((0.7,))
    live = Cascade(nets, policy)(make(pair))
    expected = replay([net(*pair).detach() for net in nets], policy)
    assert 0 < expected.stage.sum() < 50
    assert torch.equal(live.stage, expected.stage)
    assert torch.equal(live.prediction, expected.prediction)


def test_each_stage_sees_the_undecided_in_order():
    nets, x = [Recording(net) for net in linears(3)], torch.randn(60, 8) * 3
    stage = Cascade(nets, Policy((0.8, 0.9)))(x).stage
    assert set(stage.tolist()) == {0, 1, 2}
    for k, net in enumerate(nets):
        assert len(net.seen) == 1
        assert torch.equal(net.seen[0], x[stage >= k])


def test_where_nothing_is_deferred_later_stages_never_run():
    nets = [Recording(net) for net in linears(3)]
    out = Cascade(nets, Policy((-math.inf, 0.5)))(torch.randn(9, 8))
    assert out.stage.tolist() == [0] * 9
    assert [len(net.seen) for net in nets] == [1, 0, 0]
    nets = [Recording(net) for net in linears(3)]
    Cascade(nets, Policy((math.inf, -math.inf)))(torch.randn(9, 8))
    assert [len(net.seen) for net in nets] == [1, 1, 0]


def test_where_everything_is_deferred_the_last_stage_answers():
    nets, x = linears(3), torch.randn(9, 8)
    out = Cascade(nets, Policy((math.inf, math.inf)))(x)
    assert out.stage.tolist() == [2] * 9
    assert torch.equal(out.logits, nets[2](x))
    assert torch.equal(out.prediction, nets[2](x).argmax(dim=1))


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("threshold", [-math.inf, math.inf])
def test_small_batches(n, threshold):
    out = Cascade(linears(2), Policy((threshold,)))(torch.randn(n, 8))
    assert out.logits.shape == (n, 5)
    assert out.stage.tolist() == [int(threshold > 0)] * n


def test_answers_come_in_the_order_of_the_batch():
    nets, x = linears(2), torch.randn(80, 8) * 3
    cascade = Cascade(nets, Policy((0.8,)))
    order = torch.randperm(80)
    one, other = cascade(x), cascade(x[order])
    assert torch.equal(one.stage[order], other.stage)
    assert torch.equal(one.prediction[order], other.prediction)
    assert torch.equal(one.logits.argmax(dim=1), one.prediction)


@pytest.mark.parametrize("combine", COMBINATIONS)
@pytest.mark.parametrize("threshold", [-math.inf, 0.6, math.inf])
def test_nothing_is_written_into_what_a_stage_returns_or_is_given(combine, threshold):
    held, x = torch.randn(2, 6, 3)
    before, inputs = held.clone(), x.clone()
    stages = [Fixed(held), nn.Identity(), Fixed(held)]
    Cascade(stages, Policy((threshold, 0.7), combine=combine))(inputs)
    assert torch.equal(held, before)
    assert torch.equal(inputs, x)


def test_an_output_with_logits_is_unwrapped():
    class Wrapped(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            return SimpleNamespace(logits=self.net(x), loss=None)

    nets, x = linears(2), torch.randn(30, 8) * 3
    plain = Cascade(nets, Policy((0.8,)))(x)
    wrapped = Cascade([Wrapped(net) for net in nets], Policy((0.8,)))(x)
    assert torch.equal(plain.logits, wrapped.logits)
    assert torch.equal(plain.stage, wrapped.stage)


def test_half_precision_is_judged_in_single():
    nets, x = [net.bfloat16() for net in linears(2)], torch.randn(40, 8).bfloat16()
    policy = Policy((0.4,))
    out = Cascade(nets, policy)(x)
    expected = replay([net(x) for net in nets], policy)
    assert out.logits.dtype == out.score.dtype == torch.float32
    assert torch.equal(out.stage, expected.stage)


def test_a_nan_score_is_deferred():
    held = torch.randn(3, 3)
    held[1, 0] = math.nan
    out = Cascade([Fixed(held), nn.Identity()], Policy((-math.inf,)))(torch.randn(3, 3))
    assert out.stage.tolist() == [0, 1, 0]


def test_stages_of_different_classes_are_refused():
    cascade = Cascade({"small": nn.Linear(8, 5), "large": nn.Linear(8, 6)}, Policy((math.inf,)))
    with pytest.raises(CascadeError, match="stage 'large' has 6 classes, stage 'small' has 5"):
        cascade(torch.randn(3, 8))


@pytest.mark.parametrize(
    "wrong", [nn.Flatten(0), nn.Unflatten(1, (2, 4)), lambda x: x[:-1], lambda x: {"out": x}]
)
def test_an_output_of_another_shape_is_refused(wrong):
    class Wrong(nn.Module):
        def forward(self, x):
            return wrong(x)

    cascade = Cascade({"small": nn.Linear(8, 8), "large": Wrong()}, Policy((math.inf,)))
    with pytest.raises(CascadeError, match=r"large: expected logits of shape \(3, classes\), got"):
        cascade(torch.randn(3, 8))


def test_a_policy_of_another_length_is_refused():
    message = "the stages stage0, stage1 need 1 thresholds, got 2"
    with pytest.raises(UsageError, match=message):
        Cascade(linears(2), Policy((0.5, 0.5)))
    cascade = Cascade(linears(2), Policy((0.5,)))
    with pytest.raises(UsageError, match=message):
        cascade.policy = Policy((0.5, 0.5))
    cascade.policy = Policy((0.25,))
    assert cascade.policy.thresholds == (0.25,)


def test_running_needs_thresholds():
    cascade = Cascade({"small": nn.Identity(), "large": nn.Identity()}, Policy(stages=2))
    with pytest.raises(UsageError, match=r"policy\.thresholds: .* needs a threshold for small"):
        cascade(torch.randn(4, 3))
    cascade.policy = Policy((0.5,))
    assert len(cascade(torch.randn(4, 3)).stage) == 4


def test_one_stage_is_no_cascade():
    with pytest.raises(UsageError, match="a cascade needs at least 2, got 1"):
        Cascade(linears(1), Policy(()))


@pytest.mark.parametrize("bad", [3, [], "text", {"x": 3}, (torch.zeros(2), 3)])
def test_a_batch_of_another_kind_is_refused(bad):
    with pytest.raises(
        CascadeError, match="a batch must be a tensor, a tuple of tensors or a dict"
    ):
        Cascade(linears(2), Policy((0.5,)))(bad)


def test_tensors_of_different_lengths_are_refused():
    with pytest.raises(CascadeError, match=r"differ in length: \[2, 3\]"):
        Cascade([Pair(), Pair()], Policy((0.5,)))((torch.zeros(2, 4), torch.zeros(3, 2)))


@torch.no_grad()
def test_live_flops_are_those_of_the_samples_that_ran():
    nets = [nn.Linear(8, 5), nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 5))]
    nets.append(nn.Sequential(nn.Linear(8, 99), nn.ReLU(), nn.Linear(99, 5)))
    x = torch.randn(90, 8) * 2
    meters = [FlopMeter(net) for net in nets]
    for thresholds in ((0.6, 0.4), (math.inf, 0.3), (-math.inf, 0.5), (math.inf, math.inf)):
        with counting() as counter:
            stage = Cascade(nets, Policy(thresholds))(x).stage
        predicted = sum(
            meter(index_batch(x, stage >= k)).sum().item() if (stage >= k).any() else 0
            for k, meter in enumerate(meters)
        )
        assert counter.get_total_flops() == predicted


@pytest.mark.parametrize("score", list(SCORES))
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_gradients_reach_the_stages_that_answered(score, temperature):
    nets, x = linears(2), torch.randn(40, 8) * 3
    median = score_and_answer(nets[0](x), score, temperature)[0].median().item()
    cascade = Cascade(nets, Policy((median,), score, (temperature, 1.0)))
    out = cascade(x)
    assert 0 < out.stage.sum() < 40
    out.logits.logsumexp(dim=1).sum().backward()
    found = [net.weight.grad.clone() for net in nets]
    cascade.zero_grad()
    for k, net in enumerate(nets):
        net(x[out.stage == k]).logsumexp(dim=1).sum().backward()
        torch.testing.assert_close(found[k], net.weight.grad)


class Table(nn.Module):
    """Looks up the logits of a sample by its number; takes it alone, with others, or by name."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, number, other=None):
        return self.logits[number]


def window(scores, low, high):
    """Floors and thresholds at two places of the scores of the deferring stages."""
    ordered = [column.sort().values for column in scores[:-1]]
    return [[column[int(q * len(column))].item() for column in ordered] for q in (low, high)]


BATCHES = {
    "tensor": lambda n: n,
    "tuple": lambda n: (n, n * 2),
    "list": lambda n: [n, n * 2],
    "dict": lambda n: {"other": n * 2, "number": n},
}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("floored", [False, True])
@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize("combine", COMBINATIONS)
def test_combined_live_answers_equal_the_replay(combine, stages, floored, batch):
    logits = [torch.randint(-4, 5, (240, 3)) / 2 for _ in range(stages)]  # with ties
    temperatures = (1.3, 0.7, 2.0)[:stages]
    scores = [
        score_and_answer(stage, "margin", temperature)[0]
        for stage, temperature in zip(logits, temperatures, strict=True)
    ]
    for low, high in ((0.2, 0.5), (0.1, 0.8), (0.4, 0.4), (0.0, 0.999)):
        floors, thresholds = window(scores, low, high)
        policy = Policy(
            tuple(thresholds), "margin", temperatures, combine, tuple(floors) if floored else ()
        )
        expected = replay(logits, policy)
        cascade = Cascade([Table(stage) for stage in logits], policy)
        for size in (240, 7):
            parts = [cascade(BATCHES[batch](part)) for part in torch.arange(240).split(size)]
            live = [torch.cat(column) for column in zip(*parts, strict=True)]
            assert torch.equal(live[2], expected.stage)
            assert torch.equal(live[1], expected.prediction)
            assert torch.equal(live[0].argmax(dim=1), live[1])
            assert torch.equal(live[3], torch.stack(scores, 1).gather(1, live[2][:, None])[:, 0])


@pytest.mark.parametrize("stages", [2, 3])
def test_the_logits_of_an_average_are_the_logarithm_of_the_mean(stages):
    logits = [torch.randn(60, 4) for _ in range(stages)]
    policy = Policy((0.5, 0.7)[: stages - 1], temperatures=(2.0, 0.5, 1.0)[:stages])
    out = Cascade([Table(stage) for stage in logits], replace(policy, combine="average"))(
        torch.arange(60)
    )
    assert set(out.stage.tolist()) == set(range(stages))
    for i, stage in enumerate(out.stage.tolist()):
        if stage == 0:  # as it came
            assert torch.equal(out.logits[i], logits[0][i])
            continue
        pairs = zip(logits, policy.temperatures, strict=True)
        said = [softmax(column[i].tolist(), t) for column, t in pairs][: stage + 1]
        means = torch.tensor([sum(column) / (stage + 1) for column in zip(*said, strict=True)])
        torch.testing.assert_close(out.logits[i].exp(), means, rtol=1e-5, atol=1e-7)


def test_the_logits_of_the_most_confident_are_those_of_its_stage():
    logits = [torch.randn(200, 4) for _ in range(3)]
    columns = [score_and_answer(stage)[0] for stage in logits]
    policy = Policy((0.7, 0.8), combine="most_confident")
    out = Cascade([Table(stage) for stage in logits], policy)(torch.arange(200))
    kept = 0
    for i, stage in enumerate(out.stage.tolist()):
        own = [column[i].item() for column in columns][: stage + 1]
        best = combined_answer("most_confident", own, list(range(stage + 1)), None)
        assert torch.equal(out.logits[i], logits[best][i])
        kept += best < stage
    assert kept > 10


@pytest.mark.parametrize("stages", [2, 3])
def test_the_answer_of_an_average_stays_the_argmax_of_its_logarithm(stages):
    noise = 1e-7 * torch.randn(stages, 4000, 2)
    rest = torch.full((4000, 8), -0.5)
    logits = [torch.cat([stage, rest], dim=1) for stage in noise]  # means an ulp or two apart
    policy = Policy((math.inf,) * (stages - 1), combine="average")
    out = Cascade([Table(stage) for stage in logits], policy)(torch.arange(4000))
    assert torch.equal(out.prediction, replay(logits, policy).prediction)
    assert torch.equal(out.logits.argmax(dim=1), out.prediction)
    assert 300 < out.prediction.sum() < 2000


def test_probabilities_that_underflow_have_finite_logarithms():
    logits = torch.tensor([[0.0, -300.0], [-300.0, 0.0]])
    out = Cascade([Table(logits)] * 2, Policy((math.inf,), combine="average"))(torch.arange(2))
    assert out.logits.isfinite().all()
    assert out.prediction.tolist() == [0, 1]


def test_below_its_floor_a_sample_sees_no_later_stage():
    x = torch.randn(60, 8) * 3
    nets = [Recording(net) for net in linears(3)]
    scores = [score_and_answer(net.module(x))[0] for net in nets]
    floors, thresholds = window(scores, 0.3, 0.7)
    out = Cascade(nets, Policy(tuple(thresholds), floors=tuple(floors)))(x)
    assert ((scores[0] < floors[0]) & (out.stage == 0)).sum() == 18
    for k, net in enumerate(nets):
        assert torch.equal(net.seen[0], x[out.stage >= k])


@pytest.mark.parametrize("combine", COMBINATIONS)
def test_gradients_reach_what_is_combined(combine):
    nets, x = linears(2), torch.randn(40, 8)
    out = Cascade(nets, Policy((math.inf,), combine=combine))(x)
    out.logits.gather(1, out.prediction[:, None]).sum().backward()
    for net in nets if combine != "later" else nets[1:]:
        assert net.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "policy", [0.5, (0.5,), [0.5], Policy(0.5), PolicyOptions(thresholds=[0.5])]
)
def test_a_cascade_takes_thresholds_alone(policy):
    cascade = Cascade([nn.Linear(4, 3), nn.Linear(4, 3)], policy)
    assert cascade.policy == Policy(0.5)
    assert cascade.policy.names == cascade.names == ("stage0", "stage1")
    cascade.policy = 0.7
    assert cascade.policy.thresholds == (0.7,)


def test_stages_have_the_names_of_their_policy():
    modules = [nn.Linear(4, 3), nn.Linear(4, 3)]
    policy = Policy(0.5, names=("small", "large"))
    for stages in (modules, tuple(modules), nn.ModuleList(modules)):
        assert Cascade(stages, policy).names == ("small", "large")
    by_name = dict(zip(policy.names, modules, strict=True))
    assert Cascade(nn.ModuleDict(by_name), 0.5).names == ("small", "large")
    with pytest.raises(UsageError, match="it is for the stages small, large; these are a, b"):
        Cascade(dict(zip("ab", modules, strict=True)), policy)


NET = nn.Linear(4, 3)


@pytest.mark.parametrize(
    ("stages", "policy", "message"),
    [
        ([NET, "large"], 0.5, "stages: 'stage1' must be an nn.Module, got a str"),
        ([NET, nn.Linear], 0.5, r"got the class Linear; make one: Linear\(...\)"),
        (NET, 0.5, "expected the modules as a list, cheapest first, .* got a Linear"),
        ("ab", 0.5, "expected the modules as a list, .* got a str"),
        ([NET], 0.5, "stages: a cascade needs at least 2, got 1"),
        ({1: NET, 2: NET}, 0.5, "stages: expected names as keys, got 1"),
        ([NET, NET], NET, "thresholds: expected a number"),
        ([NET, NET], "0.5", "thresholds: expected a number"),
        ([NET, NET, NET], 0.5, "a cascade of 3 stages needs 2, got 1"),
        ([NET, NET], [0.5, 0.5], "a cascade of 2 stages needs 1, got 2"),
        ([NET, NET, NET], Policy(0.5), "stage0, stage1, stage2 need 2 thresholds, got 1"),
    ],
)
def test_wrong_arguments_end_in_an_error_of_ours(stages, policy, message):
    with pytest.raises(UsageError, match=message):
        Cascade(stages, policy)
