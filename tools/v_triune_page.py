"""The table of variables in `docs/from-v-triune.md`, from `triune/v_triune.py`: `python -m tools.v_triune_page`."""

import re
from pathlib import Path

from triune.v_triune import VARIABLES, Variable

PAGE = Path(__file__).parents[1] / "docs" / "from-v-triune.md"
_TABLE = re.compile(r"(\| V-Triune variable \| here \|\n\|---\|---\|\n)((?:\|[^\n]*\n)*)")


def page() -> str:
    """The page as it is, its table of variables made anew."""
    rows = "".join(f"| `{variable.name}` | {_here(variable)} |\n" for variable in VARIABLES)
    return _TABLE.sub(lambda match: match[1] + rows, PAGE.read_text(), count=1)


def _here(variable: Variable) -> str:
    keys = ", ".join(f"`{key}`" for key in variable.keys)
    return f"{keys}: {variable.note}" if keys and variable.note else keys or variable.note


if __name__ == "__main__":
    PAGE.write_text(page())
