"""A program in an answer, and the tests in a ground truth that it must pass; nothing is run here."""

import ast
import contextlib
import json
import re
import textwrap
from collections.abc import Mapping
from typing import Any, NamedTuple

from shared.answers.blocks import answer_body

MOST_TESTS = 200
LONGEST_PROGRAM = 64 * 1024
_FENCE = re.compile(r"[ \t]*```[ \t]*([\w+-]*)[^`]*")
_PYTHON = frozenset(("python", "python3", "py", "py3"))
_MADE = {kind.__name__: kind for kind in (set, frozenset, tuple, list, dict, float)}
"""What may stand around a literal in a test: `set((4, 5))`, `float("inf")`."""


class Case(NamedTuple):
    """One test: an expression and its value, or (`call` empty) a text on standard input and the output."""

    call: str
    stdin: str
    expected: Any


def read_program(text: str) -> str:
    """The program that `text` answers with: the last fence of its answer block, else that block.

    Fences that say Python go before those that say nothing, and those before others (`text`: what it prints). Without a
    block it is such a fence of the text; empty where there is neither, or it is too long.
    """
    body = answer_body(text)
    fences = _fences(text if body is None else body)
    program = max(reversed(fences), key=lambda fence: _rank(fence[0]))[1] if fences else (body or "")
    return program if len(program) <= LONGEST_PROGRAM else ""


def _rank(language: str) -> int:
    return 2 if language in _PYTHON else int(not language)


def _fences(text: str) -> list[tuple[str, str]]:
    """Language and content of each code fence, in order; one that never closes holds the rest of the text."""
    found: list[tuple[str, list[str]]] = []
    inside = False
    for line in text.split("\n"):
        mark = _FENCE.fullmatch(line)
        if mark is None:
            if inside:
                found[-1][1].append(line)
        elif inside and not mark[1]:
            inside = False
        else:
            inside = True
            found.append((mark[1].lower(), []))
    return [(language, textwrap.dedent("\n".join(lines))) for language, lines in found]


def read_cases(truth: str) -> list[Case]:
    """The tests in a ground truth: lines `assert CALL == VALUE` as MBPP has them, or a JSON list of objects
    `{"call": "f(2)", "equals": 4}` and `{"stdin": "2", "stdout": "4"}`.

    Raises ValueError for anything else: the value must be a literal, since it is never shown to the program.
    """
    truth = truth.strip()
    cases = _json_cases(truth) if truth.startswith("[") else _asserts(truth)
    if not 0 < len(cases) <= MOST_TESTS:
        raise ValueError(f"has {len(cases)} tests; expected 1 to {MOST_TESTS}")
    return cases


def _json_cases(truth: str) -> list[Case]:
    try:
        given = json.loads(truth)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is no JSON list of tests: {error}") from None
    return [_json_case(one) for one in given]


def _json_case(one: object) -> Case:
    if isinstance(one, Mapping):
        if one.keys() == {"call", "equals"} and isinstance(one["call"], str) and one["call"].strip():
            return Case(one["call"], "", one["equals"])
        if one.keys() == {"stdin", "stdout"} and all(isinstance(one[name], str) for name in one):
            return Case("", one["stdin"], one["stdout"])
    raise ValueError(f"has the test {str(one)[:100]}; expected call and equals, or stdin and stdout")


def _asserts(truth: str) -> list[Case]:
    try:
        tree = ast.parse(truth)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError("is neither a JSON list of tests nor lines of `assert CALL == VALUE`") from None
    return [_assert(node) for node in tree.body]


def _assert(node: ast.stmt) -> Case:
    match node:
        case ast.Assert(test=ast.Compare(left=call, ops=[ast.Eq()], comparators=[value])):
            with contextlib.suppress(ValueError, TypeError, RecursionError):
                return Case(ast.unparse(call), "", _literal(value))
        case ast.Assert(test=ast.UnaryOp(op=ast.Not(), operand=call)):
            return Case(f"bool({ast.unparse(call)})", "", False)
        case ast.Assert(test=call):
            return Case(f"bool({ast.unparse(call)})", "", True)
    raise ValueError(f"has the line {ast.unparse(node)[:100]!r}; expected `assert CALL == VALUE` with a literal value")


def _literal(node: ast.expr) -> object:
    """The value of a literal, perhaps in one of `_MADE`; raises ValueError for one that no answer is compared with."""
    match node:
        case ast.Call(func=ast.Name(id=name), args=[inside], keywords=[]) if name in _MADE:
            value = _MADE[name](ast.literal_eval(inside))
        case _:
            value = ast.literal_eval(node)
    _check(value)
    return value


def _check(value: object) -> None:
    if isinstance(value, (list, tuple, set, frozenset, dict)):
        for item in [*value, *value.values()] if isinstance(value, dict) else value:
            _check(item)
    elif value is not None and not isinstance(value, (bool, int, float, str)):
        raise ValueError(f"{type(value).__name__} is not compared")
