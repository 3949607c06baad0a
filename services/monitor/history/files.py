"""Files that a run folder has beside the store, each written whole or not at all; the report is one of them."""

import json
import os
from pathlib import Path
from typing import Any

REPORT_NAME = "report.json"


def read_report(folder: Path) -> dict[str, Any] | None:
    """The report that was last written into `folder`; None when there is none."""
    try:
        return json.loads((folder / REPORT_NAME).read_text())
    except FileNotFoundError:
        return None


def write_report(folder: Path, report: dict[str, Any]) -> None:
    write_whole(folder / REPORT_NAME, json.dumps(report, indent=2, allow_nan=False) + "\n")


def write_whole(path: Path, text: str) -> None:
    """`text` in `path`, whole or not at all, also after a power loss."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """`data` in `path`, as `write_whole`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
