"""A page on what was curated: why rows were left out, how often the model succeeded by source, and rows to look at."""

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from services.data.converting.preview import article, page
from services.data.curating.passes import Passes
from services.data.curating.selection import Thresholds, why_not_kept
from shared.samples.files import DataFile, read_group
from shared.samples.schema import cast_row

EXAMPLES = 3
"""Rows shown of each verdict."""


def write_report(
    out: Path, shards: Mapping[str, DataFile], left_out: Counter[str], passes: Sequence[Passes], at: Thresholds
) -> None:
    """The page `out`; `shards` are the files by name that `passes` speaks of."""
    body = [_reasons("Left out by rules", left_out)]
    body += [_histogram(source, [one for one in passes if one.source == source]) for source in _sources(passes)]
    for verdict in ("kept", "too easy", "too hard", "could not be judged"):
        chosen = [one for one in passes if (why_not_kept(one, at) or "kept") == verdict]
        body.append(f"<h2>{verdict}: {len(chosen)}</h2>")
        body += [_example(one, shards[one.shard]) for one in chosen[:: max(1, len(chosen) // EXAMPLES)][:EXAMPLES]]
    out.write_text(page("Curated data", f"{len(passes)} rows were tried.", body))


def _sources(passes: Sequence[Passes]) -> list[str]:
    return sorted({one.source for one in passes})


def _reasons(title: str, reasons: Counter[str]) -> str:
    lines = "".join(f"<li>{count}: {html.escape(reason)}</li>" for reason, count in reasons.most_common())
    return f"<h2>{title}</h2><ul>{lines or '<li>none</li>'}</ul>"


def _histogram(source: str, passes: Sequence[Passes]) -> str:
    """Rows by how many completions were right, as bars of text."""
    counts = Counter(one.passes for one in passes if one.tries)
    most, tries = max(counts.values(), default=1), max((one.tries for one in passes), default=0)
    bars = "\n".join(
        f"{number:3d} of {tries} right  {'█' * round(40 * counts[number] / most)} {counts[number]}"
        for number in range(tries + 1)
    )
    return f"<h2>{html.escape(source)}: {len(passes)} rows</h2><pre>{bars}</pre>"


def _example(one: Passes, shard: DataFile) -> str:
    group = next(index for index in range(len(shard.groups)) if one.row < shard.first_row(index + 1))
    wanted = one.row - shard.first_row(group)
    row = next(row for number, row in enumerate(read_group(shard, group)) if number == wanted)
    told = one.void or f"{one.passes} of {one.tries} right, mean accuracy {one.accuracy:.2f}"
    return article(cast_row(row), told)
