"""Models of transformers: what they say is what transformers' own pipeline says."""

import json
import shutil

import pytest
import torch
import transformers

from lit_cascade import CascadeError, LitCascade, LitZoo, Stage, UsageError
from lit_cascade.live.flops import FlopMeter
from lit_cascade.models import TextClassifier
from lit_cascade.options import PolicyOptions
from lit_cascade.utilities.class_names import columns_of
from tests.lit.cascades import trainer
from tests.texts import CLASSES, KINDS, Texts, save_classifier, save_tokenizer, some_sentences

N = 23


@pytest.fixture(scope="module")
def sentences():
    return some_sentences(N)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, sentences):
    place = tmp_path_factory.mktemp("classifiers")
    for seed, kind in enumerate(KINDS):
        save_classifier(kind, place / kind, sentences[0], seed=seed)
    return place


def stage(folder, **settings):
    return Stage(lambda: TextClassifier(str(folder), **settings))


def pipeline_says(folder, texts):
    """Probabilities (N, C) in the order of the labels, one text at a time."""
    pipe = transformers.pipeline("text-classification", model=str(folder), top_k=None, device="cpu")
    return torch.tensor(
        [[{one["label"]: one["score"] for one in pipe([text])[0]}[name] for name in CLASSES]
         for text in texts], dtype=torch.float64
    )  # fmt: skip


@pytest.mark.parametrize("batch_size", [1, 7])
def test_a_cascade_of_three_kinds_says_what_the_pipeline_says(saved, sentences, batch_size):
    texts, labels = sentences
    model = LitCascade({kind: stage(saved / kind) for kind in KINDS})
    records = trainer().record(model, Texts(texts, labels, batch_size=batch_size))
    assert len({view.key for view in model.preprocessings()}) == 3
    for record in records:
        says = record.logits.double().softmax(dim=1)
        torch.testing.assert_close(
            says, pipeline_says(saved / record.name, texts), rtol=1e-5, atol=1e-6
        )
        assert record.labels.tolist() == labels
        assert record.classes == CLASSES
        assert record.model["transformers"] == str(saved / record.name)


def test_run_for_real_each_text_costs_its_own_length(saved, sentences):
    texts, labels = sentences
    data = Texts(texts, labels, batch_size=6)
    stages = {kind: stage(saved / kind) for kind in KINDS}
    records = trainer().record(LitCascade(stages), data)
    first, second = (record.logits.softmax(dim=1).amax(dim=1) for record in records[:2])
    half = float(first.median())
    best = float(second[first < half].max())  # so that each stage answers some
    options = PolicyOptions(thresholds={"bert": half, "distilbert": best})
    model = LitCascade(stages, options)
    run = trainer().execute(model, data)
    assert set(run.stage.tolist()) == {0, 1, 2}
    for k, record in enumerate(records):
        torch.testing.assert_close(run.flops[:, k], record.costs["flops"] * (run.stage >= k))
        single = FlopMeter(model.networks()[record.name])
        prepare = model.networks()[record.name].preprocessing
        alone = [float(single(prepare.collate([prepare(text)]))) for text in texts]
        assert record.costs["flops"].tolist() == alone
        padded = record.costs["executed_flops"]
        if k == 0:
            torch.testing.assert_close(run.executed[:, k], padded)
        else:  # deferred texts are padded anew, among themselves
            assert bool((run.executed[:, k] >= run.flops[:, k]).all())
            assert (run.executed[:, k] > 0).equal(run.stage >= k)
        assert bool((padded >= record.costs["flops"]).all())
        assert len(set(padded.tolist())) < len(set(alone))


def bert_flops(config, tokens):
    """A BERT classifier's FLOPs by hand: matrix products only, one multiply-add is 2."""
    width, inner = config.hidden_size, config.intermediate_size
    projections = 4 * 2 * tokens * width * width  # queries, keys, values, output
    attention = 2 * 2 * tokens * tokens * width  # scores, and their sum of values
    feed_forward = 2 * 2 * tokens * width * inner
    pooler, head = 2 * width * width, 2 * width * config.num_labels
    return config.num_hidden_layers * (projections + attention + feed_forward) + pooler + head


