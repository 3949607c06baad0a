"""Verifiers from files that a job names: loaded in the worker processes alone, from folders that the operator allows.

    reward.plugins = ["my_rewards.py"]

In such a file a function `name(completion, spec, context)` is the verifier `name`; it returns a number from 0 to 1 (the
accuracy; the format is the four tags') or a `services.reward.verdict.Verdict`. A function `compute_score(data_source,
solution_str, ground_truth, extra_info=None)`, verl's signature, is a verifier by the name of its file; it returns a
number, or a dict whose `score` is the accuracy and whose other numbers are parts.
"""

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from services.reward.answers.tags import tag_format
from services.reward.verdict import Context, Verdict, VerifierError
from shared.errors import BadData
from shared.messages import RewardSpec
from shared.samples.plugins import find_plugin, verifiers_in

_roots: tuple[Path, ...] = ()


def allow(roots: Sequence[Path]) -> None:
    """Let jobs name files under `roots`; a worker calls it once, as its parent says."""
    global _roots
    _roots = tuple(root.resolve() for root in roots)
    _load_file.cache_clear()


def load(paths: object) -> Mapping[str, Callable[[str, RewardSpec, Context], Verdict]]:
    """The verifiers in the files that a job's `reward.plugins` names; raises VerifierError for a file that cannot."""
    if not paths:
        return {}
    if not isinstance(paths, Sequence) or isinstance(paths, str) or not all(isinstance(path, str) for path in paths):
        raise VerifierError(f"plugins is {paths!r}; expected a list of files")
    found: dict[str, Callable[[str, RewardSpec, Context], Verdict]] = {}
    for path in paths:
        try:
            file = find_plugin(path, _roots)
            found |= _load_file(file, file.stat().st_mtime_ns)
        except BadData as error:
            raise VerifierError(str(error)) from None
        except OSError as error:
            raise VerifierError(f"the plugin {path} cannot be read: {error.strerror}") from None
    return found


@lru_cache(maxsize=32)
def _load_file(file: Path, changed: int) -> Mapping[str, Callable[[str, RewardSpec, Context], Verdict]]:
    names = verifiers_in(file)
    spec = importlib.util.spec_from_file_location(f"triune_plugin_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise VerifierError(f"the plugin {file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise VerifierError(f"the plugin {file} cannot be loaded: {type(error).__name__}: {error}") from error
    found: dict[str, Callable[[str, RewardSpec, Context], Verdict]] = {}
    for name in names:
        own = getattr(module, name, None)
        found[name] = as_verdict(name, own if callable(own) else _from_verl(module.compute_score))
    return found


def _from_verl(compute_score: Callable[..., object]) -> Callable[[str, RewardSpec, Context], object]:
    """A function of verl's signature as a verifier; `data_source` is the sample's parameter of that name."""

    def score(completion: str, spec: RewardSpec, context: Context) -> object:
        source = str(spec.params.get("data_source", ""))
        return compute_score(source, completion, spec.ground_truth, extra_info=dict(spec.params))

    return score


def as_verdict(
    name: str, score: Callable[[str, RewardSpec, Context], object]
) -> Callable[[str, RewardSpec, Context], Verdict]:
    """`score` of somebody else as a verifier; it may return a number, a dict with a `score`, or a Verdict."""

    def judged(completion: str, spec: RewardSpec, context: Context) -> Verdict:
        found: Any = score(completion, spec, context)
        if isinstance(found, Verdict):
            return found
        parts: dict[str, float] = {}
        if isinstance(found, Mapping) and "score" in found:
            parts = {str(part): float(value) for part, value in found.items() if part != "score" and _is_number(value)}
            found = found["score"]
        if not _is_number(found):
            raise VerifierError(
                f"verifier {name!r} returned {found!r}; expected a number, a dict with a score, or a Verdict"
            )
        return Verdict(float(found), tag_format(completion), parts)

    return judged


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
