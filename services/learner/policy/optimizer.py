"""AdamW with a rate for each component, clipped gradients, and no update from a gradient that is not finite."""

import functools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from shared.errors import BadJob, Corrupt, TriuneError
from shared.jobs import spec
from shared.models.roles import ROLES, Role, layer_of, role_of

MAX_SKIPPED_IN_A_ROW = 10
SKIPPED = "skipped_in_a_row"
MASTER = "master/"
StateKind = Literal["float32", "8bit", "cpu"]


class Diverged(TriuneError):
    """The gradient was not finite in so many updates in a row that training cannot go on."""


def rate_factor(settings: spec.Optimizer, step: int, total_steps: int) -> float:
    """Share of the peak rate at training step `step` (from 1), in (0, 1].

    Linear warm-up step/warmup_steps, then constant, or a half cosine from 1 towards 0 at the end of `total_steps`.
    Deviation: V-Triune's factor is 0 at the first step, which is thereby lost; here it is 1/warmup_steps.
    """
    if step <= settings.warmup_steps:
        return step / settings.warmup_steps
    if settings.schedule == "constant":
        return 1.0
    progress = (step - 1 - settings.warmup_steps) / max(1, total_steps - settings.warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def peak_rate(settings: spec.Optimizer, component: Role) -> float:
    """The component's own rate, or the common one."""
    own = {"vit": settings.learning_rate_vit, "connector": settings.learning_rate_connector, "llm": None}[component]
    return settings.learning_rate if own is None else own


def adam_groups(parameters: Mapping[str, nn.Parameter]) -> list[dict[str, Any]]:
    """A parameter group for each component that has any, marked with its name."""
    groups = []
    for component in ROLES:
        members = [parameter for name, parameter in parameters.items() if role_of(name) == component]
        if members:
            groups.append({"params": members, "component": component})
    return groups


def set_rates(
    groups: Sequence[dict[str, Any]], settings: spec.Optimizer, step: int, total_steps: int
) -> dict[str, float]:
    """Give each group the rate of its component at `step`; returns them as `lr` and `lr/<component>`."""
    factor = rate_factor(settings, step, total_steps)
    rates = {"lr": factor * settings.learning_rate}
    for group in groups:
        group["lr"] = rates[f"lr/{group['component']}"] = factor * peak_rate(settings, group["component"])
    return rates


def norms_of(squares: Mapping[str, float]) -> dict[str, float]:
    """`grad_norm`, `grad_norm/<component>` and `layer_grad_norm/<layer>` from each parameter's squared norm."""
    sums: defaultdict[str, float] = defaultdict(float)
    for name, square in squares.items():
        for key in ("grad_norm", f"grad_norm/{role_of(name)}", f"layer_grad_norm/{layer_of(name)}"):
            sums[key] += square
    return {key: math.sqrt(total) for key, total in sums.items()}


class Patience:
    """Counts updates that were skipped in a row, since their gradient was not finite."""

    def __init__(self, skipped: int = 0) -> None:
        self.skipped = skipped

    def see(self, norm: float) -> bool:
        """Whether an update with this gradient norm is applied; raises Diverged."""
        if math.isfinite(norm):
            self.skipped = 0
            return True
        self.skipped += 1
        if self.skipped >= MAX_SKIPPED_IN_A_ROW:
            raise Diverged(
                f"the gradient norm was {norm} in {MAX_SKIPPED_IN_A_ROW} updates in a row; expected a finite one"
            )
        return False


class ClippedAdamW:
    """Decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101) behind a clip by global norm.

    A parameter of less than 32 bits has a master, a float32 copy that is updated and then rounded to it, and its
    gradient is summed in float32 over micro-batches. `state` says where moments and masters are: `float32` on the
    parameters' device, `8bit` there with moments in 8 bits (Dettmers et al. 2022, arXiv:2110.02861), `cpu` in the
    host's memory, where one tensor after the other is updated. Weight decay acts on every trained parameter, as in
    V-Triune.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], settings: spec.Optimizer, state: StateKind = "float32"
    ) -> None:
        self._settings, self._state = settings, state
        self._parameters = dict(parameters)
        self._sums: dict[str, Tensor] = {}  # gradients of parameters that have a master
        self._masters = {name: self._master(name, parameter) for name, parameter in parameters.items()}
        self._patience = Patience()
        self._adam = self._make(self._masters)
        # In the host's memory each tensor has an optimizer of its own, so that one gradient at a time is there.
        self._single = {name: self._make({name: master}) for name, master in self._masters.items() if state == "cpu"}

    def _master(self, name: str, parameter: nn.Parameter) -> nn.Parameter:
        place = torch.device("cpu") if self._state == "cpu" else parameter.device
        if parameter.dtype == torch.float32 and parameter.device == place:
            return parameter
        parameter.register_post_accumulate_grad_hook(functools.partial(self._collect, name))
        return nn.Parameter(parameter.detach().to(place, torch.float32, copy=True))

    def _collect(self, name: str, parameter: Tensor) -> None:
        """Move a fresh gradient into its sum."""
        assert parameter.grad is not None
        if name in self._sums:
            self._sums[name] += parameter.grad
        else:
            self._sums[name] = parameter.grad.float()
        parameter.grad = None

    def _make(self, masters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        settings = self._settings
        common: dict[str, Any] = {
            "lr": settings.learning_rate,
            "betas": (settings.beta1, settings.beta2),
            "weight_decay": settings.weight_decay,
        }
        if self._state == "8bit":
            return _adam_8bit(adam_groups(masters), common)
        return torch.optim.AdamW(adam_groups(masters), fused=True, **common)

    # ---------------------------------------------------------------- an update

    def update(self, step: int, total_steps: int, divisor: float = 1.0) -> dict[str, float]:
        """Divide, clip and apply the gradients, clear them, and return norms and rates; raises Diverged.

        Metrics: `grad_norm` (before the clip), `grad_norm/<component>`, `layer_grad_norm/<layer>`, `lr` and
        `lr/<component>`, `skipped` (1 when the norm was not finite and nothing was applied).
        """
        gradients = {name: self._gradient(name) for name in self._parameters}
        sizes = torch.stack(torch._foreach_norm(list(gradients.values()))).double().tolist()
        metrics = norms_of({name: (size / divisor) ** 2 for name, size in zip(gradients, sizes, strict=True)})
        for adam in (self._adam, *self._single.values()):
            metrics |= set_rates(adam.param_groups, self._settings, step, total_steps)
        applied = self._patience.see(metrics["grad_norm"])
        if applied:
            factor = min(1.0, self._settings.max_grad_norm / (metrics["grad_norm"] + 1e-6)) / divisor
            if factor != 1.0:
                torch._foreach_mul_(list(gradients.values()), factor)
            self._apply(gradients)
        self.clear()
        return metrics | {"skipped": float(not applied)}

    def _gradient(self, name: str) -> Tensor:
        """The parameter's summed gradient; 0 where no image and no group had one: momentum goes on."""
        parameter = self._parameters[name]
        found = parameter.grad if self._masters[name] is parameter else self._sums.get(name)
        return torch.zeros_like(parameter, dtype=torch.float32) if found is None else found

    def _apply(self, gradients: Mapping[str, Tensor]) -> None:
        if not self._single:
            for name, gradient in gradients.items():
                self._masters[name].grad = gradient
            self._adam.step()
        for name, adam in self._single.items():
            self._masters[name].grad = gradients[name].to(self._masters[name].device)
            adam.step()
            self._masters[name].grad = None
        self._round()

    def _round(self) -> None:
        """Give every parameter the value of its master."""
        with torch.no_grad():
            for name, master in self._masters.items():
                if master is not self._parameters[name]:
                    self._parameters[name].copy_(master)

    def clear(self) -> None:
        """Forget the gradients."""
        self._sums.clear()
        for tensor in (*self._parameters.values(), *self._masters.values()):
            tensor.grad = None

    def move(self, device: torch.device) -> None:
        """Bring masters and moments beside parameters that were moved to `device`, unless the host keeps them."""
        if self._state == "cpu":
            return
        for name, master in self._masters.items():
            if master is not self._parameters[name]:
                master.data = master.data.to(device)
            held = self._adam.state.get(master, {})
            held.update({kind: value.to(device) for kind, value in held.items() if isinstance(value, Tensor)})

    # ---------------------------------------------------------------- checkpoints

    def state(self) -> dict[str, Tensor]:
        """Masters as `master/<parameter>`, what Adam holds as `<kind>/<parameter>`, and how many updates were skipped.

        On the CPU these are the optimizer's own tensors, not copies.
        """
        tensors = {SKIPPED: torch.tensor(self._patience.skipped)}
        for name, master in self._masters.items():
            tensors[MASTER + name] = master.detach().cpu()
            for kind, value in self._held(name).items():
                tensors[f"{kind}/{name}"] = _as_tensor(value, copy=self._state == "8bit")
        return tensors

    def _held(self, name: str) -> dict[str, Any]:
        """What Adam holds of a parameter; empty before its first update."""
        adam, master = self._single.get(name, self._adam), self._masters[name]
        return dict(adam.state.get(master, {}))

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave; raises Corrupt when it names other parameters or shapes."""
        kinds: defaultdict[str, list[str]] = defaultdict(list)
        for key in tensors:
            kind, _, name = key.partition("/")
            if name not in self._parameters and key != SKIPPED:
                raise Corrupt(f"the optimizer's state holds {key!r}; the job trains no such parameter")
            kinds[name].append(kind)
        for name, parameter in self._parameters.items():
            if MASTER + name not in tensors or tensors[MASTER + name].shape != parameter.shape:
                raise Corrupt(
                    f"the optimizer's state of {name!r} is missing or of another shape than {parameter.shape}"
                )
            with torch.no_grad():
                self._masters[name].copy_(tensors[MASTER + name])
            self._restore_moments(name, {kind: tensors[f"{kind}/{name}"] for kind in kinds[name]})
        self._round()
        self._patience = Patience(int(tensors[SKIPPED]))

    def _restore_moments(self, name: str, held: dict[str, Tensor]) -> None:
        held.pop("master")
        if not held:
            return
        expected = {"8bit": {"state1", "state2", "step"}}.get(self._state, {"exp_avg", "exp_avg_sq", "step"})
        if not expected <= held.keys():
            missing = ", ".join(sorted(expected - held.keys()))
            raise Corrupt(f"the optimizer's state of {name!r} lacks {missing} (optimizer_state is {self._state!r})")
        adam, master = self._single.get(name, self._adam), self._masters[name]
        adam.state[master] = {kind: value.to(master.device) for kind, value in held.items()}
        if self._state == "8bit":
            adam.state[master]["step"] = int(held["step"])


def _as_tensor(value: Any, *, copy: bool) -> Tensor:
    """A piece of an optimizer's state; `copy` it where pieces of several parameters are one tensor."""
    if not isinstance(value, Tensor):
        return torch.tensor(value)
    value = value.detach().cpu().contiguous()
    return value.clone() if copy else value


def _adam_8bit(groups: list[dict[str, Any]], common: dict[str, Any]) -> torch.optim.Optimizer:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise BadJob([f"learner.optimizer_state is '8bit', which needs bitsandbytes: {error}"]) from error
    return AdamW8bit(groups, **common)
