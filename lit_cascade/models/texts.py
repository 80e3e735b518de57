"""What a text goes through before a model sees it: the tokens of the model's own tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from lit_cascade.errors import CascadeError
from lit_cascade.live import Remarked

__all__ = ["TextPreprocessing"]


@dataclass(frozen=True)
class TextPreprocessing:
    """Tokens of a text or of a pair of texts, padded to the longest of a batch.

    Attributes:
        tokenizer: of transformers.
        inputs: names of what the model takes of its output.
        max_length: most tokens per sample, special ones counted; longer texts are cut, of a pair
            the longer one first. None where the model has no limit.
        name: of the tokenizer, for messages.
    """

    tokenizer: Any = field(repr=False)
    inputs: tuple[str, ...]
    max_length: int | None
    name: str

    @property
    def key(self) -> str:
        """The same for the same tokenizer and limit, wherever they were loaded from."""
        return self._key

    @cached_property
    def _key(self) -> str:
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

    def __call__(self, sample: Any) -> dict[str, list[int]] | Remarked:
        """Tokens of one sample, not padded.

        Args:
            sample: a text, or a pair of them.

        Returns:
            Lists of equal length by the names of the model's arguments.

        Raises:
            CascadeError: something else than a text or a pair.
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
        return Remarked({name: tokens[name] for name in self.inputs}, (remark,))

    def _tokens(self, texts: Sequence[str], **options: Any) -> dict[str, list[int]]:
        # not verbose: of a text that is too long it would say so itself, once
        found = self.tokenizer(*texts, return_attention_mask=True, verbose=False, **options)
        return {str(name): list(values) for name, values in found.items()}

    def collate(self, samples: list[dict[str, list[int]]]) -> dict[str, Tensor]:
        """A batch, padded to its longest sample: int64 tensors (N, length) by name."""
        padded = self._collator(samples)
        return {name: padded[name] for name in self.inputs}
