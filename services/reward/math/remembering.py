"""What is remembered of formulas that have been read and compared, here and in the libraries, and how it is let go."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

from antlr4.dfa.DFA import DFA
from latex2sympy2_extended.antlr_parser import PSLexer, PSParser
from sympy.core.cache import clear_cache

_Function = TypeVar("_Function", bound=Callable[..., Any])
_remembering: list[Callable[[], None]] = []


def remember(most: int) -> Callable[[_Function], _Function]:
    """`lru_cache` of the `most` last calls, which `forget` empties."""

    def remembered(function: _Function) -> _Function:
        known = lru_cache(maxsize=most)(function)
        _remembering.append(known.cache_clear)
        return known  # type: ignore[return-value]  # called as the function is

    return remembered


def forget() -> None:
    """Give back what is remembered, what sympy has cached, and what the parser has learned of its grammar.

    Each grows with every new formula. It changes no result: the parser's tables are made as its generated class makes
    them.
    """
    for clear in (clear_cache, *_remembering, PSParser.sharedContextCache.cache.clear):
        clear()
    for kind in (PSLexer, PSParser):
        kind.decisionsToDFA[:] = [DFA(state, number) for number, state in enumerate(kind.atn.decisionToState)]
