"""AdamW with a rate for each component, clipped gradients, and no update from a gradient that is not finite."""

import math
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from services.learner.model import COMPONENTS, Component, component_of, layer_of
from shared.errors import Corrupt, TriuneError
from shared.jobs import spec

MAX_SKIPPED_IN_A_ROW = 10
SKIPPED = "skipped_in_a_row"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


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


def peak_rate(settings: spec.Optimizer, component: Component) -> float:
    """The component's own rate, or the common one."""
    own = {"vit": settings.learning_rate_vit, "connector": settings.learning_rate_connector, "llm": None}[component]
    return settings.learning_rate if own is None else own


class ClippedAdamW:
    """Decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101) behind a clip by global norm.

    torch's fused kernel where it exists for the parameters' device. Weight decay acts on every trained parameter, as
    in V-Triune.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], settings: spec.Optimizer) -> None:
        self._settings = settings
        self._parameters = dict(parameters)
        self._skipped_in_a_row = 0
        groups = []
        for component in COMPONENTS:
            members = [parameter for name, parameter in parameters.items() if component_of(name) == component]
            if members:
                groups.append({"params": members, "component": component})
        self._adam = torch.optim.AdamW(
            groups,
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
            fused=True,
        )

    def update(self, step: int, total_steps: int) -> dict[str, float]:
        """Clip and apply the gradients, clear them, and return norms and rates; raises Diverged.

        Metrics: `grad_norm` (before the clip), `grad_norm/<component>`, `layer_grad_norm/<layer>`, `lr` and
        `lr/<component>`, `skipped` (1 when the norm was not finite and nothing was applied).
        """
        for parameter in self._parameters.values():
            if parameter.grad is None:  # no image, or no group with a gradient: it is 0, and momentum goes on
                parameter.grad = torch.zeros_like(parameter)
        metrics, total = self._norms()
        factor = rate_factor(self._settings, step, total_steps)
        for group in self._adam.param_groups:
            group["lr"] = factor * peak_rate(self._settings, group["component"])
            metrics[f"lr/{group['component']}"] = group["lr"]
        metrics["lr"] = factor * self._settings.learning_rate
        metrics["skipped"] = float(not math.isfinite(total))
        if math.isfinite(total):
            self._apply(total)
        else:
            self._skip(total)
        self._adam.zero_grad(set_to_none=True)
        return metrics

    def _apply(self, total: float) -> None:
        self._skipped_in_a_row = 0
        shrink = self._settings.max_grad_norm / (total + 1e-6)
        if shrink < 1.0:
            torch._foreach_mul_([gradient for _, gradient in self._gradients()], shrink)
        self._adam.step()

    def _skip(self, total: float) -> None:
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise Diverged(
                f"the gradient norm was {total} in {MAX_SKIPPED_IN_A_ROW} updates in a row; expected a finite one"
            )

    def _gradients(self) -> list[tuple[str, Tensor]]:
        return [(name, parameter.grad) for name, parameter in self._parameters.items() if parameter.grad is not None]

    def _norms(self) -> tuple[dict[str, float], float]:
        named = self._gradients()
        norms = torch.stack(torch._foreach_norm([gradient for _, gradient in named])).double().tolist()
        squares: defaultdict[str, float] = defaultdict(float)
        for (name, _), norm in zip(named, norms, strict=True):
            squares["grad_norm"] += norm**2
            squares[f"grad_norm/{component_of(name)}"] += norm**2
            squares[f"layer_grad_norm/{layer_of(name)}"] += norm**2
        metrics = {name: math.sqrt(square) for name, square in squares.items()}
        return metrics, metrics["grad_norm"]

    def state(self) -> dict[str, Tensor]:
        """Moments and step of every parameter as `<moment>/<parameter>`, and the count of updates skipped in a row.

        On the CPU these are the optimizer's own tensors, not copies.
        """
        tensors = {SKIPPED: torch.tensor(self._skipped_in_a_row)}
        for name, parameter in self._parameters.items():
            for moment, value in self._adam.state.get(parameter, {}).items():
                tensors[f"{moment}/{name}"] = value.detach().cpu().contiguous()
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave; raises Corrupt when it names other parameters or shapes."""
        known = {f"{moment}/{name}" for moment in _MOMENTS for name in self._parameters}
        if unknown := sorted(tensors.keys() - known - {SKIPPED}):
            raise Corrupt(f"the optimizer's state holds {unknown[0]!r}; the job trains no such parameter")
        for name, parameter in self._parameters.items():
            held = {moment: tensors[key] for moment in _MOMENTS if (key := f"{moment}/{name}") in tensors}
            if not held:
                continue
            if held.keys() != set(_MOMENTS) or held["exp_avg"].shape != parameter.shape:
                raise Corrupt(
                    f"the optimizer's state of {name!r} is incomplete or of another shape than {tuple(parameter.shape)}"
                )
            self._adam.state[parameter] = {moment: value.to(parameter.device) for moment, value in held.items()}
        self._skipped_in_a_row = int(tensors[SKIPPED]) if SKIPPED in tensors else 0
