"""What a seed does to a job: which faults, at which step, in which order."""

import random
from dataclasses import dataclass

MOMENTS = {
    "prompts-published": "data",
    "completion-published": "rollout",
    "score-published": "reward",
    "weights-stored": "learner",
    "step-told": "learner",
    "checkpoint-written": "learner",
    "checkpoint-renamed": "learner",
    "history-committed": "monitor",
}
"""Named moments (`shared.runtime.moments`) and whose they are."""
SERVICES = ("data", "rollout", "reward", "learner", "monitor")
FAULTS = 8
STEPS = 24
"""Of a job that is alone; each of several makes half as many."""
FREEZE_S, AWAY_S = (8.0, 20.0), 30.0


@dataclass(frozen=True)
class Fault:
    """One fault, once the job has reached `step`; `seconds` is how long it lasts, where it lasts."""

    step: int
    kind: str
    target: str
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind} {self.target}" + (f" {self.seconds:.0f} s" if self.seconds else "")


@dataclass(frozen=True)
class Schedule:
    """The jobs of one seed and what happens to them; the faults go by the steps of all its jobs together."""

    seed: int
    jobs: int
    max_staleness: int
    poison: bool
    steps: int
    faults: tuple[Fault, ...]
    overlap: bool = False

    @property
    def is_comparable(self) -> bool:
        """Whether an undisturbed run of the same job must end in the same bits.

        On-policy, no step begun before all of its groups have come, and nothing voided.
        """
        is_exact = self.max_staleness == 0 and not self.overlap
        return is_exact and not self.poison and all(one.kind != "blob" for one in self.faults)


def draw(seed: int, *, quick: bool = False) -> Schedule:
    """The schedule of `seed`; `quick` makes outages short (in `make test`)."""
    rng = random.Random(seed)
    jobs = rng.choices((1, 2, 3), (6, 3, 1))[0] if not quick else 1
    steps = STEPS if jobs == 1 else STEPS // 2
    at = sorted(rng.randint(1, jobs * steps - STEPS // 2) for _ in range(FAULTS))
    faults = [_fault(rng, step, quick) for step in at]
    return Schedule(
        seed=seed,
        jobs=jobs,
        max_staleness=rng.choices((0, 1, 2), (4, 2, 2))[0],
        poison=rng.random() < 0.3,
        steps=steps,
        faults=tuple(faults),
        overlap=not quick and rng.random() < 0.5,
    )


def _fault(rng: random.Random, step: int, quick: bool) -> Fault:
    kind = rng.choices(
        ("kill", "moment", "freeze", "server-killed", "server-away", "redis-emptied", "disk-full", "blob", "skew"),
        (5, 6, 2, 3, 1.2, 1, 1, 1.5, 1),
    )[0]
    freeze_s = rng.uniform(*FREEZE_S) if not quick else rng.uniform(6.0, 8.0)
    away_s = AWAY_S if not quick else 6.0
    match kind:
        case "kill":
            return Fault(step, kind, rng.choice(SERVICES))
        case "moment":
            return Fault(step, kind, rng.choice(sorted(MOMENTS)))
        case "freeze":
            return Fault(step, kind, rng.choice(SERVICES), freeze_s)
        case "server-killed":
            return Fault(step, kind, rng.choice(("nats", "redis")))
        case "server-away":
            return Fault(step, kind, rng.choice(("nats", "redis")), away_s)
        case "redis-emptied":
            return Fault(step, kind, "redis")
        case "disk-full":
            return Fault(step, kind, "all that is stored", freeze_s)
        case "blob":
            return Fault(step, kind, rng.choice(("deleted", "corrupted")))
    return Fault(step, kind, rng.choice(("data", "learner", "monitor")), rng.choice((-30.0, 30.0)))
