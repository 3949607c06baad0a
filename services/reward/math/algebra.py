"""math-verify's reading and comparing, as V-Triune configures it, without its time limits and with short cuts.

Each short cut gives what the library gives, provably (the reason stands at each one), and is tested against it; what
none of them decides goes to the library. Without them a wrong word costs 30 ms, since sympy tries to simplify the
difference of two products of letters.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from itertools import islice, product
from typing import Any, TypeAlias

from antlr4 import InputStream
from latex2sympy2_extended import NormalizationConfig
from latex2sympy2_extended.gen.antlr4_13_2.PSLexer import PSLexer
from latex2sympy2_extended.math_normalization import replace_in_latex
from math_verify import parser as library
from math_verify.grader import sympy_expr_eq
from math_verify.parser import ExprExtractionConfig, LatexExtractionConfig
from sympy import Basic, E, Expr, Float, Integer, MatrixBase, Mul, Pow, Rational, S, Symbol, preorder_traversal

from services.reward.math import quicker
from services.reward.math.remembering import remember

__all__ = ["answer_part", "equal", "quicker", "read_answer", "read_part", "read_truth"]

logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it logs every answer that it cannot read
logging.getLogger("latex2sympy2_extended").setLevel(logging.CRITICAL)

Reading: TypeAlias = Basic | MatrixBase | str
"""An expression; text where the library could read none."""

_TRUTH_PATTERNS = library.get_extraction_regexes([LatexExtractionConfig(), ExprExtractionConfig()])
_ANSWER_PATTERNS = library.get_extraction_regexes(
    [
        LatexExtractionConfig(
            normalization_config=NormalizationConfig(
                basic_latex=True, units=True, malformed_operators=False, nits=False, boxed="all"
            ),
            boxed_match_priority=0,
            try_extract_without_anchor=False,
        )
    ]
)
_FLOAT_ROUNDING = 6  # decimals; with _NUMERIC_PRECISION the library's defaults
_NUMERIC_PRECISION = 15
_BOX = "\\boxed{"
_OPENERS = ("$", "[", "\\(")  # without one of them, or a fraction, the library sees no mathematics outside a box
_FACTOR_TYPES = tuple(token.type for token in PSLexer(InputStream("aedx")).getAllTokens())  # a letter, e, dx
_PLAIN = re.compile(
    r"""\\boxed\{(?:
        (?: (?P<whole>-?(?:0|[1-9]\d{0,8})) | (?P<decimal>-?(?:0|[1-9]\d{0,8})\.\d{1,6}) )
        (?P<unit>\ ?\\text\{[a-z\ ]{1,16}\})?
      | (?P<sign>-?)\\frac\{(?P<above>0|[1-9]\d{0,8})\}\{(?P<below>[1-9]\d{0,8})\}
      | (?P<word>[a-z]{2,16})
    )\}""",
    re.ASCII | re.VERBOSE,
)


# ---------------------------------------------------------------- reading


@remember(2048)
def read_truth(text: str) -> tuple[Reading, ...]:
    """The library's readings of a lower-cased ground truth."""
    plain = () if text.startswith("\\boxed{0.5") else _read_plain(text)
    return plain or _extract(text, _TRUTH_PATTERNS)


def answer_part(completion: str) -> str | None:
    """The part of a lower-cased `completion` that decides what the library reads in it; None: the whole.

    Where no mathematics opens (no dollar, no bracket), one pattern of the library's first rank can match,
    `\\boxed{.+}`, and it is greedy: from the first box to the last brace. A fraction alone counts as mathematics after
    "final answer is", which has the same rank, and after "answer", which counts where there is no box. An empty part
    stands for no match.
    """
    if any(opener in completion for opener in _OPENERS):
        return None
    start, end = completion.find(_BOX), completion.rfind("}") + 1
    part = completion[start:end] if 0 <= start < end - len(_BOX) - 1 else ""
    return None if "\\frac" in completion and (not part or "final answer is" in completion) else part


@remember(2048)
def read_part(part: str) -> tuple[Reading, ...]:
    """The library's readings of an `answer_part`."""
    return (_read_plain(part) or read_answer(part)) if part else ()


def read_answer(text: str) -> tuple[Reading, ...]:
    """The library's readings of a lower-cased completion."""
    return _extract(text, _ANSWER_PATTERNS)


def _read_plain(text: str) -> tuple[Reading, ...]:
    """A box with a plain number, fraction or word: the one match there is, which nothing normalises, and its text.

    Nothing but a unit after a number, which goes, and a truth of 0.5, which becomes a half and is none of these. A word
    is the product of its letters, e being the number, and d with the letter behind it one symbol (a differential).
    """
    found = _PLAIN.fullmatch(text)
    if not found:
        return ()
    if found["word"]:
        factors = _factors(found["word"])
        return (_product_of(factors), found["word"]) if len(factors) > 1 else ()
    if found["above"]:
        return (Rational(int(found["sign"] + found["above"]), int(found["below"])), text[len(_BOX) : -1])
    if found["unit"] and replace_in_latex(found["unit"]) != found["unit"]:
        return ()
    if found["whole"]:
        return (Integer(int(found["whole"])), found["whole"])
    return (Float(found["decimal"]), found["decimal"])


