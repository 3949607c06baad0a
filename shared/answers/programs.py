"""A program in an answer, and the tests in a ground truth that it must pass; nothing is run here."""

import ast
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from shared.answers.blocks import answer_body

MOST_TESTS = 200
LONGEST_PROGRAM = 64 * 1024
_FENCE = re.compile(r"```[ \t]*(?:python3?|py)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL | re.IGNORECASE)


class Case(NamedTuple):
    """One test: an expression and its value, or (`call` empty) a text on standard input and the output."""

    call: str
    stdin: str
    expected: Any


def read_program(text: str) -> str:
    """The program that `text` answers with: the last fence of its answer block, else that block.

    Without a block it is the last fence of the text; empty where there is neither, or it is too long.
    """
    body = answer_body(text)
    fences = _FENCE.findall(text if body is None else body)
    program = fences[-1] if fences else (body or "")
    return str(program) if len(program) <= LONGEST_PROGRAM else ""


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
            try:
                return Case(ast.unparse(call), "", ast.literal_eval(value))
            except (ValueError, RecursionError):
                pass
        case ast.Assert(test=ast.UnaryOp(op=ast.Not(), operand=call)):
            return Case(f"bool({ast.unparse(call)})", "", False)
        case ast.Assert(test=call):
            return Case(f"bool({ast.unparse(call)})", "", True)
    raise ValueError(f"has the line {ast.unparse(node)[:100]!r}; expected `assert CALL == VALUE` with a literal value")
