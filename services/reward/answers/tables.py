"""Tables out of answers: HTML, Markdown or comma-separated lines, as rows of cells."""

import csv
import re
from dataclasses import dataclass
from html.parser import HTMLParser

from shared.answers.blocks import answer_or_rest
from shared.answers.plain import comparable, unfenced

MOST_CELLS = 2000
_LONGEST = 128 * 1024
_PIPE = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell's text (comparable), and how many columns and rows it spans."""

    text: str
    columns: int = 1
    rows: int = 1


Table = list[list[Cell]]


def read_table(text: str) -> Table | None:
    """The table in the last answer block of `text`, or in what follows its thought; None without one.

    None as well for one of more than `MOST_CELLS` cells.
    """
    body = unfenced(answer_or_rest(text) or "").strip()
    if not body or len(body) > _LONGEST:
        return None
    rows = _html(body) if "<t" in body.lower() else _lines(body)
    cells = sum(len(row) for row in rows)
    return rows if 0 < cells <= MOST_CELLS else None


def _html(body: str) -> Table:
    reader = _Reader()
    reader.feed(body)
    reader.close()
    return [row for row in reader.rows if row]


class _Reader(HTMLParser):
    """Rows and cells of the last table; what stands outside cells is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: Table = []
        self._text: list[str] | None = None
        self._span = (1, 1)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.rows = []
        elif tag == "tr":
            self._end_cell()
            self.rows.append([])
        elif tag in ("td", "th"):
            self._end_cell()
            given = dict(attrs)
            self._text, self._span = [], (_count(given.get("colspan")), _count(given.get("rowspan")))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "tr", "table"):
            self._end_cell()

    def handle_data(self, data: str) -> None:
        if self._text is not None:
            self._text.append(data)

    def _end_cell(self) -> None:
        if self._text is None:
            return
        if not self.rows:
            self.rows.append([])
        self.rows[-1].append(Cell(comparable("".join(self._text)), *self._span))
        self._text = None


def _count(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdecimal() and len(text) <= 3 and int(text) else 1


def _lines(body: str) -> Table:
    """Markdown's pipes, else DePlot's ` | `, else tabs, else commas; rules of dashes are no rows.

    No rows where there are more than `MOST_CELLS` cells: their texts are not read for nothing.
    """
    mark = next((mark for mark in ("|", "\t", ",") if mark in body), None)
    if mark is None:
        return []
    rows: Table = []
    left = MOST_CELLS
    for line in body.replace("<0x0A>", "\n").splitlines():
        if mark not in line or not line.strip(" |:-\t"):
            continue
        cells = _cells(line, mark)
        left -= len(cells)
        if left < 0:
            return []
        rows.append([Cell(comparable(cell)) for cell in cells])
    return rows


def _cells(line: str, mark: str) -> list[str]:
    if mark == ",":
        return next(csv.reader([line], skipinitialspace=True))  # "1,234" is one cell
    if mark == "|":
        inside = line.strip().removeprefix("|")
        inside = inside if inside.endswith("\\|") else inside.removesuffix("|")
        return [cell.replace("\\|", "|") for cell in _PIPE.split(inside)]
    return line.split(mark)
