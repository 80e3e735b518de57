"""Every cascade of a small zoo, one sample at a time, in whole numbers and plain Python.

Nothing here shares code with the search: tensors are only read. Costs become integers, so that
equal costs are equal.
"""

import itertools
import math
import struct
from fractions import Fraction

import torch

from lit_cascade.core.scores import answers_of, probabilities_of, score_and_answer
from lit_cascade.core.search.zoo import Zoo

INF = math.inf


def softmax(row, temperature=1.0):
    """Probabilities of one row of logits."""
    top = max(row)
    weights = [math.exp((value - top) / temperature) for value in row]
    return [weight / sum(weights) for weight in weights]


def first_best(values):
    """Position of the greatest value, the first of several."""
    return max(range(len(values)), key=lambda position: (values[position], -position))


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def points_of(front):
    return list(zip(front.cost.tolist(), front.accuracy.tolist(), strict=True))


def undominated(points):
    """(cost, accuracy) of the points that no other is as good as, rising."""
    kept = []
    for cost, accuracy in sorted(set(points), key=lambda point: (point[0], -point[1])):
        if not kept or accuracy > kept[-1][1] + 1e-12:
            kept.append((cost, accuracy))
    return kept


def least(points, wanted):
    """The least cost of an accuracy."""
    return min((cost for cost, accuracy in points if accuracy >= wanted - 1e-9), default=INF)


def between(points, wanted):
    """The cost of an accuracy, linear in accuracy in the logarithm of cost."""
    if wanted <= points[0][1]:
        return points[0][0]
    for (c, a), (d, b) in itertools.pairwise(points):
        if a <= wanted <= b:
            return c * (d / c) ** ((wanted - a) / (b - a))
    return points[-1][0]


class Plain:
    """A zoo as lists of numbers.

    Attributes:
        scores: of each model and sample.
        correct: whether each model is right.
        answers: of each model and sample, where the score is agreement.
        costs: integers, in units of `unit`.
        unit: a fraction.
    """

    def __init__(self, zoo, logits=None, temperatures=None, labels=None):
        self.n, self.size, self.combine = zoo.scores.shape[1], zoo.scores.shape[0], zoo.combine
        self.scores, self.correct = zoo.scores.tolist(), zoo.correct.tolist()
        self.answers = None if zoo.answers is None else zoo.answers.tolist()
        fractions = [
            [Fraction(value) for value in (row * self.n if len(row) == 1 else row)]
            for row in zoo.costs.tolist()
        ]
        scale = math.lcm(*(value.denominator for row in fractions for value in row))
        self.costs = [[int(value * scale) for value in row] for row in fractions]
        self.unit = Fraction(1, scale)
        self.probabilities = self.labels = None
        if logits is not None:
            self.probabilities = [
                [softmax(row, temperature) for row in stage.tolist()]
                for stage, temperature in zip(logits, temperatures, strict=True)
            ]
            self.labels = labels.tolist()

    def right(self, stages, i):
        """Whether a cascade is right on sample i if all of `stages`, and no more, ran."""
        if self.combine == "later" or len(stages) == 1:
            return self.correct[stages[-1]][i]
        if self.combine == "average":
            rows = [self.probabilities[stage][i] for stage in stages]
            total = [sum(column) for column in zip(*rows, strict=True)]
            best, second = sorted(total)[:-3:-1]
            assert best - second > 1e-5, "too close for single precision: choose another seed"
            return first_best(total) == self.labels[i]
        best = stages[0]
        for stage in stages[1:]:
            if self.scores[stage][i] >= self.scores[best][i]:
                best = stage
        return self.correct[best][i]

    def score(self, earlier, model, i):
        """Score of a model on sample i after others ran."""
        score = self.scores[model][i]
        if self.answers is not None:
            said = [self.answers[other][i] for other in earlier]
            if self.answers[model][i] in said:
                (score,) = struct.unpack("f", struct.pack("f", score + 1))  # single precision
        return score

    def thresholds(self, earlier, model):
        """Every threshold that there is after others ran."""
        scores = {self.score(earlier, model, i) for i in range(self.n)}
        return [-INF, *sorted(scores), INF]

    def ran(self, stages, thresholds, floors, i):
        """The stages that run on sample i."""
        limits = zip(stages, thresholds, floors, strict=False)
        for k, (stage, threshold, floor) in enumerate(limits):
            score = self.score(stages[:k], stage, i)
            if score >= threshold or score < floor:
                return stages[: k + 1]
        return stages

    def point(self, stages, thresholds, floors=()):
        """(cost, number of right answers): what a cascade does to all samples, in units."""
        floors = floors or (-INF,) * len(thresholds)
        cost = right = 0
        for i in range(self.n):
            ran = self.ran(stages, thresholds, floors, i)
            cost += sum(self.costs[stage][i] for stage in ran)
            right += self.right(ran, i)
        return cost, right

    def every_point(self, stages, *, window=False):
        """Every cascade of 1 to `stages` stages at every threshold (and floor)."""
        for k in range(1, stages + 1):
            for models in itertools.combinations(range(self.size), k):
                limits = [self.thresholds(models[:j], models[j]) for j in range(k - 1)]
                for thresholds in itertools.product(*limits):
                    yield self.point(models, thresholds)
                    if window and k == 2:
                        for floor in self.thresholds((), models[0])[1:]:
                            if floor < thresholds[0]:
                                yield self.point(models, thresholds, (floor,))

    def front(self, stages, **options):
        """(mean cost, accuracy) of the points that no other dominates, rising."""
        return [self.means(point) for point in undominated(self.every_point(stages, **options))]

    def means(self, point):
        """A point per sample, as floats."""
        return float(point[0] * self.unit / self.n), point[1] / self.n


