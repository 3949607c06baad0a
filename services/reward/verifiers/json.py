"""An object of fields, as information extraction asks for: which of the true fields are right.

Accuracy is the F1 of fields: with R right ones among A in the answer and T in the truth, 2·R / (A + T), in [0, 1]; a
field is a leaf with the path to it, right when it is equal as text (`shared.answers.plain`) or as a number. With the
parameter `schema` (a JSON Schema) an answer that violates it has 0. Fences, prose, quotes of any kind are read past
(`shared.answers.literal`). Format: four tags, a quarter each. `parts`: `precision`, `recall`, `valid` (the schema).
Raises VerifierError for a ground truth that is no object or list, or violates the schema, and for a schema that is
none.
"""

from functools import lru_cache

import msgspec
from jsonschema_rs import ValidationError, validator_for

from services.reward.answers.structures import MOST_LEAVES, count_leaves, leaves, read_structure
from services.reward.answers.tags import tag_format
from services.reward.verdict import Context, Verdict, VerifierError
from shared.answers.literal import Value
from shared.answers.numbers import read_number
from shared.answers.plain import comparable
from shared.messages import RewardSpec


def score(completion: str, spec: RewardSpec, context: Context) -> Verdict:
    """The verdict on the largest object or list in the last answer block of `completion`."""
    truth = read_structure(spec.ground_truth)
    if not isinstance(truth, (dict, list)) or not 0 < count_leaves(truth) <= MOST_LEAVES:
        raise VerifierError(
            f"ground truth {spec.ground_truth[:200]!r} is no object or list of 1 to {MOST_LEAVES} values"
        )
    schema = spec.params.get("schema")
    if not _is_valid(truth, schema):
        raise VerifierError(f"ground truth {spec.ground_truth[:200]!r} violates the schema")
    answer = read_structure(completion)
    if not isinstance(answer, (dict, list)) or count_leaves(answer) > 2 * MOST_LEAVES:
        return Verdict(0.0, tag_format(completion), {"precision": 0.0, "recall": 0.0, "valid": 0.0})
    given, wanted = dict(leaves(answer)), dict(leaves(truth))
    right = sum(path in given and _same(given[path], value) for path, value in wanted.items())
    valid = _is_valid(answer, schema)
    parts = {"precision": right / len(given), "recall": right / len(wanted), "valid": float(valid)}
    return Verdict(2 * right / (len(given) + len(wanted)) if valid else 0.0, tag_format(completion), parts)


def _same(one: Value, other: Value) -> bool:
    if isinstance(one, bool) or isinstance(other, bool) or one is None or other is None:
        return one is other or comparable(str(one)) == comparable(str(other))
    text, truth = comparable(str(one)), comparable(str(other))
    if text == truth:
        return True
    number, wanted = read_number(str(one)), read_number(str(other))
    return number is not None and wanted is not None and number.agrees(wanted, wanted.value * 0)


def _is_valid(value: Value, schema: object) -> bool:
    return schema is None or bool(_validator(msgspec.json.encode(schema)).is_valid(value))


@lru_cache(maxsize=256)
def _validator(schema: bytes):  # type: ignore[no-untyped-def]  # the library's class has no public name
    try:
        return validator_for(msgspec.json.decode(schema))
    except (ValidationError, ValueError) as error:
        raise VerifierError(f"schema is no JSON Schema: {error}") from None
