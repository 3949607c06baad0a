"""YOLO: `images/…` with `labels/….txt` of `class x y width height` in shares of the image, names in a YAML file or
`classes.txt`; a detection row an image. Lines of polygons count by the box around them.
"""

from functools import partial
from pathlib import Path

import yaml

from services.data.converting.options import Options, read_image
from services.data.converting.reasons import LeftOut
from services.data.converting.rows import Draft, Drafts, Labelled, Row, boxes_row, image_size
from shared.errors import BadData, BadSample
from shared.samples.formats.tar import IMAGE_SUFFIXES


def drafts(path: Path, options: Options) -> Drafts:
    """In the order of the images' paths. Raises BadData when there are no names or no images."""
    folder = path if path.is_dir() else path.parent
    names = _names(path if path.is_file() else None, folder)
    images = options.images or folder / "images"
    files = sorted(file for file in images.rglob("*") if file.suffix.lower().lstrip(".") in IMAGE_SUFFIXES)
    if not files:
        raise BadData(f"{images}: no images; expected the images of a YOLO data set")
    for file in files:
        relative = file.relative_to(images)
        label = images.parent / "labels" / relative.with_suffix(".txt")
        yield Draft(str(relative.with_suffix("")), partial(_row, file, label, str(relative), names, options))


def _names(file: Path | None, folder: Path) -> dict[int, str]:
    found = [file] if file else [*sorted(folder.glob("*.yaml")), *sorted(folder.glob("*.yml"))]
    try:
        if found:
            names = yaml.safe_load(found[0].read_text())["names"]
            return {
                int(key): str(name) for key, name in (names.items() if isinstance(names, dict) else enumerate(names))
            }
        return dict(enumerate((folder / "classes.txt").read_text().split("\n")))
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise BadData(f"{folder}: no names of classes in a YAML file (`names:`) or classes.txt: {error}") from error


def _row(file: Path, label: Path, path: str, names: dict[int, str], options: Options) -> Row:
    image = read_image(file)
    width, height = image_size(image)
    try:
        lines = [line.split() for line in label.read_text().splitlines() if line.strip()]
        boxes = [_box(line, width, height, names) for line in lines]
    except FileNotFoundError:
        raise BadSample("no boxes, the image has no label file") from None
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise LeftOut("labels that cannot be read", f"{label}, {type(error).__name__}: {error}") from error
    return boxes_row(source=options.source, key=str(Path(path).with_suffix("")), image=image, path=path, boxes=boxes)


def _box(line: list[str], width: int, height: int, names: dict[int, str]) -> Labelled:
    values = [float(value) for value in line[1:]]
    if len(values) == 4:
        x, y, w, h = values
        x1, y1, x2, y2 = x - w / 2, y - h / 2, x + w / 2, y + h / 2
    else:
        x1, y1, x2, y2 = min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
    return Labelled((x1 * width, y1 * height, x2 * width, y2 * height), names[int(line[0])])
