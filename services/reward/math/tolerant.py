"""Whether two answers to a question say the same: as text, as a number, as an option, else as algebra by math-verify.

Unlike V-Triune's reading a word is no product of letters (`silent` is not `listen`), 2017 is not 2023-05-01, a case of
a single letter counts (A is not a), and two small numbers are compared relative to their size.
"""

import re
from fractions import Fraction

from sympy import Expr, Float, Integer, Rational
from sympy.core.relational import Relational
from sympy.logic.boolalg import BooleanFunction
from sympy.sets import Set

from services.reward.math.algebra import Reading, equal, read_truth
from services.reward.math.formulas import prepared, wrapped_unit
from services.reward.math.remembering import remember
from shared.answers.letters import read_letter
from shared.answers.numbers import Number, read_number
from shared.answers.plain import plain, same_words

_ROUNDED = Fraction(2, 10**6)
"""Relative: six digits of a number that has no finite decimal form (1/3, π) are enough."""
_WORDS = re.compile(r"(?=.{0,60}[^\W\d_]{2})[^\W\d_]+(?:[ ,.'&/-]{1,2}[^\W\d_]+){0,40}[.!]?")
_ALGEBRA = re.compile(r"[a-z]{2}|pi|inf|infty|infinity|true|false|i|e")
_STAMP = re.compile(
    r"\d{1,2}:\d{2}(?::\d{2})?(?: ?[ap]\.?m\.?)?|\d{1,4}([-/.])\d{1,2}\1\d{1,4}|\d{1,6}(?: ?: ?\d{1,6})+", re.IGNORECASE
)
_ASSIGNED = re.compile(r"([A-Za-z]\w{0,8}|\\[a-z]{2,8}) ?=(?!=)")
_SMALL = Fraction(1, 10**12)
_CIRCLED = re.compile("[①-⑳]")
_FACTOR = re.compile(r"[\d}][AC-JLN-SU-Za-jl-z](?: ?\^ ?\{?\d+\}?)?\.?\Z")  # 2m is 2·m; M, K, B, T are magnitudes
_PART = r"[\s,;&]*(?:and |和|与)?\s*"
_OPTIONS = re.compile(rf"(?:(?:\(?[A-H]\)?|\(\d{{1,2}}\)){_PART}){{2,12}}\.?")
_TRUE_OPTION = re.compile(r"\(?([A-H])(?:[.):]|\) ) ?[^\s(].*")


def agree(truth: str, answer: str) -> bool:
    """Whether `answer` says what `truth` says; both are answers as `final_answer` and `reference` find them."""
    return (_known if len(answer) <= _SHORT else _agree)(truth, answer)


def _agree(truth: str, answer: str) -> bool:
    said, wanted = plain(answer), plain(truth)
    if not said or not wanted:
        return False
    if said.rstrip(".") == wanted.rstrip("."):
        return True
    if len(wanted) == 1 and wanted.isalpha():
        return len(said) > 1 and read_letter(said) == wanted.lower()
    if (option := _TRUE_OPTION.fullmatch(wanted)) is not None and read_letter(said) == option[1].lower():
        return True
    circled = _CIRCLED.search(truth) is not None
    options = _options(wanted, circled=circled)
    if options is not None and (chosen := _options(said, circled=circled)) is not None:
        return chosen == options
    if _is_text(wanted) or _is_text(said):
        return same_words(said, wanted) and len(wanted) > 1
    if _STAMP.fullmatch(wanted) or _STAMP.fullmatch(said):
        return _stamp(said) == _stamp(wanted)
    if _variables_differ(wanted, said):
        return False
    one, other = (None if _FACTOR.search(text) else read_number(text) for text in (wanted, said))
    if one is not None and other is not None:
        return other.agrees(one, _bound(one, other))
    return _algebra_agrees(truth, answer)


_SHORT = 256  # characters of an answer that is worth remembering
_known = remember(8192)(_agree)


def _options(text: str, *, circled: bool) -> frozenset[str] | None:
    """The options in a list of several: `BD`, `B, D`, `B and D`; with `circled` ①③ too, which is (1)(3) by now."""
    if not _OPTIONS.fullmatch(text):
        return None
    found = re.findall(r"[A-H]|\d+", text)
    is_word = text.isalpha() and found != sorted(set(found))
    return None if is_word or (not circled and any(map(str.isdigit, found))) else frozenset(found)


def _is_text(text: str) -> bool:
    return _WORDS.fullmatch(text) is not None and _ALGEBRA.fullmatch(text) is None


def _stamp(text: str) -> str:
    """A time, date or ratio in one form: without white space, full stops and leading zeros."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", re.sub(r"[\s.]", "", text.lower()))


def _variables_differ(wanted: str, said: str) -> bool:
    one, other = _ASSIGNED.match(wanted), _ASSIGNED.match(said)
    return one is not None and other is not None and one[1] != other[1]


def _bound(truth: Number, answer: Number) -> Fraction:
    return Fraction(0) if truth.exact and answer.exact else abs(truth.value) * _ROUNDED


def _algebra_agrees(truth: str, answer: str) -> bool:
    units = {wrapped_unit(truth), wrapped_unit(answer)} - {""}
    if len(units) > 1:
        return False
    one, other = _readings(truth), _readings(answer)
    for left in one:
        for right in other:
            decided = _decide(left, right)
            if decided is not None:
                return decided
    return bool(one) and equal(one, other)


@remember(2048)
def _readings(text: str) -> tuple[Reading, ...]:
    """math-verify's readings of a whole answer; none for one that it must not read."""
    formula = prepared(text)
    return read_truth(f"\\boxed{{{formula}}}") if formula else ()


def _decide(truth: Reading, answer: Reading) -> bool | None:
    """What is certain of two readings, None: ask the library.

    Two numbers are equal to six digits relative to their size where one of them is written in decimals, to twelve
    otherwise. A relation equals the set that it describes.
    """
    if isinstance(truth, Expr) and isinstance(answer, Expr) and not (truth.free_symbols | answer.free_symbols):
        try:
            one, other = complex(truth.evalf(30)), complex(answer.evalf(30))
            size, distance = max(abs(one), abs(other)), abs(one - other)
        except (TypeError, ValueError, OverflowError, ArithmeticError):
            return None
        if size != size or size == float("inf"):
            return None
        rounded = truth.has(Float) or answer.has(Float)
        if size < 1e-290:  # doubles end here
            return bool(Rational(truth) == Rational(answer)) if _rational(truth) and _rational(answer) else None
        return bool(distance <= size * float(_ROUNDED if rounded else _SMALL))
    relation, region = (truth, answer) if isinstance(answer, Set) else (answer, truth)
    if isinstance(relation, (Relational, BooleanFunction)) and isinstance(region, Set):
        try:
            return bool(relation.as_set() == region)
        except Exception:  # noqa: BLE001 — sympy raises anything; what has no set is left to the library
            return None
    return None


def _rational(number: Expr) -> bool:
    return isinstance(number, (Integer, Rational))
