"""From a trainer's row to a sample of `/v1/score`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_FIELDS = ("verifier", "ground_truth", "answer", "accuracy_ratio", "format_ratio", "params", "options", "step",
           "total_steps", "resized", "original")  # fmt: skip
_ALIASES = {
    "ground_truth": ("solution", "expected_answer"),
    "params": ("verifier_parm",),
    "verifier": ("reward_verifier",),
}


def sample_of(completion: Any, truth: Any, row: Mapping[str, Any] | None = None, **defaults: Any) -> dict[str, Any]:
    """The sample that judges `completion`.

    `truth` is a ground truth, or an object (or its JSON text) with the fields of a sample, as `reward_model` of
    Orsta-Data has them. `row` may have the same fields; `defaults` count where neither has one. Raises ValueError
    without a ground truth.
    """
    if isinstance(truth, str) and truth.lstrip().startswith("{"):
        with contextlib.suppress(ValueError):  # a set such as {1, 2} is a ground truth
            truth = json.loads(truth)
    given = dict(truth) if isinstance(truth, Mapping) else {"ground_truth": truth}
    row = row or {}
    nested = row.get("reward_model")
    found: dict[str, Any] = {"completion": text_of(completion)}
    for source in (given, nested if isinstance(nested, Mapping) else {}, row, defaults):
        for name in _FIELDS:
            value = next(
                (source[alias] for alias in (name, *_ALIASES.get(name, ())) if source.get(alias) is not None), None
            )
            if value is not None and name not in found:
                found[name] = value
    if "ground_truth" not in found:
        raise ValueError("the sample has no ground truth; expected a column ground_truth, solution or reward_model")
    found["ground_truth"] = str(found["ground_truth"])
    found.setdefault("verifier", "mathverify")
    return found


def text_of(completion: Any) -> str:
    """The text of a completion: itself, or the last message of a conversation."""
    if isinstance(completion, str):
        return completion
    content = completion[-1]["content"]
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content if isinstance(part, Mapping))


def rows_of(columns: Mapping[str, Any], count: int) -> Iterator[dict[str, Any]]:
    """The rows of a trainer's columns (lists of `count` values); other arguments are left out."""
    lists = {
        name: values
        for name, values in columns.items()
        if isinstance(values, Sequence) and not isinstance(values, str) and len(values) == count
    }
    for place in range(count):
        yield {name: values[place] for name, values in lists.items()}
