import math

import pytest
import torch

from lit_cascade.core.scores import SCORES
from lit_cascade.core.search.zoo import Zoo
from lit_cascade.errors import CascadeError, UsageError
from tests.search_oracles import Plain, zoo_of_logits

COMBINATIONS = ("later", "average", "most_confident")


def parts(models=3, n=8, **changes):
    return {
        "names": tuple("abcdefgh"[:models]),
        "scores": torch.randint(5, (models, n)) / 5,
        "correct": torch.rand(models, n) < 0.5,
        "costs": torch.rand(models, n, dtype=torch.float64).sort(dim=0).values,
    } | changes


def zoo_and_oracle(combine, n=25, models=4, score="max_softmax"):
    logits, labels = 2 * torch.randn(models, n, 3), torch.randint(3, (n,))
    logits[:, n // 2 :] = logits[:, : n - n // 2]  # so that scores tie
    logits[1] = logits[0]
    temperatures = [1.0, 1.0, 0.7, 2.0]
    costs = torch.rand(models, n, dtype=torch.float64).sort(dim=0).values
    options = {"score": score, "temperatures": temperatures, "combine": combine}
    zoo = zoo_of_logits(logits, labels, costs, **options)
    return zoo, Plain(zoo, logits, temperatures, labels)


# what it says


def test_numbers_by_hand():
    zoo = Zoo(
        ("a", "b"),
        torch.zeros(2, 4),
        torch.tensor([[True, False, False, False], [True, True, True, False]]),
        torch.tensor([[1, 1, 1, 3], [2, 2, 2, 6]]).double(),
    )
    assert (len(zoo), zoo.n, zoo.constant) == (2, 4, False)
    assert (zoo.mean_cost.tolist(), zoo.accuracy.tolist()) == ([1.5, 3.0], [0.25, 0.75])
    assert zoo.accuracy.dtype == torch.float64
    constant = Zoo(zoo.names, zoo.scores, zoo.correct, torch.tensor([[5], [7]]).double())
    assert (constant.constant, constant.mean_cost.tolist()) == (True, [5, 7])


def test_singles_are_the_front_of_the_models():
    correct = torch.tensor([[0, 0, 0, 1], [0, 0, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]])
    costs = torch.tensor([[1], [1], [2], [3], [4]]).double()
    singles, models = Zoo(tuple("abcde"), torch.zeros(5, 4), correct.bool(), costs).singles()
    assert models == [0, 2, 4]
    assert (singles.cost.tolist(), singles.accuracy.tolist()) == ([1, 2, 4], [0.25, 0.5, 0.75])


@pytest.mark.parametrize("combine", COMBINATIONS)
@pytest.mark.parametrize("stages", [[], [0], [1], [0, 1], [1, 2], [2, 1], [0, 1, 2]])
@pytest.mark.parametrize("score", SCORES)
def test_after_equals_loops(stages, combine, score):
    zoo, plain = zoo_and_oracle(combine, score=score)
    last = [model for model in (3, 2, 1) if model not in stages]
    expected = [[plain.right([*stages, model], i) for i in range(zoo.n)] for model in last]
    found = zoo.correct_after(stages, last)
    assert (found.dtype, found.tolist()) == (torch.bool, expected)


def test_the_most_confident_of_equals_is_the_last():
    zoo = Zoo(
        **parts(3, 1, scores=torch.full((3, 1), 0.5), combine="most_confident")
        | {"correct": torch.tensor([[False], [False], [True]])}
    )
    assert zoo.correct_after([0], [1, 2]).tolist() == [[False], [True]]
    assert zoo.correct_after([0, 2], [1]).tolist() == [[False]]
    assert zoo.correct_after([1, 0], [2]).tolist() == [[True]]


@pytest.mark.parametrize("combine", COMBINATIONS)
@pytest.mark.parametrize("constant", [False, True])
def test_rows_are_some_of_the_samples(combine, constant):
    zoo, _ = zoo_and_oracle(combine)
    if constant:
        zoo = Zoo(**{**vars(zoo), "costs": zoo.costs[:, :1]})
    rows = torch.tensor([4, 4, 0, 24, 7])
    some = zoo.rows(rows).rows(torch.tensor([0, 1, 2, 3, 4])).rows(torch.arange(5))
    assert some.n == 5
    assert some.names == zoo.names
    assert torch.equal(some.scores, zoo.scores[:, rows])
    assert torch.equal(some.costs, zoo.costs if constant else zoo.costs[:, rows])
    assert torch.equal(some.accuracy, zoo.correct[:, rows].double().mean(dim=1))
    for stages in ([], [0], [0, 2]):
        assert torch.equal(some.correct_after(stages, [3]), zoo.correct_after(stages, [3])[:, rows])


@pytest.mark.parametrize("combine", COMBINATIONS)
def test_models_are_some_of_the_models(combine):
    zoo, _ = zoo_and_oracle(combine)
    some = zoo.models([0, 2, 3]).models([1, 2])
    assert some.names == ("model-2", "model-3")
    assert torch.equal(some.scores, zoo.scores[2:])
    assert torch.equal(some.mean_cost, zoo.mean_cost[2:])
    assert torch.equal(some.accuracy, zoo.accuracy[2:])
    pair = zoo.correct_after([2], [3])
    assert torch.equal(some.correct_after([0], [1]), pair)
    assert torch.equal(some.rows(torch.tensor([3, 1])).correct_after([0], [1]), pair[:, [3, 1]])


# errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"correct": torch.ones(3, 7).bool()}, r"3 models on 8 samples .* got \(3, 7\) and"),
        ({"correct": torch.ones(2, 8).bool()}, r"got \(2, 8\) and \(3, 8\)"),
        ({"costs": torch.ones(3, 7)}, r"of \(3, 1\), got \(3, 8\) and \(3, 7\)"),
        ({"costs": torch.ones(3)}, r"got \(3, 8\) and \(3,\)"),
        ({"costs": torch.ones(1, 8)}, r"got \(3, 8\) and \(1, 8\)"),
        ({"scores": torch.ones(8)}, r"scores must have shape \(models, samples\), got \(8,\)"),
        ({"scores": torch.ones(1, 3, 8)}, r"got \(1, 3, 8\)"),
        ({"names": ("a", "b")}, "names of 3 models"),
        ({"names": ("a", "b", "c", "d")}, "names of 3 models"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(CascadeError, match=message):
        Zoo(**parts(**changes))


def test_no_samples_are_refused():
    with pytest.raises(CascadeError, match="at least one sample"):
        Zoo(**parts(3, 0))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_without_a_place_in_an_order_are_refused(value):
    """+inf would answer at +inf, which always defers."""
    scores = torch.rand(3, 8)
    scores[2, 7] = value
    with pytest.raises(CascadeError, match=r"a score is NaN or \+inf"):
        Zoo(**parts(scores=scores))
    scores[2, 7] = -math.inf
    assert Zoo(**parts(scores=scores)).n == 8


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_costs_that_are_none_are_refused(value):
    costs = torch.ones(3, 8).double()
    costs[1, 5] = value
    with pytest.raises(CascadeError, match="costs must be finite numbers of at least 0"):
        Zoo(**parts(costs=costs))
    costs[1, 5] = 0
    assert Zoo(**parts(costs=costs)).n == 8


@pytest.mark.parametrize(
    "missing", [{"labels": torch.zeros(8).long()}, {"probabilities": lambda model: None}, {}]
)
def test_an_average_needs_probabilities_and_labels(missing):
    with pytest.raises(CascadeError, match="an average needs the probabilities"):
        Zoo(**parts(combine="average", **missing))


def test_an_unknown_combination_is_refused():
    with pytest.raises(UsageError, match=r"combine: 'avrage' is unknown.*Did you mean 'average'"):
        Zoo(**parts(combine="avrage"))
