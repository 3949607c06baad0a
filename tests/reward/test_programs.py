"""The verifier `python`: programs against unit tests, in a process that never sees what is expected."""

import itertools
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest
import pytest_asyncio

from services.reward.judging.judge import judge
from services.reward.outside import launching
from services.reward.outside.running import Running
from services.reward.verdict import Sample
from services.reward.verifiers.python import same
from shared.answers.programs import read_program
from shared.errors import Unavailable
from shared.messages import Reward, RewardSpec
from shared.samples.verifiers import why_unusable
from tests.limits import descriptors, first_free, open_files

pytestmark = pytest.mark.asyncio(loop_scope="module")

_ASSERTS = "assert double(2) == 4\nassert double(-1) == -2\nassert double(0) == 0"
_RIGHT = "def double(n):\n    return 2 * n"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def running() -> AsyncIterator[Running]:
    made = Running(at_once=2)
    yield made
    await made.aclose()


async def _judged(
    running: Running, program: str, truth: str = _ASSERTS, limit_s: float = 20.0, **params: Any
) -> Reward:
    text = f"<think>\nI write it.\n</think>\n<answer>\n```python\n{program}\n```\n</answer>"
    spec = RewardSpec(verifier="python", answer="", ground_truth=truth, format_ratio=0.0, params=params)
    return await running.judge(Sample(completion=text, spec=spec, deadline_s=limit_s))


@pytest.mark.parametrize(
    ("program", "accuracy", "passed"),
    [
        (_RIGHT, 1.0, 1.0),
        ("def double(n):\n    return abs(2 * n)", 0.0, 2 / 3),
        ("def double(n):\n    return 1 / 0", 0.0, 0.0),
        ("def double(n):\n    return n if n == 0 else exit()", 0.0, 1 / 3),
        ("def double(n)\n    return 2 * n", 0.0, 0.0),
        ("import heapq\nprint('noise')\ndouble = lambda n: 2.0 * n", 1.0, 1.0),  # 4.0 == 4, as in Python
        ("", 0.0, 0.0),
    ],
)
async def test_accuracy_worked_by_hand(running: Running, program: str, accuracy: float, passed: float) -> None:
    reward = await _judged(running, program)
    assert reward.ok, reward.error
    assert (reward.accuracy, reward.format) == (accuracy, 1.0) and reward.parts["passed"] == pytest.approx(passed)
    partial = await _judged(running, program, partial=True)
    assert partial.accuracy == pytest.approx(passed)


async def test_a_launcher_that_does_not_start_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "_MODULE", "services.reward.no_such_module")
    with pytest.raises(Unavailable, match="did not start, or was ended: code 1"):
        await _judged(Running(at_once=1), _RIGHT)


async def test_a_launcher_that_cannot_be_started_is_no_verdict_and_leaves_nothing_open() -> None:
    """One descriptor more each time, so that it fails at each place, until it starts."""
    running, before, failures = Running(at_once=1), descriptors(), []
    for most in itertools.count(first_free()):
        try:
            with open_files(most):
                assert (await _judged(running, _RIGHT)).accuracy == 1.0
            break
        except Unavailable as error:
            failures.append(error)  # with its traceback, and what that holds
        assert descriptors() == before
    assert len(failures) > 3 and "could not be started: [Errno 24]" in str(failures[0])
    await running.aclose()


async def test_a_process_that_a_launcher_cannot_be_asked_for_is_no_verdict() -> None:
    running, before = Running(at_once=1), descriptors()
    assert (await _judged(running, _RIGHT)).accuracy == 1.0
    with open_files(0), pytest.raises(Unavailable, match=r"could not be started: \[Errno 24\]"):
        await _judged(running, _RIGHT)
    assert descriptors() == before
    assert (await _judged(running, _RIGHT)).accuracy == 1.0
    await running.aclose()


def _launchers() -> list[psutil.Process]:
    return [one for one in psutil.Process().children(recursive=True) if launching._MODULE in " ".join(one.cmdline())]


async def test_a_launcher_that_was_killed_is_replaced(running: Running) -> None:
    assert (await _judged(running, _RIGHT)).accuracy == 1.0
    before = _launchers()
    for process in before:
        process.kill()
    psutil.wait_procs(before, 10)
    assert (await _judged(running, _RIGHT)).accuracy == 1.0
    assert before and not {one.pid for one in before} & {one.pid for one in _launchers()}


async def test_a_process_that_is_slow_to_start_is_no_verdict_on_the_program() -> None:
    running, before = Running(at_once=1), _launchers()
    assert (await _judged(running, _RIGHT)).accuracy == 1.0
    for process in set(_launchers()) - set(before):
        process.suspend()
    with pytest.raises(Unavailable, match=r"did not start within 0\.2 s"):
        await _judged(running, _RIGHT, limit_s=0.2)
    assert (await _judged(running, _RIGHT)).accuracy == 1.0
    await running.aclose()
    assert set(_launchers()) == set(before)


