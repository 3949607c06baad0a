"""Which reading of answers holds for `mathverify` and `detection`: V-Triune's, or the tolerant one."""

from services.reward.verdict import VerifierError
from shared.messages import RewardSpec

V_TRIUNE, TOLERANT = "v-triune", "tolerant"


def is_tolerant(spec: RewardSpec) -> bool:
    """What the sample's parameter `dialect` says, else the job's setting of that name, else V-Triune's.

    Raises VerifierError for another word.
    """
    dialect = spec.params.get("dialect") or spec.options.get("dialect") or V_TRIUNE
    if dialect not in (V_TRIUNE, TOLERANT):
        raise VerifierError(f"dialect is {dialect!r}; expected {TOLERANT!r} or {V_TRIUNE!r}")
    return dialect == TOLERANT
