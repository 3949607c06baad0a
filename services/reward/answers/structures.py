"""Objects and lists out of answers, and their leaves."""

from collections.abc import Iterator

from shared.answers.blocks import answer_or_rest
from shared.answers.boxes import LONGEST
from shared.answers.literal import Value, find_literals
from shared.answers.plain import comparable, plain, unfenced

MOST_LEAVES = 1000
Path = tuple[str | int, ...]


def read_structure(text: str) -> Value:
    """The largest object or list in the last answer block of `text`, or in what follows its thought; else that text."""
    body = unfenced(answer_or_rest(text) or "").strip()
    if len(body) > LONGEST:
        return ""
    found = [value for value in find_literals(body) if _is_structure(value, body)]
    return max(found, key=count_leaves) if found else plain(body)


def _is_structure(value: Value, body: str) -> bool:
    """Whether a literal is one on purpose, and not a word in brackets."""
    if isinstance(value, dict):
        return bool(value)
    return isinstance(value, list) and len(value) > (0 if body.startswith("[") else 1)


def count_leaves(value: Value) -> int:
    """How many values that hold no others `value` has."""
    return sum(1 for _ in leaves(value))


def leaves(value: Value, path: Path = ()) -> Iterator[tuple[Path, Value]]:
    """Each value that holds no others, with the keys and places that lead to it."""
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from leaves(item, (*path, comparable(name)))
    elif isinstance(value, list) and value:
        for place, item in enumerate(value):
            yield from leaves(item, (*path, place))
    else:
        yield path, value


def leaves_as_text(value: Value) -> Value:
    """The same with names and leaves as comparable text."""
    if isinstance(value, dict):
        return {comparable(name): leaves_as_text(item) for name, item in value.items()}
    if isinstance(value, list):
        return [leaves_as_text(item) for item in value]
    return comparable(str(value))
