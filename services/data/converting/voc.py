"""PASCAL VOC: `Annotations/*.xml` beside `JPEGImages`; a detection row an image.

Corners in the files count pixels from 1 and include the last one (VOC2012 development kit, section 2.1.2), so the
left upper one is moved by a pixel.
"""

from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from services.data.converting.options import Options, read_image
from services.data.converting.reasons import LeftOut
from services.data.converting.rows import Draft, Drafts, Labelled, Row, boxes_row
from shared.errors import BadData


def drafts(path: Path, options: Options) -> Drafts:
    """In the order of the files' names. Raises BadData when there is no annotation."""
    folder = path / "Annotations" if (path / "Annotations").is_dir() else path
    files = sorted(folder.glob("*.xml"))
    if not files:
        raise BadData(f"{path}: no PASCAL VOC annotations; expected Annotations/*.xml")
    images = options.images or folder.parent / "JPEGImages"
    for file in files:
        yield Draft(file.stem, partial(_row, file, images, options))


def _row(file: Path, images: Path, options: Options) -> Row:
    try:
        tree = ElementTree.parse(file)
        boxes = [_box(item) for item in tree.iterfind("object")]
        name = tree.findtext("filename") or f"{file.stem}.jpg"
        size = (int(tree.findtext("size/width") or 0), int(tree.findtext("size/height") or 0))
    except (ElementTree.ParseError, ValueError, TypeError) as error:
        raise LeftOut("an annotation that cannot be read", f"{file}, {error}") from error
    return boxes_row(
        source=options.source,
        key=file.stem,
        image=read_image(images / name),
        path=name,
        boxes=boxes,
        size=size if all(size) else None,
    )


def _box(item: ElementTree.Element) -> Labelled:
    x1, y1, x2, y2 = (float(item.findtext(f"bndbox/{side}") or "") for side in ("xmin", "ymin", "xmax", "ymax"))
    return Labelled((x1 - 1, y1 - 1, x2, y2), item.findtext("name") or "")
