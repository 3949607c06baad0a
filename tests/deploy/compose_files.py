"""The compose files as data, with the variables that `make up` would give them."""

import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "compose"
BASE = FOLDER / "compose.yaml"
LAYERS = [FOLDER / f"compose.{name}.yaml" for name in ("gpu", "observability", "judge")]
OURS = ("data", "rollout", "reward", "learner", "monitor")


def written_env() -> dict[str, str]:
    """What `make up` writes to .env."""
    text = subprocess.run(["sh", str(FOLDER / "write-env.sh")], check=True, capture_output=True, text=True).stdout
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def load(path: Path, variables: dict[str, str]) -> dict[str, Any]:
    """A compose file with `variables` filled in; a KeyError names one that is required and missing."""
    return dict(yaml.safe_load(_filled(path.read_text(), variables)))


def _filled(text: str, variables: dict[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        name, operator, rest = match["name"], match["operator"] or "", match["rest"] or ""
        if variables.get(name):
            return variables[name]
        if operator == ":-":
            return rest
        raise KeyError(name)

    return re.sub(r"(?<!\$)\$\{(?P<name>[A-Z_]+)(?:(?P<operator>:[-?])(?P<rest>[^}]*))?\}", value, text)
