"""Another data set as the rows that a job reads."""

from pathlib import Path
from typing import Any

from PIL import Image

from services.data.checking.rows import check_file
from services.data.converting.kinds import CONVERTERS, told_kind
from services.data.converting.options import Options
from services.data.converting.writer import write
from shared.samples.files import open_files, read_group


def picture(path: Path, size: tuple[int, int] = (200, 100)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (len(path.name) % 256, 90, 200)).save(path)
    return path


def converted(source: Path, out: Path, **options: Any) -> list[dict[str, Any]]:
    """The rows of a conversion, which `data check` finds no fault in."""
    chosen = Options(options.pop("name", "mine"), **options)
    write(CONVERTERS[told_kind(source)](source, chosen), out, origin="test", name="mine", advance=lambda _: None)
    files = open_files([str(out)])
    assert [problem for file in files for problem in check_file(file)] == []
    return [row for file in files for group in range(len(file.groups)) for row in read_group(file, group)]
