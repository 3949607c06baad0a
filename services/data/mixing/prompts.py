"""Sentences that ask a mathverify row for its reasoning and the form of its answer.

As in V-Triune's loader one sentence of each of two pools is appended to the last turn: free form when the row's format
is not rewarded (`format_ratio` 0), else with tags. All sentences are written for this project. Deviations: the choice
is seeded, in training by the ordinal and at evaluation by the sample's id, so test prompts never change; ten sentences
in each pool, as the paper says.
"""

from collections.abc import Sequence
from hashlib import blake2b

import msgspec

from shared.messages import ChatTurn

FREE_REASONING = (
    "Work through the problem step by step before you answer.",
    "Reason it out one step at a time.",
    "Take it step by step and show how you get there.",
    "Explain your reasoning in order, then conclude.",
    "Look closely, and develop the solution step by step.",
    "Go slowly: write down each step that leads to the result.",
    "Derive the answer in small steps.",
    "Think aloud, step by step.",
    "Describe what you see that matters, then reason from it in steps.",
    "Build up the answer gradually, with every step written out.",
)
FREE_ANSWER = (
    "Write the final answer in \\boxed{}.",
    "Finish with the answer inside \\boxed{}.",
    "Your last line should hold the answer in \\boxed{}.",
    "Give the result as \\boxed{answer}.",
    "Close with \\boxed{} around the final answer.",
    "The final answer belongs in \\boxed{}.",
    "Mark the answer with \\boxed{}.",
    "End on the result, enclosed in \\boxed{}.",
    "Enclose only the final answer in \\boxed{}.",
    "State the answer once, as \\boxed{answer}.",
)

_FORM = "<think>\nreasoning\n</think>\n<answer>\n\\boxed{answer}\n</answer>"

TAGGED_REASONING = (
    "First reason between <think> and </think>.",
    "Write your reasoning inside <think> </think> tags before answering.",
    "Start with a <think> block that holds your reasoning.",
    "Keep all reasoning between the tags <think> and </think>.",
    "Think first, within <think> and </think>.",
    "Begin by working the problem out inside <think> </think>.",
    "Use a <think> section to go through the problem step by step.",
    "Let your reasoning stand in <think> tags, ahead of the answer.",
    "Open with <think>, reason step by step, and close with </think>.",
    "Reason step by step in a block marked <think> and </think>.",
)
TAGGED_ANSWER = (
    f"Then put the answer in \\boxed{{}} between <answer> and </answer>, in this form:\n{_FORM}",
    f"Follow it with <answer> tags around \\boxed{{}}, like this:\n{_FORM}",
    f"After that comes the answer, boxed, inside <answer> tags:\n{_FORM}",
    f"The answer goes into \\boxed{{}} within an <answer> block. The form is:\n{_FORM}",
    f"End with an <answer> block that holds \\boxed{{}} and nothing else:\n{_FORM}",
    f"Then state the result as \\boxed{{}} in <answer> tags, laid out so:\n{_FORM}",
    f"Conclude with the boxed answer in <answer> </answer>. For example:\n{_FORM}",
    f"Give the final answer in \\boxed{{}} inside <answer> tags, line by line as here:\n{_FORM}",
    f"Next, write <answer>, the answer in \\boxed{{}}, and </answer>:\n{_FORM}",
    f"Finally place \\boxed{{}} with the answer between <answer> tags, as shown:\n{_FORM}",
)


def add_instructions(turns: Sequence[ChatTurn], *, tagged: bool, key: str) -> list[ChatTurn]:
    """`turns` with one sentence of each pool appended to the last one; `key` decides which."""
    digest = blake2b(key.encode(), digest_size=8).digest()
    first, second = int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")
    reasoning, answer = _pools(tagged)
    return _appended(turns, reasoning[first % len(reasoning)], answer[second % len(answer)])


def with_longest_instructions(turns: Sequence[ChatTurn], *, tagged: bool) -> list[ChatTurn]:
    """`turns` with the longest sentence of each pool: no choice of `add_instructions` has more characters."""
    reasoning, answer = _pools(tagged)
    return _appended(turns, max(reasoning, key=len), max(answer, key=len))


def _pools(tagged: bool) -> tuple[Sequence[str], Sequence[str]]:
    return (TAGGED_REASONING, TAGGED_ANSWER) if tagged else (FREE_REASONING, FREE_ANSWER)


def _appended(turns: Sequence[ChatTurn], reasoning: str, answer: str) -> list[ChatTurn]:
    last = turns[-1]
    return [*turns[:-1], msgspec.structs.replace(last, content=f"{last.content}\n\n{reasoning} {answer}")]
