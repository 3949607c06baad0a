"""Named moments at which a test may end the process, as a crash there would.

The path of a folder in TRIUNE_MOMENTS arms them: a file `<folder>/<moment>` is taken away, and the process that took it
is killed. Without the variable a moment costs one call of a function that returns.

- `prompts-published`      data: a lot is stored, how far data is is not
- `completion-published`   rollout: a group is stored, its prompt not acked
- `score-published`        reward: a record is in the journal, its completion not acked
- `weights-stored`         learner: a version is in the blob store, not announced
- `step-told`              learner: a step is told, its version not announced
- `checkpoint-written`     learner: a checkpoint is whole, under its temporary name
- `checkpoint-renamed`     learner: a checkpoint stands, what lies behind it is not purged
- `history-committed`      monitor: a batch is in its store, not acked
"""

import os
import signal
from pathlib import Path

_armed: Path | None = None


def arm(folder: Path | None) -> None:
    """From now on moments look into `folder`; None: they do nothing."""
    global _armed
    _armed = folder


def passing(moment: str) -> None:
    """The process is at `moment`; it may not come back."""
    if _armed is None:
        return
    try:
        (_armed / moment).unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
