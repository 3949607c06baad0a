"""Prints the requirements of pyproject.toml for an image: `core` is what every service needs, the rest are extras."""

import sys
import tomllib
from pathlib import Path


def main() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    groups = {"core": project["dependencies"], **project["optional-dependencies"]}
    sys.stdout.writelines(f"{requirement}\n" for name in sys.argv[1:] for requirement in groups[name])


main()