def test_flops_are_those_of_hand_arithmetic(saved):
    model = TextClassifier(str(saved / "bert")).eval()
    prepare, meter = model.preprocessing, FlopMeter(model)
    samples = [prepare("a film"), prepare("never dull and often funny"), prepare("")]
    lengths = [len(sample["input_ids"]) for sample in samples]
    assert len(set(lengths)) == 3
    batch = prepare.collate(samples)
    config = model.model.config
    assert meter(batch).tolist() == [bert_flops(config, n) for n in lengths]
    assert meter.executed(batch).tolist() == [bert_flops(config, max(lengths))] * 3


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_costs_nothing(saved, side):
    model = TextClassifier(str(saved / "bert"), tokenizer_args={"padding_side": side}).eval()
    prepare = model.preprocessing
    samples = [prepare("a film"), prepare("never dull and often funny")]
    batch = prepare.collate(samples)
    assert bool((batch["attention_mask"][0] == 0)[0 if side == "left" else -1])
    config = model.model.config
    expected = [bert_flops(config, len(sample["input_ids"])) for sample in samples]
    assert FlopMeter(model)(batch).tolist() == expected


def test_the_counted_length_is_the_measured_one_only_once(saved, monkeypatch):
    model = TextClassifier(str(saved / "bert")).eval()
    prepare, meter = model.preprocessing, FlopMeter(model)
    batch = prepare.collate([prepare("a film"), prepare("a bore"), prepare("a film")])
    first = meter(batch)
    monkeypatch.setattr(model.model, "forward", lambda **_: pytest.fail("measured again"))
    assert meter(batch).tolist() == first.tolist()


def test_pairs_are_read_as_the_tokenizer_pairs_them(saved, sentences):
    texts, _ = sentences
    model = TextClassifier(str(saved / "bert"))
    own = transformers.AutoTokenizer.from_pretrained(saved / "bert")
    pair = (texts[0], texts[1])
    assert model.preprocessing(pair) == dict(own(*pair, truncation=True, max_length=160))


def test_texts_beyond_the_limit_are_cut_counted_and_reported(saved, sentences):
    texts, labels = [*sentences[0][:3], "film " * 200, "a " * 300], [0, 1, 0, 1, 0]
    (record,) = trainer().record(zoo_of(saved / "bert"), Texts(texts, labels))
    name = saved / "bert"
    assert record.data["remarks"] == {f"text cut to the 160 tokens that {name} takes": 2}
    cut = TextClassifier(str(name), max_length=12).preprocessing("film " * 200)
    assert len(cut.tensors["input_ids"]) == 12


def zoo_of(folder, **settings):
    return zoo_of_network(lambda: TextClassifier(str(folder), **settings))


def zoo_of_network(network, checkpoint=None):
    zoo = LitZoo({"one": Stage(network, checkpoint)})
    zoo.select("one")
    return zoo


@pytest.mark.parametrize(("kind", "most"), [("bert", 160), ("distilbert", 180), ("roberta", 192)])
def test_the_limit_is_what_the_model_has_positions_for(saved, kind, most):
    model = TextClassifier(str(saved / kind)).eval()
    prepare = model.preprocessing
    assert prepare.max_length == most
    batch = prepare.collate([prepare("film " * 500).tensors])
    assert batch["input_ids"].shape == (1, most)
    assert model(**batch).isfinite().all()
    with pytest.raises(UsageError, match=rf"max_length: expected \d+ to {most} tokens"):
        TextClassifier(str(saved / kind), max_length=most + 1)


def test_empty_texts_are_answered(saved):
    (record,) = trainer().record(zoo_of(saved / "roberta"), Texts(["", "a film"], [0, 1]))
    assert record.logits.isfinite().all()


def rename(folder, classes):
    """Give the classes of a saved model other names."""
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {str(i): name for i, name in enumerate(classes)}
    config["label2id"] = {name: i for i, name in enumerate(classes)}
    (folder / "config.json").write_text(json.dumps(config))


NLI = ("entailment", "neutral", "contradiction")


