"""What the tests of the families measure, and the page that is made of it."""

from collections import defaultdict
from collections.abc import Iterator

import pytest

from tests.models.page import Figures, write_page


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--models-page", metavar="FILE", help="write what test_families.py measures to docs/models.md")


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest) -> Iterator[Figures]:
    """Figure by family and name; written to the page when it is asked for."""
    found: Figures = defaultdict(dict)
    yield found
    if page := request.config.getoption("--models-page", default=None):
        write_page(str(page), found)
