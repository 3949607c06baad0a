"""The verifier `python`: each program in a process of its own, a bounded number at a time."""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import msgspec

from services.reward.judge import failed, reward_of
from services.reward.outside.program import READY
from services.reward.truths import checked
from services.reward.verdict import Sample, VerifierError
from services.reward.verifiers.python import Outcome, tests_of, verdict
from services.reward.workers.sandbox import clean_environment
from shared.answers.programs import Case, read_program
from shared.errors import Unavailable
from shared.messages import Reward

_MODULE = "services.reward.outside.program"
_ROOT = Path(__file__).parents[3]
_MAX_ANSWER_BYTES = 4 * 1024 * 1024
_CPU_S = 2.0
_DECODER = msgspec.json.Decoder(tuple[str, object])


class Running:
    """Judges programs; `at_once` processes together."""

    def __init__(self, *, at_once: int) -> None:
        self._room = asyncio.Semaphore(at_once)

    async def judge(self, sample: Sample) -> Reward:
        """The reward of `sample`; raises Unavailable when no process could be started for it."""
        try:
            spec = checked(sample.spec) if sample.checked else sample.spec
            cases, program = tests_of(spec.ground_truth), read_program(sample.completion)
            cpu_s = float(spec.params.get("cpu_s", _CPU_S))  # type: ignore[arg-type]
            outcomes = await self._run(program, cases, cpu_s, sample.deadline_s) if program.strip() else []
        except VerifierError as error:
            return failed(str(error))
        return reward_of(spec, verdict(sample.completion, cases, outcomes, partial=bool(spec.params.get("partial"))))

    async def _run(self, program: str, cases: list[Case], cpu_s: float, limit_s: float) -> list[Outcome]:
        """What the program did in each test, nothing from where it ended. Raises Unavailable, VerifierError."""
        calls = [(place, case.call) for place, case in enumerate(cases) if case.call]
        stdins = [(place, case.stdin) for place, case in enumerate(cases) if not case.call]
        work = {"program": program, "cpu_s": cpu_s, "calls": [call for _, call in calls]}
        async with self._room:
            found = await _in_process(msgspec.json.encode(work | {"stdins": [text for _, text in stdins]}), limit_s)
        outcomes: list[Outcome] = [()] * len(cases)
        for (place, _), outcome in zip([*calls, *stdins], found, strict=False):
            outcomes[place] = outcome
        return outcomes

    async def aclose(self) -> None:
        """Nothing outlives a call."""


async def _in_process(work: bytes, limit_s: float) -> list[Outcome]:
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-B", "-m", _MODULE),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=clean_environment(os.environ),
            cwd=_ROOT,
            start_new_session=True,
        )
    except OSError as error:
        raise Unavailable(f"a process for a program could not be started: {error}") from error
    try:
        async with asyncio.timeout(limit_s):
            answer = await _exchange(process, work)
            await process.wait()
    except TimeoutError:
        raise VerifierError(f"the program did not end within its deadline of {limit_s:g} s") from None
    finally:
        await _end(process)
    if not answer.startswith(READY):
        raise Unavailable(f"a process for a program did not start: it ended with {process.returncode}")
    return _outcomes(answer.removeprefix(READY))


def _outcomes(answer: bytes) -> list[Outcome]:
    """What the process told before it ended, however that was: past its CPU time the kernel ends it in a test."""
    found: list[Outcome] = []
    for line in answer.split(b"\n")[:-1]:
        try:
            found.append(_DECODER.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError):  # the program has written there
            break
    return found


async def _exchange(process: asyncio.subprocess.Process, work: bytes) -> bytes:
    """Give the work, take the answer: of one that is too long no test's outcome."""
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(ConnectionError):
        process.stdin.write(work)
        await process.stdin.drain()
    process.stdin.close()
    parts, size = [], 0
    while part := await process.stdout.read(64 * 1024):
        size += len(part)
        if size > _MAX_ANSWER_BYTES:
            process.kill()
            return READY
        parts.append(part)
    return b"".join(parts)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill what is left of it, and of what it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