def test_orders_of_mnli_are_aligned_by_name(tmp_path, sentences):
    """Public checkpoints of MNLI differ in order and spelling: 7 % accuracy, or 90 %."""
    texts, labels = sentences[0], [i % 3 for i in range(N)]
    pairs = list(zip(texts, reversed(texts), strict=True))
    orders = {
        "a": NLI,
        "b": ("CONTRADICTION", "NEUTRAL", "ENTAILMENT"),
        "c": ("contradiction", "entailment", "neutral"),
    }
    save_classifier("bert", tmp_path / "first", texts, NLI)
    for name, order in orders.items():
        shutil.copytree(tmp_path / "first", tmp_path / name)
        rename(tmp_path / name, order)
    cascade = LitCascade({name: stage(tmp_path / name) for name in orders})
    records = trainer().record(cascade, Texts(pairs, labels, NLI))
    for record in records:
        assert record.classes == NLI
    # the same weights, whose columns have other names
    first, second, third = (record.logits for record in records)
    assert torch.equal(second, first[:, [2, 1, 0]])
    assert torch.equal(third, first[:, [1, 2, 0]])


def test_bare_labels_are_refused_until_they_are_named(tmp_path, sentences):
    texts, labels = sentences[0], [i % 3 for i in range(N)]
    save_classifier("bert", tmp_path, texts, ("LABEL_0", "LABEL_1", "LABEL_2"))
    data = Texts(texts, labels, NLI)
    with pytest.raises(CascadeError, match=r"entailment, neutral, contradiction.*LABEL_0, LABEL_1"):
        trainer().record(zoo_of(tmp_path), data)
    named = {"LABEL_0": "contradiction", "LABEL_1": "neutral", "LABEL_2": "entailment"}
    (mapped,) = trainer().record(zoo_of(tmp_path, classes=named), data)
    (listed,) = trainer().record(zoo_of(tmp_path, classes=list(named.values())), data)
    assert mapped.classes == NLI
    assert torch.equal(mapped.logits, listed.logits)
    with pytest.raises(UsageError, match="no class 'LABEL_7'; it has LABEL_0"):
        TextClassifier(str(tmp_path), classes={"LABEL_7": "neutral"})
    with pytest.raises(UsageError, match="distinct names"):
        TextClassifier(str(tmp_path), classes={"LABEL_0": "LABEL_1"})


def test_a_list_of_names_may_not_contradict_the_checkpoint(tmp_path, sentences):
    save_classifier("bert", tmp_path, sentences[0], ("CONTRADICTION", "ENTAILMENT", "NEUTRAL"))
    with pytest.raises(UsageError, match="in the order CONTRADICTION, ENTAILMENT, NEUTRAL, got"):
        TextClassifier(str(tmp_path), classes=list(NLI))
    TextClassifier(str(tmp_path), classes=["contradiction", "entailment", "neutral"])


def test_stages_of_different_tasks_are_refused(saved, tmp_path, sentences):
    save_classifier("bert", tmp_path, sentences[0], ("not_entailment", "entailment"))
    with pytest.raises(CascadeError, match="cannot be aligned"):
        LitCascade({"a": stage(tmp_path), "b": stage(saved / "roberta")})


@pytest.mark.parametrize(
    ("known", "wanted", "columns"),
    [
        (["NEGATIVE", "POSITIVE"], ["negative", "positive"], None),
        (["not entailment", "entailment"], ["entailment", "not_entailment"], [1, 0]),
        (["Not-Entailment", "entailment"], ["entailment", "not_entailment"], [1, 0]),
    ],
)
def test_spelling_of_classes(known, wanted, columns):
    found = columns_of(known, wanted, "a", "b")
    assert (None if found is None else found.tolist()) == columns


def test_names_that_differ_in_case_alone_stay_apart():
    with pytest.raises(CascadeError, match="cannot be aligned"):
        columns_of(["us", "US"], ["Us", "them"], "a", "b")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"num_labels": 1}, "regression head \\(1 output\\)"),
        ({"problem_type": "regression"}, "regression head"),
        ({"problem_type": "multi_label_classification"}, "multi-label"),
    ],
)
def test_heads_that_do_not_classify_are_refused(tmp_path, sentences, settings, says):
    save_classifier("bert", tmp_path, sentences[0])
    config = json.loads((tmp_path / "config.json").read_text())
    if "num_labels" in settings:
        config |= {"id2label": {"0": "score"}, "label2id": {"score": 0}}
        model = transformers.BertForSequenceClassification(transformers.BertConfig(**config))
        model.save_pretrained(tmp_path)
    else:
        (tmp_path / "config.json").write_text(json.dumps(config | settings))
    with pytest.raises(CascadeError, match=says):
        TextClassifier(str(tmp_path))


