"""`python -m tests.chaos.serve SERVICE`: `triune serve` on a clock that may be wrong.

`$TRIUNE_CHAOS_SKEW/<service>`, if it is there, holds the seconds that the wall clock of the next process is ahead.
"""

import contextlib
import os
import sys
import time
from pathlib import Path

SKEW = "TRIUNE_CHAOS_SKEW"
FAKES = "TRIUNE_CHAOS_FAKES"
"""Set: rollout and learner have engines that compute nothing."""


def skew(service: str) -> float:
    """Seconds that the wall clock is ahead."""
    with contextlib.suppress(FileNotFoundError):
        return float((Path(os.environ[SKEW]) / service).read_text())
    return 0.0


def main() -> None:
    service = sys.argv[1]
    ahead, true_time = skew(service), time.time
    if ahead:
        time.time = lambda: true_time() + ahead
    if os.environ.get(FAKES) and service in ("rollout", "learner"):
        from tests.chaos.fakes import install

        install()
    from triune.cli import app  # after the clock is set

    app(["serve", service], standalone_mode=True)


if __name__ == "__main__":
    main()
