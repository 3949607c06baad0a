"""Named moments: a process ends at one only where a test has armed it, once, and never in production."""

import signal
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from pathlib import Path
from shared.runtime.moments import arm, passing
arm(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
for _ in range(3):
    passing("step-told")
    print("passed", flush=True)
"""


def passes(*arguments: str) -> tuple[int, int]:
    """Exit code and how often the program came past the moment."""
    ended = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, check=False, text=True)
    return ended.returncode, ended.stdout.count("passed")


def test_without_a_folder_and_with_an_empty_one_a_moment_does_nothing(tmp_path: Path) -> None:
    assert passes() == (0, 3)
    assert passes(str(tmp_path)) == (0, 3)


def test_a_wanted_moment_kills_the_process_once(tmp_path: Path) -> None:
    (tmp_path / "step-told").touch()
    (tmp_path / "another-moment").touch()
    assert passes(str(tmp_path)) == (-signal.SIGKILL, 0)
    assert passes(str(tmp_path)) == (0, 3)
