"""One row of a data file: checked once, at ingest, with one clear reason when it cannot be used."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from shared.errors import BadSample
from shared.messages import IMAGE_MARK, ChatTurn, source_name
from shared.samples.images import probe_image
from shared.samples.schema import cast_row
from shared.samples.verifiers import known_verifiers, verifiers_there_are, why_unusable

ROLES = ("system", "user", "assistant")
TEXT_LIMIT = 256 * 1024
"""Characters of all turns together, past which a row is refused: it must fit a message."""


class Identity(NamedTuple):
    """What a row is called, also when it cannot be used."""

    source: str
    task: str
    sample_id: str


class EncodedImage(NamedTuple):
    """An image's encoded bytes; width and height in pixels of the upright image, as its header declares."""

    data: bytes
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A row that can be used. `format_ratio` None: the row does not say (V-Triune then scores with 0.1)."""

    identity: Identity
    turns: tuple[ChatTurn, ...]
    images: tuple[EncodedImage, ...]
    verifier: str
    answer: str
    ground_truth: str
    accuracy_ratio: float
    format_ratio: float | None
    params: dict[str, object]


LoadImage = Callable[[str], bytes]
"""The bytes of the image at a path or URI; raises BadSample, or Unavailable when its place does not answer now."""


def identify(row: Mapping[str, Any], place: str) -> Identity:
    """The row's source, task and id, whatever its fields hold; `place` (file and row) stands in for an id it has not.

    The task is its ability without Orsta's `cv_`.
    """
    source, ability = source_name(_text(row.get("data_source"))), _text(row.get("ability"))
    extra = row.get("extra_info")
    found = extra.get("id") if isinstance(extra, Mapping) else None
    sample_id = place if found in (None, "") else str(found)
    return Identity(source, source_name(ability).removeprefix("cv_") if ability else source, sample_id)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def read_row(raw: Mapping[str, Any], place: str, load: LoadImage, verifiers: Collection[str] | None = None) -> Sample:
    """The sample in `raw`, a row as its file has it; raises BadSample with the reason that it cannot be used.

    `verifiers` are the names that it may ask for; None: those that are installed here. Raises Unavailable when the
    place of an image that is named by its path does not answer.
    """
    row = cast_row(raw)
    if not row.get("data_source"):
        raise BadSample("data_source is empty; expected the name of the row's source")
    turns = _turns(row.get("prompt"))
    images = row["images"]
    _check_placeholders(turns, len(images))
    model = row.get("reward_model") or {}
    verifier = _verifier(model.get("verifier"), known_verifiers() if verifiers is None else verifiers)
    params = _params(model.get("verifier_parm"), "verifier_parm")
    truth = _truth(verifier, model.get("ground_truth"), params)
    accuracy_ratio, format_ratio = _ratios(model)
    return Sample(
        identity=identify(row, place),
        turns=turns,
        images=tuple(_image(image, number, load) for number, image in enumerate(images)),
        verifier=verifier,
        answer=model.get("answer") or "",
        ground_truth=truth,
        accuracy_ratio=accuracy_ratio,
        format_ratio=format_ratio,
        params=params,
    )


def _turns(prompt: Any) -> tuple[ChatTurn, ...]:
    if not prompt:
        raise BadSample("prompt is empty; expected at least one turn")
    turns = []
    for number, turn in enumerate(prompt):
        role, content = (turn or {}).get("role"), (turn or {}).get("content")
        if role not in ROLES:
            raise BadSample(f"prompt turn {number} has role {role!r}; expected {', '.join(ROLES)}")
        if not content or not content.strip():
            raise BadSample(f"prompt turn {number} is empty; expected text")
        turns.append(ChatTurn(role=role, content=content))
    if turns[-1].role != "user":
        raise BadSample(f"the last prompt turn has role {turns[-1].role!r}; expected 'user'")
    length = sum(len(turn.content) for turn in turns)
    if length > TEXT_LIMIT:
        raise BadSample(f"the prompt has {length} characters; expected at most {TEXT_LIMIT}")
    return tuple(turns)


def _check_placeholders(turns: tuple[ChatTurn, ...], images: int) -> None:
    places = sum(turn.content.count(IMAGE_MARK) for turn in turns if turn.role == "user")
    if places != images:
        raise BadSample(f"the prompt has {places} {IMAGE_MARK} for {images} images; expected one for each image")


def _image(image: Mapping[str, Any], number: int, load: LoadImage) -> EncodedImage:
    data, path = image["bytes"], image["path"]
    try:
        if data is None:
            if not path:
                raise BadSample("the image has neither bytes nor a path")
            data = load(path)
        return EncodedImage(data, *probe_image(data))
    except BadSample as error:
        raise BadSample(f"image {number}: {error}") from error


def _verifier(name: str | None, known: Collection[str]) -> str:
    if name is None or name not in known:
        raise BadSample(f"verifier is {name!r}; {verifiers_there_are(name, known)}")
    return name


def _truth(verifier: str, truth: str | None, params: Mapping[str, object]) -> str:
    if not truth or not truth.strip():
        raise BadSample("ground_truth is empty; expected the answer as the verifier extracts it")
    reason = why_unusable(verifier, truth, params)
    if reason is not None:
        raise BadSample(reason)
    return truth


def _ratios(model: Mapping[str, Any]) -> tuple[float, float | None]:
    accuracy, format_ = model.get("accuracy_ratio"), model.get("format_ratio")
    for name, value in (("accuracy_ratio", accuracy), ("format_ratio", format_)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise BadSample(f"{name} is {value}; expected a finite number of at least 0")
    if accuracy == 0 and format_ == 0:
        raise BadSample("accuracy_ratio and format_ratio are both 0; expected a positive sum")
    return 1.0 if accuracy is None else accuracy, format_


def _params(value: Any, path: str) -> dict[str, object]:
    """`value` without what is null; raises BadSample for a number that is not finite."""
    kept: dict[str, object] = {}
    for name, item in (value or {}).items():
        if isinstance(item, Mapping):
            inner = _params(item, f"{path}.{name}")
            if inner:
                kept[name] = inner
        elif isinstance(item, float) and not math.isfinite(item):
            raise BadSample(f"{path}.{name} is {item}; expected a finite number")
        elif item is not None:
            kept[name] = item
    return kept