async def test_a_program_of_standard_input_and_output_is_run_once_a_test(running: Running) -> None:
    tests = json.dumps([{"stdin": "2 3\n", "stdout": "5"}, {"stdin": "1 1", "stdout": "2\n"}])
    assert (await _judged(running, "a, b = map(int, input().split())\nprint(a + b)  ", tests)).accuracy == 1.0
    told = await _judged(running, "print(5)\nraise SystemExit", tests)
    assert told.parts["passed"] == 0.5


@pytest.mark.parametrize(
    "program",
    [
        "import sys\na, b = sys.stdin.buffer.read().split()\nsys.stdout.buffer.write(b'%d' % (int(a) + int(b)))",
        "import sys\nfor line in sys.stdin: print(sum(map(int, line.split())))\nsys.stdout.close()",
        "import sys\nsys.stdout.write(str(sum(map(int, sys.stdin.readline().split()))))\nsys.exit(0)",
    ],
)
async def test_a_program_may_use_its_standard_streams_in_any_way(running: Running, program: str) -> None:
    tests = json.dumps([{"stdin": "2 3\n", "stdout": "5"}, {"stdin": "1 1", "stdout": "2\n"}])
    assert (await _judged(running, program, tests)).accuracy == 1.0


async def test_a_test_may_build_its_value_and_use_math(running: Running) -> None:
    tests = "assert double(2) == set((4, 5))\nassert double(0) == float('inf')\nassert math.isclose(double(1), 0.5)"
    program = "def double(n):\n    return {2: {5, 4}, 0: 1e999, 1: 0.1 * 5}[n]"
    assert (await _judged(running, program, tests)).accuracy == 1.0


_HOSTILE = {
    "reads the tests": "import sys\ndef double(n):\n    return sys._getframe(1).f_locals.get('expected', 0) or n",
    "ends early with success": "import os\nos._exit(0)",
    "lies about equality": "class Same:\n    def __eq__(self, other): return True\ndef double(n): return Same()",
    "writes into the answer": 'import os\nline = b\'["value", ["int", "4"]]\\n\'\n'
    "for fd in range(3, 9):\n    try: os.write(fd, line)\n    except OSError: pass\ndef double(n): return 7",
    "loops": "while True: pass",
    "loops in a test": "def double(n):\n    while n < 0: pass\n    return 2 * n",
    "fills the memory": "x = []\nwhile True: x.append(bytearray(10**7))",
    "forks": "import os\nif os.fork(): os._exit(0)\n" + _RIGHT,  # the child would pass
    "opens a file": "open('/etc/passwd')\n" + _RIGHT,
    "connects": "import socket\nsocket.create_connection(('127.0.0.1', 80), 1)\n" + _RIGHT,
    "prints for ever": "import sys\nwhile True: sys.stdout.write('x' * 10**6)",
    "recurses": "def double(n): return double(n)",
    "returns what never ends": "x = []\nx.append(x)\ndef double(n): return x",
    "returns much": "def double(n): return [0] * 10**7",
    "a long number": "def double(n): return 10**100000",
    "swallows everything": "def double(n):\n    while True:\n        try: [0] * 10**12\n"
    "        except BaseException: pass",
    "kills its family": "import os, signal\nos.kill(0, signal.SIGKILL)",
    "nested": "x = " + "(" * 5000 + ")" * 5000,
}


@pytest.mark.parametrize("name", _HOSTILE)
async def test_a_hostile_program_fails_and_reaches_nothing(running: Running, name: str) -> None:
    reward = await _judged(running, _HOSTILE[name], cpu_s=0.5)
    assert reward.ok, reward.error
    assert reward.accuracy == 0.0 and reward.parts["passed"] < 1.0


_DEEDS = {
    "signals the service": "os.kill({service}, 0)",
    "signals everybody": "os.kill(-1, 0)",
    "takes the service's files": "resource.prlimit({service}, resource.RLIMIT_NOFILE, (3, 3))",
    "slows the service down": "os.setpriority(os.PRIO_USER, 0, 19)",
    "forks": "os.fork()",
    "becomes another program": "os.execv('/bin/true', ['true'])",
    "opens a socket": "socket.socketpair()",
    "reads a folder": "os.listdir('/')",
    "makes a file": "os.memfd_create('x')",
    "raises its limits": "resource.prlimit(0, resource.RLIMIT_CPU, (99, 99))",
}


