"""Single stages give what `Cascade` gives, whatever batches requests fall into."""

import base64
import io
import json
import pickle
import random

import pytest
import torch
from torch import nn

from lit_cascade import LitCascade, Policy, Stage
from lit_cascade.core import DeferralHead, LogOdds, stage_outputs
from lit_cascade.errors import CascadeError
from lit_cascade.models import TextClassifier, Timm
from lit_cascade.serve.inputs import ArrayInput, ImageInput, TextInput, parse_request
from lit_cascade.serve.serving import inputs_for
from lit_cascade.serve.stage import Sample, StageRunner
from tests.images import some_images
from tests.texts import CLASSES, save_classifier, some_sentences

EVENT, LATER = (
    LogOdds(-0.3, (-2.0, 0.5, 0.7, -0.05, -0.2)),
    LogOdds(0.2, (-1.0, 0.5, 0.3, 0.1, 0.2)),
)
NAMES = ("a", "b", "c")


class Pooled(nn.Module):
    """A classifier of images of any size."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(3, 5)
        torch.manual_seed(seed)
        self.own = nn.Linear(3, 5)

    def forward(self, x):
        colour = x.mean(dim=(2, 3))
        return 3 * self.head(colour) + self.own(colour)


def tinted(n):
    """Images of different colours and sizes."""
    torch.manual_seed(1)
    return [2 * torch.randn(3, 1, 1) + torch.rand(3, 4 + i % 3, 5 + i % 2) for i in range(n)]


def runners(networks, policy, kind, **options):
    names = policy.names
    return [StageRunner(k, names, one, policy, kind, **options) for k, one in enumerate(networks)]


def through(value):
    """What another process gets."""
    return pickle.loads(pickle.dumps(value))  # noqa: S301


def serve(stages, queries, most=7):
    """Outcomes of all queries, in batches of random composition; as an engine would, but slowly."""
    rng, waiting = random.Random(0), [[] for _ in stages]  # noqa: S311
    waiting[0] = [(row, Sample(one.input, one.top)) for row, one in enumerate(queries)]
    found, audits = {}, []
    while any(waiting):
        k = rng.choice([k for k, some in enumerate(waiting) if some])
        rng.shuffle(waiting[k])
        size = rng.randint(1, most)
        batch, waiting[k] = waiting[k][:size], waiting[k][size:]
        outcomes = stages[k](through([sample for _, sample in batch]))
        for (row, sample), outcome in zip(batch, outcomes, strict=True):
            if sample.audited is not None:
                audits.append((row, outcome.agreed))
            elif outcome.deferred:
                waiting[k + 1].append((row, sample._replace(before=through(outcome.carried))))
            else:
                assert row not in found
                found[row] = outcome
                if outcome.audit:
                    answer = outcome.body["prediction"]
                    audit = sample._replace(before=through(outcome.carried), audited=answer)
                    waiting[-1].append((row, audit))
    return [found[row] for row in range(len(queries))], audits


def check(stages, queries, output, cascade, most=7):
    """Compare with the output of `Cascade` on the same samples."""
    outcomes, _ = serve(stages, queries, most)
    assert {one.status for one in outcomes} == {200}
    answers = [json.loads(json.dumps(one.body)) for one in outcomes]
    assert [one["prediction"] for one in answers] == output.prediction.tolist()
    names = [stages[0].names[k] for k in output.stage.tolist()]
    assert [one["stage"] for one in answers] == names
    assert [one["score"] for one in answers] == pytest.approx(output.score.tolist(), abs=2e-5)
    chances = cascade.probability(output).tolist()
    assert [one["probability"] for one in answers] == pytest.approx(chances, abs=2e-5)
    return answers


def as_json(kind, value):
    body = json.dumps({kind.key: value, "top_k": 2}).encode()
    return parse_request(kind, "application/json", body)


HEADS = (DeferralHead(EVENT, LATER), DeferralHead(LATER, EVENT))
POLICIES = {
    "max_softmax": {},
    "margin, floors": {"score": "margin", "floors": (0.02, 0.01)},
    "negative_entropy": {"score": "negative_entropy"},
    "temperatures": {"temperatures": (2.0, 0.5, 1.5)},
    "agreement": {"score": "agreement"},
    "agreement, first stage votes": {"score": "agreement", "thresholds": (float("inf"), 1.6)},
    "average": {"combine": "average"},
    "most_confident": {"combine": "most_confident"},
    "learned": {"score": "learned", "heads": HEADS},
    "learned, average": {"score": "learned", "combine": "average", "heads": HEADS},
}


def policy_of(which, networks, images):
    """A policy of these options; thresholds that are not given defer half of all images."""
    given = {"names": NAMES, **POLICIES[which]}
    with torch.inference_mode():
        logits = [torch.cat([one(image[None]) for image in images]) for one in networks]
    scores = stage_outputs(logits, Policy(stages=3, **{"thresholds": None, **given})).scores
    halves = [one.sort().values.double() for one in scores[:-1]]
    middle = len(images) // 2
    thresholds = [(one[middle - 1] + one[middle]).item() / 2 for one in halves]
    return Policy(**{"thresholds": thresholds, **given})


@pytest.mark.parametrize("which", POLICIES)
def test_arrays_of_different_sizes_through_three_stages(which):
    networks, images = [Pooled(seed).eval() for seed in range(3)], tinted(120)
    policy = policy_of(which, networks, images)
    cascade = LitCascade(dict(zip(NAMES, networks, strict=True)), policy).cascade
    with torch.inference_mode():
        alone = [cascade(image[None]) for image in images]
    output = type(alone[0])(*(torch.cat(column) for column in zip(*alone, strict=True)))
    assert len(output.stage.unique()) >= 2, output.stage.bincount()
    kind = ArrayInput(images[0])
    stages = runners(networks, policy, kind)
    answers = check(stages, [as_json(kind, one.tolist()) for one in images], output, cascade)
    classes, _ = cascade.likeliest(output, 2)
    got = [[best["prediction"] for best in one["top_k"]] for one in answers]
    assert got == classes.tolist()


@pytest.fixture(scope="module")
def timm_pair():
    """Two models with different crops and sizes, steep enough that both stages answer."""
    torch.manual_seed(0)
    sizes = {"mobilenetv3_small_050.lamb_in1k": 64, "resnet18.a1_in1k": 96}
    return [
        Timm(name, pretrained=False, num_classes=7, img_size=size).eval()
        for name, size in sizes.items()
    ]


def file_of(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_images_of_different_sizes_are_preprocessed_by_each_stage(timm_pair):
    images = some_images(24)
    plain = LitCascade(timm_pair, 0.0)
    with torch.inference_mode():
        scores = plain.cascade(plain.collate(images)).score
    policy = Policy(scores.median().item(), names=("stage0", "stage1"))
    model = LitCascade(timm_pair, policy)
    with torch.inference_mode():
        output = model(model.collate(images))
    assert output.stage.tolist().count(1) == 12 - (len(images) + 1) % 2
    kind = inputs_for(timm_pair)
    assert isinstance(kind, ImageInput)
    stages = runners(timm_pair, policy, kind)
    queries = [as_json(kind, base64.b64encode(file_of(one)).decode()) for one in images]
    check(stages, queries, output, model.cascade)


def test_texts_of_different_lengths_are_padded_together(tmp_path):
    texts, _ = some_sentences(40)
    kinds = ("bert", "distilbert")
    stages = {}
    for seed, kind in enumerate(kinds):
        folder = save_classifier(kind, tmp_path / kind, texts, seed=seed)
        stages[kind] = TextClassifier(str(folder)).eval()
    plain = LitCascade({kind: Stage(lambda one=one: one) for kind, one in stages.items()}, 0.0)
    with torch.inference_mode():
        scores = plain.cascade(plain.collate(texts)).score.sort().values
    policy = Policy((scores[19] + scores[20]).item() / 2, names=kinds)  # no score is near
    model = LitCascade({kind: Stage(lambda one=one: one) for kind, one in stages.items()}, policy)
    with torch.inference_mode():
        output = model(model.collate(texts))
    assert output.stage.tolist().count(1) == 20
    kind = inputs_for(list(stages.values()))
    assert kind == TextInput()
    served = runners(list(stages.values()), policy, kind, classes=CLASSES)
    answers = check(served, [as_json(kind, one) for one in texts], output, model.cascade)
    assert {one["name"] for one in answers} <= set(CLASSES)


class Picky(nn.Module):
    """Refuses what is above 9, and gives NaN for what is below -9."""

    def forward(self, x):
        if (x > 9).any():
            raise RuntimeError("above nine\nand more")
        return torch.stack([x[:, 0], -x[:, 0]], dim=1).masked_fill(x[:, :1] < -9, torch.nan)


def test_one_that_cannot_be_answered_fails_alone():
    policy = Policy(0.9, names=("a", "b"))
    kind = ArrayInput(torch.zeros(1))
    stages = runners([Picky(), Picky()], policy, kind)
    values = [5.0, 10.0, 0.5, -10.0, -5.0]
    outcomes, _ = serve(stages, [as_json(kind, [one]) for one in values], most=5)
    assert [one.status for one in outcomes] == [200, 422, 200, 500, 200]
    assert [one.body.get("stage") for one in outcomes] == ["a", None, "b", None, "a"]
    assert outcomes[1].body == {
        "error": "stage 'a' cannot take this input: above nine. Expected nested lists of float32 "
        "numbers of shape (1,)."
    }
    assert outcomes[3].body == {"error": "stage 'b' gave NaN or infinite logits."}


class Broken(nn.Module):
    """Works until it is told not to, as a GPU after an illegal access."""

    fine = True

    def forward(self, x):
        if not self.fine:
            raise RuntimeError("illegal access")
        return x.repeat(1, 2)


def test_a_stage_that_takes_nothing_any_more_raises_and_blames_no_request():
    policy = Policy(0.9, names=("a", "b"))
    kind, network = ArrayInput(torch.zeros(1)), Broken()
    stage = runners([network, Broken()], policy, kind)[0]
    network.fine = False
    with pytest.raises(CascadeError, match=r"stage 'a' does not take .*illegal access"):
        stage([Sample(kind.example())])


def test_a_stage_that_does_not_take_the_example_says_so_at_the_start():
    policy = Policy(0.9, names=("a", "b"))
    stage = runners([nn.Linear(3, 2), nn.Linear(3, 2)], policy, ArrayInput(torch.zeros(4)))[0]
    with pytest.raises(CascadeError, match=r"stage 'a' does not take nested lists of float32"):
        stage.measure(2)


@pytest.mark.parametrize("which", ["max_softmax", "agreement", "average"])
def test_audits_compare_the_answer_with_that_of_the_last_stage_alone(which):
    networks, images = [Pooled(seed).eval() for seed in range(3)], tinted(60)
    policy = policy_of(which, networks, images)
    kind = ArrayInput(images[0])
    stages = runners(networks, policy, kind, audit=1.0)
    outcomes, audits = serve(stages, [as_json(kind, one.tolist()) for one in images])
    with torch.inference_mode():
        last = [networks[-1](one[None]).argmax().item() for one in images]
    early = [row for row, one in enumerate(outcomes) if one.body["stage"] != "c"]
    assert sorted(row for row, _ in audits) == early
    assert {agreed for _, agreed in audits} == {True, False}
    for row, agreed in audits:
        assert agreed == (outcomes[row].body["prediction"] == last[row])


def test_the_share_of_audits_is_as_given():
    policy = Policy(float("-inf"), names=("a", "b"))
    kind = ArrayInput(torch.zeros(1))
    stage = runners([Picky(), Picky()], policy, kind, audit=0.1)[0]
    outcomes = stage([Sample(kind.example())] * 2000)
    assert 140 < sum(one.audit for one in outcomes) < 260


def test_synsets_have_readable_names():
    policy = Policy(float("-inf"), names=("a", "b"))
    kind, classes = ArrayInput(torch.zeros(1)), ("n01440764", "n02123045")
    readable = {"n01440764": "tench", "n02123045": "tabby"}
    (stage, _) = runners([Picky(), Picky()], policy, kind, classes=classes, readable=readable)
    (outcome,) = stage([Sample((torch.ones(1).numpy(),))])
    assert outcome.body == outcome.body | {
        "prediction": 0, "class": "n01440764", "name": "tench", "stage": "a",
    }  # fmt: skip
