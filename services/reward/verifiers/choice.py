"""Multiple choice: the letter of the right option.

Accuracy is 1 when the final answer names the letter of the ground truth, else 0. Read as a letter: `B`, `b`, `(B)`,
`B.`, `B) a cat`, `B: a cat`, `Option B`, `\\text{B}`; more than one letter is no answer. Format: four tags, a quarter
each. Raises VerifierError for a ground truth that names no letter.
"""

import re

from services.reward.answers import final_answer, reference, tag_format
from services.reward.verdict import Context, Verdict, VerifierError
from shared.messages import RewardSpec

_WRAPPED = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]{0,64})\}")
_LETTER = re.compile(r"(?:(?:option|choice|answer)\s*:?\s*)?[(\[]?\s?([a-z])\s?(?:[)\].:](?:\s.*)?)?", re.DOTALL)


def score(completion: str, spec: RewardSpec, context: Context) -> Verdict:
    """The verdict on the final answer of `completion`."""
    truth = read_letter(reference(spec.ground_truth))
    if truth is None:
        raise VerifierError(f"ground truth {spec.ground_truth!r} names no option; expected a letter")
    return Verdict(float(read_letter(final_answer(completion) or "") == truth), tag_format(completion))


def read_letter(text: str) -> str | None:
    """The one option that `text` names, in lower case; None when it names none."""
    found = _LETTER.fullmatch(_WRAPPED.sub(r"\1", text).replace("**", "").strip().lower())
    return found[1] if found else None
