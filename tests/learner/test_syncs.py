"""How often a step waits for its device: by what was asked for, not by how it is cut into micro-batches.

Prompts of text: the towers are transformers' own, and wait for the sizes of their images.
"""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITS = {"aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten._unique2", "aten.equal"}
"""Operators whose result, or its size, the host needs: on a GPU each of them waits until all before it is done."""


class Waits(TorchDispatchMode):
    """Counts them, by the operator."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = str(func.overloadpacket)
        takes_mask = name == "aten.index" and any(one is not None and one.dtype == torch.bool for one in args[1])
        counts_itself = name == "aten.repeat_interleave" and kwargs.get("output_size") is None
        if name in WAITS or takes_mask or counts_itself:
            self.counts[name] += 1
        return func(*args, **kwargs)


CHOICES = [
    {},
    {"loss": "gspo", "aggregation": "sequence_mean"},
    {"correction": "geometric"},
    {"kl_coefficient": 0.1, "kl_in": "reward", "kl_estimator": "k1"},
]


@pytest.mark.parametrize("algorithm", CHOICES, ids=lambda choice: " ".join(map(str, choice.values())) or "grpo")
def test_no_micro_batch_waits_for_the_device(make_engine, make_group, algorithm, monkeypatch):
    found, read = [], []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: (read.append(1), tolist(tensor))[1])
    for budget in (10_000, 1):
        learner = make_engine(algorithm=algorithm, learner={"tokens_per_batch": budget})
        groups = [learner.ingest(*make_group(ordinal, sizes=(), rewards=[1.0, 0.0])) for ordinal in (1, 2, 3)]
        read.clear()
        with Waits() as waits:
            learner.step(groups, importance=True)
        found.append((waits.counts, len(read)))
    assert found[0] == found[1]
