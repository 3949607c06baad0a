"""docs/models.md names every known family, with figures within the bound that the tests hold."""

import re
from pathlib import Path

from shared.models.catalog import known_families

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def test_the_table_has_every_family_and_its_figures_are_within_the_bound() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\d.e-]+) \| ([\d.e-]+) \| ([\d.e-]+) \| shared \|", PAGE.read_text(), re.M)
    assert [row[0] for row in rows] == list(known_families())
    assert all(0.0 <= float(number) < 1e-4 for row in rows for number in row[1:])
