"""The staleness rule, a pure function: which ordinals may be published while a version is the newest.

Version v are the weights after training step v, c(v) is their cursor: the first ordinal not yet consumed. With B groups
a step and bound η the window of v ends at

    end(v) = c(v) + min(η + 1, total_steps − v) · B + lost

where `lost` counts the ordinals at or past c(v) that no later step trains on: void or filtered, each of which is
replaced by the next, and with `algorithm.order = "arrival"` those that were trained on before their turn.
A group admitted by version m at ordinal k < end(m) is trained at the latest by the step that makes version m + η + 1,
that is on weights m + η: its staleness is at most η, by construction, because consumption is in order and B groups
make a step. η = 0 is on-policy.

V-Triune has no such bound: its rollout and update alternate inside one job (that is η = 0 here).
"""


def window_end(
    *, cursor: int, version: int, total_steps: int, prompts_per_step: int, max_staleness: int, lost: int
) -> int:
    """The first ordinal that version `version` does not admit.

    Raises ValueError for negative arguments. The caller never lets a published end decrease (`Window.advance`).
    """
    if min(cursor, version, total_steps, max_staleness, lost) < 0 or prompts_per_step < 1:
        raise ValueError(
            f"cursor {cursor}, version {version}, total_steps {total_steps}, prompts_per_step {prompts_per_step}, "
            f"max_staleness {max_staleness}, lost {lost}: expected none below 0 and at least one prompt a step"
        )
    steps = max(0, min(max_staleness + 1, total_steps - version))
    return cursor + steps * prompts_per_step + (lost if steps else 0)


def staleness(trained_on: int, oldest_version: int) -> int:
    """Version that a group is trained on − oldest version that sampled any of its tokens; at least 0."""
    return max(0, trained_on - oldest_version)
