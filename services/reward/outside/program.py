"""What runs one program on the inputs of its tests and says what came out, never having seen what should.

`run` is all that a process forked by `services.reward.outside.launcher` does. It reads a JSON object, and writes
`READY`, then a JSON line a test as it is done (an `Outcome` of `services.reward.verifiers.python`): first those of
`calls`, then those of `stdins`. It can compute and nothing else (`services.reward.outside.confinement`), and the kernel
ends it after its CPU time. What the program prints goes nowhere, but for tests of standard output.
"""

import contextlib
import io
import itertools
import json
import math
import os
import resource
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

from services.reward.outside.confinement import confine
from services.reward.workers import sandbox

MODULES = (
    *("abc", "array", "ast", "bisect", "calendar", "cmath", "collections", "collections.abc", "contextlib", "copy"),
    *("dataclasses", "datetime", "decimal", "enum", "fractions", "functools", "hashlib", "heapq", "html", "itertools"),
    *("json", "math", "numbers", "operator", "queue", "random", "re", "statistics", "string", "struct", "sys"),
    *("textwrap", "time", "typing", "unicodedata", "uuid", "zlib"),
)
"""What a program can import."""
READY = b"ready\n"
"""What is answered before anything of the program runs: without it, the process has failed, not the program."""
DEEPEST, MOST_ITEMS, LONGEST_TEXT = 32, 10_000, 64 * 1024
_MEMORY_BYTES = 1024**3


def run(exchange: int) -> NoReturn:
    """Read the work from the descriptor `exchange`, run it and tell there what it does; this ends the process."""
    try:
        with open(exchange, "rb", buffering=0, closefd=False) as given:
            work = json.loads(given.read())
        sandbox.limit(_MEMORY_BYTES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
        cpu_s = int(sum(os.times()[:2]) + work["cpu_s"]) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
        confine()
        os.write(exchange, READY)
        outcomes = itertools.chain(
            _run_calls(work["program"], work["calls"]), _run_each(work["program"], work["stdins"])
        )
        for outcome in outcomes:
            _tell(exchange, json.dumps(outcome).encode() + b"\n")
    finally:
        os._exit(0)  # whatever the program has left to be run at the end


def _tell(exchange: int, line: bytes) -> None:
    while line:
        line = line[os.write(exchange, line) :]


def _run_calls(program: str, calls: list[str]) -> Iterator[list[Any]]:
    names: dict[str, Any] = {"__name__": "__main__"}
    problem = _problem(lambda: exec(compile(program, "<answer>", "exec"), names)) if calls else None
    names.setdefault("math", math)  # tests say `math.isclose(f(2), 0.5)`, whatever the program has imported
    for call in calls:
        yield _call(call, names) if problem is None else ["error", problem]


def _run_each(program: str, texts: list[str]) -> Iterator[list[Any]]:
    for text in texts:
        yield _run_once(program, text)


def _call(call: str, names: dict[str, Any]) -> list[Any]:
    found: list[Any] = []
    problem = _problem(lambda: found.append(encoded(eval(compile(call, "<test>", "eval"), names))))
    return ["value", found[0]] if problem is None else ["error", problem]


def _run_once(program: str, text: str) -> list[Any]:
    printed, before = _Kept(), sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(text.encode(errors="surrogatepass")), encoding="utf-8")
    try:
        with contextlib.redirect_stdout(io.TextIOWrapper(printed, encoding="utf-8", write_through=True)):
            problem = _problem(lambda: exec(compile(program, "<answer>", "exec"), {"__name__": "__main__"}))
    finally:
        sys.stdin = before
    if problem not in (None, "SystemExit"):  # a program may end itself once it has printed
        return ["error", problem]
    return ["output", bytes(printed.getbuffer()[: 4 * LONGEST_TEXT]).decode(errors="replace")[:LONGEST_TEXT]]


class _Kept(io.BytesIO):
    """Standard output, which can be read after the program has closed it."""

    def close(self) -> None:
        pass


def _problem(deed: Any) -> str | None:
    """The name of what `deed` raises, whatever it is."""
    try:
        deed()
    except BaseException as error:  # noqa: BLE001 — the program is anybody's: all that it raises is its failure
        return str(type(error).__name__)[:100]
    return None


def encoded(value: object, depth: int = 0) -> list[Any]:
    """A value as JSON that keeps its type: numbers are texts; raises ValueError for one that is too deep or large."""
    if depth > DEEPEST:
        raise ValueError("too deep")
    if value is None or isinstance(value, (bool, str)):
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            raise ValueError("too long")
        return [type(value).__name__, value]
    if isinstance(value, int):
        return ["int", str(int(value))]
    if isinstance(value, float):
        return ["float", repr(float(value))]
    if isinstance(value, (list, tuple, set, frozenset, dict)):
        if len(value) > MOST_ITEMS:
            raise ValueError("too many")
        if isinstance(value, dict):
            return ["dict", [[encoded(key, depth + 1), encoded(one, depth + 1)] for key, one in value.items()]]
        kind = "set" if isinstance(value, (set, frozenset)) else "list"
        return [kind, [encoded(one, depth + 1) for one in value]]
    return ["other", type(value).__name__]
