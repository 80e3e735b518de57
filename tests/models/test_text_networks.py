"""Small networks for texts."""

import pytest
import torch
import transformers

from lit_cascade import CascadeError, UsageError
from lit_cascade.live.flops import FlopMeter
from lit_cascade.models import TextBag, TextConvNet
from tests.lit.cascades import trainer
from tests.models.test_transformers import zoo_of_network
from tests.texts import CLASSES, Texts, save_classifier, some_sentences

N = 9
NETWORKS = [TextBag, TextConvNet]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return save_classifier("bert", tmp_path_factory.mktemp("words"), some_sentences(N)[0])


@pytest.mark.parametrize("network", NETWORKS)
def test_padding_changes_nothing(network, words):
    texts, _ = some_sentences(N)
    net = network(str(words), list(CLASSES)).eval()
    prepare = net.preprocessing
    samples = [prepare(text) for text in [*texts, "", "a film"]]
    together = net(**prepare.collate(samples))
    apart = torch.cat([net(**prepare.collate([sample])) for sample in samples])
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("network", NETWORKS)
def test_they_are_recorded_like_others(network, words):
    texts, labels = some_sentences(N)
    zoo = zoo_of_network(lambda: network(str(words), list(CLASSES)))
    (record,) = trainer().record(zoo, Texts(texts, labels))
    assert record.classes == CLASSES
    assert record.model["words"] == str(words)


def test_flops_of_a_bag_do_not_depend_on_the_length(words):
    net = TextBag(str(words), width=16).eval()
    prepare = net.preprocessing
    batch = prepare.collate([prepare("a film"), prepare("never dull and often funny")])
    assert FlopMeter(net)(batch).tolist() == [2 * 32 * 16 + 2 * 16 * 2] * 2


def test_flops_of_convolutions_by_hand(words):
    net = TextConvNet(str(words), width=16, convolutions=2, kernel_size=5).eval()
    prepare = net.preprocessing
    sample = prepare("never dull and often funny")
    tokens = len(sample["input_ids"])
    per_token = 2 * 32 * 16 + 2 * (2 * 5 * 16 * 32) + 2 * 16 * 4 + 2 * 16 * 16 + 2 * 16
    head = 2 * 32 * 16 + 2 * 16 * 2
    assert FlopMeter(net)(prepare.collate([sample])).tolist() == [tokens * per_token + head]


def test_the_bag_is_the_mean_of_its_words(words):
    net = TextBag(str(words)).eval()
    prepare = net.preprocessing
    tokens = prepare("a fine film")["input_ids"]
    mean = net.embeddings.weight[torch.tensor(tokens)].mean(dim=0, keepdim=True)
    given = net(**prepare.collate([prepare("a fine film")]))
    torch.testing.assert_close(given, net.layers(mean))


@pytest.mark.parametrize("network", NETWORKS)
def test_words_are_hidden_in_training_alone(network, words):
    net = network(str(words), dropout=0.0, hidden_words=0.5)
    prepare = net.preprocessing
    batch = prepare.collate([prepare("never dull and often funny , a joy to watch " * 8)])
    first, second = (net.train()(**batch) for _ in range(2))
    assert not torch.equal(first, second)
    first, second = (net.eval()(**batch) for _ in range(2))
    assert torch.equal(first, second)


def test_they_begin_with_pretrained_words(words):
    own = transformers.AutoModel.from_pretrained(words).get_input_embeddings().weight
    taken = TextBag(str(words)).embeddings.weight
    torch.testing.assert_close(taken, own * (0.5 / own.std()))
    assert taken.requires_grad
    assert TextBag(str(words), pretrained=False).embeddings.weight.shape == own.shape


def test_settings_that_do_not_fit(words):
    with pytest.raises(UsageError, match="multiple of 4"):
        TextConvNet(str(words), width=30)
    with pytest.raises(UsageError, match="odd number"):
        TextConvNet(str(words), kernel_size=4)
    with pytest.raises(UsageError, match="two or more names"):
        TextBag(str(words), ["one"])
    with pytest.raises(CascadeError, match="cannot be loaded"):
        TextBag("no/such")