def test_a_tokenizer_without_padding_needs_to_be_told(tmp_path, sentences):
    from tokenizers import ByteLevelBPETokenizer

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        sentences[0], vocab_size=300, special_tokens=["<|end|>"], show_progress=False
    )
    trained.save_model(str(tmp_path))
    transformers.GPT2TokenizerFast.from_pretrained(
        tmp_path, **dict.fromkeys(("eos_token", "bos_token", "unk_token"), "<|end|>")
    ).save_pretrained(tmp_path)
    config = transformers.GPT2Config(
        vocab_size=300, n_embd=16, n_layer=1, n_head=2, n_positions=32, num_labels=2,
        id2label=dict(enumerate(CLASSES)), label2id={name: i for i, name in enumerate(CLASSES)},
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    transformers.GPT2ForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(CascadeError, match=r"no token to pad with.*pad_token: '<\|end\|>'"):
        TextClassifier(str(tmp_path))
    told = TextClassifier(str(tmp_path), tokenizer_args={"pad_token": "<|end|>"}).eval()
    prepare = told.preprocessing
    samples = [prepare("a film"), prepare("never dull and often funny"), prepare("")]
    together = told(**prepare.collate(samples))
    apart = torch.cat([told(**prepare.collate([sample])) for sample in samples])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


def test_a_new_head_is_said_to_be_random(saved):
    with pytest.warns(UserWarning, match="no trained weights for classifier"):
        model = TextClassifier(str(saved / "bert"), classes=list(NLI))
    assert model.class_names == NLI
    assert model.model.config.num_labels == 3


def test_a_new_head_without_names_learns_those_of_the_data(saved, tmp_path):
    body = transformers.AutoModel.from_pretrained(saved / "roberta")
    body.config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    body.save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(saved / "roberta").save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="no trained weights"):
        assert TextClassifier(str(tmp_path)).class_names is None
    assert TextClassifier(str(tmp_path), pretrained=False).class_names is None
    three = TextClassifier(str(tmp_path), pretrained=False, model_args={"num_labels": 3})
    assert three.model.config.num_labels == 3


def test_of_a_larger_model_the_first_layers_are_kept(saved):
    whole = TextClassifier(str(saved / "roberta"))
    part = TextClassifier(str(saved / "roberta"), model_args={"num_hidden_layers": 1})
    state = whole.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in part.state_dict().items())
    assert len(part.state_dict()) < len(state)


def test_weights_in_a_file_of_their_own(saved, sentences, tmp_path):
    texts, labels = sentences
    file = saved / "bert" / "model.safetensors"
    bare = zoo_of_network(lambda: TextClassifier(str(saved / "bert"), pretrained=False), str(file))
    (record,) = trainer().record(bare, Texts(texts, labels))
    (expected,) = trainer().record(zoo_of(saved / "bert"), Texts(texts, labels))
    assert torch.equal(record.logits, expected.logits)


def test_what_cannot_be_had_is_said(tmp_path, sentences):
    with pytest.raises(CascadeError, match="the model 'no/such' cannot be loaded"):
        TextClassifier("no/such")
    save_tokenizer("bert", tmp_path, sentences[0])
    with pytest.raises(CascadeError, match="cannot be loaded"):
        TextClassifier(str(tmp_path))


def test_what_is_no_text_is_refused(saved):
    prepare = TextClassifier(str(saved / "bert")).preprocessing
    for sample in (3, ("a", "b", "c"), ("a", None), b"a"):
        with pytest.raises(CascadeError, match="takes a text or a pair of texts"):
            prepare(sample)


def test_half_precision_is_a_setting(saved):
    assert TextClassifier(str(saved / "bert"), dtype="bfloat16").model.dtype == torch.bfloat16
