"""`python -m tests.chaos --seeds 50`: one JSON line a seed, then their sum; exit code 1 when a rule was broken."""

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

from tests.chaos.checks import steps_of, weights_digest
from tests.chaos.play import Outcome, play, reference
from tests.chaos.schedule import draw
from tests.chaos.system import running


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--quick", action="store_true", help="short outages, as in `make test`")
    parser.add_argument(
        "--against", type=Path, help="a run folder whose final weights the on-policy seeds of as many steps must reach"
    )
    parser.add_argument("--folder", type=Path, help="keep everything here, the undisturbed runs as `calm-STEPS`")
    arguments = parser.parse_args()
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="chaos-") as scratch:
        base = (arguments.folder or Path(scratch)).resolve()
        base.mkdir(parents=True, exist_ok=True)
        async with running(base) as system:
            schedules = [draw(arguments.first + place, quick=arguments.quick) for place in range(arguments.seeds)]
            bits = {} if arguments.against is None else {steps_of(arguments.against): weights_digest(arguments.against)}
            for steps in {schedule.steps for schedule in schedules if schedule.is_comparable} - bits.keys():
                bits[steps] = await reference(system, steps)
            for schedule in schedules:
                outcome = await play(system, schedule, bits.get(schedule.steps))
                outcomes.append(outcome)
                tell(outcome.as_line())
    tell(summary(outcomes))
    return int(any(outcome.broken for outcome in outcomes))


def tell(line: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def summary(outcomes: list[Outcome]) -> dict[str, object]:
    """The figures of all seeds together."""
    recoveries = sorted(seconds for outcome in outcomes for seconds in outcome.recoveries)
    voids: dict[str, int] = {}
    for outcome in outcomes:
        for reason, count in outcome.voids.items():
            voids[reason] = voids.get(reason, 0) + count
    return {
        "seeds": len(outcomes),
        "broken": sum(bool(outcome.broken) for outcome in outcomes),
        "jobs": sum(outcome.jobs for outcome in outcomes),
        "steps not heard": sum(outcome.unheard for outcome in outcomes),
        "jobs failed by a destroyed blob": sum(outcome.destroyed for outcome in outcomes),
        "faults": sum(len(outcome.done) for outcome in outcomes),
        "groups": sum(outcome.published for outcome in outcomes),
        "made twice": sum(outcome.duplicates for outcome in outcomes),
        "compared bit for bit": sum(outcome.compared for outcome in outcomes),
        "recovery_s": {"p50": recoveries[len(recoveries) // 2], "max": recoveries[-1]} if recoveries else {},
        "voids": voids,
    }


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
