"""The passes of one training step over its micro-batches: the same for every engine and rank.

An engine says through `Backend` how a micro-batch goes forward and backward and how its optimizer updates.
No micro-batch waits for a number: what is measured stays on the device until the step ends (`measures`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from services.learner.algorithms.objective import Distilled, needs_reference, objective
from services.learner.algorithms.tokens import Tokens, Totals
from services.learner.attention.batch import Packed, Part, Ready, pack
from services.learner.engine import StepResult, StepWork
from services.learner.engines.clock import Clock, seconds
from services.learner.engines.measures import Measures, finite_means
from services.learner.engines.plan import Plan, filler
from services.learner.engines.share import Cost, MicroBatch
from services.learner.engines.step_images import StepImages
from services.learner.engines.team import Team
from services.learner.intake.pixels import PixelCache
from services.learner.policy import lora
from services.learner.policy.model import Images, TokenValues, VisionLanguageModel
from shared.jobs.spec import JobSpec

GIB = 1024**3
Key = tuple[int, int]
"""(group's ordinal, completion's index): names a response within a step."""


class Backend(Protocol):
    """What differs between engines."""

    def token_values(self, packed: Packed, images: Images, temperature: float) -> TokenValues:
        """Log-probs and entropies of a micro-batch's response tokens."""
        ...

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        """Add the gradient of `loss`; `is_last`: of the update."""
        ...

    def update(self, step: int, total_steps: int, divisor: float) -> dict[str, float]:
        """Apply the gradient over `divisor`; returns norms, rates and `skipped` (1: the gradient was not finite)."""
        ...

    def drop(self, again: Callable[[], Tensor]) -> None:
        """Let go of the gradient that was added; `again` makes a pass and gives a scalar of it, if one is needed."""
        ...


