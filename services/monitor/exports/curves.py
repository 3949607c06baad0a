"""`curves.png`: what happened in a run, on one page: rewards per source, held-out rewards, lengths, staleness."""

import gc
import math
import threading
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from services.monitor.history.queries import Reader
from services.monitor.values.where import ALL, Where

CURVES_NAME = "curves.png"
MAX_POINTS = 2000
"""Points of one line; a longer series is thinned."""
SMOOTHING = 0.8
"""Weight of the past in a smoothed line, as on the page; the raw line stands faint behind it."""
_PEN = threading.Lock()
"""matplotlib is not made for several threads, and each job that is read has one."""
_STYLES = ("-", "--", ":", "-.")


def draw_curves(folder: Path, title: str, reader: Reader) -> None:
    """Write `curves.png` into `folder`, whole or not at all."""
    with _PEN:
        _draw_figure(folder, title, reader)
        gc.collect()  # a figure is a cycle with its pixels, 11 MB: the collector would let dozens of them gather


def _draw_figure(folder: Path, title: str, reader: Reader) -> None:
    figure = Figure(figsize=(13, 8), layout="constrained", dpi=110)
    figure.suptitle(title)
    axes = figure.subplots(2, 3)
    sources = [Where(source=source) for source in reader.tasks() if source]
    _draw(axes[0, 0], reader, "reward", sources, "training reward (means of the steps' groups)")
    _draw(axes[0, 1], reader, "eval/reward", sources, "held-out greedy reward", smooth=False)
    _draw(axes[0, 2], reader, "accuracy", sources, "training accuracy")
    _draw(axes[1, 0], reader, "response_length", sources, "completion length (tokens)")
    _draw(axes[1, 1], reader, "zero_variance", sources, "share of groups whose rewards are all equal")
    _draw_staleness(axes[1, 2], reader)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)), frameon=False)
    temporary = folder / f"{CURVES_NAME}.tmp"
    figure.savefig(temporary, format="png")
    temporary.replace(folder / CURVES_NAME)


def _draw(axes: Axes, reader: Reader, name: str, sets: list[Where], title: str, *, smooth: bool = True) -> None:
    colours = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
    for index, where in enumerate(sets):
        points = reader.points(name, where, MAX_POINTS)
        steps, values = [point[0] for point in points], [point[2] for point in points]
        if smooth:
            axes.plot(steps, values, color=colours[index % len(colours)], lw=0.6, alpha=0.25)
            values = smoothed(values)
        marker = None if smooth else "o"
        style = _STYLES[index // len(colours) % len(_STYLES)]
        axes.plot(steps, values, style, color=colours[index % len(colours)], marker=marker, lw=1.4, label=where.source)
    overall = reader.points(name, ALL, MAX_POINTS)
    values = [point[2] for point in overall]
    if smooth:
        values = smoothed(values)
    axes.plot([point[0] for point in overall], values, color="black", lw=2.2, alpha=0.8, label="all")
    _finish(axes, f"{title}, smoothed {SMOOTHING:g}" if smooth else title)


def _draw_staleness(axes: Axes, reader: Reader) -> None:
    for name, label, width in (("staleness", "mean", 2.0), ("staleness_max", "largest", 1.0)):
        points = reader.points(name, ALL, MAX_POINTS)
        axes.plot([p[0] for p in points], [p[2] for p in points], lw=width, label=label)
    axes.legend(frameon=False)
    _finish(axes, "staleness of trained groups (versions)")


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("step")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def smoothed(values: list[float], weight: float = SMOOTHING) -> list[float]:
    """Exponential moving average, its start corrected for the missing past; NaN is passed over."""
    total = norm = 0.0
    out: list[float] = []
    for value in values:
        if not math.isnan(value):
            total, norm = weight * total + value, weight * norm + 1.0
        out.append(total / norm if norm else math.nan)
    return out
