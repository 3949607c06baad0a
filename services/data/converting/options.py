"""What a conversion is told beside its source."""

from dataclasses import dataclass, fields
from pathlib import Path

from services.data.converting.reasons import LeftOut
from shared.samples.images import LIMIT_BYTES

COLUMNS = ("question", "answer", "image")
"""Options that name a column."""


@dataclass(frozen=True)
class Options:
    """`source` is `data_source` of the rows; columns are guessed from the usual names where they are empty."""

    source: str
    images: Path | None = None
    ability: str = "reasoning"
    verifier: str = ""
    question: str = ""
    answer: str = ""
    image: str = ""

    def __str__(self) -> str:
        """As a user writes it, without what is as it comes."""
        named = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "source"}
        default = vars(Options(""))
        given = [f"--{name} {value}" for name, value in named.items() if value != default[name]]
        return " ".join([f"--name {self.source}", *given])

    def columns(self) -> dict[str, str]:
        """Option → the column that it names."""
        return {f"--{name}": getattr(self, name) for name in COLUMNS if getattr(self, name)}


def read_image(path: Path) -> bytes:
    """Raises BadSample for an image that is missing or larger than any image may be."""
    try:
        with path.open("rb") as file:
            return file.read(LIMIT_BYTES + 1)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise LeftOut("image not found", path) from error
        raise LeftOut("image cannot be read", f"{path}, {error.strerror or error}") from error
