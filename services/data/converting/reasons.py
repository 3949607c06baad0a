"""Why rows are left out: counted by reason, each with the first name or value that it was said of."""

from collections import Counter

from shared.errors import BadSample


class LeftOut(BadSample):
    """`reason` is the same for all rows that are left out for it; `example` is what differs in them."""

    def __init__(self, reason: str, example: object) -> None:
        super().__init__(f"{reason}: {example}")
        self.reason = reason
        self.example = str(example)


class Reasons:
    """Rows by reason. A BadSample that has no example counts under its whole sentence."""

    def __init__(self, counts: dict[str, int] | None = None, first: dict[str, str] | None = None) -> None:
        self.counts = Counter(counts)
        self.first = dict(first or {})

    def add(self, error: BadSample) -> None:
        if isinstance(error, LeftOut):
            self.counts[error.reason] += 1
            self.first.setdefault(error.reason, error.example)
        else:
            self.counts[str(error)] += 1

    def told(self) -> dict[str, int]:
        """Rows by sentence, the most frequent first."""
        return {self._sentence(reason): count for reason, count in self.counts.most_common()}

    def _sentence(self, reason: str) -> str:
        return f"{reason} (first: {self.first[reason]})" if reason in self.first else reason
