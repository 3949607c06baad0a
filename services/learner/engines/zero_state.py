"""Masters and moments, whole, out of the shares in which DeepSpeed's ZeRO holds them, and back into them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from services.learner.engines.ranks import Ranks
from services.learner.policy.optimizer import MASTER

MOMENTS = ("exp_avg", "exp_avg_sq")
STEP = "adam_step"


class ZeroState:
    """The state of one DeepSpeed engine; every call is made on all ranks."""

    def __init__(self, engine: Any, ranks: Ranks, library: Any, parameters: Mapping[str, nn.Parameter]) -> None:
        """`parameters`: the trained ones by name, in one order on all ranks."""
        self._zero, self._ranks, self._parameters = engine.optimizer, ranks, parameters
        self._gathered, self._utils = library.zero.GatheredParameters, library.utils

    def share(self) -> dict[str, Tensor]:
        """What this rank writes: every `world`-th tensor of masters and moments; Adam's number of updates on rank 0."""
        kinds: dict[str, Callable[[nn.Parameter], Tensor]] = {MASTER: self._utils.safe_get_full_fp32_param}
        if self._adam_step():  # before its first update Adam holds nothing
            self._link()
            for moment in MOMENTS:
                kinds[f"{moment}/"] = lambda one, moment=moment: self._utils.safe_get_full_optimizer_state(one, moment)  # type: ignore[misc]
        kept = {}
        for index, (name, parameter) in enumerate(self._parameters.items()):
            for kind, get in kinds.items():
                whole = get(parameter)
                if index % self._ranks.world == self._ranks.rank:
                    kept[kind + name] = whole.detach().to("cpu", copy=True)
        if self._ranks.rank == 0:
            kept[STEP] = torch.tensor(self._adam_step())
        return kept

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Every rank takes its partition of each tensor; ZeRO makes Adam's state at the first update, so it is made."""
        adam, step = self._zero.optimizer, int(state[STEP])
        if step:
            for flat in self._flats():
                adam.state[flat] = {
                    "step": torch.tensor(float(step)),
                    "exp_avg": torch.zeros_like(flat),
                    "exp_avg_sq": torch.zeros_like(flat),
                }
            self._link()
        for name, parameter in self._parameters.items():
            master = state[MASTER + name]
            self._put(parameter, master, None)
            for moment in MOMENTS if step else ():
                self._put(parameter, state[f"{moment}/{name}"], moment)
            self._put_weight(parameter, master)

    def _flats(self) -> list[Tensor]:
        """This rank's flat float32 partitions, which Adam's state is of."""
        for attribute in (
            "fp32_partitioned_groups_flat",  # stage 3
            "single_partition_of_fp32_groups",  # stages 1 and 2
            "fp32_groups_flat_partition",  # stage 1 with bf16
        ):
            if hasattr(self._zero, attribute):
                return list(getattr(self._zero, attribute))
        raise RuntimeError(f"DeepSpeed's {type(self._zero).__name__} has none of the partitions that are known here")

    def _link(self) -> None:
        """Tie each parameter to Adam's state: DeepSpeed does it once, before all groups of parameters have a state."""
        if hasattr(self._zero, "_lazy_init_hp_params_optimizer_state"):  # stages 1 and 2
            self._zero._hp_optimizer_states_linked = False
            self._zero._lazy_init_hp_params_optimizer_state()

    def _adam_step(self) -> int:
        """Updates that Adam has made."""
        state = self._zero.optimizer.state
        return max((int(state[flat]["step"]) for flat in self._flats() if state.get(flat)), default=0)

    def _put(self, parameter: Any, value: Tensor, moment: str | None) -> None:
        """This rank's part of a master (`moment` None) or a moment."""
        value = value.to(self._ranks.device)
        if hasattr(parameter, "ds_id"):  # stage 3: equal parts, the last one padded
            size = parameter.ds_tensor.numel()
            flat = value.flatten()
            padded = torch.cat([flat, flat.new_zeros(size * self._ranks.world - len(flat))])
            part = padded.narrow(0, size * self._ranks.rank, size)
            if moment is None:
                self._utils.safe_set_local_fp32_param(parameter, part)
            else:
                self._utils.safe_set_local_optimizer_state(parameter, part, moment)
        elif moment is None:
            self._utils.safe_set_full_fp32_param(parameter, value)
        else:
            self._utils.safe_set_full_optimizer_state(parameter, value, moment)

    def _put_weight(self, parameter: Any, master: Tensor) -> None:
        """The weight that the forward pass uses."""
        if not hasattr(parameter, "ds_id"):
            parameter.data.copy_(master.to(self._ranks.device, parameter.dtype))
            return
        with self._gathered([parameter], modifier_rank=0):
            if self._ranks.rank == 0:
                parameter.data.copy_(master.to(self._ranks.device, parameter.dtype))
