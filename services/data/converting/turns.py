"""Chat turns as other data sets write them: content is text, or a list of parts (Hugging Face, TRL, OpenAI)."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from shared.errors import BadSample
from shared.messages import IMAGE_MARK


class Turn(NamedTuple):
    """What `role` says: an `IMAGE_MARK` where an image stands, and the images that lie in the content itself."""

    role: str
    text: str
    images: tuple[Any, ...] = ()


def read_turns(turns: list[Any]) -> list[Turn]:
    """At least one; raises BadSample for what is no turn."""
    if not turns:
        raise BadSample("the prompt has no turns")
    return [_turn(turn) for turn in turns]


def first_of(turns: list[Any], roles: tuple[str, ...]) -> Turn:
    """The first turn of one of the `roles`, as LLaVA (`from`, `value`) or OpenAI names it; raises BadSample."""
    for turn in turns:
        if isinstance(turn, Mapping) and (turn.get("from") or turn.get("role")) in roles:
            return _turn(turn)
    raise BadSample(f"no turn of {' or '.join(roles)}")


def as_text(value: Any, what: str) -> str:
    """Text or a number as text; raises BadSample for anything else: no model is to read its Python form."""
    if isinstance(value, str | int | float | Decimal):
        return str(value)
    raise BadSample(f"the {what} is {_kind(value)}; expected text or a number")


def _turn(turn: Any) -> Turn:
    if not isinstance(turn, Mapping):
        raise BadSample(f"a turn is {_kind(turn)}; expected its role and content")
    role = turn.get("from") or turn.get("role")
    content = turn.get("content") if turn.get("value") is None else turn["value"]
    if not isinstance(role, str):
        raise BadSample(f"a turn's role is {_kind(role)}; expected text")
    if isinstance(content, str):
        return Turn(role, content)
    if not isinstance(content, list):
        raise BadSample(f"a turn's content is {_kind(content)}; expected text, or a list of texts and images")
    parts = [_part(part) for part in content]
    return Turn(role, "".join(text for text, _ in parts), tuple(image for _, image in parts if image is not None))


def _part(part: Any) -> tuple[str, Any]:
    """Text and image of a part, told by its `type`: parquet gives each part the fields of all, null where it has none.

    The image is None where it lies in a column of the row.
    """
    match part:
        case {"type": "text", "text": str(text)}:
            return text, None
        case {"type": "image_url", "image_url": {"url": url}}:
            return IMAGE_MARK, url
        case {"type": "image"}:
            return IMAGE_MARK, part.get("image")
        case {"type": str(kind)}:
            raise BadSample(f"a turn's content has a part of type {kind!r}; expected 'text' with its text, or 'image'")
    raise BadSample(f"a turn's content has a part that is {_kind(part)} without a type; expected 'text' or 'image'")


def _kind(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__}"
