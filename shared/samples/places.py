"""Where data lies: patterns of a job as files of any file system that pyarrow opens, confined to the operator's roots.

A pattern is a path, or a URI (`s3://bucket/folder`, `gs://…`, `file:///…`, `hf://datasets/owner/name` of the Hugging
Face hub); its last parts may hold `*`, `[…]`, `**` and, in a path, `?`, which in a URI begins the options of an object
store as pyarrow.fs takes them: `s3://bucket/train?region=eu-west-1&endpoint_override=host:9000`.
"""

import errno
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import translate
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from pyarrow import fs as arrow_fs

from shared.errors import BadData, Unavailable

MAX_FILES = 10_000
"""Files that one pattern may name."""
HUB = "hf"

READ_ERRORS = (OSError, pa.ArrowException, ValueError)
"""What pyarrow raises for a file that is torn, foreign or unreadable."""
_MAGIC = re.compile(r"[*?[]")
_URI = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """A file or folder: `path` inside the file system that `opened` opens (empty: this machine's own)."""

    path: str
    opened: str = ""

    def __str__(self) -> str:
        """As a user writes it, without credentials and options."""
        return f"{self.scheme}://{self.path}" if self.opened else self.path

    @property
    def scheme(self) -> str:
        return urlsplit(self.opened).scheme or "file"

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]

    @property
    def folder(self) -> "Place":
        above, slash, _ = self.path.rpartition("/")
        return replace(self, path=above or slash or ".")

    def __truediv__(self, name: str) -> "Place":
        return replace(self, path=name if self.path == "." else f"{self.path.rstrip('/')}/{name}")

    def file_system(self) -> arrow_fs.FileSystem:
        """Raises BadData when nothing opens it, Unavailable when it does not answer."""
        return _file_system(self.opened)

    def info(self) -> arrow_fs.FileInfo:
        """What is there now; raises BadData, Unavailable."""
        with reading(self):
            return self.file_system().get_file_info(self.path)

    def open(self) -> pa.NativeFile:
        """The file for random access, mapped where it lies on this machine; raises OSError."""
        if self.opened:
            return self.file_system().open_input_file(self.path)
        return pa.memory_map(self.path)


def parse_place(text: str, *, base: Place | None = None) -> Place:
    """The place that `text` names, relative to the folder `base` (none: the working directory).

    Raises BadData for a URI that nothing opens, or a path that can be none.
    """
    if "\0" in text:
        raise BadData("a path with a null byte; expected a path or a URI")
    if _URI.match(text):
        parts = urlsplit(text)
        if parts.scheme == "file":
            return Place(_clean(unquote(parts.path)))
        query = f"?{parts.query}" if parts.query else ""
        opened = f"{parts.scheme}://{parts.netloc}{query}"
        host = parts.netloc.rpartition("@")[2]
        return Place(_clean(f"{host}{unquote(parts.path)}").lstrip("/"), opened if parts.scheme != HUB else f"{HUB}://")
    if base is not None and not text.startswith("/"):
        return replace(base, path=_clean(f"{base.path}/{text}"))
    if base is not None and base.opened:
        raise BadData(f"the absolute path {text} in a file of {base.scheme}://; expected a relative one or a URI")
    return Place(_clean(str(Path(text).expanduser().absolute()) if text.startswith("~") else text or "."))


