"""One process, one device, plain torch: the engine for a laptop and for a single GPU.

On the CPU equal inputs, equal state and an equal number of threads give equal bits. On a GPU it has never run.
"""

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from services.learner.algorithms import losses
from services.learner.attention.batch import Packed, Part, Ready, micro_batches, mini_batches, pack
from services.learner.engine import StepResult
from services.learner.ingest import make_ready
from services.learner.model import TokenValues, VisionLanguageModel
from services.learner.optimizer import ClippedAdamW
from services.learner.pixels import PixelCache
from shared.errors import BadJob, Corrupt, TriuneError
from shared.jobs.spec import JobSpec
from shared.messages import Scored

OPTIMIZER_FILE = "optimizer.safetensors"
RNG = "rng/cpu"
FEATURE_BYTES = 2 * 1024 * 1024 * 1024
"""Image features kept within a step for its later passes; the others are computed again."""

Key = tuple[int, int]
"""(group's ordinal, completion's index): names a response within a step."""


class TorchEngine:
    """See `services.learner.engine.Engine`, which this implements."""

    _spec: JobSpec
    model: VisionLanguageModel
    _optimizer: ClippedAdamW
    pixels: PixelCache

    def load(self, spec: JobSpec) -> dict[str, object]:
        """Load the job's model on the GPU if there is one, else on the CPU; raises BadJob."""
        self._spec = spec
        with fits(spec):
            self._build(spec.model)
        torch.manual_seed(spec.seed)
        trained = sum(parameter.numel() for parameter in self.model.trainable().values())
        return {
            "device": str(self.model.device),
            "dtype": spec.learner.dtype,
            "attention": self.model.attention,
            "trained_parameters": trained,
            "threads": torch.get_num_threads(),
        }

    def _build(self, source: str | Path) -> None:
        spec = self._spec
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = VisionLanguageModel(source, dtype=spec.learner.dtype, device=device, freeze=spec.optimizer.freeze)
        self._optimizer = ClippedAdamW(self.model.trainable(), spec.optimizer)
        self.pixels = PixelCache(
            self.model.image_processor,
            min_pixels=spec.data.min_image_pixels,
            max_pixels=spec.data.max_image_pixels,
        )

    def ingest(self, group: Scored, image_bytes: Sequence[bytes]) -> Ready:
        """Check and convert a group; raises BadSample. Safe beside a running step."""
        return make_ready(group, image_bytes, model=self.model, cache=self.pixels, kind=self._spec.algorithm.advantage)

    def step(self, groups: Sequence[Ready], *, step: int, total_steps: int, importance: bool) -> StepResult:
        """The updates of one training step; raises Diverged, DoesNotFit.

        With one update the policy is its own old policy: π_old is the detached current one, without another pass.
        With more, π_old (the proximal policy) is that of the step's start: computed once for the later mini-batches,
        and the first one, whose weights are still those, needs no pass either.
        """
        with fits(self._spec):
            return self._step(groups, step, total_steps, importance)

    def _step(self, groups: Sequence[Ready], step: int, total_steps: int, importance: bool) -> StepResult:
        run = _Step(self.model, self._spec, self.pixels, importance)
        batches = mini_batches([group for group in groups if group.responses], self._spec.algorithm.updates_per_step)
        old = run.old_log_probs([group for batch in batches[1:] for group in batch])
        updates = []
        for batch in batches:
            run.accumulate(batch, old)
            with run.clock("optimizer"):
                updates.append(self._optimizer.update(step, total_steps))
        metrics = run.metrics() | _mean(updates)
        skipped = int(sum(update["skipped"] for update in updates))
        metrics |= {"skipped": float(skipped), "updates": float(len(updates) - skipped)}
        return StepResult(metrics, dict(run.seconds), run.num_tokens, len(updates) - skipped, skipped)

    def weights(self, *, trainable_only: bool) -> dict[str, Tensor]:
        """CPU copies in the job's type (float32 or bfloat16), by state-dict name; tied tensors once."""
        dtype = torch.bfloat16 if self._spec.learner.dtype == "bfloat16" else torch.float32
        found = self.model.tensors(trainable_only=trainable_only)
        return {name: tensor.detach().to("cpu", dtype, copy=True).contiguous() for name, tensor in found.items()}

    def save(self, folder: Path) -> None:
        """Write `model/` (trained tensors in float32, so that bits are kept) and `optimizer.safetensors`."""
        self.model.save(folder / "model")
        save_file(self._optimizer.state() | {RNG: torch.get_rng_state()}, folder / OPTIMIZER_FILE)

    def restore(self, folder: Path) -> None:
        """Continue from what `save` wrote; raises Corrupt when it belongs to another model or job."""
        try:
            tensors = load_file(folder / OPTIMIZER_FILE)
            del self.model, self._optimizer  # not two models at a time
            with fits(self._spec):
                self._build(folder / "model")
        except (OSError, SafetensorError, BadJob) as error:
            raise Corrupt(f"checkpoint {folder} cannot be loaded: {error}") from error
        torch.set_rng_state(tensors.pop(RNG))
        self._optimizer.restore(tensors)


class DoesNotFit(TriuneError):
    """The device has not enough memory for the model or for a step of this job."""


