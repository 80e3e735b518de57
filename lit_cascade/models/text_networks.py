"""Small networks on the word embeddings of a pretrained model: cheap first stages for texts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import glu

from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.models.network import Network
from lit_cascade.models.transformers import (
    TextPreprocessing,
    load_config,
    load_tokenizer,
    text_files,
    word_embeddings,
)

_HEADS = 4
_SPREAD = 0.5
"""Standard deviation to which pretrained embeddings are scaled."""


class _OnEmbeddings(Network):
    """Base of networks with a tokenizer and word embeddings.

    Args:
        words: name on the hub, or folder, of a model whose tokenizer and word embeddings to take.
        classes: names of the classes in logit order.
        pretrained: begin with the word embeddings of that model. Otherwise they are random, or come
            from the stage's `checkpoint`.
        hidden_words: share of the words that are masked while training, 0 to 1.
        max_length: most tokens of a text; longer ones are truncated.
        num_classes: number of classes where `classes` does not name them.
    """

    def __init__(
        self,
        words: str,
        classes: list[str] | None = None,
        *,
        pretrained: bool = True,
        hidden_words: float = 0.1,
        max_length: int = 512,
        num_classes: int = 2,
    ) -> None:
        super().__init__()
        if classes is not None and len(set(classes)) < 2:
            raise UsageError(f"classes: expected two or more names, got {', '.join(classes)}.")
        self.num_classes = num_classes if classes is None else len(classes)
        self.name = words
        self.class_names = None if classes is None else tuple(classes)
        tokenizer = load_tokenizer(words)
        self.embeddings = word_embeddings(words, pretrained=pretrained)
        if pretrained:
            with torch.no_grad():
                self.embeddings.weight.mul_(_SPREAD / self.embeddings.weight.std())
        inputs = ("input_ids", "attention_mask")
        self.preprocessing = TextPreprocessing(tokenizer, inputs, max_length, words)
        self._mask = tokenizer.mask_token_id or tokenizer.unk_token_id
        if hidden_words and self._mask is None:
            raise CascadeError(
                f"hidden_words: expected 0, as the tokenizer of {words!r} has no token for masked "
                f"or unknown words, got {hidden_words}."
            )
        self._special = sorted(set(tokenizer.all_special_ids))
        self.hidden_words = hidden_words

    def description(self) -> dict[str, Any]:
        """Source and limit of the tokens, for records."""
        inputs, limit = self.preprocessing.inputs, self.preprocessing.max_length
        steps = {"inputs": list(inputs), "max_length": limit}
        return {"words": self.name, "preprocessing": steps}

    def portable(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Tokenizer and the shape of the embeddings as files; their folder is `words`."""
        given, _ = super().portable()
        del given["words"]
        files = text_files(load_config(self.name), self.preprocessing.tokenizer)
        return given | {"pretrained": False}, files

    def _embed(self, tokens: Tensor) -> Tensor:
        if self.training and self.hidden_words:
            drawn = torch.rand(tokens.shape, device=tokens.device) < self.hidden_words
            special = torch.isin(tokens, torch.tensor(self._special, device=tokens.device))
            tokens = tokens.masked_fill(drawn & ~special, self._mask)
        embedded: Tensor = self.embeddings(tokens)
        return embedded


class TextBag(_OnEmbeddings):
    """One hidden layer on the mean of a text's word embeddings, whatever their order.

    The cheapest network for texts: its FLOPs do not depend on the length of the text.

    Args:
        words: name on the hub, or folder, of a model whose tokenizer and word embeddings to take.
        classes: names of the classes in logit order.
        width: units of the hidden layer.
        dropout: dropout rate.
        options: `pretrained`, `hidden_words`, `max_length` and `num_classes`.
    """

    def __init__(
        self,
        words: str,
        classes: list[str] | None = None,
        width: int = 128,
        dropout: float = 0.2,
        **options: Any,
    ) -> None:
        super().__init__(words, classes, **options)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.Sequential(
            nn.Linear(self.embeddings.embedding_dim, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, self.num_classes),
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits (N, C) of tokens and their mask, (N, length) int64."""
        present = attention_mask[:, :, None].to(self.embeddings.weight.dtype)
        total = (self._embed(input_ids) * present).sum(dim=1)
        logits: Tensor = self.layers(self.dropout(total / present.sum(dim=1)))
        return logits


class TextConvNet(_OnEmbeddings):
    """Gated convolutions over word embeddings (arXiv:1612.08083), pooled by attention and maximum.

    Sees the order of neighbouring words, such as "not good", at a fraction of the cost of a layer
    of self-attention.

    Args:
        words: name on the hub, or folder, of a model whose tokenizer and word embeddings to take.
        classes: names of the classes in logit order.
        width: number of channels; a multiple of 4.
        convolutions: number of layers.
        kernel_size: words in the window of a layer; odd.
        dropout: dropout rate.
        options: `pretrained`, `hidden_words`, `max_length` and `num_classes`.
    """

    def __init__(
        self,
        words: str,
        classes: list[str] | None = None,
        width: int = 128,
        convolutions: int = 2,
        kernel_size: int = 3,
        dropout: float = 0.3,
        **options: Any,
    ) -> None:
        super().__init__(words, classes, **options)
        if width % _HEADS or kernel_size % 2 == 0:
            raise UsageError(
                f"width: expected a multiple of {_HEADS}, kernel_size: an odd number; got {width} "
                f"and {kernel_size}."
            )
        self.dropout = nn.Dropout(dropout)
        self.narrow = nn.Linear(self.embeddings.embedding_dim, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(convolutions))
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, 2 * width, kernel_size, padding=kernel_size // 2)
            for _ in range(convolutions)
        )
        self.norm = nn.LayerNorm(width)
        self.attention = nn.Linear(width, _HEADS)
        self.values = nn.Linear(width, width)
        self.layers = nn.Sequential(
            nn.Linear(2 * width, width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, self.num_classes),
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits (N, C) of tokens and their mask, (N, length) int64."""
        # padding stays 0 throughout, like the positions beyond the ends of a text
        absent = attention_mask[:, :, None] == 0
        hidden = self.narrow(self.dropout(self._embed(input_ids))).masked_fill(absent, 0)
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            inputs = norm(hidden).masked_fill(absent, 0).transpose(1, 2)
            gated = glu(convolution(inputs), dim=1).transpose(1, 2)
            hidden = (hidden + self.dropout(gated)).masked_fill(absent, 0)
        hidden = self.norm(hidden)
        values = self.values(hidden)
        lowest = torch.finfo(values.dtype).min
        weights = self.attention(hidden).masked_fill(absent, lowest).softmax(dim=1)
        # (N, heads, 1, length) x (N, heads, length, part)
        parts = values.unflatten(2, (_HEADS, -1)).transpose(1, 2)
        mean = (weights.transpose(1, 2)[:, :, None].to(parts) @ parts).flatten(1)
        most = values.masked_fill(absent, lowest).amax(dim=1)
        logits: Tensor = self.layers(self.dropout(torch.cat([mean, most], dim=1)))
        return logits
