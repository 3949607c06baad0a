"""A program that must pass unit tests.

Source: functional correctness by unit tests (Chen et al. 2021, arXiv 2107.03374, section 2.1); tests as MBPP has them
(Austin et al. 2021, arXiv 2108.07732), or standard input and output as APPS has them (`shared.answers.programs` lists
the forms). With p of t tests passed, accuracy is 1 when p = t, else 0; with the parameter `partial` it is p / t, in
[0, 1]. A program that raises, ends, prints too much, or takes more than the parameter `cpu_s` (2) of CPU time on all
tests together fails what it has not passed. Format: four tags, a quarter each. `parts`: `passed`, p / t.

Values are compared as Python compares them, floats within 1e-9, and a tuple equals a list; outputs line by line, white
space at their ends aside. What is expected never enters the process that runs the program, so no program can pass by
reading it, by ending early or by redefining what compares. Each program has a process of its own
(`services.reward.outside.running`), which can open no file: modules beyond `services.reward.outside.program.MODULES`
cannot be imported.

Raises VerifierError for tests that cannot be read, and past the sample's deadline: then the machine was too slow, or
the program slept.
"""

import math
from collections.abc import Sequence

from services.reward.answers.tags import tag_format
from services.reward.verdict import Context, Verdict, VerifierError
from shared.answers.programs import Case, read_cases
from shared.messages import RewardSpec

Outcome = Sequence[object]
"""What a program did in one test: `["value", encoded]`, `["output", text]` or `["error", name]`."""


def score(completion: str, spec: RewardSpec, context: Context) -> Verdict:
    """No verdict: a worker starts no process. Raises VerifierError."""
    raise VerifierError("the verifier 'python' is run by the reward service itself; it cannot be part of another one")


def tests_of(ground_truth: str) -> list[Case]:
    """The tests; raises VerifierError."""
    try:
        return read_cases(ground_truth)
    except ValueError as error:
        raise VerifierError(f"ground truth {ground_truth[:200]!r} {error}") from None


def verdict(completion: str, cases: Sequence[Case], outcomes: Sequence[Outcome], *, partial: bool) -> Verdict:
    """The verdict on what a program did, in the order of the tests; what is missing has failed."""
    passed = sum(_passes(case, outcome) for case, outcome in zip(cases, outcomes, strict=False))
    share = passed / len(cases)
    return Verdict(share if partial else float(passed == len(cases)), tag_format(completion), {"passed": share})


def _passes(case: Case, outcome: Outcome) -> bool:
    if len(outcome) != 2:
        return False
    kind, found = outcome
    if case.call:
        return kind == "value" and same(case.expected, found)
    return kind == "output" and isinstance(found, str) and _lines(found) == _lines(case.expected)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def same(expected: object, encoded: object) -> bool:
    """Whether a value, encoded by `services.reward.outside.program`, is the expected one."""
    if not isinstance(encoded, list) or len(encoded) != 2:
        return False
    kind, value = encoded
    if isinstance(expected, str) or expected is None:
        return bool(kind == type(expected).__name__ and value == expected)
    if isinstance(expected, (int, float)):
        return _same_number(expected, kind, value)
    if not isinstance(value, list):
        return False
    if isinstance(expected, (list, tuple)):
        return kind == "list" and len(value) == len(expected) and all(map(same, expected, value))
    if isinstance(expected, (set, frozenset)):
        left = list(value)
        return kind == "set" and len(value) == len(expected) and all(_take(item, left) for item in expected)
    if isinstance(expected, dict):
        left = list(value)
        return kind == "dict" and len(value) == len(expected) and all(_take(item, left) for item in expected.items())
    return False


def _take(expected: object, left: list[object]) -> bool:
    """Take from `left` the one that is `expected`."""
    for place, encoded in enumerate(left):
        pair = encoded if isinstance(encoded, list) and len(encoded) == 2 else [None, None]
        if isinstance(expected, tuple) and isinstance(pair[0], list):
            found = same(expected[0], pair[0]) and same(expected[1], pair[1])
        else:
            found = same(expected, encoded)
        if found:
            del left[place]
            return True
    return False


def _same_number(expected: float, kind: object, text: object) -> bool:
    if kind == "bool":
        return bool(expected == text)
    if kind not in ("int", "float") or not isinstance(text, str) or len(text) > 4000:
        return False
    try:
        value = int(text) if kind == "int" else float(text)
    except ValueError:
        return False
    if isinstance(expected, int) and isinstance(value, int):
        return expected == value
    try:
        return math.isclose(expected, value, rel_tol=1e-9, abs_tol=1e-12)
    except OverflowError:
        return False
