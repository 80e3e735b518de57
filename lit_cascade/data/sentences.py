"""Sentences and the phrases that were cut from them, in one list of texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

__all__ = ["phrases_of", "whole_sentences"]


def whole_sentences(texts: Sequence[str]) -> list[int]:
    """Positions of the texts that are a part of no other, a part being some words in a row.

    Of texts that are the same but for spaces the first counts.

    Example:
        >>> whole_sentences(["a fine film", "fine", "a dull film", "fine film", "a  dull film"])
        [0, 2]
    """
    words = [" ".join(text.split()) for text in texts]
    known, parts = set(words), set[str]()
    whole = []
    # the longest first: what is a part of a part is one of the whole too, so that only whole
    # sentences are taken apart
    for i in sorted(range(len(words)), key=lambda i: -words[i].count(" ")):
        if words[i] not in parts:
            whole.append(i)
            parts.update(part for part in _parts(words[i]) if part in known)
    return sorted(whole)


def phrases_of(sentences: Iterable[str], texts: Sequence[str]) -> list[int]:
    """Positions of the texts that are a part of any of some sentences, or the whole of it.

    Example:
        >>> phrases_of(["a fine film"], ["film", "a film", "a fine film", "fine  film", "fin"])
        [0, 2, 3]
    """
    parts = {part for text in sentences for part in _parts(" ".join(text.split()))}
    return [i for i, text in enumerate(texts) if " ".join(text.split()) in parts]


def _parts(sentence: str) -> Iterator[str]:
    """All the parts of a sentence whose words single spaces divide; the sentence is one of them."""
    spaces = [i for i, letter in enumerate(sentence) if letter == " "]
    starts, ends = [0, *(i + 1 for i in spaces)], [*spaces, len(sentence)]
    for first, start in enumerate(starts):
        for end in ends[first:]:
            yield sentence[start:end]
