"""A job's settings as one table: `{"optimizer": {"beta1": 0.9}}` as `{"optimizer.beta1": 0.9}`."""

from collections.abc import Mapping
from typing import Any

Flat = dict[str, Any]


def flat(table: Mapping[str, Any], prefix: str = "") -> Flat:
    """The values of nested tables by dotted key; an empty table is a value."""
    found: Flat = {}
    for key, value in table.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found


def differences(one: Flat, other: Flat) -> list[tuple[str, Any, Any]]:
    """Keys whose values differ, with both; a key that is in one of them alone has None for the other."""
    return [
        (key, one.get(key), other.get(key))
        for key in sorted(one.keys() | other.keys())
        if one.get(key) != other.get(key)
    ]
