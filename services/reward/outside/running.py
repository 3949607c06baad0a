"""The verifier `python`: each program in a process of its own, a bounded number at a time."""

import asyncio

import msgspec

from services.reward.judging.judge import failed, reward_of
from services.reward.judging.truths import checked
from services.reward.outside.confinement import why_unconfined
from services.reward.outside.launching import Late, Launcher
from services.reward.verdict import Sample, VerifierError
from services.reward.verifiers.python import Outcome, tests_of, verdict
from shared.answers.programs import Case, read_program
from shared.messages import Reward

_CPU_S = 2.0
_DECODER = msgspec.json.Decoder(tuple[str, object])


class Running:
    """Judges programs; `at_once` processes together, each forked by a launcher that is kept."""

    def __init__(self, *, at_once: int) -> None:
        self._room = asyncio.Semaphore(at_once)
        self._idle: list[Launcher] = []

    async def judge(self, sample: Sample) -> Reward:
        """The reward of `sample`; raises Unavailable when no process could be started for it."""
        try:
            if (problem := why_unconfined()) is not None:
                raise VerifierError(problem)
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
            found = await self._launched(msgspec.json.encode(work | {"stdins": [text for _, text in stdins]}), limit_s)
        outcomes: list[Outcome] = [()] * len(cases)
        for (place, _), outcome in zip([*calls, *stdins], found, strict=False):
            outcomes[place] = outcome
        return outcomes

    async def _launched(self, work: bytes, limit_s: float) -> list[Outcome]:
        launcher = await self._free_launcher()
        try:
            answer = await launcher.run(work, limit_s)
        except Late:
            await launcher.close()
            raise VerifierError(f"the program did not end within its deadline of {limit_s:g} s") from None
        except BaseException:
            await launcher.close()
            raise
        self._idle.append(launcher)
        return _outcomes(answer)

    async def _free_launcher(self) -> Launcher:
        while self._idle:
            launcher = self._idle.pop()
            if launcher.runs:
                return launcher
            await launcher.close()
        return await Launcher.start()

    async def aclose(self) -> None:
        """End the launchers."""
        while self._idle:
            await self._idle.pop().close()


def _outcomes(answer: bytes) -> list[Outcome]:
    """What the process told before it ended, however that was: past its CPU time the kernel ends it in a test."""
    found: list[Outcome] = []
    for line in answer.split(b"\n")[:-1]:
        try:
            found.append(_DECODER.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError):  # the program has written there
            break
    return found