def _clean(path: str) -> str:
    """Without empty parts, `.` and `..` (which leads no higher than the top)."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part == ".." and path.startswith("/"):
            continue
        elif part not in ("", "."):
            parts.append(part)
    return ("/" if path.startswith("/") else "") + "/".join(parts) or "."


@cache
def _file_system(opened: str) -> arrow_fs.FileSystem:
    if not opened:
        return arrow_fs.LocalFileSystem()
    scheme = urlsplit(opened).scheme
    if scheme == HUB:
        from huggingface_hub import HfFileSystem  # the only user of the hub's client, and a slow import

        return arrow_fs.PyFileSystem(arrow_fs.FSSpecHandler(HfFileSystem()))
    try:
        return arrow_fs.FileSystem.from_uri(opened)[0]
    except (ValueError, pa.ArrowException):
        raise BadData(f"{scheme}:// opens no file system; expected s3://, gs://, hf:// or file://") from None
    except OSError as error:
        raise Unavailable(f"{scheme}:// does not answer: {first_line(error)}") from error


@dataclass(frozen=True)
class Roots:
    """Folders (paths or URIs) that data and model paths must lie under; none: anything may be read."""

    places: tuple[Place, ...] = ()

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Roots":
        return cls(tuple(parse_place(text if _URI.match(text) else str(Path(text).resolve())) for text in texts))

    def allow(self, place: Place) -> bool:
        """Whether `place`, links followed, lies under a root."""
        if not self.places:
            return True
        path = place.path if place.opened else str(Path(place.path).resolve())
        return any(root.opened == place.opened and _is_under(path, root.path) for root in self.places)

    def allow_path(self, path: Path) -> bool:
        return self.allow(Place(str(path)))

    def __str__(self) -> str:
        return ", ".join(map(str, self.places))


ANYWHERE = Roots()
"""No root: everything that the process may read."""


def _is_under(path: str, root: str) -> bool:
    return path == root or root in ("", ".", "/") or path.startswith(f"{root.rstrip('/')}/")


def find(pattern: str, *, roots: Roots = ANYWHERE, suffixes: Sequence[str] = ()) -> list[Place]:
    """The files that `pattern` names, in a fixed order; of a folder all below it that end in the first of `suffixes`
    that any of them has.

    Raises BadData: nothing is there, it leads outside the roots (no folder outside is ever read), or it names more than
    `MAX_FILES`; Unavailable when the file system does not answer.
    """
    if not pattern:
        raise BadData("an empty path; expected a file, a folder or a pattern")
    place = parse_place(pattern)
    parts = place.path.split("/")
    fixed = next((index for index, part in enumerate(parts) if _MAGIC.search(part)), len(parts))
    start = replace(place, path="/".join(parts[:fixed]) or ("/" if place.path.startswith("/") else "."))
    walk = _Walk(roots)
    if fixed < len(parts):
        found = list(walk.matches(start, parts[fixed:])) if walk.info(start).type == arrow_fs.FileType.Directory else []
        if not found:
            raise BadData("no such file: nothing matches the pattern")
        return found
    match walk.info(start).type:
        case arrow_fs.FileType.File:
            return [start]
        case arrow_fs.FileType.Directory:
            return [walk.counted(file) for file in _by_first_suffix(list(walk.files_below(start)), suffixes)]
    raise BadData("no such file or folder")


def _by_first_suffix(files: list[Place], suffixes: Sequence[str]) -> list[Place]:
    for suffix in suffixes:
        found = [file for file in files if file.name.endswith(suffix) and not file.name.startswith("cache-")]
        if found:  # `cache-*.arrow` are left beside a saved data set by the datasets library
            return found
    raise BadData(f"the folder holds no data file; expected names that end in {', '.join(suffixes)}")


class _Walk:
    """Reading folders for one pattern: each is checked against the roots first, and there is an end to it."""

    def __init__(self, roots: Roots) -> None:
        self._roots = roots
        self._found = 0

    def info(self, place: Place) -> arrow_fs.FileInfo:
        if not self._roots.allow(place):
            raise BadData(f"lies outside the data roots {self._roots}")
        return place.info()

    def matches(self, folder: Place, parts: Sequence[str]) -> Iterator[Place]:
        first, rest = parts[0], parts[1:]
        if first == "**":
            yield from self.matches(folder, rest or ["*"])
            for info, place in self._list(folder):
                if info.type == arrow_fs.FileType.Directory and not _is_link(place):
                    yield from self.matches(place, parts)
            return
        is_match = re.compile(translate(first)).match
        for info, place in self._list(folder):
            if not is_match(place.name) or (place.name.startswith(".") and not first.startswith(".")):
                continue
            if rest and info.type == arrow_fs.FileType.Directory:
                yield from self.matches(place, rest)
            elif not rest and info.type == arrow_fs.FileType.File:
                yield self.counted(place)

    def files_below(self, folder: Place) -> Iterator[Place]:
        for info, place in self._list(folder):
            if info.type == arrow_fs.FileType.Directory and not _is_link(place):
                yield from self.files_below(place)
            elif info.type == arrow_fs.FileType.File:
                yield place

    def _list(self, folder: Place) -> list[tuple[arrow_fs.FileInfo, Place]]:
        if not self._roots.allow(folder):
            raise BadData(f"leads outside the data roots {self._roots}")
        with reading(folder):
            infos = folder.file_system().get_file_info(arrow_fs.FileSelector(folder.path))
        named = [(info, folder / info.path.rstrip("/").rsplit("/", 1)[-1]) for info in infos]
        return sorted(named, key=lambda found: found[1].path)

    def counted(self, place: Place) -> Place:
        if not self._roots.allow(place):
            raise BadData(f"leads outside the data roots {self._roots}")
        self._found += 1
        if self._found > MAX_FILES:
            raise BadData(f"names more than {MAX_FILES} files; expected fewer")
        return place


def _is_link(place: Place) -> bool:
    """Links to folders are not followed below a folder: they may lead in a circle."""
    return not place.opened and Path(place.path).is_symlink()


@contextmanager
def reading(place: Place) -> Iterator[None]:
    """Tells what a file system says of `place` as BadData (it cannot be read) or Unavailable (it is away)."""
    try:
        yield
    except READ_ERRORS as error:
        raise explained(error, place) from error


_LASTING = (errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR, errno.EPERM)
"""System errors that another try does not mend, when nothing has been read yet."""


def explained(error: BaseException, place: Place) -> BadData | Unavailable:
    """What went wrong with `place` before its first byte was read."""
    if is_away(error, place) and not (isinstance(error, OSError) and error.errno in _LASTING):
        return Unavailable(f"{place} does not answer: {first_line(error)}")
    return BadData(f"cannot be read: {first_line(error)}")


def is_away(error: BaseException, place: Place) -> bool:
    """Whether `error` is of the system that holds `place` (an error number, an answer of an object store), not of the
    bytes that it gave."""
    if not isinstance(error, OSError):
        return False
    return error.errno is not None or (
        bool(place.opened) and not isinstance(error, FileNotFoundError) and _is_remote(error)
    )


def _is_remote(error: OSError) -> bool:
    """pyarrow's object stores give no error number; their answers begin with what was tried."""
    return str(error).startswith("When ") or "AWS Error" in str(error)


def first_line(error: BaseException) -> str:
    """An error's text as part of a sentence."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
