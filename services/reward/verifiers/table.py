"""A table's structure and text: tree-edit-distance-based similarity (TEDS).

Source: Zhong, ShafieiBavani and Jimeno Yepes, "Image-based table recognition" (ECCV 2020), equation 1: TEDS = 1 −
EditDist(Ta, Tb) / max(|Ta|, |Tb|) between the trees table → rows → cells, where renaming a cell costs the normalised
edit distance of its text, or 1 where its spans differ; by the library apted. Range [0, 1]. HTML, Markdown or separated
lines on either side; header cells are cells. With the parameter `structure` true only the structure counts (S-TEDS).
Format: four tags, a quarter each. Raises VerifierError for a ground truth that is no table.
"""

from apted import APTED, Config
from rapidfuzz.distance import Levenshtein

from services.reward.answers.tables import Cell, Table, read_table
from services.reward.answers.tags import tag_format
from services.reward.verdict import Context, Verdict, VerifierError
from shared.messages import RewardSpec


def score(completion: str, spec: RewardSpec, context: Context) -> Verdict:
    """The verdict on the table in the last answer block of `completion`."""
    truth = read_table(spec.ground_truth)
    if truth is None:
        raise VerifierError(f"ground truth {spec.ground_truth[:200]!r} holds no table")
    answer = read_table(completion)
    if answer is None:
        return Verdict(0.0, tag_format(completion))
    return Verdict(similarity(answer, truth, structure=bool(spec.params.get("structure"))), tag_format(completion))


def similarity(one: Table, other: Table, *, structure: bool = False) -> float:
    """TEDS of two tables."""
    if one == other:
        return 1.0
    distance = APTED(_tree(one), _tree(other), _Costs(structure)).compute_edit_distance()
    return float(max(0.0, 1.0 - distance / max(_size(one), _size(other))))


class _Node:
    __slots__ = ("cell", "children", "tag")

    def __init__(self, tag: str, children: "list[_Node]", cell: Cell | None = None) -> None:
        self.tag, self.children, self.cell = tag, children, cell


class _Costs(Config):
    def __init__(self, structure: bool) -> None:
        self._structure = structure

    def rename(self, node1: _Node, node2: _Node) -> float:
        if node1.tag != node2.tag:
            return 1.0
        one, other = node1.cell, node2.cell
        if one is None or other is None:
            return 0.0
        if (one.columns, one.rows) != (other.columns, other.rows):
            return 1.0
        if self._structure or one.text == other.text:
            return 0.0
        return float(Levenshtein.normalized_distance(one.text, other.text))

    def children(self, node: _Node) -> list[_Node]:
        return node.children


def _tree(table: Table) -> _Node:
    return _Node("table", [_Node("tr", [_Node("td", [], cell) for cell in row]) for row in table])


def _size(table: Table) -> int:
    return 1 + sum(1 + len(row) for row in table)
