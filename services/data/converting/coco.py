"""COCO annotations (`instances_*.json`): a detection row an image, crowds left out."""

import json
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

from services.data.converting.options import Options, read_image
from services.data.converting.rows import Draft, Drafts, Labelled, Row, boxes_row
from shared.errors import BadData, BadSample


def drafts(path: Path, options: Options) -> Drafts:
    """In the order of the file's images. Raises BadData when it is no COCO file."""
    try:
        document = json.loads(path.read_text())
        labels = {category["id"]: str(category["name"]) for category in document["categories"]}
        boxes: dict[int, list[Labelled]] = defaultdict(list)
        for annotation in document["annotations"]:
            if not annotation.get("iscrowd"):
                boxes[annotation["image_id"]].append(_box(annotation, labels))
        images = [(image, _folder(path, options) / image["file_name"]) for image in document["images"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadData(f"{path}: no COCO annotations: {type(error).__name__}: {error}") from error
    for image, file in images:
        yield Draft(str(image["id"]), partial(_row, image, file, boxes[image["id"]], options))


def _box(annotation: dict[str, Any], labels: dict[int, str]) -> Labelled:
    x, y, width, height = map(float, annotation["bbox"])
    return Labelled((x, y, x + width, y + height), labels[annotation["category_id"]])


def _folder(path: Path, options: Options) -> Path:
    """Where COCO's own layout has the images, if it was not said."""
    if options.images is not None:
        return options.images
    split = path.stem.rpartition("_")[2]
    places = [path.parent.parent / split, path.parent.parent / "images" / split, path.parent / "images", path.parent]
    return next((place for place in places if place.is_dir()), path.parent)


def _row(image: dict[str, Any], file: Path, boxes: list[Labelled], options: Options) -> Row:
    if not boxes:
        raise BadSample("no boxes")
    size = (int(image["width"]), int(image["height"])) if "width" in image and "height" in image else None
    name = str(image["file_name"])
    return boxes_row(
        source=options.source, key=str(image["id"]), image=read_image(file), path=name, boxes=boxes, size=size
    )
