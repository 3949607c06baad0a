"""docs/models.md: its table is made from what the tests measure, `pytest tests/models --models-page docs/models.md`."""

from collections.abc import Mapping
from pathlib import Path

from shared.models.catalog import known_families

Figures = dict[str, dict[str, float]]
NAMES = ("sampler", "learner", "gradient")
BOXES = {
    None: "as the sample says",
    "relative": "x1 y1 x2 y2, 0-1000",
    "relative_yx": "y1 x1 y2 x2, 0-1000",
    "resized": "pixels of the resized image",
}
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def table(figures: Mapping[str, Mapping[str, float]]) -> str:
    """One row a family, in the order of the catalog."""
    lines = [
        "| `model_type` | sampler | learner | gradient | prompt | vision | checkpoint opens | boxes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, family in known_families().items():
        found = figures[name]
        numbers = " | ".join(f"{found[key]:.1e}" for key in NAMES)
        prompt = "shared" if found["prompt_calls"] == 1 else "repeated"
        vision = "once a prompt" if found["vision_calls"] == 1 else "repeated"
        opens = "yes" if found["opens"] else "no"
        lines.append(f"| `{name}` | {numbers} | {prompt} | {vision} | {opens} | {BOXES[family.boxes]} |")
    return "\n".join(lines)


def write_page(path: str, figures: Figures) -> None:
    """Replace the table in `path`."""
    text = Path(path).read_text()
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    Path(path).write_text(f"{before}\n{table(figures)}\n{after}")