def plain_zoo(scores, correct, costs, **parts):
    """A zoo of tensors, in order of mean cost."""
    order = costs.mean(dim=1).sort(stable=True).indices
    names = tuple(f"model-{model}" for model in range(len(scores)))
    if (answers := parts.pop("answers", None)) is not None:
        parts["answers"] = answers[order]
    return Zoo(names, scores[order], correct[order], costs[order], **parts)


def agreeing_zoo(n, models=5, *, confidences="ties", costs=None, classes=4):
    """Models that answer one of a few classes, the dearer the oftener right, with confidences.

    These tie, or do not, are all equal, or 0 (unknown) for some or all of the models, or 0 and 1.
    """
    labels = torch.randint(classes, (n,))
    ability = torch.linspace(0.4, 0.9, models)[:, None]
    fooled = torch.randint(classes, (n,))  # what those who err often say
    wrong = torch.where(torch.rand(models, n) < 0.6, fooled, torch.randint(classes, (models, n)))
    answers = torch.where(torch.rand(models, n) < ability, labels, wrong)
    scores = {
        "ties": torch.randint(4, (models, n)) / 4,
        "no ties": torch.rand(models, n),
        "all equal": torch.full((models, n), 0.3),
        "unknown": torch.zeros(models, n),
        "known of some": torch.randint(1, 4, (models, n)) / 4 * (torch.arange(models) % 2)[:, None],
        "0 and 1": torch.randint(2, (models, n)).float(),
    }[confidences]
    prices = 2 ** torch.arange(models)[:, None] if costs is None else costs
    return plain_zoo(scores, answers == labels, prices.double(), answers=answers.short())


def zoo_of_logits(logits, labels, costs, *, score, temperatures, combine):
    """A zoo of recorded logits, which are in order of cost."""
    judged = [
        score_and_answer(stage, score, temperature)
        for stage, temperature in zip(logits, temperatures, strict=True)
    ]
    return Zoo(
        names=tuple(f"model-{model}" for model in range(len(logits))),
        scores=torch.stack([found for found, _ in judged]),
        correct=torch.stack([answers_of(stage) == labels for stage in logits]),
        costs=costs,
        combine=combine,
        probabilities=lambda model: probabilities_of(logits[model], temperatures[model]),
        labels=labels,
    )


def latent_zoo(models, n, seed, *, poor=0):
    """Models that find the same samples hard, the dearer the abler, and are surer where right.

    Of them `poor` are no abler than the cheapest, whatever they cost.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(*shape, generator=generator)

    difficulty = noise(n)
    skill = torch.linspace(0.2, 1.6, models)[:, None] + 0.15 * noise(models, 1)
    skill[torch.randperm(models - 2, generator=generator)[:poor] + 1] = 0.1
    margin = skill - difficulty + 0.6 * noise(models, n)
    sure = (margin.abs() * (margin > 0) + 0.4 * noise(models, n)).sigmoid()
    cost = torch.logspace(0, 2, models).double()[:, None] * (0.2 * noise(models, 1)).exp().double()
    return plain_zoo(sure, margin > 0, cost)
