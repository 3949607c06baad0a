"""What is shipped: import names that belong to Triune alone, and images that hold what their services import."""

import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
IMPORTS = "import sys; sys.modules.update(dict.fromkeys(sys.argv[2:])); __import__(sys.argv[1])"
"""A module that stands as None among the loaded ones is one that is not there."""


def test_no_other_distribution_ships_our_import_names() -> None:
    found = packages_distributions()
    for name in ("services", "shared", "triune"):
        assert set(found.get(name, ["triune"])) == {"triune"}, f"{name} is shipped by {found[name]}"


@pytest.mark.parametrize("service", ["data", "reward", "monitor"])
def test_a_service_of_the_small_image_starts_without_the_packages_of_the_large_one(service: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    absent = [*extras["torch"], *extras["lora"], *extras["local"]]
    assert "jinja2" in absent and "torch" in absent
    command = [sys.executable, "-c", IMPORTS, f"services.{service}.app", *absent]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
