"""Sequence classifiers of transformers, each with its own tokenizer and class names."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from torch import Tensor, nn

from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.live import WithRemarks
from lit_cascade.models.network import Network
from lit_cascade.utilities.class_names import columns_of

_UNLIMITED = 10**9
"""Tokenizers without a limit report one far beyond this."""

TOKENIZER_CLASS = "PreTrainedTokenizerFast"
"""Class of transformers that does what tokenizer.json says, and nothing of its own."""

_TOKENIZER_SETTINGS = {
    "tokenizer_class", "model_max_length", "model_input_names", "padding_side", "truncation_side",
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
}  # fmt: skip
_NESTED = {"id2label", "label2id", "rope_parameters", "rope_scaling"}
"""Settings of configs that are mappings."""

DType = Literal["auto", "float32", "float16", "bfloat16"]


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


def _load_classifier(
    name: str,
    pretrained: bool,  # noqa: FBT001 - as transformers has it
    dtype: str,
    revision: str,
    settings: Mapping[str, Any],
) -> tuple[nn.Module, list[str]]:
    """A sequence classifier, and the names of its weights that are missing in the file."""
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


def load_config(name: str) -> Any:
    """Load the config of a model.

    Args:
        name: name on the hub, or a folder.

    Raises:
        CascadeError: it cannot be loaded.
    """
    from transformers import AutoConfig

    with _loading(f"the config of {name!r}"):
        return AutoConfig.from_pretrained(name)


def text_files(config: Any, tokenizer: Any) -> dict[str, str]:
    """Config and tokenizer as files that name no class beyond transformers' own.

    Args:
        config: of a model of transformers.
        tokenizer: fast tokenizer of transformers.

    Raises:
        CascadeError: a tokenizer without the rules that `tokenizers` reads.
    """
    rules = getattr(tokenizer, "backend_tokenizer", None)
    if rules is None:
        raise CascadeError(f"its tokenizer {type(tokenizer).__name__} has no tokenizer.json")
    known = config_settings(config.model_type)
    settings = {key: value for key, value in config.to_dict().items() if key in known}
    special = tokenizer.special_tokens_map.items()
    how = {
        "tokenizer_class": TOKENIZER_CLASS,
        "model_max_length": tokenizer.model_max_length,
        "model_input_names": list(tokenizer.model_input_names),
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        **{name: str(token) for name, token in special if not isinstance(token, list)},
    }
    return {
        "config.json": json.dumps(settings, indent=2),
        "tokenizer_config.json": json.dumps(how, indent=2),
        "tokenizer.json": rules.to_str(),
    }


def check_text_files(files: Mapping[str, str]) -> None:
    """Check that files, of whatever origin, name no code and are those that `text_files` writes.

    The config may have the settings that its model type has, and no others: `auto_map` or
    `attn_implementation`, for example, name modules that would be fetched and run.

    Raises:
        CascadeError: files with anything else.
    """
    config, how = (_object_in(files, name) for name in ("config.json", "tokenizer_config.json"))
    _object_in(files, "tokenizer.json")
    known = config_settings(str(config.get("model_type")))
    if not known:
        raise CascadeError(f"config.json: unknown model type {config.get('model_type')!r}")
    nested = {key for key, value in config.items() if isinstance(value, dict) and value}
    strange = sorted((set(config) - known) | (nested - _NESTED))
    strange = strange or sorted(set(how) - _TOKENIZER_SETTINGS)
    if strange:
        raise CascadeError(
            f"its files have the setting {strange[0]!r}, which is not read from them"
        )
    if how.get("tokenizer_class") != TOKENIZER_CLASS:
        raise CascadeError(
            f"tokenizer_config.json: expected the class {TOKENIZER_CLASS}, got "
            f"{how.get('tokenizer_class')!r}"
        )


def _object_in(files: Mapping[str, str], name: str) -> dict[str, Any]:
    try:
        content = json.loads(files[name])
    except (KeyError, ValueError, RecursionError) as error:
        raise CascadeError(f"{name} is missing or no JSON") from error
    if not isinstance(content, dict):
        raise CascadeError(f"{name} holds no settings")
    return content


def config_settings(model_type: str) -> set[str]:
    """Names of the settings of a model type of transformers; empty if it has no such type."""
    from transformers import CONFIG_MAPPING

    if model_type not in CONFIG_MAPPING:
        return set()
    return {"dtype", *CONFIG_MAPPING[model_type]().to_dict()} - {"_name_or_path"}


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
    """Load something of transformers without its progress bars and reports."""
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


class TextClassifier(Network):
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
        self.model, fresh = _load_classifier(model, pretrained, dtype, revision, settings)
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

    def portable(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Config and tokenizer as files, whose folder is the argument `model`."""
        dtype = str(next(self.parameters()).dtype).removeprefix("torch.")
        limit = self.preprocessing.max_length
        given = {"pretrained": False, "dtype": dtype, "max_length": limit}
        return given, text_files(self.model.config, self.preprocessing.tokenizer)

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
    from transformers import AutoConfig

    try:
        with _loading(f"the model {name!r}"):
            own = _own_classes(AutoConfig.from_pretrained(name, revision=revision))
        columns = columns_of(own, classes, "", "")
    except CascadeError:  # it cannot be loaded here, or they have other names
        return
    if columns is not None:
        raise UsageError(
            f"classes: the model {name!r} has them in the order {', '.join(own)}, got "
            f"{', '.join(classes)}. Leave them out: they are aligned by name."
        )


def _own_classes(config: Any) -> list[str]:
    return [str(config.id2label[i]) for i in range(config.num_labels)]


def _class_names(
    name: str, config: Any, classes: Sequence[str] | Mapping[str, str] | None
) -> tuple[str, ...]:
    own = _own_classes(config)
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
