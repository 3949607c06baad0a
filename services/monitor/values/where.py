"""Which groups a value is of: those of a source, those of a task, or all."""

from typing import NamedTuple


class Where(NamedTuple):
    """The set of groups a value is of; empty strings: of all sources, of all tasks."""

    source: str = ""
    task: str = ""


ALL = Where()
