"""What of a job's log may go: everything below the smallest place that a fold over it still needs.

The folds are the learner, which replays from its last checkpoint, and the monitor, which goes on from its store.
"""

from dataclasses import dataclass

from shared.bus.port import Bus

MONITOR, LEARNER = "monitor", "learner"


@dataclass(frozen=True)
class Needed:
    """What the learner still needs: the first sequence of each part of the log."""

    train: int
    steps: int
    weights: int


async def purge_log(bus: Bus, job: str, needed: Needed) -> None:
    """Purge every part of the log that grows with the steps; what has ended in evaluations goes with both acks."""
    told = await bus.floor("events", job, "*", MONITOR) + 1
    stored = await bus.floor("scored", job, "train", MONITOR) + 1
    done = min([await bus.floor("scored", job, "eval", name) for name in (LEARNER, MONITOR)]) + 1
    await bus.purge("scored", job, "train", below=min(needed.train, stored))
    await bus.purge("scored", job, "eval", below=done)
    await bus.purge("events", job, "step", below=min(needed.steps, told))
    await bus.purge("events", job, "weights", below=min(needed.weights, told))
    await bus.purge("events", job, "loaded", below=told)
    last_turn = await bus.last_sequence("events", job, "device")  # says whose the device is: it stays
    await bus.purge("events", job, "device", below=min(last_turn, told))


async def drop_log(bus: Bus, job: str) -> None:
    """Remove the log of a job that is on file and will never go on."""
    for kind in ("train", "eval"):
        await bus.purge("scored", job, kind)
    for name in ("engine", "step", "weights", "loaded", "device"):
        await bus.purge("events", job, name)
