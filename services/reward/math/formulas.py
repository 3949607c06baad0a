"""A formula's text made ready for math-verify: what it does not know is written as it does."""

import re

from shared.answers.plain import unified
from shared.answers.units import known_unit

LONGEST = 1024
"""Characters of a formula; a longer one is not read."""
_ROOT = re.compile(r"√ ?(\d+|[a-zA-Z]|\([^()]*\)|\{[^{}]*\})")
_EMPTY = re.compile(r"\\varnothing(?![A-Za-z])|∅")
_NAMED_POINT = re.compile(r"[A-Z]'? ?(\(.*\))")
_WRAPPED_UNIT = re.compile(r"\\(?:text|textrm|mathrm|mbox) ?\{ ?([^{}]{1,30})\}( ?\^ ?\{?[23]\}?)?[.$ ]*\Z")
_BARE_UNIT = re.compile(r"(?<=[\d)}iπ]) ?([A-Za-z]{2,12}(?: ?\^ ?\{?[23]\}?)?)\.?\Z")
_GAP = r"[\s{}()]{0,8}"
_POWERS = re.compile(rf"\d++(?:{_GAP}(?:\^|\*\*){_GAP}\d++)+")
_FACTORIAL = re.compile(r"(\d++)[\s})]{0,8}!")
_LARGEST = 10**5
"""Of exponents and factorials: numbers of a million digits are no answers, and take seconds."""


def prepared(text: str) -> str:
    """`text` for the library; empty where that must not read it: too long, or a number too large to compute.

    `√3` is `\\sqrt{3}`, `A(3, 4)` the point `(3, 4)`, and a unit without a wrapper is left out.
    """
    text = unified(text).strip()
    if len(text) > LONGEST or _is_huge(text):
        return ""
    text = _EMPTY.sub(r"\\emptyset", _ROOT.sub(_root, text))
    point = _NAMED_POINT.fullmatch(text)
    found = _BARE_UNIT.search(text)
    if found is not None and known_unit(found[1]):
        return text[: found.start()]
    return text if point is None else point[1]


def wrapped_unit(text: str) -> str:
    """The one name of the unit that stands at the end of a formula, in `\\text` or `\\mathrm`; "" for none."""
    found = _WRAPPED_UNIT.search(text[-200:])
    return "" if found is None else known_unit(found[1] + (found[2] or ""))


def _root(found: re.Match[str]) -> str:
    return f"\\sqrt{{{found[1].strip('(){}')}}}"


def _is_huge(text: str) -> bool:
    factors = (found[1] for found in _FACTORIAL.finditer(text))
    return any(map(_is_large, factors)) or any(_is_tower(found[0]) for found in _POWERS.finditer(text))


def _is_tower(text: str) -> bool:
    """Whether powers of powers, as in `9^{9^9}`, have too large an exponent."""
    exponent = "1"
    for base in reversed(re.findall(r"\d+", text)[1:]):
        if _is_large(base) or len(exponent) > 2:
            return True
        exponent = str(int(base) ** int(exponent))
    return _is_large(exponent)


def _is_large(digits: str) -> bool:
    return len(digits) > 6 or int(digits) > _LARGEST
