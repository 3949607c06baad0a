"""What a source's rows hold, as numbers that add up over groups and processes: counts and spans, never the rows."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from services.data.reading.sample import Sample
from shared.samples.boxes import parse_boxes

BOX_VERIFIERS = ("detection", "iou")


@dataclass(frozen=True)
class Facts:
    """One good row: numbers by what they measure, and its words."""

    numbers: dict[str, list[float]]
    verifier: str
    labels: tuple[str, ...]

    @classmethod
    def of(cls, sample: Sample, tokens: int | None) -> "Facts":
        numbers: dict[str, list[float]] = {
            "images": [len(sample.images)],
            "width": [image.width for image in sample.images],
            "height": [image.height for image in sample.images],
            "image_bytes": [len(image.data) for image in sample.images],
            "prompt_characters": [sum(len(turn.content) for turn in sample.turns)],
            "truth_characters": [len(sample.ground_truth)],
        }
        boxes = (parse_boxes(sample.ground_truth) or []) if sample.verifier in BOX_VERIFIERS else []
        if sample.verifier in BOX_VERIFIERS:
            numbers["boxes"] = [len(boxes)]
        if tokens is not None:
            numbers["prompt_tokens"] = [tokens]
        return cls(numbers, sample.verifier, tuple(box.label for box in boxes))


@dataclass
class Span:
    """Least, mean and greatest of a number."""

    count: int = 0
    total: float = 0.0
    least: float = float("inf")
    greatest: float = float("-inf")

    def add(self, value: float) -> None:
        self.join(Span(1, value, value, value))

    def join(self, other: "Span") -> None:
        self.count += other.count
        self.total += other.total
        self.least, self.greatest = min(self.least, other.least), max(self.greatest, other.greatest)

    def summary(self) -> dict[str, float]:
        return {"min": self.least, "mean": round(self.total / self.count, 2), "max": self.greatest}


@dataclass
class Tally:
    """All rows of one source."""

    rows: int = 0
    bad: int = 0
    spans: dict[str, Span] = field(default_factory=dict)
    verifiers: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)

    def add(self, facts: Facts) -> None:
        self.rows += 1
        self.verifiers[facts.verifier] += 1
        self.labels.update(facts.labels)
        for name, values in facts.numbers.items():
            span = self.spans.setdefault(name, Span())
            for value in values:
                span.add(value)

    def join(self, other: "Tally") -> None:
        self.rows += other.rows
        self.bad += other.bad
        self.verifiers += other.verifiers
        self.labels += other.labels
        for name, span in other.spans.items():
            self.spans.setdefault(name, Span()).join(span)

    def summary(self) -> dict[str, Any]:
        """As it is printed: good and bad rows, the verifiers, and least, mean and greatest of each number."""
        numbers = {name: span.summary() for name, span in self.spans.items() if span.count}
        found: dict[str, Any] = {"rows": self.rows, "bad": self.bad, "verifiers": dict(self.verifiers.most_common())}
        if self.labels:
            found["labels"] = {"different": len(self.labels), "most": dict(self.labels.most_common(5))}
        return found | numbers


def joined(tallies: Iterable[dict[str, Tally]]) -> dict[str, Tally]:
    """The tallies by source, added up."""
    sums: dict[str, Tally] = {}
    for by_source in tallies:
        for source, tally in by_source.items():
            sums.setdefault(source, Tally()).join(tally)
    return dict(sorted(sums.items()))
