"""One process, one device, plain torch: the engine for a laptop and for a single GPU.

On the CPU equal inputs, equal state and an equal number of threads give equal bits. On a GPU it has never run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from services.learner.attention.batch import Packed
from services.learner.engine import DoesNotFit, Facts, Scope, StepResult, StepWork, TensorSink
from services.learner.engines.passes import Passes
from services.learner.engines.team import Alone
from services.learner.model import Images, TokenValues, VisionLanguageModel
from services.learner.optimizer import ClippedAdamW
from services.learner.pixels import PixelCache
from shared.errors import BadJob, Corrupt
from shared.jobs.spec import JobSpec

OPTIMIZER_FILE = "optimizer.safetensors"
RNG = "rng/cpu"


class TorchEngine:
    """See `services.learner.engine.Engine`, which this implements, and `passes.Backend`, which it is to a step."""

    _spec: JobSpec
    model: VisionLanguageModel
    _optimizer: ClippedAdamW

    def __init__(self, pixels: PixelCache) -> None:
        self._pixels = pixels

    def open(self, spec: JobSpec, checkpoint: Path | None) -> Facts:
        """Load the job's model on the GPU if there is one, else on the CPU; raises BadJob, Corrupt."""
        self._spec = spec
        with fits(spec):
            if checkpoint is None:
                self._build(spec.model)
                torch.manual_seed(spec.seed)
            else:
                self._continue(checkpoint)
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

    def _continue(self, folder: Path) -> None:
        """Continue from what `save` wrote; raises Corrupt when it belongs to another model or job."""
        try:
            tensors = load_file(folder / OPTIMIZER_FILE)
            self._build(folder / "model")
        except (OSError, SafetensorError, BadJob) as error:
            raise Corrupt(f"checkpoint {folder} cannot be loaded: {error}") from error
        torch.set_rng_state(tensors.pop(RNG))
        self._optimizer.restore(tensors)

    def step(self, work: StepWork) -> StepResult:
        """The updates of one training step; raises Diverged, DoesNotFit."""
        with fits(self._spec):
            return Passes(self.model, self._spec, self._pixels, self, Alone()).run(work)

    def token_values(self, packed: Packed, images: Images, temperature: float) -> TokenValues:
        """See `passes.Backend`."""
        return self.model.token_values(packed, images, temperature)

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        """See `passes.Backend`."""
        loss.backward()

    def update(self, step: int, total_steps: int) -> dict[str, float]:
        """See `passes.Backend`."""
        return self._optimizer.update(step, total_steps)

    def export(self, sink: TensorSink, *, scope: Scope) -> None:
        """CPU copies in the job's type (float32 or bfloat16), by state-dict name; tied tensors once."""
        dtype = torch.bfloat16 if self._spec.learner.dtype == "bfloat16" else torch.float32
        for name, tensor in self.model.tensors(trainable_only=scope == "trained").items():
            sink.put(name, tensor.detach().to("cpu", dtype, copy=True).contiguous())

    def save(self, folder: Path) -> None:
        """Write `model/` (trained tensors in float32, so that bits are kept) and `optimizer.safetensors`."""
        self.model.save(folder / "model")
        save_file(self._optimizer.state() | {RNG: torch.get_rng_state()}, folder / OPTIMIZER_FILE)

    def close(self) -> None:
        """Let go of model and optimizer."""
        for name in ("model", "_optimizer"):
            self.__dict__.pop(name, None)


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