async def test_a_program_reaches_no_process_and_no_file_whatever_namespaces_there_are(running: Running) -> None:
    """Containers give none as a rule, and there `os.kill(-1, 9)` would reach all processes of the service's user."""
    for deed in (deed.format(service=os.getpid()) for deed in _DEEDS.values()):
        program = f"import os, resource, socket\ndef tries():\n    try: {deed}\n" + (
            "    except OSError as error: return type(error).__name__\n    return 'done'"
        )
        assert (await _judged(running, program, "assert tries() == 'PermissionError'")).accuracy == 1.0, deed
    assert (await _judged(running, "import os\nos.kill(-1, 9)\n" + _RIGHT)).accuracy == 0.0
    assert (await _judged(running, _RIGHT)).accuracy == 1.0


async def test_where_nothing_confines_a_program_none_runs(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    reward = await _judged(running, _RIGHT)
    assert reward.status == "verifier-error" and "nothing keeps a program from other processes here" in reward.error


async def test_what_was_passed_before_a_program_took_too_long_counts(running: Running) -> None:
    reward = await _judged(running, _HOSTILE["loops in a test"], cpu_s=0.5, partial=True)
    assert reward.ok and reward.accuracy == pytest.approx(1 / 3)


async def test_a_program_that_sleeps_past_the_deadline_has_no_verdict(running: Running) -> None:
    reward = await _judged(running, "import time\ntime.sleep(600)", limit_s=1.0)
    assert reward.status == "verifier-error" and "did not end within its deadline of 1 s" in reward.error


@pytest.mark.parametrize(
    ("truth", "told"),
    [
        ("assert double(2) == other(2)", "expected `assert CALL == VALUE` with a literal value"),
        ("double(2)", "expected `assert CALL == VALUE`"),
        ("assert f() == b'x'", "with a literal value"),  # no answer would ever be equal
        ("assert f() == [1, 2j]", "with a literal value"),
        ("assert f() == set(1)", "with a literal value"),
        ("[]", "has 0 tests"),
        ('[{"call": "f()"}]', "expected call and equals, or stdin and stdout"),
        ("[1", "is no JSON list of tests"),
        ("it doubles", "neither a JSON list of tests nor lines"),
    ],
)
async def test_tests_that_cannot_be_read_are_an_error_before_anything_runs(
    running: Running, truth: str, told: str
) -> None:
    assert told in str(why_unusable("python", truth, {}))
    assert told in (await _judged(running, _RIGHT, truth)).error
    assert why_unusable("python", "assert f([1, 2]) == (1, {'a': 2.5})\nassert g()\nassert not h()", {}) is None


@pytest.mark.parametrize(
    ("expected", "encoded", "agree"),
    [
        ((1, "a"), ["list", [["int", "1"], ["str", "a"]]], True),
        ([1], ["list", [["int", "1"], ["int", "2"]]], False),
        ({1, 2}, ["set", [["int", "2"], ["int", "1"]]], True),
        ({"a": 1}, ["dict", [[["str", "a"], ["int", "1"]]]], True),
        ({"a": 1}, ["dict", [[["str", "a"], ["int", "2"]]]], False),
        (0.3, ["float", "0.30000000000000004"], True),
        (0.3, ["float", "nan"], False),
        (True, ["bool", True], True),
        (True, ["int", "1"], True),
        (1, ["bool", True], True),
        (None, ["NoneType", None], True),
        ("4", ["int", "4"], False),
        (4, ["other", "Same"], False),
        (4, "4", False),
        ([["x"]], ["list", [["list", [["str", "x"]]]]], True),
    ],
)
async def test_values_are_compared_as_python_does(expected: object, encoded: object, agree: bool) -> None:
    assert same(expected, encoded) is agree


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("<answer>\nx = 1\n</answer>", "x = 1"),
        ("```python\na\n```\nthen\n```py\nb\n```", "b"),
        ("<think>\n```python\nno\n```\n</think>\n<answer>```\nyes\n```</answer>", "yes"),
        ("```python\ncut off", "cut off"),
        ("```text\n1\n```\nso\n```python\nx = 1\n```", "x = 1"),
        ("```python\nx = 1\n```\nIt prints:\n```\n1\n```", "x = 1"),
        ("```python\nx = 1\n```\n```text\n1\n```", "x = 1"),
        ("1. So:\n  ```py\n  if x:\n    y\n  ```", "if x:\n  y"),
        ("nothing", ""),
    ],
)
async def test_the_last_fence_of_the_answer_is_the_program(text: str, program: str) -> None:
    assert read_program(text) == program


async def test_a_worker_runs_no_program() -> None:
    spec = RewardSpec(verifier="python", answer="", ground_truth=_ASSERTS)
    assert "is run by the reward service itself" in judge(Sample(completion=_RIGHT, spec=spec)).error
    members = [{"name": "python"}, {"name": "exact"}]
    spec = RewardSpec(verifier="composite", answer="", ground_truth=_ASSERTS, params={"verifiers": members})
    assert "none of composite, judge, python" in judge(Sample(completion=_RIGHT, spec=spec)).error
