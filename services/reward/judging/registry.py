"""The verifiers there are: one file each in `services.reward.verifiers`, and what packages and a job's files add."""

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from types import MappingProxyType, ModuleType

from services.reward import verifiers
from services.reward.judging import plugins
from services.reward.judging.plugins import as_verdict
from services.reward.verdict import Context, Verdict, VerifierError
from shared.errors import UserError
from shared.messages import RewardSpec
from shared.samples.verifiers import ENTRY_POINTS

Score = Callable[[str, RewardSpec, Context], Verdict]
"""`score(completion, spec, context)`: raises VerifierError for a sample that cannot be scored."""


@cache
def discover() -> Mapping[str, Score]:
    """Name → verifier; raises UserError for an added one that cannot be loaded or takes a name that is taken.

    The file `rotated_iou.py` is the verifier `rotated-iou`.
    """
    found = {module.name.replace("_", "-"): _built_in(module.name) for module in iter_modules(verifiers.__path__)}
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name in found:
            raise UserError(
                f"verifier {entry.name!r} of {entry.value} has the name of another one; expected a new name"
            )
        found[entry.name] = _added(entry.name, entry.value, entry.load)
    return MappingProxyType(found)


def _built_in(name: str) -> Score:
    """The verifier in the file `name`, imported when first asked for: a worker starts without scipy and shapely."""

    def score(completion: str, spec: RewardSpec, context: Context) -> Verdict:
        return _imported(name)(completion, spec, context)

    return score


@cache
def _imported(name: str) -> Score:
    score: Score = import_module(f"{verifiers.__name__}.{name}").score
    return score


def _added(name: str, value: str, load: Callable[[], object]) -> Score:
    try:
        loaded = load()
    except (ImportError, AttributeError) as error:
        raise UserError(f"verifier {name!r} ({value}) cannot be loaded: {error}") from error
    score = getattr(loaded, "score", None) if isinstance(loaded, ModuleType) else loaded
    if not callable(score):
        raise UserError(f"verifier {name!r} ({value}) has no function `score`")
    return as_verdict(name, score)


def find(name: str, options: Mapping[str, object]) -> Score:
    """The verifier called `name`; `options` may name plugins. Raises VerifierError for an unknown one."""
    known = discover()
    if name in known:
        return known[name]
    own = plugins.load(options.get("plugins"))
    if name in own:
        return own[name]
    raise VerifierError(f"verifier {name!r} is unknown; known are {', '.join(sorted({**known, **own}))}")
