"""The passes of one training step over its micro-batches, and what they measure: the same for every engine and rank.

An engine says through `Backend` how a micro-batch goes forward and backward and how its optimizer updates.
Sums stay on the device until the step ends, so that no micro-batch waits for a number.
"""

import itertools
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from services.learner import lora
from services.learner.algorithms.objective import Distilled, acts_on_uniform, mismatch, needs_reference, objective
from services.learner.algorithms.tokens import Tokens, Totals
from services.learner.attention.batch import Packed, Part, Ready, mini_batches, pack
from services.learner.engine import StepResult, StepWork
from services.learner.engines.share import Cost, MicroBatch, share
from services.learner.engines.team import Team
from services.learner.model import Images, TokenValues, VisionLanguageModel
from services.learner.pixels import PixelCache
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

    def update(self, step: int, total_steps: int) -> dict[str, float]:
        """Apply the gradient; returns norms, rates and `skipped` (1: the gradient was not finite)."""
        ...


@dataclass(frozen=True, eq=False)
class Update:
    """One optimizer update: this rank's micro-batches, and of all ranks what the loss is an average of."""

    batches: Sequence[MicroBatch]
    totals: Totals


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
        self._spec, self._pixels, self._backend, self._team = spec, pixels, backend, team
        self._settings, self._first = spec.algorithm, first
        self._features: dict[str, Tensor] = {}  # of a frozen tower, kept until the step ends
        self._sums: dict[str, Tensor] = {}
        self._largest = torch.zeros((), dtype=torch.float64, device=model.device)
        self._clocks: list[_Clock] = []

    def run(self, work: StepWork) -> StepResult:
        """All updates of the step; raises Diverged.

        With one update the policy is its own old policy: π_old is the detached current one, without another pass.
        With more, π_old (the proximal policy) is that of the step's start: computed once for the later mini-batches,
        and the first one, whose weights are still those, needs no pass either.
        """
        with self._tower_kept():
            return self._run(work)

    def _run(self, work: StepWork) -> StepResult:
        updates = self._plan(work)
        zero = torch.zeros((), dtype=torch.float64, device=self.model.device)
        sources = sorted({group.scored.prompt.source for group in work.groups})
        self._sums = {name: zero for source in sources for name in (f"mismatch_k3/{source}", f"measured/{source}")}
        later = updates[1:] if self._has_old_pass else []
        old = self._old_log_probs([batch for update in later for batch in update.batches])
        measured = []
        for update in updates:
            self._accumulate(update, old, work.importance)
            with self._clock("optimizer"):
                measured.append(self._backend.update(work.step, work.total_steps))
        metrics = self._metrics(len(updates)) | _mean(measured)
        tokens = sum(update.totals.tokens for update in updates)
        skipped = int(sum(one["skipped"] for one in measured))
        made = len(updates) - skipped
        metrics |= {"tokens": float(tokens), "skipped": float(skipped), "updates": float(made)}
        metrics["self_check"] = self.model.self_check
        return StepResult(metrics, _seconds(self._clocks), tokens, made, skipped)

    def _clock(self, name: str) -> "_Clock":
        self._clocks.append(_Clock(name, self.model.device))
        return self._clocks[-1]

    def _plan(self, work: StepWork) -> list[Update]:
        """What this rank computes in each update; every rank has equally many micro-batches."""
        algorithm, team = self._spec.algorithm, self._team
        cost = Cost.of(self.model.hf.config.get_text_config())
        updates = []
        for groups in mini_batches([group for group in work.groups if group.responses], algorithm.updates_per_step):
            computed = [group for group in groups if self._is_computed(group)] or groups[:1]
            shares = share(computed, team.world, self._spec.learner.tokens_per_batch, cost)
            tokens = sum(group.num_response_tokens for group in groups)
            sequences = sum(len(group.responses) for group in groups)
            updates.append(Update(shares[team.rank], Totals(tokens, sequences, self._spec.sampling.max_new_tokens)))
        return updates

    def _is_computed(self, group: Ready) -> bool:
        """A uniform group's advantages are 0: it is computed for another term of the loss, or to be measured."""
        return not group.uniform or acts_on_uniform(self._spec) or self._spec.learner.measure_uniform

    @property
    def _has_old_pass(self) -> bool:
        """Whether later updates' groups are seen once more, for the log-probs of the step's start."""
        return self._settings.updates_per_step > 1 and self._settings.old_policy == "recomputed"

    def _old_log_probs(self, batches: Sequence[MicroBatch]) -> dict[Key, Tensor]:
        """Log-probs of every response under the current weights, without gradient."""
        found: dict[Key, Tensor] = {}
        with torch.no_grad(), self._clock("proximal"):
            for parts in self._with_images_ahead(batches):
                packed, images = self._packed(parts)
                values = self._backend.token_values(packed, images, self._spec.sampling.temperature)
                found |= zip(_keys(packed), values.log_probs.split(_lengths(packed)), strict=True)
        return found

    def _accumulate(self, update: Update, old: Mapping[Key, Tensor], importance: bool) -> None:
        """Add the gradient of one update's loss."""
        for index, parts in enumerate(self._with_images_ahead(update.batches)):
            with self._clock("forward"):
                packed, images = self._packed(parts)
            reference = self._reference(packed, images)
            with self._clock("forward"):
                values = self._backend.token_values(packed, images, self._spec.sampling.temperature)
                loss = self._loss_of(packed, values, reference, old, update.totals, importance)
            with self._clock("backward"):
                self._backend.backward(loss, is_last=index == len(update.batches) - 1)
            self._add({"loss": loss})

    def _packed(self, parts: Sequence[Part]) -> tuple[Packed, Images]:
        return pack(parts, image_token_id=self.model.inputs.image_token_id), self._images(parts)

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

    # ---------------------------------------------------------------- images

    def _with_images_ahead(self, batches: Sequence[MicroBatch]) -> Iterator[MicroBatch]:
        """The micro-batches one by one, the images of the next being prepared beside each."""
        for index, parts in enumerate(batches):
            needed = {
                image.name: image
                for part in itertools.chain(*batches[index + 1 : index + 2])
                for image in part.group.images
            }
            self._pixels.ahead(image for name, image in needed.items() if name not in self._features)
            yield parts

    def _images(self, parts: Sequence[Part]) -> Images:
        """The micro-batch's images: features where the tower is frozen, else pixels that it must see with gradient."""
        needed = {image.name: image for part in parts for image in part.group.images}
        kept = {name: self._features[name] for name in needed if name in self._features}
        missing = {name: self._pixels.get(needed[name]) for name in sorted(needed.keys() - kept.keys())}
        # Those of a prompt with several images come last (`Family.collate`), equal sizes stand together.
        order = sorted(missing, key=lambda name: (not needed[name].alone, missing[name].grid))
        images = Images(kept, {name: missing[name] for name in order})
        if not self.model.vision_frozen:
            return self.model.with_dummy(images) if self._team.world > 1 and not missing else images
        features = self.model.features_of(images)
        if self._has_old_pass:
            self._keep(features)
        return Images(features)

    @contextmanager
    def _tower_kept(self) -> Iterator[None]:
        """What a frozen tower hands to a trained connector is kept until the step ends, if a pass needs it again."""
        tower = self.model.tower
        under_adapters = needs_reference(self._settings) and self._first is None
        if tower is None or not (self._has_old_pass or under_adapters):
            yield
            return
        tower.limit_bytes = int(self._spec.learner.feature_memory_gib * GIB)
        try:
            yield
        finally:
            tower.forget()

    def _keep(self, features: Mapping[str, Tensor]) -> None:
        """Keep a frozen tower's features for the passes of this step that need them again, within their bound."""
        held = sum(value.nbytes for value in self._features.values())
        for name, value in features.items():
            if name not in self._features and held + value.nbytes <= self._spec.learner.feature_memory_gib * GIB:
                self._features[name] = value
                held += value.nbytes

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
        self._add({name: share_of * value for name, value in (sums | self._apart(packed, recomputed, rollout)).items()})
        return share_of * loss

    def _distilled(self, packed: Packed) -> Distilled | None:
        if not self._spec.distillation.model:
            return None
        teacher = torch.from_numpy(packed.teacher_log_probs).to(self.model.device, non_blocking=True)
        return Distilled(teacher, self._spec.distillation.coefficient)

    def _apart(self, packed: Packed, log_probs: Tensor, rollout: Tensor) -> dict[str, Tensor]:
        """Sums of how far sampler and learner are apart, in all and by source."""
        apart, share_of = mismatch(log_probs, rollout), 0.0 if packed.parts[0].is_filler else 1.0
        self._largest = torch.maximum(self._largest, share_of * apart["mismatch_abs"].max().double())
        counts = [sum(len(row.token_ids) for row in part.responses) for part in packed.parts]
        sums = {name: values.sum() for name, values in apart.items()} | {"measured": torch.tensor(float(sum(counts)))}
        for part, k3 in zip(packed.parts, apart["mismatch_k3"].split(counts), strict=True):
            source = part.group.scored.prompt.source
            for name, value in ((f"mismatch_k3/{source}", k3.sum()), (f"measured/{source}", float(len(k3)))):
                sums[name] = sums.get(name, torch.zeros((), device=k3.device)) + value
        return sums

    def _add(self, sums: Mapping[str, Tensor]) -> None:
        for name, value in sums.items():
            value = value.detach().to(self.model.device, torch.float64, non_blocking=True)
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def _metrics(self, updates: int) -> dict[str, float]:
        """Means over the measured response tokens of all ranks, the mean loss of the updates, the largest mismatch."""
        sums, maxima = self._team.reduce(self._sums, {"mismatch_max": self._largest})
        measured, loss = sums.pop("measured", 0.0), sums.pop("loss", 0.0)
        counts = {name: sums.pop(name) for name in list(sums) if name.startswith("measured/")}
        counts["teacher_kl"] = sums.get("teacher_known", 0.0)
        means = {
            name: value / count
            for name, value in sums.items()
            if (count := counts.get(name.replace("mismatch_k3/", "measured/"), measured))
        }
        return means | maxima | {"loss": loss / max(1, updates), "measured_tokens": measured}


