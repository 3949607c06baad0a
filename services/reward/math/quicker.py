"""Changes to the libraries under math-verify that make them quicker and change no result; made once, at import.

Only worker processes load this module. They are tested against the libraries as they come.
"""

import builtins
import re
import types
from typing import Any

import sympy
from antlr4 import PredictionMode
from antlr4.IntervalSet import IntervalSet
from latex2sympy2_extended.latex2sympy2 import _Latex2Sympy
from math_verify import parser as math_parser
from sympy.parsing import sympy_parser

from services.reward.math.remembering import remember

_KEPT = 2048
"""Formulas that are known by their text; the library keeps 20."""
_PLAIN = re.compile(r"(?:0|[1-9][0-9]{0,60})(?:\.[0-9]{1,60})?")
_STANDARD = sympy_parser.standard_transformations
_NUMBERS_ALIKE = (_STANDARD, (*_STANDARD, sympy_parser.convert_xor))  # the latter is what `sympify` uses
_parse_expr = sympy_parser.parse_expr
_create_parser = _Latex2Sympy.create_parser
_parse_latex = _Latex2Sympy.parse


def _names_for_parse_expr() -> dict[str, object]:
    """The names that sympy's `parse_expr` gives to the code that it makes."""
    names: dict[str, object] = {}
    exec("from sympy import *", names)
    names |= {name: value for name, value in vars(builtins).items() if isinstance(value, types.BuiltinFunctionType)}
    return names | {"max": sympy.Max, "min": sympy.Min}


_NAMES = _names_for_parse_expr()


def parse_expr(
    s: str,
    local_dict: dict[str, Any] | None = None,
    transformations: Any = sympy_parser.standard_transformations,
    global_dict: dict[str, Any] | None = None,
    evaluate: bool = True,
) -> Any:
    """sympy's own, with a copy of its names at hand: it imports all of sympy anew for each number that it reads.

    A plain number is what its `auto_number` makes of it, without the way there.
    """
    if transformations in _NUMBERS_ALIKE and not local_dict and global_dict is None and _PLAIN.fullmatch(s):
        return sympy.Float(s) if "." in s else sympy.Integer(s)
    return _parse_expr(s, local_dict, transformations, dict(_NAMES) if global_dict is None else global_dict, evaluate)


def parse_latex(converter: Any, text: str) -> Any:
    """latex2sympy's own, in two stages: ANTLR's SLL prediction first, and full LL where that fails.

    SLL finds the parse tree that LL finds, or reports a syntax error (ANTLR 4, documentation of `PredictionMode.SLL`).
    """
    converter.quick = True
    try:
        return _parse_latex(converter, text)
    except Exception:  # noqa: BLE001 — the library raises plain Exception at a syntax error
        converter.quick, converter.variances = False, {}
        return _parse_latex(converter, text)


def create_parser(converter: Any, text: str) -> Any:
    """latex2sympy's own, in the mode of the stage."""
    parser = _create_parser(converter, text)
    if converter.quick:
        parser._interp.predictionMode = PredictionMode.SLL
    return parser


def contains(intervals: IntervalSet, item: int) -> bool:
    """ANTLR's own, which asks every interval: they are in order, and apart."""
    for interval in intervals.intervals or ():
        if item < interval.stop:
            return bool(item >= interval.start)
    return False


sympy_parser.parse_expr = parse_expr
math_parser.parse_expr = parse_expr
math_parser.parse_latex_cached = remember(_KEPT)(math_parser.parse_latex_cached.__wrapped__)
IntervalSet.__contains__ = contains
_Latex2Sympy.create_parser = create_parser
_Latex2Sympy.parse = parse_latex
