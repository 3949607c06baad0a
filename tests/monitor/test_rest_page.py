"""docs/rest.md names every route, and no other."""

import re
from pathlib import Path

from shared.bus.memory.server import MemoryServer
from tests.monitor.stage import Stage


def test_the_page_on_rest_names_every_route_and_no_other(tmp_path: Path) -> None:
    stage = Stage(tmp_path, MemoryServer())
    paths = stage.monitor.api.openapi()["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    page = (Path(__file__).parents[2] / "docs" / "rest.md").read_text()
    assert set(re.findall(r"^\| `((?:GET|POST|PATCH|DELETE) [^`]+)` \|", page, re.MULTILINE)) == routes
