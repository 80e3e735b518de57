"""Slow and obvious answers to compare the fast ones with: plain Python, one sample at a time."""

import itertools
import math
import warnings
from functools import cache


def stage_of(scores, thresholds, floors=None):
    """The stage that answers one sample, from its scores at the deferring stages."""
    floors = floors or [-math.inf] * len(thresholds)
    for stage, (score, threshold, floor) in enumerate(zip(scores, thresholds, floors, strict=True)):
        if score >= threshold or score < floor:
            return stage
    return len(thresholds)


def softmax(row, temperature=1.0):
    """Class probabilities of one sample."""
    top = max(row)
    weights = [math.exp((value - top) / temperature) for value in row]
    return [weight / sum(weights) for weight in weights]


def combined_answer(combine, scores, answers, probabilities):
    """What a cascade answers to one sample, from what each of the stages that ran said."""
    if combine == "later":
        return answers[-1]
    if combine == "most_confident":
        best = 0
        for stage in range(1, len(answers)):
            if not scores[best] > scores[stage]:
                best = stage
        return answers[best]
    totals = [sum(column) for column in zip(*probabilities, strict=True)]
    return totals.index(max(totals))


def brute_force_point(scores, correct, costs, threshold, floors=None):
    """(deferral rate, accuracy, cost) of a cascade whose stages share one threshold."""
    n, deferring = len(scores), len(scores[0])
    deferred = right = 0
    spent = 0.0
    for own_scores, own_correct, own_costs in zip(scores, correct, costs, strict=True):
        stage = stage_of(own_scores, [threshold] * deferring, floors)
        deferred += stage > 0
        right += bool(own_correct[stage])
        spent += sum(own_costs[: stage + 1])
    return deferred / n, right / n, spent / n


def brute_force_curve(scores, correct, costs):
    """Rows (threshold, deferral rate, accuracy, cost) at -inf, every score but the least, +inf."""
    distinct = sorted({score for own in scores for score in own})
    return [
        (threshold, *brute_force_point(scores, correct, costs, threshold))
        for threshold in (-math.inf, *distinct[1:], math.inf)
    ]


def best_deferrals(correct):
    """For every number of deferred samples, the best accuracy over all ways to choose them."""
    n = len(correct)
    return [
        max(
            sum(correct[i][i in deferred] for i in range(n)) / n
            for deferred in map(set, itertools.combinations(range(n), d))
        )
        for d in range(n + 1)
    ]


def mean_nll(logits, labels, temperature):
    """Mean negative log-likelihood of lists of logits."""
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        scaled = [value / temperature for value in row]
        top = max(scaled)
        total += top + math.log(sum(math.exp(value - top) for value in scaled)) - scaled[label]
    return total / len(logits)


def metric_by_sklearn(metric, answers, labels, classes):
    """A metric of answers as scikit-learn has it."""
    return _metric_by_sklearn(metric, tuple(answers), tuple(labels), classes)


@cache  # it takes milliseconds, and most thresholds of a curve change no answer
def _metric_by_sklearn(metric, answers, labels, classes):
    from sklearn.metrics import f1_score, matthews_corrcoef

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a single class
        if metric == "accuracy":
            return sum(a == b for a, b in zip(answers, labels, strict=True)) / len(labels)
        if metric == "f1":
            return f1_score(labels, answers, zero_division=0)
        if metric == "f1_macro":
            known = range(classes)
            return f1_score(labels, answers, average="macro", labels=known, zero_division=0)
        return matthews_corrcoef(labels, answers)