def _keys(packed: Packed) -> list[Key]:
    return [(part.group.ordinal, row.index) for part in packed.parts for row in part.responses]


def _lengths(packed: Packed) -> list[int]:
    return [len(row.token_ids) for part in packed.parts for row in part.responses]


class _Clock:
    """Takes the seconds of a `with` block: on CUDA by events in its stream, which nothing waits for until the end."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        self._cuda = device.type == "cuda"
        self._marks: list[torch.cuda.Event] = []
        self._times: list[float] = []

    def __enter__(self) -> None:
        self._mark()

    def __exit__(self, *_: object) -> None:
        self._mark()

    def _mark(self) -> None:
        if self._cuda:
            self._marks.append(torch.cuda.Event(enable_timing=True))
            self._marks[-1].record()
        else:
            self._times.append(time.perf_counter())

    def seconds(self) -> float:
        if self._cuda:
            start, end = self._marks
            end.synchronize()
            return start.elapsed_time(end) / 1e3
        return self._times[1] - self._times[0]


def _seconds(clocks: Sequence[_Clock]) -> dict[str, float]:
    """Seconds by name."""
    found: defaultdict[str, float] = defaultdict(float)
    for clock in clocks:
        found[clock.name] += clock.seconds()
    return dict(found)


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means by name over finite values; a name without any is left out (the norms of a skipped update)."""
    values: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        for name, value in row.items():
            if math.isfinite(value):
                values[name].append(value)
    return {name: sum(found) / len(found) for name, found in values.items()}