class Passes:
    """One training step on one rank."""

    def __init__(
        self,
        model: VisionLanguageModel,
        spec: JobSpec,
        pixels: PixelCache,
        backend: Backend,
        team: Team,
        first: VisionLanguageModel | None = None,
    ) -> None:
        """`first` has the job's first weights; None: they are those beneath the adapters, or no loss needs them."""
        self.model = model
        self._spec, self._backend, self._team = spec, backend, team
        self._settings, self._first = spec.algorithm, first
        again, under_adapters = self._has_old_pass, needs_reference(spec.algorithm) and first is None
        limit = int(spec.learner.feature_memory_gib * GIB)
        self._images = StepImages(
            model,
            pixels,
            in_team=team.world > 1,
            feature_bytes=limit if again else 0,
            tower_bytes=limit if again or under_adapters else 0,
        )
        self._measures = Measures(model.device)
        self._clocks: list[Clock] = []
        self._plan = Plan(spec, Cost.of(model.hf.config.get_text_config()), team)
        self._portions: list[list[int]] = []
        self._computed: dict[int, Ready] = {}  # of the portions
        self._importance = False

    def begin(self, groups: Sequence[Ready], *, importance: bool) -> None:
        """Add the gradient of a portion of the step.

        On a CPU with half of the threads: the rollout beside it needs the others. Made again, it takes as many, since
        the bits follow their number.
        """
        self._portions.append([group.ordinal for group in groups])
        self._importance = importance
        computed = self._plan.portion(groups)
        self._computed |= computed
        if computed:
            batches = self._plan.share(list(computed.values()))
            with self._images.kept(), _half_of_the_threads(self.model.device):
                self._accumulate(batches, self._plan.undivided, {}, importance, is_rest=False)

    def drop(self) -> None:
        """Let go of what was begun."""

        def again() -> Tensor:
            packed, images = self._packed([filler(next(iter(self._computed.values())))])
            return self._backend.token_values(packed, images, self._spec.sampling.temperature).log_probs.sum()

        if self._computed:
            self._backend.drop(again)

    def is_begun_of(self, work: StepWork) -> bool:
        """Whether what was begun is how `work` begins."""
        return self._portions == [list(portion) for portion in work.portions] and self._importance == work.importance

    def run(self, work: StepWork) -> StepResult:
        """All updates of the step; raises Diverged.

        With one update the policy is its own old policy: π_old is the detached current one, without another pass.
        With more, π_old (the proximal policy) is that of the step's start: computed once for the later mini-batches,
        and the first one, whose weights are still those, needs no pass either.
        """
        with self._images.kept():
            return self._run(work)

    def _run(self, work: StepWork) -> StepResult:
        groups = {group.ordinal: group for group in work.groups}
        for portion in work.portions if not self._portions else ():
            self.begin([groups[ordinal] for ordinal in portion], importance=work.importance)
        updates = self._plan.updates(work.groups, self._computed, has_portions=bool(self._portions))
        later = updates[1:] if self._has_old_pass else []
        old = self._old_log_probs([batch for update in later for batch in update.batches])
        measured = []
        for update in updates:
            self._accumulate(update.batches, update.totals, old, work.importance)
            self._measures.divide_loss(update.divisor)
            with self._clock("optimizer"):
                measured.append(self._backend.update(work.step, work.total_steps, update.divisor))
        sources = sorted({group.scored.prompt.source for group in work.groups})
        metrics = self._measures.metrics(self._team, sources, len(updates)) | finite_means(measured)
        tokens = sum(update.num_tokens for update in updates)
        skipped = int(sum(one["skipped"] for one in measured))
        made = len(updates) - skipped
        metrics |= {"tokens": float(tokens), "skipped": float(skipped), "updates": float(made)}
        metrics["self_check"] = self.model.self_check
        return StepResult(metrics, seconds(self._clocks), tokens, made, skipped)

    def _clock(self, name: str) -> "Clock":
        self._clocks.append(Clock(name, self.model.device))
        return self._clocks[-1]

    @property
    def _has_old_pass(self) -> bool:
        """Whether later updates' groups are seen once more, for the log-probs of the step's start."""
        return self._settings.updates_per_step > 1 and self._settings.old_policy == "recomputed"

    def _old_log_probs(self, batches: Sequence[MicroBatch]) -> dict[Key, Tensor]:
        """Log-probs of every response under the current weights, without gradient."""
        found: dict[Key, Tensor] = {}
        with torch.no_grad(), self._clock("proximal"):
            for parts in self._images.ahead(batches):
                packed, images = self._packed(parts)
                values = self._backend.token_values(packed, images, self._spec.sampling.temperature)
                found |= zip(_keys(packed), values.log_probs.split(_lengths(packed)), strict=True)
        return found

    def _accumulate(
        self,
        batches: Sequence[MicroBatch],
        totals: Totals,
        old: Mapping[Key, Tensor],
        importance: bool,
        *,
        is_rest: bool = True,
    ) -> None:
        """Add the gradient of micro-batches; `is_rest`: they are the update's last ones."""
        for index, parts in enumerate(self._images.ahead(batches)):
            with self._clock("forward"):
                packed, images = self._packed(parts)
            reference = self._reference(packed, images)
            with self._clock("forward"):
                values = self._backend.token_values(packed, images, self._spec.sampling.temperature)
                loss = self._loss_of(packed, values, reference, old, totals, importance)
            with self._clock("backward"):
                self._backend.backward(loss, is_last=is_rest and index == len(batches) - 1)
            self._measures.add({"loss": loss})

    def _packed(self, parts: Sequence[Part]) -> tuple[Packed, Images]:
        return pack(parts, image_token_id=self.model.inputs.image_token_id), self._images.of(parts)

    def _reference(self, packed: Packed, images: Images) -> Tensor | None:
        """Log-probs under the first weights.

        It comes before the pass with gradient, which ZeRO-3 expects to be followed by the backward pass.
        """
        if not needs_reference(self._settings):
            return None
        temperature = self._spec.sampling.temperature
        with torch.no_grad(), self._clock("reference"):
            if self._first is not None:
                return self._first.token_values(packed, images, temperature).log_probs
            with lora.switched_off(self.model.hf):
                return self._backend.token_values(packed, images, temperature).log_probs

    # ---------------------------------------------------------------- loss and sums

    def _loss_of(
        self,
        packed: Packed,
        values: TokenValues,
        reference: Tensor | None,
        old: Mapping[Key, Tensor],
        totals: Totals,
        importance: bool,
    ) -> Tensor:
        """This micro-batch's part of the update's loss; a filler's counts nothing, in the loss and in the sums."""
        device, keys, log_probs = self.model.device, _keys(packed), values.log_probs
        share_of = 0.0 if packed.parts[0].is_filler else 1.0
        rollout = torch.from_numpy(packed.rollout_log_probs).to(device, non_blocking=True)
        recomputed = torch.cat([old[key] for key in keys]) if keys[0] in old else log_probs.detach()
        against_rollout = self._settings.old_policy == "rollout"
        tokens = Tokens(
            log_probs,
            proximal=rollout if against_rollout else recomputed,
            rollout=rollout,
            advantages=torch.from_numpy(packed.advantages).to(device, non_blocking=True),
            lengths=torch.tensor(_lengths(packed), device=device),
        )
        loss, sums = objective(
            tokens,
            values.entropy,
            reference,
            self._settings,
            totals,
            corrected=importance and not against_rollout,
            distilled=self._distilled(packed),
        )
        self._measures.add_tokens(packed, sums, recomputed, rollout)
        return share_of * loss

    def _distilled(self, packed: Packed) -> Distilled | None:
        if not self._spec.distillation.model:
            return None
        teacher = torch.from_numpy(packed.teacher_log_probs).to(self.model.device, non_blocking=True)
        return Distilled(teacher, self._spec.distillation.coefficient)


def _keys(packed: Packed) -> list[Key]:
    return [(part.group.ordinal, row.index) for part in packed.parts for row in part.responses]


def _lengths(packed: Packed) -> list[int]:
    return [len(row.token_ids) for part in packed.parts for row in part.responses]


@contextmanager
def _half_of_the_threads(device: torch.device) -> Iterator[None]:
    if device.type != "cpu":
        yield
        return
    count = torch.get_num_threads()
    torch.set_num_threads(max(1, count // 2))
    try:
        yield
    finally:
        torch.set_num_threads(count)
