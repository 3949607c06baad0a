"""The families that are known, an allow-list by `model_type`: one that fits by chance trains on wrong numbers."""

import json
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import MappingProxyType

from shared.errors import BadJob
from shared.models import families
from shared.models.family import Family


@cache
def known_families() -> Mapping[str, Family]:
    """`model_type` → its family, from the files in `shared/models/families`."""
    modules = [import_module(f"{families.__name__}.{module.name}") for module in iter_modules(families.__path__)]
    found = [family for module in modules for family in module.FAMILIES]
    return MappingProxyType({name: family for family in found for name in sorted(family.model_types)})


def family_of(model_type: object, model: str) -> Family:
    """The family of `model`, whose config.json names `model_type`; raises BadJob with the known ones."""
    known = known_families()
    if not isinstance(model_type, str) or model_type not in known:
        raise BadJob([f"model {model!r} has model_type {model_type!r}; expected one of {', '.join(sorted(known))}"])
    return known[model_type]


def family_in(folder: Path) -> Family:
    """The family of the model in `folder`, read from its config.json alone; raises BadJob."""
    path = folder / "config.json"
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BadJob([f"model {str(folder)!r}: {path.name} cannot be read: {error}"]) from error
    if not isinstance(document, dict):
        raise BadJob([f"model {str(folder)!r}: {path.name} holds a {type(document).__name__}; expected an object"])
    return family_of(document.get("model_type"), str(folder))
