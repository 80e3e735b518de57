"""Texts and tiny classifiers of them for tests: sentences of SST-2, or of our own without them."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from lightning.pytorch import LightningDataModule
from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer
from torch.utils.data import DataLoader

from lit_cascade.data import RawSample

SST2 = Path(__file__).parents[2] / "shared/data/glue/sst2/validation.parquet"
OWN = (
    "a fine , moving film .",
    "the plot is a bore",
    "never dull and often funny , with a cast that is a joy to watch",
    "it 's not that the picture is bad , only that nothing in it is new or true .",
    "too long",
    "warm",
    "a cast that is worth the price of a ticket",
    "there is less here than meets the eye .",
    "see it twice !",
    "an hour in , i had begun to count the seats .",
)
CLASSES = ("negative", "positive")
KINDS = ("bert", "distilbert", "roberta")


def some_sentences(n):
    """N sentences and their labels."""
    if SST2.is_file():
        from pyarrow.parquet import ParquetFile

        rows = next(ParquetFile(SST2).iter_batches(n, columns=["sentence", "label"])).to_pylist()
        return [row["sentence"] for row in rows], [row["label"] for row in rows]
    return [OWN[i % len(OWN)] for i in range(n)], [i % 2 for i in range(n)]


def save_tokenizer(kind, folder, texts, **settings):
    """Train a tokenizer of the kind on texts and save it; the folder again."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "roberta":
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        trained = ByteLevelBPETokenizer()
        trained.train_from_iterator(
            texts, vocab_size=400, min_frequency=1, special_tokens=special, show_progress=False
        )
        family = transformers.RobertaTokenizerFast
    else:
        trained = BertWordPieceTokenizer()
        size = 300 if kind == "bert" else 200
        trained.train_from_iterator(texts, vocab_size=size, min_frequency=1, show_progress=False)
        family = {
            "bert": transformers.BertTokenizerFast,
            "distilbert": transformers.DistilBertTokenizerFast,
        }[kind]
    trained.save_model(str(folder))
    family.from_pretrained(folder, **settings).save_pretrained(folder)
    return folder


def save_classifier(kind, folder, texts, classes=CLASSES, seed=0, **settings):
    """A tiny random classifier with a trained tokenizer, as `save_pretrained` writes them."""
    save_tokenizer(kind, folder, texts)
    named = {
        "id2label": dict(enumerate(classes)),
        "label2id": {name: i for i, name in enumerate(classes)},
        "vocab_size": len(transformers.AutoTokenizer.from_pretrained(folder)),
    }
    config = {
        "bert": lambda: transformers.BertConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
            max_position_embeddings=160, initializer_range=0.3, **named | settings,
        ),
        "distilbert": lambda: transformers.DistilBertConfig(
            dim=24, n_layers=1, n_heads=2, hidden_dim=40, max_position_embeddings=180,
            initializer_range=0.3, **named | settings,
        ),
        "roberta": lambda: transformers.RobertaConfig(
            hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64,
            max_position_embeddings=194, initializer_range=0.3, type_vocab_size=1, pad_token_id=1,
            bos_token_id=0, eos_token_id=2, **named | settings,
        ),
    }[kind]()  # fmt: skip
    torch.manual_seed(seed)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(folder)
    return Path(folder)


class Texts(LightningDataModule):
    """Raw texts, or pairs of them, as the split `validation`."""

    def __init__(self, texts, labels, classes=CLASSES, batch_size=5):
        super().__init__()
        self.name = "texts"
        self.class_names = classes
        self._samples = [RawSample(*pair) for pair in zip(texts, labels, strict=True)]
        self._batch_size = batch_size

    def val_dataloader(self):
        return DataLoader(self._samples, batch_size=self._batch_size)
