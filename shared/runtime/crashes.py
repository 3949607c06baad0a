"""What a native crash leaves behind, for the process that is started in place of the one that died of it.

A segmentation fault, or an abort in a library, ends a process without an exception. Python's `faulthandler` writes the
stack of the thread that did it into a file; in front of it stands the job that was worked on. `kill -9`, a full memory
and an orderly end leave no stack.
"""

import faulthandler
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from shared.runtime.logging import get_logger

_ERROR = re.compile(r"^Fatal Python error: (.+)$", re.MULTILINE)
_FRAME = re.compile(r'^  File "(.+)", line (\d+) in (.+)$', re.MULTILINE)


@dataclass(frozen=True)
class Crash:
    """The work on `job` ended in `error`; `where` is the innermost Python frame, empty where there was none."""

    job: str
    error: str
    where: str


class CrashFile:
    """One process's crash file at `path`; a place that cannot be written leaves crashes untold."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def take(self) -> Crash | None:
        """What the process before this one has left, once; None: it did not crash, or was at no job's work."""
        try:
            text = self._path.read_text(errors="replace")
            self._path.unlink()
        except OSError:
            return None
        job, _, stack = text.partition("\n")
        error = _ERROR.search(stack)
        if error is None or not job:
            return None
        frame = _FRAME.search(stack)
        return Crash(job, error[1], f"{frame[1]}:{frame[2]}" if frame else "")

    def work_on(self, job: str) -> None:
        """From now on a crash is one of the work on `job`; empty: of no job's."""
        try:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("w")
            self._file.seek(0)
            self._file.truncate()
            self._file.write(f"{job}\n")
            self._file.flush()
        except OSError as error:
            get_logger().warning("crashes of this process will not be told", path=str(self._path), error=str(error))
            return
        faulthandler.enable(self._file, all_threads=False)

    def close(self) -> None:
        """An orderly end: no file is left."""
        if self._file is not None:
            faulthandler.disable()
            self._file.close()
            self._file = None
            self._path.unlink(missing_ok=True)
