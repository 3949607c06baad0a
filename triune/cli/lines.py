"""Machine-readable output: one JSON document a line, whatever it holds and however wide the terminal is."""

import json
import sys
from typing import Any


def say_json(document: Any) -> None:
    """Print `document` on one line of standard output, at once: who reads a pipe does not wait for its end."""
    sys.stdout.write(f"{json.dumps(document)}\n")
    sys.stdout.flush()
