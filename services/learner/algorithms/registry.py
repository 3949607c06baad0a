"""An algorithm by its name: one file each in the package of its kind."""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Literal

Kind = Literal["advantages", "losses", "aggregations", "corrections", "divergences"]
_FUNCTIONS: dict[Kind, str] = {
    "advantages": "advantages",
    "losses": "loss",
    "aggregations": "weights",
    "corrections": "correction",
    "divergences": "divergence",
}


def find(kind: Kind, name: str) -> Any:
    """The function of the file `name` among those of `kind`; the job file's check knows the names."""
    return getattr(import_module(f"services.learner.algorithms.{kind}.{name}"), _FUNCTIONS[kind])


def names(kind: Kind) -> set[str]:
    """Those there are: the files."""
    return {module.name for module in iter_modules(import_module(f"services.learner.algorithms.{kind}").__path__)}