@contextmanager
def fits(spec: JobSpec) -> Iterator[None]:
    """Say in one sentence that the device's memory ran out, and which key to lower."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DoesNotFit(
            f"the device ran out of memory training {spec.model} with learner.tokens_per_batch "
            f"{spec.learner.tokens_per_batch}; lower it, or freeze more components ({str(error).splitlines()[0]})"
        ) from error


class _Step:
    """Sums and helpers that live for one training step."""

    def __init__(self, model: VisionLanguageModel, spec: JobSpec, cache: PixelCache, importance: bool) -> None:
        self.model = model
        self._spec = spec
        self.pixels = cache
        self._importance = importance
        self._clip = losses.Clip.of(spec.algorithm)
        self._features: dict[str, Tensor] = {}  # of a frozen tower, kept until the step ends
        self._sums: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
        self._loss = 0.0
        self._largest = 0.0
        self._updates = 0
        self.num_tokens = 0
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def clock(self, name: str) -> "_Clock":
        return _Clock(self.seconds, name, self.model.device)

    def old_log_probs(self, groups: Sequence[Ready]) -> dict[Key, Tensor]:
        """Log-probs of every response under the current weights, without gradient."""
        found: dict[Key, Tensor] = {}
        with torch.no_grad(), self.clock("proximal"):
            for parts in micro_batches(groups, self._spec.learner.tokens_per_batch):
                packed, values = self._values(parts)
                keys = [(part.group.ordinal, row.index) for part in packed.parts for row in part.responses]
                lengths = [len(row.token_ids) for part in packed.parts for row in part.responses]
                found |= zip(keys, values.log_probs.split(lengths), strict=True)
        return found

    def accumulate(self, groups: Sequence[Ready], old: Mapping[Key, Tensor]) -> None:
        """Add the gradient of one update's loss, the mean over all response tokens of `groups`."""
        total = sum(group.num_response_tokens for group in groups)
        for parts in micro_batches(groups, self._spec.learner.tokens_per_batch):
            # A uniform group's advantages are 0, and so is its gradient: it is only measured.
            uniform = parts[0].group.uniform
            with torch.no_grad() if uniform else nullcontext(), self.clock("forward"):
                packed, values = self._values(parts)
                loss = self._loss_of(packed, values, old) / total
            if loss.requires_grad:
                with self.clock("backward"):
                    loss.backward()
            self._loss += loss.item()
        self.num_tokens += total
        self._updates += 1

    def _values(self, parts: Sequence[Part]) -> tuple[Packed, TokenValues]:
        packed = pack(parts, image_token_id=self.model.image_token_id)
        features = self._image_features(parts)
        return packed, self.model.token_values(packed, features, self._spec.sampling.temperature)

    def _image_features(self, parts: Sequence[Part]) -> dict[str, Tensor]:
        needed = {image.digest: image for part in parts for image in part.group.images}
        missing = sorted(
            (image for digest, image in needed.items() if digest not in self._features),
            key=lambda image: image.grid,
        )
        features = {digest: self._features[digest] for digest in needed if digest in self._features}
        if missing:
            pixels = [self.pixels.pixels(image) for image in missing]
            made = self.model.image_features(pixels, [image.grid for image in missing])
            features |= {image.digest: value for image, value in zip(missing, made, strict=True)}
        if self.model.vision_frozen and self._spec.algorithm.updates_per_step > 1:
            self._keep(features)
        return features

    def _keep(self, features: Mapping[str, Tensor]) -> None:
        """Keep a frozen tower's features for the passes of this step that need them again, within their bound."""
        held = sum(value.nbytes for value in self._features.values())
        for digest, value in features.items():
            if digest not in self._features and held + value.nbytes <= FEATURE_BYTES:
                self._features[digest] = value
                held += value.nbytes

    def _loss_of(self, packed: Packed, values: TokenValues, old: Mapping[Key, Tensor]) -> Tensor:
        device = self.model.device
        log_probs = values.log_probs
        rollout = torch.from_numpy(packed.rollout_log_probs).to(device)
        keys = [(part.group.ordinal, row.index) for part in packed.parts for row in part.responses]
        proximal = torch.cat([old[key] for key in keys]) if keys[0] in old else log_probs.detach()
        weights = None
        if self._importance:
            weights = losses.importance_weights(proximal, rollout, self._spec.algorithm.importance_cap)
            self._add({"importance_weight": weights.sum()})
        advantages = torch.from_numpy(packed.advantages).to(device)
        loss, sums = losses.policy_loss(log_probs, proximal, advantages, self._clip, weights)
        apart = losses.mismatch(proximal, rollout)
        self._largest = max(self._largest, apart.pop("mismatch_max").item())
        self._add(sums | apart | {"entropy": values.entropy.sum()})
        return loss

    def _add(self, sums: Mapping[str, Tensor]) -> None:
        for name, value in sums.items():
            self._sums[name] = self._sums[name] + value.detach().double().cpu()

    def metrics(self) -> dict[str, float]:
        """Means over the step's response tokens, the mean loss of its updates, and the largest mismatch."""
        means = {name: value.item() / max(1, self.num_tokens) for name, value in self._sums.items()}
        loss = self._loss / max(1, self._updates)
        return means | {"loss": loss, "mismatch_max": self._largest, "tokens": float(self.num_tokens)}


class _Clock:
    """Adds the wall seconds of a `with` block to `seconds[name]`; waits for the device before it reads the clock."""

    def __init__(self, seconds: defaultdict[str, float], name: str, device: torch.device) -> None:
        self._seconds = seconds
        self._name = name
        self._cuda = device.type == "cuda"
        self._start = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        if self._cuda:
            torch.cuda.synchronize()
        self._seconds[self._name] += time.perf_counter() - self._start


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means by name over finite values; a name without any is left out (the norms of a skipped update)."""
    values: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        for name, value in row.items():
            if math.isfinite(value):
                values[name].append(value)
    return {name: sum(found) / len(found) for name, found in values.items()}
