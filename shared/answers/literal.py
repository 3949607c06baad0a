"""JSON and Python literals as models write them, wherever they stand in a text; linear in its length."""

import re
from typing import TypeAlias

Value: TypeAlias = "str | int | float | bool | list[Value] | dict[str, Value] | None"

DEEPEST = 16
"""Brackets in brackets beyond which a literal is not read."""
_OPENERS = {"[": "]", "{": "}", "(": ")"}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_WORDS: dict[str, Value] = {"true": True, "false": False, "null": None, "none": None}
_SPACE = " \t\r\n\u00a0\u3000"
_GAP = re.compile(rf"(?:[{_SPACE}]++|(?://|#)[^\n]*+)*+")
"""White space and comments."""
_NUMBERS = re.compile(r"\[ ?(-?\d{1,15}+(?:\.\d{1,15}+)?(?:, ?-?\d{1,15}+(?:\.\d{1,15}+)?)*+)\]", re.ASCII)
"""A list of plain numbers, read at once: the corners of a box, which most literals are made of."""
_AFTER_STRING = ",:]})"
_LONGEST_NUMBER = 64
_OPENER = re.compile(r"[\[{(]")
_MOST_STEPS = 100_000


class _Stop(Exception):
    """No literal goes on here."""


class Unreadable(ValueError):
    """A bracket that opens no literal."""


def find_literals(text: str, *, strict: bool = False) -> list[Value]:
    """The lists and objects in `text` that lie in no other, in order; what stands around them is left out.

    Single, double and no quotes, apostrophes in strings, escapes, trailing and missing commas, Python's tuples, None
    and True, `+1`, `1.`, comments; a list that the text breaks off keeps its complete items. `strict` raises Unreadable
    where a bracket opens something that cannot be read to its end.
    """
    found: list[Value] = []
    reader = _Reader(text, partial=not strict)
    place = 0
    while (opened := _OPENER.search(text, place)) is not None:
        reader.place = reader.furthest = opened.start()
        try:
            found.append(reader.value(0))
            place = reader.place
        except _Stop:
            if strict:
                raise Unreadable(f"{text[opened.start() : opened.start() + 60]!r} cannot be read") from None
            place = max(opened.end(), reader.furthest if reader.too_deep else 0)
        if reader.steps > _MOST_STEPS:
            break
    return found


class _Reader:
    """A place in a text, and the literals from there on."""

    def __init__(self, text: str, *, partial: bool) -> None:
        self._text, self._partial = text, partial
        self.place = 0
        self.furthest = 0
        self.too_deep = False
        self.steps = 0

    def value(self, depth: int) -> Value:
        """The literal at this place; raises _Stop when there is none."""
        self._step()
        self._skip()
        sign = self._text[self.place : self.place + 1]
        if sign in _OPENERS:
            self.too_deep = depth >= DEEPEST
            if self.too_deep:
                self.furthest = self.place
                raise _Stop
            return self._object(depth) if sign == "{" else self._list(depth, _OPENERS[sign])
        if sign in ('"', "'"):
            return self._string(sign)
        return self._scalar()

    def _list(self, depth: int, closing: str) -> list[Value]:
        plain = _NUMBERS.match(self._text, self.place)
        if plain is not None:
            self.place = plain.end()
            words = plain[1].split(",")
            self._step(2 * len(words))
            return [float(word) if "." in word else int(word) for word in words]
        self.place += 1
        items: list[Value] = []
        while True:
            if self._closed(closing, whole=depth > 0):
                return items
            try:
                items.append(self.value(depth + 1))
            except _Stop:
                if depth == 0 and self._broken_off():
                    return items
                raise

    def _object(self, depth: int) -> dict[str, Value]:
        self.place += 1
        items: dict[str, Value] = {}
        while True:
            if self._closed("}", whole=depth > 1):
                return items
            try:
                name = self._name()
                items[name] = self.value(depth + 1)
            except _Stop:
                if depth <= 1 and self._broken_off():
                    return items
                raise

    def _closed(self, closing: str, *, whole: bool) -> bool:
        """Step over separators, and over `closing` where it comes; at the text's end true unless it must be `whole`.

        Raises _Stop at another closing bracket.
        """
        while True:
            self._skip()
            sign = self._text[self.place : self.place + 1]
            if sign in (",", ";"):
                self._step()
                self.place += 1
                continue
            if sign == closing:
                self.place += 1
                return True
            if (not sign and (whole or not self._partial)) or (sign and sign in "]})"):
                raise _Stop
            return not sign

    def _broken_off(self) -> bool:
        """Whether the text ended inside the last item, which is then left out."""
        return self._partial and self.place >= len(self._text)

    def _name(self) -> str:
        self._skip()
        sign = self._text[self.place : self.place + 1]
        name = self._string(sign) if sign in ('"', "'") else self._bare(":=")
        self._skip()
        if self._text[self.place : self.place + 1] not in (":", "="):
            raise _Stop
        self.place += 1
        return name

    def _string(self, quote: str) -> str:
        """A string in quotes; a quote that no comma, colon, bracket or end follows is part of it (dog's)."""
        text, parts, start = self._text, [], self.place + 1
        place = start
        while True:
            self._step()
            end = text.find(quote, place)
            escape = text.find("\\", place, max(end, 0))
            if escape >= 0:
                parts.append(text[start:escape])
                escaped = text[escape + 1 : escape + 2]
                code = text[escape + 2 : escape + 6]
                if escaped == "u" and len(code) == 4 and all(sign in "0123456789abcdefABCDEF" for sign in code):
                    parts.append(chr(int(code, 16)))
                    start = place = escape + 6
                else:
                    parts.append(_ESCAPES.get(escaped, escaped))
                    start = place = escape + 2
                continue
            if end < 0:
                self.place = len(text)
                raise _Stop
            after = self._beyond(end + 1)
            if after >= len(text) or text[after] in _AFTER_STRING or (text[after] in "\"'}" and after > end + 1):
                parts.append(text[start:end])
                self.place = end + 1
                return "".join(parts)
            place = end + 1

    def _scalar(self) -> Value:
        word = self._bare(",;]})")
        if word.lower() in _WORDS:
            return _WORDS[word.lower()]
        return _number(word)

    def _bare(self, until: str) -> str:
        """A word without quotes, up to one of `until`, a line's end or a bracket."""
        start, text = self.place, self._text
        while self.place < len(text) and text[self.place] not in until + "\n[]{}()\"'":
            self.place += 1
        word = text[start : self.place].strip()
        if not word:
            raise _Stop
        return word

    def _skip(self) -> None:
        self.place = _GAP.match(self._text, self.place).end()  # type: ignore[union-attr]  # it matches nothing, too

    def _beyond(self, place: int) -> int:
        """The first place from `place` on that is no white space."""
        text = self._text
        while place < len(text) and text[place] in _SPACE:
            place += 1
        return place

    def _step(self, count: int = 1) -> None:
        """Count work; raises _Stop when there has been too much of it for any answer."""
        self.steps += count
        if self.steps > _MOST_STEPS:
            raise _Stop


def _number(word: str) -> Value:
    """The number that `word` is, else the word."""
    if len(word) <= _LONGEST_NUMBER:
        try:
            return int(word)
        except ValueError:
            pass
        try:
            return float(word)
        except ValueError:
            pass
    return word
