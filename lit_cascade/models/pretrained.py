"""Tokenization, and loading of pretrained models, tokenizers and word embeddings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from lit_cascade.errors import CascadeError
from lit_cascade.live import WithRemarks

__all__ = [
    "TextPreprocessing",
    "load_classifier",
    "load_tokenizer",
    "own_classes",
    "word_embeddings",
]


@dataclass(frozen=True)
class TextPreprocessing:
    """Tokens of a text or of a pair of texts, padded to the longest of a batch.

    Attributes:
        tokenizer: tokenizer of transformers.
        inputs: names of its outputs that the model takes.
        max_length: most tokens per sample, including special ones; longer texts are truncated, the
            longer one of a pair first. None where the model has no limit.
        name: name of the tokenizer, for messages.
    """

    tokenizer: Any = field(repr=False)
    inputs: tuple[str, ...]
    max_length: int | None
    name: str

    @cached_property
    def key(self) -> str:
        """Identifier: the same for the same tokenizer and limit, wherever they come from."""
        fast = getattr(self.tokenizer, "backend_tokenizer", None)
        rules = (
            fast.to_str() if fast is not None else json.dumps(sorted(self.tokenizer.get_vocab()))
        )
        digest = hashlib.sha256(rules.encode()).hexdigest()[:16]
        what = (digest, self.tokenizer.pad_token_id, self.tokenizer.padding_side)
        return json.dumps(["tokens", *what, *self.inputs, self.max_length])

    @cached_property
    def _collator(self) -> Any:
        from transformers import DataCollatorWithPadding

        return DataCollatorWithPadding(self.tokenizer)

    def __call__(self, sample: Any) -> dict[str, list[int]] | WithRemarks:
        """Tokenize one sample, without padding.

        Args:
            sample: a text, or a pair of them.

        Returns:
            Lists of equal length by the names of the model's arguments.

        Raises:
            CascadeError: neither of these.
        """
        texts = (sample,) if isinstance(sample, str) else sample
        if (
            not isinstance(texts, (tuple, list))
            or not 1 <= len(texts) <= 2
            or not all(isinstance(text, str) for text in texts)
        ):
            raise CascadeError(
                "the models' preprocessing takes a text or a pair of texts; the data gave "
                f"{type(sample).__name__}."
            )
        tokens = self._tokens(texts)
        n, limit = len(tokens["input_ids"]), self.max_length
        if n == 0:  # a tokenizer without special tokens, and an empty text
            tokens = {name: [0] for name in self.inputs}
            tokens |= {"input_ids": [self.tokenizer.pad_token_id], "attention_mask": [1]}
        if limit is None or n <= limit:
            return {name: tokens[name] for name in self.inputs}
        tokens = self._tokens(texts, truncation=True, max_length=limit)
        remark = f"text cut to the {limit:,} tokens that {self.name} takes"
        return WithRemarks({name: tokens[name] for name in self.inputs}, (remark,))

    def _tokens(self, texts: Sequence[str], **options: Any) -> dict[str, list[int]]:
        # not verbose: transformers itself would warn of the first text that is too long
        tokens = self.tokenizer(*texts, return_attention_mask=True, verbose=False, **options)
        return {str(name): list(values) for name, values in tokens.items()}

    def collate(self, samples: list[dict[str, list[int]]]) -> dict[str, Tensor]:
        """Pad a batch to its longest sample: int64 tensors (N, length) by name."""
        padded = self._collator(samples)
        return {name: padded[name] for name in self.inputs}


def load_classifier(
    name: str,
    pretrained: bool,  # noqa: FBT001 - as transformers has it
    dtype: str,
    revision: str,
    settings: Mapping[str, Any],
) -> tuple[nn.Module, list[str]]:
    """Load a sequence classifier.

    Args:
        name: name on the hub, or a folder.
        pretrained: load its weights; otherwise they are random.
        dtype: type of the weights; `auto` keeps that of the file.
        revision: revision on the hub.
        settings: settings that override its config.

    Returns:
        The classifier, and the names of its weights that are missing in the file.

    Raises:
        CascadeError: it cannot be loaded.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    hint = " Expected a name on the hub, or a folder that save_pretrained wrote."
    with _loading(f"the model {name!r}", hint):
        if not pretrained:
            config = AutoConfig.from_pretrained(name, revision=revision, **settings)
            kind = {} if dtype == "auto" else {"dtype": dtype}
            return AutoModelForSequenceClassification.from_config(config, **kind), []
        model, info = AutoModelForSequenceClassification.from_pretrained(
            name,
            revision=revision,
            dtype=dtype,
            ignore_mismatched_sizes="id2label" in settings,
            output_loading_info=True,
            **settings,
        )
    keys = [key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]]
    return model, sorted({*info["missing_keys"], *keys})


def own_classes(name: str, revision: str = "main") -> list[str] | None:
    """Class names of a saved model in logit order; None where they cannot be loaded."""
    from transformers import AutoConfig

    try:
        with _loading(f"the model {name!r}"):
            config = AutoConfig.from_pretrained(name, revision=revision)
            return [str(config.id2label[i]) for i in range(config.num_labels)]
    except CascadeError:
        return None


def load_tokenizer(name: str, revision: str = "main", options: Any = None) -> Any:
    """Load a tokenizer.

    Args:
        name: name on the hub, or a folder.
        revision: revision on the hub.
        options: further arguments of `AutoTokenizer.from_pretrained`.

    Raises:
        CascadeError: it cannot be loaded, or has no token to pad with.
    """
    from transformers import AutoTokenizer

    with _loading(f"the tokenizer of {name!r}"):
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, **(options or {}))
    if tokenizer.pad_token_id is None:
        ends = tokenizer.eos_token or "TOKEN"
        raise CascadeError(
            f"the tokenizer of {name!r} has no token to pad with, so no batch can be made; name "
            f"one, as in tokenizer_args: {{pad_token: {ends!r}}}."
        )
    return tokenizer


def word_embeddings(name: str, *, pretrained: bool = True) -> nn.Embedding:
    """Load the table of word embeddings of a model.

    Args:
        name: name on the hub, or a folder.
        pretrained: load its weights; otherwise they are random, of the same shape.

    Raises:
        CascadeError: the model cannot be loaded, or has none.
    """
    from transformers import AutoConfig, AutoModel

    with _loading(f"the word embeddings of {name!r}"):
        if not pretrained:
            config = AutoConfig.from_pretrained(name)
            return nn.Embedding(config.vocab_size, config.hidden_size)
        table: Any = AutoModel.from_pretrained(name, dtype="float32").get_input_embeddings()
    if not isinstance(table, nn.Embedding):
        raise CascadeError(f"the model {name!r} has no table of word embeddings.")
    copy: nn.Embedding = nn.Embedding.from_pretrained(table.weight.detach().clone(), freeze=False)
    return copy


@contextmanager
def _loading(what: str, hint: str = "") -> Iterator[None]:
    """Load something of transformers without its progress bars and reports.

    Raises:
        CascadeError: it cannot be loaded.
    """
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except (
        OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError
    ) as error:  # fmt: skip
        reason = str(error).strip().split("\n", maxsplit=1)[0].rstrip(". ") or type(error).__name__
        raise CascadeError(f"{what} cannot be loaded: {reason}.{hint}") from error
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
