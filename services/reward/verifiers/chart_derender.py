"""The numbers behind a chart, as a table: relative mapping similarity (RMS).

Source: Liu et al., "DePlot: One-shot visual language reasoning by plot-to-table translation" (ACL Findings 2023),
section 3.2: each table is a set of entries (row header, column header, value); the similarity of two entries is (1 −
NL_τ(keys)) · (1 − D_θ(values)) with τ = θ = 0.5, the entries are matched at the least cost in their keys (scipy), and
accuracy is the F1 of precision and recall, in [0, 1]; the better of the table and its transpose counts. The first row
holds column headers, the first column row headers. Format: four tags, a quarter each. `parts`: `precision`, `recall`.
Raises VerifierError for a ground truth without a header row and a value.
"""

from fractions import Fraction

import numpy as np
from rapidfuzz.distance import Levenshtein
from scipy.optimize import linear_sum_assignment

from services.reward.answers.tables import Table, read_table
from services.reward.answers.tags import tag_format
from services.reward.verdict import Context, Verdict, VerifierError
from shared.answers.numbers import read_number
from shared.messages import RewardSpec

_TAU = _THETA = 0.5
_MOST_ENTRIES = 400

Entry = tuple[str, str]


def score(completion: str, spec: RewardSpec, context: Context) -> Verdict:
    """The verdict on the table in the last answer block of `completion`."""
    truth = _entries(read_table(spec.ground_truth))
    if not truth:
        raise VerifierError(f"ground truth {spec.ground_truth[:200]!r} is no table with headers and values")
    table = read_table(completion)
    best = max((_compare(_entries(one), truth) for one in (table, _transposed(table))), key=_f1)
    return Verdict(_f1(best), tag_format(completion), {"precision": best[0], "recall": best[1]})


def _entries(table: Table | None) -> list[Entry]:
    """(row header and column header, value) of each cell with both."""
    if table is None or len(table) < 2:
        return []
    header = table[0]
    return [
        (f"{row[0].text} {header[place].text}", row[place].text)
        for row in table[1:]
        for place in range(1, min(len(row), len(header)))
    ][:_MOST_ENTRIES]


def _transposed(table: Table | None) -> Table | None:
    return None if table is None else [list(column) for column in zip(*table, strict=False)]


def _compare(answer: list[Entry], truth: list[Entry]) -> tuple[float, float]:
    """Precision and recall."""
    if not answer or not truth:
        return 0.0, 0.0
    keys = np.array([[_text_distance(one[0], other[0]) for other in truth] for one in answer])
    rows, columns = linear_sum_assignment(keys)
    total = sum(
        (1.0 - float(keys[row, column])) * (1.0 - _value_distance(answer[row][1], truth[column][1]))
        for row, column in zip(rows, columns, strict=True)
    )
    return total / len(answer), total / len(truth)


def _f1(both: tuple[float, float]) -> float:
    return 2 * both[0] * both[1] / (both[0] + both[1]) if both[0] + both[1] else 0.0


def _text_distance(one: str, other: str) -> float:
    distance = float(Levenshtein.normalized_distance(one, other))
    return distance if distance < _TAU else 1.0


def _value_distance(one: str, other: str) -> float:
    """Relative for numbers, normalised edit distance for text; 1 from the cut on."""
    number, truth = read_number(one), read_number(other)
    if number is None or truth is None:
        return _text_distance(one, other)
    if truth.value == 0:
        return 0.0 if number.value == 0 else 1.0
    distance = float(min(abs(number.value - truth.value) / abs(truth.value), Fraction(1)))
    return distance if distance < _THETA else 1.0
