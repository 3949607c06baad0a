"""Two changes to the libraries under math-verify that make them quicker and change no result; made once, at import.

Only worker processes load this module. Both are tested against the libraries as they come.
"""

import builtins
import types
from typing import Any

import sympy
from antlr4 import PredictionMode
from latex2sympy2_extended.latex2sympy2 import _Latex2Sympy
from math_verify import parser as math_parser
from sympy.parsing import sympy_parser

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
    """sympy's own, with a copy of its names at hand: it imports all of sympy anew for each number that it reads."""
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


sympy_parser.parse_expr = parse_expr
math_parser.parse_expr = parse_expr
_Latex2Sympy.create_parser = create_parser
_Latex2Sympy.parse = parse_latex
