"""Eight visual tasks, drawn: one file a task, each a function from a random stream to a sample.

To add one: a file with `draw`, a line in `TASKS`. They are small enough for a model of half a million parameters, and
visual in earnest: nothing in a question gives its answer away.
"""

from collections.abc import Mapping
from types import MappingProxyType

from triune.demo.tasks import chart, counting, detection, grounding, math, ocr, puzzle, science
from triune.demo.tasks.drawn import Draw, Drawn, demonstration, ground_truth

TASKS: Mapping[str, Draw] = MappingProxyType(
    {
        "math": math.draw,
        "puzzle": puzzle.draw,
        "science": science.draw,
        "chart": chart.draw,
        "detection": detection.draw,
        "grounding": grounding.draw,
        "counting": counting.draw,
        "ocr": ocr.draw,
    }
)

__all__ = ["TASKS", "Draw", "Drawn", "demonstration", "ground_truth"]
