"""Which converter a source needs: by name, or told from what lies there."""

import json
from collections.abc import Callable
from pathlib import Path

from services.data.converting import coco, tables, voc, yolo
from services.data.converting.options import Options
from services.data.converting.rows import Drafts
from shared.errors import BadData

CONVERTERS: dict[str, Callable[[Path, Options], Drafts]] = {
    "coco": coco.drafts,
    "voc": voc.drafts,
    "yolo": yolo.drafts,
    "table": tables.drafts,
    "orsta": tables.orsta_drafts,
}
"""Format → drafts of a source in it; `table` is JSON Lines, parquet, Arrow and VLMEvalKit's TSV."""


def told_kind(path: Path) -> str:
    """The format of what lies at `path`; raises BadData when it is none."""
    if not path.exists():
        raise BadData(f"{path}: no such file or folder")
    if path.suffix in (".yaml", ".yml"):
        return "yolo"
    if path.suffix == ".json":
        return _of_json(path)
    if path.is_dir():
        if (path / "Annotations").is_dir() or any(path.glob("*.xml")):
            return "voc"
        if (path / "images").is_dir() and (path / "labels").is_dir():
            return "yolo"
    return "orsta" if tables.is_orsta(path) else "table"


def _of_json(path: Path) -> str:
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise BadData(f"{path}: cannot be read as JSON: {error}") from error
    if isinstance(document, dict) and {"images", "annotations", "categories"} <= document.keys():
        return "coco"
    raise BadData(f"{path}: JSON that is no COCO annotations; write a list of rows as JSON Lines, one a line")
