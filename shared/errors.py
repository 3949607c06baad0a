"""The errors of the system, one tree; a failure is an error, never a value.

TriuneError
├── UserError          the input is wrong: one sentence for the user, exit code 2
│   ├── BadJob         a job file with mistakes, all of them listed
│   └── BadData        a data file or row that cannot be used
├── BadSample          this sample can never be used: its group is void at once
├── Unavailable        a server, peer or disk did not answer in time: tried again
│   └── BlobMissing    a blob is absent or torn: its source writes it again, else the group is void
├── Refused            the bus refused a write that names an older state: another instance took over
├── WorkFault          a fault of ours in the work on a job: the process ends and is started again
└── Corrupt            stored state contradicts itself: fatal, never skipped
"""

import contextlib
import copyreg
from collections.abc import Iterator, Sequence
from typing import Any

FAULT = 3
"""Exit code of a service that a fault in the work on a job has ended."""


class TriuneError(Exception):
    """Anything the system raises on purpose; its text names the thing, the value, and what was expected."""

    def __reduce__(self) -> tuple[Any, ...]:
        """So that it leaves a worker process as it is: `__init__` may take other things than the text."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class UserError(TriuneError):
    """The user's input is wrong: the command ends with exit code 2 and this sentence."""


class BadJob(UserError):
    """A job file with mistakes; `mistakes` holds one sentence each."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(self.mistakes))


class BadData(UserError):
    """A data file or one of its rows cannot be used."""


class BadSample(TriuneError):
    """This sample can never be used (undecodable image, prompt too long): its group is void, without a retry."""


class Unavailable(TriuneError):
    """A server, a peer or a disk did not answer in time; the caller tries again within its own limit."""


class BlobMissing(Unavailable):
    """A blob is absent or its bytes do not have its digest."""


class Refused(TriuneError):
    """A write named an expected state that is no longer the newest: another instance took over."""


class WorkFault(TriuneError):
    """A fault of ours in the work on a job; the service ends with exit code `FAULT`, to be started again."""


class Corrupt(TriuneError):
    """Stored state contradicts itself (a gap in the journal, a foreign stream); fatal, never skipped."""


@contextlib.contextmanager
def one_error() -> Iterator[None]:
    """Of a task group's errors, raise the first one alone if it was raised on purpose; faults of ours stay a group."""
    try:
        yield
    except BaseExceptionGroup as group:
        first = group.exceptions[0]
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        if isinstance(first, TriuneError):
            raise first from group
        raise
