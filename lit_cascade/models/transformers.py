"""Sequence classifiers of transformers, each with its own tokenizer and class names."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.models.pretrained import (
    TextPreprocessing,
    load_classifier,
    load_tokenizer,
    own_classes,
)
from lit_cascade.utilities.class_names import columns_of

__all__ = ["TextClassifier"]

_UNLIMITED = 10**9
"""Tokenizers without a limit report one far beyond this."""

DType = Literal["auto", "float32", "float16", "bfloat16"]


class TextClassifier(nn.Module):
    """Sequence classifier of transformers: any that `AutoModelForSequenceClassification` loads.

    Its tokenizer and class names are loaded with it. Class names are those of `id2label`; where a
    checkpoint has only LABEL_0, LABEL_1, ..., give their meaning by `classes`.

    Args:
        model: name on the hub, or a folder with config.json, weights and a tokenizer, as
            `save_pretrained` writes them.
        pretrained: load the weights. Otherwise they are random, or come from the stage's
            `checkpoint`.
        classes: names of the classes, instead of those of the model: a list in logit order, or a
            map of the model's names to others. A list whose length is not the model's number of
            classes makes a new head, which is random until it is trained.
        max_length: most tokens per sample; by default the model's limit. Longer texts are
            truncated, and their number is reported.
        dtype: type of the weights; `auto` keeps that of the file.
        revision: revision of the model on the hub: a branch, a tag or a commit.
        tokenizer: name or folder of the tokenizer, if it is not that of the model.
        tokenizer_args: further arguments of `AutoTokenizer.from_pretrained`, such as `pad_token`.
        model_args: settings that override the model's config, such as `num_hidden_layers`: of a
            larger model the first layers are kept.

    Raises:
        UsageError: a limit of tokens beyond the model's, or classes that it does not have.
        CascadeError: a model or tokenizer that cannot be loaded, a regression head, or no token to
            pad with.
    """

    def __init__(
        self,
        model: str,
        pretrained: bool = True,  # noqa: FBT001, FBT002 - a setting
        classes: list[str] | dict[str, str] | None = None,
        max_length: int | None = None,
        dtype: DType = "auto",
        revision: str = "main",
        tokenizer: str | None = None,
        tokenizer_args: dict[str, Any] | None = None,
        model_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.name = model
        settings = dict(model_args or {})
        if isinstance(classes, Sequence):
            settings |= {
                "id2label": dict(enumerate(classes)),
                "label2id": {name: i for i, name in enumerate(classes)},
            }
            if pretrained:
                _check_order(model, revision, classes)
        self.model, fresh = load_classifier(model, pretrained, dtype, revision, settings)
        config: Any = self.model.config
        _check_classifier(model, config)
        names = _class_names(model, config, classes)
        # a new head learns whatever classes the data have
        untrained = bool(fresh) or not pretrained
        bare = all(re.fullmatch(r"LABEL_\d+", name) for name in names)
        self.class_names = None if untrained and bare else names
        if pretrained and fresh:
            warnings.warn(
                f"{model!r} has no trained weights for {', '.join(fresh)}: they are random until "
                "they are trained or a checkpoint is loaded.",
                UserWarning,
                stacklevel=2,
            )
        tokens = load_tokenizer(tokenizer or model, revision, tokenizer_args)
        if config.pad_token_id is None:  # some models find the end of a text by it
            config.pad_token_id = tokens.pad_token_id
        self.preprocessing = TextPreprocessing(
            tokenizer=tokens,
            inputs=_inputs(self.model, tokens),
            max_length=_limit(self.model, tokens, max_length),
            name=model,
        )

    def description(self) -> dict[str, Any]:
        """Name and preprocessing, for records."""
        commit = getattr(self.model.config, "_commit_hash", None)
        return {
            "transformers": self.name,
            **({"commit": commit} if commit else {}),
            "preprocessing": {
                "tokenizer": type(self.preprocessing.tokenizer).__name__,
                "inputs": list(self.preprocessing.inputs),
                "max_length": self.preprocessing.max_length,
            },
        }

    def forward(self, **inputs: Tensor) -> Tensor:
        """Logits (N, C) of a batch of tokens, (N, length) int64 by name."""
        logits: Tensor = self.model(**inputs).logits
        return logits


def _check_classifier(name: str, config: Any) -> None:
    kind = getattr(config, "problem_type", None)
    if config.num_labels < 2 or kind == "regression":
        raise CascadeError(
            f"the model {name!r} has a regression head ({config.num_labels} output"
            f"{'' if config.num_labels == 1 else 's'}); expected a classifier of two or more "
            "classes."
        )
    if kind == "multi_label_classification":
        raise CascadeError(
            f"the model {name!r} gives each class a probability of its own (multi-label); expected "
            "a classifier that chooses one class."
        )


def _check_order(name: str, revision: str, classes: Sequence[str]) -> None:
    """Check that a list of names does not contradict the order of the checkpoint's own."""
    own = own_classes(name, revision)
    try:
        columns = None if own is None else columns_of(own, classes, "", "")
    except CascadeError:  # they have other names
        return
    if own is not None and columns is not None:
        raise UsageError(
            f"classes: the model {name!r} has them in the order {', '.join(own)}, got "
            f"{', '.join(classes)}. Leave them out: they are aligned by name."
        )


def _class_names(
    name: str, config: Any, classes: Sequence[str] | Mapping[str, str] | None
) -> tuple[str, ...]:
    own = [str(config.id2label[i]) for i in range(config.num_labels)]
    if isinstance(classes, Mapping):
        strange = sorted(set(classes) - set(own))
        if strange:
            raise UsageError(
                f"classes: the model {name!r} has no class {strange[0]!r}; it has {', '.join(own)}."
            )
        own = [str(classes.get(one, one)) for one in own]
    if len(set(own)) != len(own):
        raise UsageError(f"classes: expected distinct names, got {', '.join(own)}.")
    return tuple(own)


def _inputs(model: nn.Module, tokenizer: Any) -> tuple[str, ...]:
    """Names of the tokenizer's outputs that the model takes."""
    given = dict.fromkeys([*tokenizer.model_input_names, "input_ids", "attention_mask"])
    taken = inspect.signature(model.forward).parameters
    return tuple(name for name in given if name in taken)


def _limit(model: nn.Module, tokenizer: Any, wanted: int | None) -> int | None:
    """Most tokens per sample: the number wanted, if the model and its tokenizer can take it."""
    limits = []
    if tokenizer.model_max_length < _UNLIMITED:
        limits.append(int(tokenizer.model_max_length))
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings"):
            # RoBERTa and similar models number positions from padding_idx + 1
            taken = 0 if module.padding_idx is None else module.padding_idx + 1
            limits.append(module.num_embeddings - taken)
    most = min(limits, default=None)
    least = tokenizer.num_special_tokens_to_add(pair=True) + 2
    if wanted is not None and (wanted < least or (most is not None and wanted > most)):
        upper = "" if most is None else f" to {most}"
        raise UsageError(
            f"max_length: expected {least}{upper} tokens for this model and its tokenizer, "
            f"got {wanted}."
        )
    return wanted if wanted is not None else most
