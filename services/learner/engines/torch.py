"""One process, one device, plain torch: the engine for a laptop and for a single GPU.

On the CPU equal inputs, equal state and an equal number of threads give equal bits. On a GPU it has never run.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from services.learner.algorithms.objective import needs_reference
from services.learner.attention.batch import Packed, Ready
from services.learner.engine import DoesNotFit, Facts, Scope, StepResult, StepWork, TensorSink
from services.learner.engines.passes import Passes
from services.learner.engines.state import SavedState, write_state
from services.learner.engines.steps import Steps
from services.learner.engines.team import Alone
from services.learner.intake.pixels import PixelCache
from services.learner.policy.model import Exported, Images, TokenValues, VisionLanguageModel
from services.learner.policy.optimizer import ClippedAdamW
from shared.jobs.spec import JobSpec
from shared.models.inputs import Inputs

EXPORT_NUMBERS = 4 * 1024 * 1024
"""Numbers of a tensor that are brought to the CPU together."""


class TorchEngine:
    """See `services.learner.engine`'s `Engine` and `Overlapping`, and `passes.Backend`, which it is to a step."""

    _spec: JobSpec
    model: VisionLanguageModel
    _optimizer: ClippedAdamW
    _device: torch.device
    _first: VisionLanguageModel | None

    def __init__(self, pixels: PixelCache) -> None:
        self._pixels = pixels
        self._steps = Steps(self._passes)

    def open(self, spec: JobSpec, checkpoint: Path | None) -> Facts:
        """Load the job's model on the GPU if there is one, else on the CPU; raises BadJob, Corrupt, DoesNotFit."""
        self._spec = spec
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with fits(spec):
            self.model = open_model(spec, self._pixels.inputs, device)
            self._optimizer = ClippedAdamW(self.model.trainable(), spec.optimizer, spec.learner.optimizer_state)
            if checkpoint is not None:
                with SavedState(checkpoint) as state:
                    self._optimizer.restore(state)
            self._first = open_first(spec, self._pixels.inputs, device)
        return facts(self.model)

    def step(self, work: StepWork) -> StepResult:
        """The updates of one training step; raises Diverged, DoesNotFit."""
        with fits(self._spec):
            return self._steps.step(work)

    def begin(self, groups: Sequence[Ready], *, importance: bool) -> None:
        """See `Overlapping`."""
        with fits(self._spec):
            self._steps.begin(groups, importance=importance)

    def _passes(self) -> Passes:
        return Passes(self.model, self._spec, self._pixels, self, Alone(), self._first)

    def token_values(self, packed: Packed, images: Images, temperature: float) -> TokenValues:
        """See `passes.Backend`."""
        return self.model.token_values(packed, images, temperature)

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        """See `passes.Backend`."""
        loss.backward()

    def update(self, step: int, total_steps: int, divisor: float) -> dict[str, float]:
        """See `passes.Backend`."""
        return self._optimizer.update(step, total_steps, divisor)

    def drop(self, again: Callable[[], Tensor]) -> None:
        """See `passes.Backend`."""
        self._optimizer.clear()

    def export(self, sink: TensorSink, *, scope: Scope) -> None:
        """See `VisionLanguageModel.exports`; no copy of a large tensor is made."""
        found = self.model.exports(scope)
        sink.begin({exported.name: exported.layout for exported in found})
        for exported in found:
            put(sink, exported)

    def save(self, folder: Path) -> None:
        """Write `model/` in the published type, and masters and moments in float32."""
        self.model.save(folder / "model", {each.name: each.value() for each in self.model.whole()})
        write_state(folder, 0, self._optimizer.state())

    def sleep(self) -> None:
        """See `services.learner.device.Sleeper`."""
        self._device = self.model.device
        self._move(torch.device("cpu"))
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def wake(self) -> None:
        """See `services.learner.device.Sleeper`."""
        self._move(self._device)

    def _move(self, device: torch.device) -> None:
        for model in (self.model, self._first):
            if model is not None:
                model.move(device)
        self._optimizer.move(device)

    def close(self) -> None:
        """Let go of model and optimizer."""
        for name in ("model", "_optimizer", "_first", "_steps"):
            self.__dict__.pop(name, None)


def put(sink: TensorSink, exported: Exported) -> None:
    """Give a tensor to `sink`, brought to the CPU in pieces."""
    for piece in exported.value().reshape(-1).split(EXPORT_NUMBERS):
        sink.put(exported.name, piece.to("cpu"))


def open_model(spec: JobSpec, inputs: Inputs, device: torch.device) -> VisionLanguageModel:
    """The job's model on `device`, its keys of type and memory resolved there; raises BadJob."""
    torch.manual_seed(spec.seed)
    settings, on_gpu = spec.learner, device.type == "cuda"
    small = settings.dtype == "bfloat16" or (settings.dtype == "auto" and on_gpu)
    model = VisionLanguageModel(
        spec.model,
        inputs=inputs,
        dtype=torch.bfloat16 if small else torch.float32,
        device=device,
        freeze=spec.optimizer.freeze,
    )
    if settings.lora_rank:
        model.add_adapters(settings)
    if settings.gradient_checkpointing == "on" or (settings.gradient_checkpointing == "auto" and on_gpu):
        model.checkpoint_activations()
    return model


def open_first(spec: JobSpec, inputs: Inputs, device: torch.device) -> VisionLanguageModel | None:
    """A frozen copy of the job's first weights if its loss needs them; None with adapters: the model beneath has them.

    Under `deepspeed` it is whole on every rank.
    """
    if not needs_reference(spec.algorithm) or spec.learner.lora_rank:
        return None
    first = open_model(spec, inputs, device)
    first.hf.requires_grad_(False)
    return first


def facts(model: VisionLanguageModel) -> Facts:
    """What the log says of an open model."""
    return {
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": str(model.attention),
        "self_check": model.self_check,
        "trained_parameters": sum(parameter.numel() for parameter in model.trainable().values()),
        "threads": torch.get_num_threads(),
    }


@contextmanager
def fits(spec: JobSpec) -> Iterator[None]:
    """Say in one sentence that the device's memory ran out, and which keys make it less."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DoesNotFit(
            f"the device ran out of memory training {spec.model}: lower learner.tokens_per_batch "
            f"({spec.learner.tokens_per_batch}), turn learner.gradient_checkpointing on, freeze more components, or "
            f"set learner.optimizer_state to '8bit' or 'cpu' ({str(error).splitlines()[0]})"
        ) from error