def _product_of(factors: Sequence[str]) -> Expr:
    return Mul(*(E if factor == "e" else Symbol(factor, real=True) for factor in factors), evaluate=False)


def _factors(word: str) -> list[str]:
    """The letters and differentials that the library sees in `word`.

    Empty where it sees a function's name or whatever else in it, or rewrites it.
    """
    if replace_in_latex(word) != word:
        return []
    tokens = PSLexer(InputStream(word)).getAllTokens()
    return [token.text for token in tokens] if all(token.type in _FACTOR_TYPES for token in tokens) else []


def _extract(text: str, patterns: Any) -> tuple[Reading, ...]:
    try:
        return tuple(
            library.extract_target_from_pred(text, patterns, fallback_mode="first_match", extraction_mode="first_match")
        )
    except Exception:  # noqa: BLE001 — whatever the library cannot read is no answer; it does the same in `parse`
        return ()


# ---------------------------------------------------------------- comparing


def equal(truth: tuple[Reading, ...], answer: tuple[Reading, ...]) -> bool:
    """Whether any reading of the truth equals any of the answer."""
    return any(_equal_pair(one, other) for one, other in product(truth, answer))


def _equal_pair(truth: Reading, answer: Reading) -> bool:
    """The library's comparison; text equals only text."""
    if isinstance(truth, str) and isinstance(answer, str):
        return truth.strip() == answer.strip() != ""
    if isinstance(truth, str) or isinstance(answer, str):
        return False
    try:
        if isinstance(truth, Expr) and isinstance(answer, Expr) and _differ(truth, answer):
            return False
        return bool(sympy_expr_eq(truth, answer, _FLOAT_ROUNDING, _NUMERIC_PRECISION))
    except Exception:  # noqa: BLE001 — sympy raises anything; what it cannot compare is not equal, as in `verify`
        return False


def _differ(a: Expr, b: Expr) -> bool:
    """Whether the library is certain to find that two expressions differ; False: ask it.

    It finds them equal when they are written alike, round alike, or their difference evaluates or simplifies to 0 (a
    lone symbol apart: that is compared by name). None of it can be where the difference is a number well away from 0,
    at one place, or where two products have different letters.
    """
    if isinstance(a, Symbol) or isinstance(b, Symbol):
        return False
    if isinstance(a, Rational) and isinstance(b, Rational):
        return bool(a != b)
    if isinstance(a, (Float, Rational)) and isinstance(b, (Float, Rational)):
        return _are_far(float(a), float(b))
    product_a, product_b = _product(a), _product(b)
    if product_a is not None and product_b is not None:
        (number_a, powers_a), (number_b, powers_b) = product_a, product_b
        if powers_a != powers_b:
            return _symbols(powers_a) != _symbols(powers_b)
        return _are_far(number_a, number_b)
    return _far_apart(a, b)


@remember(2048)
def _product(expression: Expr) -> tuple[Rational, Mapping[Expr, int]] | None:
    """A product of rational numbers other than 0, e and symbols: the number, and the powers; None for all else."""
    number: Rational = S.One
    powers: dict[Expr, int] = {}
    for factor in expression.args if expression.is_Mul else (expression,):
        base, power = factor.args if isinstance(factor, Pow) else (factor, S.One)
        if (isinstance(base, Symbol) or base is E) and isinstance(power, Integer) and power.p > 0:
            powers[base] = powers.get(base, 0) + power.p
        elif isinstance(base, Rational) and base.p != 0 and power is S.One:
            number *= base
        else:
            return None
    return number, powers


def _symbols(powers: Mapping[Expr, int]) -> dict[Expr, int]:
    return {base: power for base, power in powers.items() if base != E}


_NODES = 40
_POINTS = tuple(
    map(Float, (1.2345, 0.8642, 1.5923, 0.7531, 1.3219, 0.6487))
)  # small and positive: no branch cut, no overflow
_FAR = 1e-4  # the library's rounding is to 6 decimals
_LARGE = 1e9  # and its precision 15 digits


def _far_apart(a: Expr, b: Expr) -> bool:
    """Whether `a` and `b` are moderate real numbers that differ, at one place for their symbols."""
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    if len(symbols) > len(_POINTS) or not (_is_small(a) and _is_small(b)):
        return False
    one, other = (_value(expression, tuple(symbols)) for expression in (a, b))
    return one is not None and other is not None and _are_far(one, other)


@remember(2048)
def _value(expression: Expr, symbols: tuple[Symbol, ...]) -> float | None:
    """An expression at the place, None where that is no real number; a truth is compared with many answers."""
    value = expression.evalf(subs=dict(zip(symbols, _POINTS, strict=False)) or None)
    return float(value) if isinstance(value, (Float, Integer)) else None


def _are_far(one: float | Rational, other: float | Rational) -> bool:
    """Whether two numbers differ by more than any rounding, and are moderate."""
    return bool(abs(one - other) > _FAR and max(abs(one), abs(other)) < _LARGE)


def _is_small(expression: Expr) -> bool:
    return sum(1 for _ in islice(preorder_traversal(expression), _NODES)) < _NODES
