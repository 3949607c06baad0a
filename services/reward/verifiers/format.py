"""Only the form: a quarter for each of the four think and answer tags that occurs exactly once.

Source: V-Triune's paper (arXiv 2505.18129), equation 4, as its reward server counts them. Accuracy equals format, in
{0, 0.25, 0.5, 0.75, 1}, so that the final reward is the form whatever the sample's weights. Never raises.
"""

from services.reward.answers.tags import tag_format
from services.reward.verdict import Context, Verdict
from shared.messages import RewardSpec


def score(completion: str, spec: RewardSpec, context: Context) -> Verdict:
    """The verdict on the tags of `completion`."""
    form = tag_format(completion)
    return Verdict(form, form)
