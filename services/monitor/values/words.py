"""Reflection words, counted in many texts at once: one look at each letter, where a text by itself takes fifteen.

`count_words` is the definition, V-Triune's: each word as a substring of the lower-cased text, also inside other words.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

REFLECTION_WORDS: Final = (
    "re-check",
    "re-evaluate",
    "re-examine",
    "re-think",
    "recheck",
    "reevaluate",
    "reexamine",
    "reevaluation",
    "rethink",
    "check again",
    "think again",
    "try again",
    "verify",
    "wait",
    "yet",
)
"""V-Triune's fifteen words (paper, section 3.3)."""
_PAIRS: Final = ("ga", "va", "wa", "xa", "ck", "nk", "fy", "ye")
"""Each word holds one of these pairs of letters, which are rare in other words."""
_PAIR_OF: Final = {word: next(pair for pair in _PAIRS if pair in word) for word in REFLECTION_WORDS}
_SECOND: Final = "aeky"
_CODES: Final = bytes(
    sum(
        16 * (chr(byte).lower() + second in _PAIRS) << bit | (chr(byte).lower() == second) << bit
        for bit, second in enumerate(_SECOND)
    )
    for byte in range(128)
) + bytes(128)
"""Of each byte: above, the second letters that it makes a pair with, a bit each of `_SECOND`; below, which it is."""
_BLOCK: Final = 256 * 1024
"""So many bytes are looked at together, that what is made of them stays in the cache."""
_KELVIN: Final = "\u212a"
"""The one other letter that is one of ASCII in lower case: the sign of the kelvin, a k."""


def count_words(text: str) -> dict[str, int]:
    """How often each reflection word occurs in `text`."""
    lower = text.lower()
    return {word: count for word in REFLECTION_WORDS if (count := lower.count(word))}


def words_of(texts: pa.StringArray) -> list[Mapping[str, int]]:
    """`count_words` of each text, none of which is null."""
    letters, ends = _bytes_of(texts)
    if letters.max(initial=0) > 127 and (letters == _KELVIN.encode()[-1]).any():
        letters, ends = _bytes_of(pa.array([text.replace(_KELVIN, "k") for text in texts.to_pylist()], pa.string()))
    pairs = _pairs_in(letters)
    found: list[Mapping[str, int]] = [{}] * len(texts)
    for word, pair in _PAIR_OF.items():
        starts = _places(letters, word, pairs[pair] - word.index(pair))
        of = np.searchsorted(ends, starts, side="right")
        ends_in = np.searchsorted(ends, starts + len(word) - 1, side="right")
        for text, count in Counter(of[of == ends_in].tolist()).items():
            found[text] = {**found[text], word: count}
    return found


def _bytes_of(texts: pa.StringArray) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """The UTF-8 of all texts, one after the other, and where in it each one ends."""
    if not len(texts):
        return np.zeros(0, np.uint8), np.zeros(0, np.int32)
    _, offsets, data = texts.buffers()
    places = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return np.frombuffer(data or b"", np.uint8)[places[0] : places[-1]], places[1:] - places[0]


def _pairs_in(letters: NDArray[np.uint8]) -> dict[str, NDArray[np.int64]]:
    """Where each of `_PAIRS` begins."""
    parts = [np.flatnonzero(_begins_pair(letters[at : at + _BLOCK + 1])) + at for at in range(0, len(letters), _BLOCK)]
    found = np.concatenate(parts) if parts else np.zeros(0, np.int64)
    first, second = _lower(letters[found]), _lower(letters[found + 1])
    return {pair: found[(first == ord(pair[0])) & (second == ord(pair[1]))] for pair in _PAIRS}


def _begins_pair(letters: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether each letter but the last one begins any of the pairs."""
    codes = np.frombuffer(letters.tobytes().translate(_CODES), np.uint8)
    return (codes[:-1] >> 4) & codes[1:] != 0


def _lower(letters: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Those of ASCII in lower case."""
    is_capital = letters - np.uint8(ord("A")) < 26
    return letters | np.left_shift(is_capital.view(np.uint8), 5, dtype=np.uint8)


def _places(letters: NDArray[np.uint8], word: str, starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of `starts` at which `word` stands."""
    starts = starts[(starts >= 0) & (starts + len(word) <= len(letters))]
    if not len(starts):
        return starts
    windows = np.lib.stride_tricks.sliding_window_view(letters, len(word))[starts]
    return starts[(_lower(windows) == np.frombuffer(word.encode(), np.uint8)).all(axis=1)]
