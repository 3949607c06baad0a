"""All benchmarks, one after the other, as JSON lines: `python -m bench [learner|rollout|families|reward|bus …]`."""

import os
import subprocess
import sys
from pathlib import Path

from triune.local.deployment import SPINS

COMMANDS = {
    "learner": ["bench/learner.py"],
    "memory": ["bench/memory.py"],
    "rollout": ["bench/rollout.py"],
    "families": ["bench/families.py"],
    "reward": ["-m", "bench.reward"],
    "bus": ["bench/bus.py"],
    "data": ["bench/data.py"],
    "weights": ["bench/weights.py"],
    "loop": ["bench/loop.py"],
    "overlap": ["bench/overlap.py"],
    "algorithms": ["bench/algorithms.py"],
    "ranks": ["bench/ranks.py"],
    "monitor": ["bench/monitor.py"],
    "page": ["bench/page.py"],
}
LONG = ("algorithms", "ranks")
"""Those that run only when they are named."""
ROOT = Path(__file__).parent.parent


def main() -> int:
    """Run the named ones (none: all); the exit code is that of the first that failed."""
    names = sys.argv[1:] or [name for name in COMMANDS if name not in LONG]
    unknown = [name for name in names if name not in COMMANDS]
    if unknown:
        sys.stderr.write(f"no benchmark {unknown[0]!r}; there are {', '.join(COMMANDS)}\n")
        return 2
    env = {**os.environ, "GOMP_SPINCOUNT": SPINS, "PYTHONPATH": str(ROOT)}
    codes = [
        subprocess.run([sys.executable, *COMMANDS[name]], cwd=ROOT, env=env, check=False).returncode for name in names
    ]
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main())
