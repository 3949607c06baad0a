"""The final reward: accuracy and format, weighted as the sample says."""

from services.reward.verdict import VerifierError


def compose(accuracy: float, form: float, accuracy_ratio: float, format_ratio: float) -> float:
    """accuracy·ar/(ar + fr) + format·fr/(ar + fr): the weighted mean, as V-Triune's reward server computes it.

    Deviation from the paper (equation 8: a plain weighted sum) kept from that server. Negative weights are taken as
    they are. Raises VerifierError when the weights sum to 0.
    """
    total = accuracy_ratio + format_ratio
    if not total or total != total:
        raise VerifierError(
            f"accuracy_ratio is {accuracy_ratio} and format_ratio is {format_ratio}; expected a sum other than 0"
        )
    return accuracy * (accuracy_ratio / total) + form * (format_ratio / total)
