"""Classifiers of texts as files: tokens and answers without torch and transformers."""

import json
import runpy

import pytest
import torch

from lit_cascade import CascadeError, LitCascade, Stage
from lit_cascade.export import export_cascade
from lit_cascade.export.exporting import inputs_of
from lit_cascade.export.policy_file import tokenizer_json, tokens_of
from lit_cascade.export.verifying import RUNNER, verify_arrays
from lit_cascade.models import TextClassifier, TextPreprocessing
from tests.export.conftest import without_torch
from tests.texts import save_classifier, some_sentences

N = 40


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two kinds of models with tokenizers of their own, each text cut to 12 tokens by the first."""
    texts = [*some_sentences(N - 3)[0], "", "word " * 300, "naïve café 東京 🎬"]
    place = tmp_path_factory.mktemp("classifiers")
    for seed, kind in enumerate(("bert", "roberta")):
        save_classifier(kind, place / kind, texts, seed=seed)
    stages = {
        "bert": Stage(lambda: TextClassifier(str(place / "bert"), max_length=12)),
        "roberta": Stage(lambda: TextClassifier(str(place / "roberta"))),
    }
    model = LitCascade(stages)
    batch = model.collate(texts)
    with torch.inference_mode():
        first = torch.cat([model.networks()["bert"](**batch[key]) for key in list(batch)[:1]])
    model.policy = float(first.softmax(dim=1).amax(dim=1).median()) + 1e-3
    return model, texts, batch


def test_texts_without_torch_get_the_answers_of_the_cascade(pair, tmp_path):
    model, texts, batch = pair
    done = export_cascade(
        model.networks(), model.policy, batch, tmp_path / "out", raw=texts,
        classes=model.class_names,
    )  # fmt: skip
    assert {"tokenizer-0.json", "tokenizer-1.json"} <= set(done.files)
    assert 0 < done.verification["deferred"]["policy"] < N
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    lines = without_torch(tmp_path / "out/run_cascade.py", tmp_path / "texts.txt").splitlines()
    with torch.inference_mode():
        expected = model.cascade(batch)
    found = [json.loads(line) for line in lines]
    assert [one["prediction"] for one in found] == expected.prediction.tolist()
    assert [one["stage"] for one in found] == [model.names[k] for k in expected.stage.tolist()]
    assert {one["class"] for one in found} <= {"negative", "positive"}


def test_tokens_of_texts_and_pairs_are_those_of_the_stages(pair, tmp_path):
    """Also cut, empty, and in other scripts."""
    model, texts, _ = pair
    pairs = list(zip(texts, texts[::-1], strict=True))
    runner = runpy.run_path(str(RUNNER))["Cascade"].__new__(runpy.run_path(str(RUNNER))["Cascade"])
    for samples in (texts, pairs):
        batch = model.collate([(one, 0) for one in samples])[0]
        inputs = inputs_of(model.networks(), batch)
        runner.folder, runner.policy = tmp_path, {"stages": []}
        for k, (preprocessing, stage) in enumerate(
            zip(model.preprocessings(), inputs, strict=True)
        ):
            (tmp_path / f"{k}.json").write_text(tokenizer_json(preprocessing))
            names = [{"name": x.name, "tokens": tokens_of(x.argument, "")} for x in stage]
            how = {"kind": "text", "tokenizer": f"{k}.json"}
            facts = {"preprocessing": how, "inputs": names}
            runner.policy["stages"].append(facts)
        arrays = {x.name: x.example.numpy() for stage in inputs for x in stage}
        verify_arrays(runner, samples, arrays)
        other = [*samples[:5], samples[6], *samples[6:]]
        with pytest.raises(CascadeError, match="of sample 5 the files make another"):
            verify_arrays(runner, other, arrays)


class Slow:
    """A tokenizer in Python."""


def test_what_tokenizers_cannot_do_is_refused():
    with pytest.raises(CascadeError, match="the tokenizer of 'x', Slow, is written in Python"):
        tokenizer_json(TextPreprocessing(Slow(), ("input_ids",), 12, "x"))
    with pytest.raises(CascadeError, match="stage 'x' takes 'bbox', which the library tokenizers"):
        tokens_of("bbox", "x")
