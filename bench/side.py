"""What the learner is measured against: transformers' own model and an optimizer."""

from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from services.learner.policy.optimizer import ClippedAdamW
from shared.jobs.spec import JobSpec
from shared.models.hf.convolutions import flatten_convolutions
from shared.models.roles import role_of


class Side:
    """transformers' own model with an AdamW; in bfloat16 ours, since torch's has no float32 masters."""

    flat = False

    def __init__(self, spec: JobSpec) -> None:
        dtype = getattr(torch, spec.learner.dtype)
        self.model: Any = AutoModelForImageTextToText.from_pretrained(spec.model, dtype=dtype)
        if self.flat:
            flatten_convolutions(self.model)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(role_of(name) not in spec.optimizer.freeze)
        trained = {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        self.ours = ClippedAdamW(trained, spec.optimizer) if dtype == torch.bfloat16 else None
        self.adam = torch.optim.AdamW(trained.values(), lr=spec.optimizer.learning_rate, fused=True)
        self.settings = spec.algorithm

    def apply(self) -> None:
        """Clip and AdamW."""
        if self.ours is not None:
            self.ours.update(1, 1)
            return
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
