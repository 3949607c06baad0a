"""What people call a run: a title, tags, and whether lists hide it; a file of the run folder, beside its history."""

from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from services.monitor.history.files import write_whole
from shared.errors import Corrupt

LABEL_NAME = "label.json"


@dataclass(frozen=True, kw_only=True)
class Label:
    """What people have called a run; empty: nothing yet."""

    title: str = ""
    tags: list[str] = field(default_factory=list)
    hidden: bool = False


def read_label(folder: Path) -> Label:
    """The label in a run folder; raises Corrupt when the file holds something else."""
    try:
        data = (folder / LABEL_NAME).read_bytes()
    except FileNotFoundError:
        return Label()
    try:
        return msgspec.json.decode(data, type=Label)
    except msgspec.DecodeError as error:
        raise Corrupt(f"{folder / LABEL_NAME} is no label: {error}") from error


def write_label(folder: Path, label: Label) -> None:
    """Replace the label in a run folder; raises OSError."""
    write_whole(folder / LABEL_NAME, msgspec.json.encode(label).decode() + "\n")
