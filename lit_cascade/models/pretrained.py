"""What transformers has pretrained, from the hub or from folders: models, tokenizers, words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from lit_cascade.errors import CascadeError

__all__ = ["load_classifier", "load_tokenizer", "own_classes", "word_embeddings"]


def load_classifier(
    name: str,
    pretrained: bool,  # noqa: FBT001 - as transformers has it
    dtype: str,
    revision: str,
    settings: Mapping[str, Any],
) -> tuple[nn.Module, list[str]]:
    """A sequence classifier, and the names of its weights that the file does not have.

    Args:
        name: on the hub, or a folder.
        pretrained: with its weights; else random ones.
        dtype: of the weights; `auto` keeps that of the file.
        revision: on the hub.
        settings: that override its config.

    Raises:
        CascadeError: it cannot be had.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    try:
        with _quiet():
            if pretrained:
                model, info = AutoModelForSequenceClassification.from_pretrained(
                    name,
                    revision=revision,
                    dtype=dtype,
                    ignore_mismatched_sizes="id2label" in settings,
                    output_loading_info=True,
                    **settings,
                )
                mismatched = [key if isinstance(key, str) else key[0] for key in
                              info["mismatched_keys"]]  # fmt: skip
                return model, sorted({*info["missing_keys"], *mismatched})
            config = AutoConfig.from_pretrained(name, revision=revision, **settings)
            kind = {} if dtype == "auto" else {"dtype": dtype}
            return AutoModelForSequenceClassification.from_config(config, **kind), []
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise CascadeError(
            f"the model {name!r} cannot be had: {_first_line(error)}. It may be a name on the hub, "
            "or a folder that save_pretrained wrote."
        ) from error


def own_classes(name: str, revision: str = "main") -> list[str] | None:
    """Names of a saved model's classes in logit order; None where they cannot be had."""
    from transformers import AutoConfig

    try:
        with _quiet():
            config = AutoConfig.from_pretrained(name, revision=revision)
        return [str(config.id2label[i]) for i in range(config.num_labels)]
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None


def load_tokenizer(name: str, revision: str = "main", options: Any = None) -> Any:
    """A tokenizer of transformers that can make batches.

    Args:
        name: on the hub, or a folder.
        revision: on the hub.
        options: further arguments of `AutoTokenizer.from_pretrained`.

    Raises:
        CascadeError: it cannot be had, or it has no token to pad with.
    """
    from transformers import AutoTokenizer

    try:
        with _quiet():
            found = AutoTokenizer.from_pretrained(name, revision=revision, **(options or {}))
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError) as error:
        raise CascadeError(
            f"the tokenizer of {name!r} cannot be had: {_first_line(error)}."
        ) from error
    if found.pad_token_id is None:
        ends = found.eos_token or "TOKEN"
        raise CascadeError(
            f"the tokenizer of {name!r} has no token to pad with, so no batch can be made; name "
            f"one, as in tokenizer_args: {{pad_token: {ends!r}}}."
        )
    return found


def word_embeddings(name: str, *, pretrained: bool = True) -> nn.Embedding:
    """The table of word embeddings of a model.

    Args:
        name: on the hub, or a folder.
        pretrained: with its weights; else random ones of the same shape.

    Raises:
        CascadeError: it cannot be had, or it has none.
    """
    from transformers import AutoConfig, AutoModel

    try:
        with _quiet():
            if not pretrained:
                config = AutoConfig.from_pretrained(name)
                return nn.Embedding(config.vocab_size, config.hidden_size)
            model = AutoModel.from_pretrained(name, dtype="float32")
            found: Any = model.get_input_embeddings()
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise CascadeError(
            f"the word embeddings of {name!r} cannot be had: {_first_line(error)}."
        ) from error
    if not isinstance(found, nn.Embedding):
        raise CascadeError(f"the model {name!r} has no table of word embeddings.")
    copy: nn.Embedding = nn.Embedding.from_pretrained(found.weight.detach().clone(), freeze=False)
    return copy


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars and reports of transformers: what matters is said in our words."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    said = str(error).strip().split("\n", maxsplit=1)[0].rstrip(". ")
    return said or type(error).__name__
