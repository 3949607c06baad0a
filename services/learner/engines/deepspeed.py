"""DeepSpeed ZeRO over many ranks: optimizer states (stage 1), gradients (2) and parameters (3) in equal shares.

Tried with gloo on CPUs (float32 and bfloat16, two to four ranks); on GPUs it has never run.

The calls follow what was measured of DeepSpeed 0.19.8: `managed_gradient_accumulation` with an explicit boundary is
the mode in which gradients can be read at every stage; every read of a whole tensor is a collective.
"""

import importlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from services.learner.attention.batch import Packed, Ready
from services.learner.engine import Facts, Scope, StepResult, StepWork, TensorSink
from services.learner.engines.passes import Passes
from services.learner.engines.ranks import Ranks
from services.learner.engines.state import SavedState, write_state
from services.learner.engines.steps import Steps
from services.learner.engines.torch import facts, fits, open_first, open_model, put
from services.learner.engines.zero_state import STEP, ZeroState
from services.learner.intake.ingest import GroupIngest
from services.learner.intake.pixels import PixelCache
from services.learner.policy.model import Images, TokenValues, VisionLanguageModel
from services.learner.policy.optimizer import MASTER, SKIPPED, Diverged, Patience, adam_groups, norms_of, set_rates
from shared.errors import BadJob, Corrupt, TriuneError, Unavailable
from shared.jobs.spec import JobSpec


class DeepSpeedEngine:
    """See `services.learner.engine`'s `Engine` and `Overlapping`, here on one rank, and `passes.Backend`."""

    _spec: JobSpec
    model: VisionLanguageModel
    _first: VisionLanguageModel | None
    _zero: Any

    def __init__(self, ranks: Ranks, pixels: PixelCache | None = None) -> None:
        """`pixels`: of the ingest in this process; a rank without one makes its own."""
        self._ranks, self._own = ranks, pixels
        self._steps = Steps(self._passes)

    def open(self, spec: JobSpec, checkpoint: Path | None) -> Facts:
        """Load the job's model on every rank and share it out; raises BadJob, Corrupt, DoesNotFit."""
        self._spec = spec
        with self._agreeing():
            self._deepspeed = _library()
            self._pixels = self._own or GroupIngest(spec).pixels
            with fits(spec):
                self.model = open_model(spec, self._pixels.inputs, self._ranks.device)
                self._first = open_first(spec, self._pixels.inputs, self._ranks.device)
            state = None if checkpoint is None else SavedState(checkpoint)
            if state is not None:
                _check(state, self.model.trainable())
        self._names = list(self.model.trainable())
        self._patience = Patience()
        with fits(spec):
            self._zero = self._initialize()
        if state is not None:
            self._zero_state().restore(state)
            self._patience = Patience(int(state[SKIPPED]))
        return facts(self.model) | {"zero_stage": spec.learner.zero_stage}

    def _initialize(self) -> Any:
        settings = self._spec.optimizer
        trained = self.model.trainable()
        self._trained_numel = sum(parameter.numel() for parameter in trained.values())
        adam = torch.optim.AdamW(
            adam_groups(trained),
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
            fused=True,
        )
        engine, *_ = self._deepspeed.initialize(model=_Root(self.model), optimizer=adam, config=self._config())
        return engine

    def _config(self) -> dict[str, Any]:
        learner, hidden = self._spec.learner, self.model.hf.config.get_text_config().hidden_size
        zero: dict[str, Any] = {
            "stage": learner.zero_stage,
            "overlap_comm": self._ranks.device.type == "cuda",
            # Buckets by the model's width, as transformers' `auto` sets them: the defaults are gigabytes.
            "reduce_bucket_size": hidden * hidden,
            "allgather_bucket_size": hidden * hidden,
            "stage3_prefetch_bucket_size": int(0.9 * hidden * hidden),
            "stage3_param_persistence_threshold": 10 * hidden,
        }
        if learner.optimizer_state == "cpu":
            zero["offload_optimizer"] = {"device": "cpu"}
        if learner.offload_parameters:
            zero["offload_param"] = {"device": "cpu"}
        return {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "managed_gradient_accumulation": True,
            "gradient_clipping": self._spec.optimizer.max_grad_norm,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,  # torch's AdamW, which needs nothing compiled
            "bf16": {"enabled": self.model.dtype == torch.bfloat16},
            "zero_optimization": zero,
        }

    @contextmanager
    def _agreeing(self) -> Iterator[None]:
        """Work that is no collective: an error of one rank is raised on all of them."""
        error: TriuneError | None = None
        try:
            yield
        except TriuneError as found:
            error = found
        self._ranks.agree(error)

    # ---------------------------------------------------------------- a step

    def step(self, work: StepWork) -> StepResult:
        """The updates of one training step; raises Diverged, DoesNotFit."""
        with fits(self._spec):
            return self._steps.step(work)

    def begin(self, groups: Sequence[Ready], *, importance: bool) -> None:
        """See `services.learner.engine.Overlapping`."""
        with fits(self._spec):
            self._steps.begin(groups, importance=importance)

    def _passes(self) -> Passes:
        return Passes(self.model, self._spec, self._pixels, self, self._ranks, self._first)

    def token_values(self, packed: Packed, images: Images, temperature: float) -> TokenValues:
        """See `passes.Backend`."""
        return TokenValues(*self._zero(packed, images, temperature))

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        """See `passes.Backend`; DeepSpeed averages over ranks, and `loss` is this rank's part of a sum."""
        self._zero.set_gradient_accumulation_boundary(is_last)
        self._zero.backward(loss * self._ranks.world)

    def update(self, step: int, total_steps: int, divisor: float) -> dict[str, float]:
        """See `passes.Backend`. DeepSpeed skips an update whose gradient is not finite by itself, on all ranks.

        What it divides gradients by is its loss scale, which is 1 in every backward pass here.
        """
        metrics = norms_of({name: square / divisor**2 for name, square in self._squares().items()})
        metrics |= set_rates(self._zero.optimizer.param_groups, self._spec.optimizer, step, total_steps)
        self._zero.optimizer.loss_scale = divisor
        self._zero.step()
        self._zero.optimizer.loss_scale = 1.0
        error: Diverged | None = None
        try:
            applied = self._patience.see(metrics["grad_norm"])
        except Diverged as found:
            error = found
        self._ranks.agree(error)
        return metrics | {"skipped": float(not applied)}

    def drop(self, again: Callable[[], Tensor]) -> None:
        """See `passes.Backend`; an update that DeepSpeed skips clears the gradients at every stage."""
        self.backward(again() * math.nan, is_last=True)
        self._zero.step()

    def _squares(self) -> dict[str, float]:
        """The squared norm of each parameter's whole gradient, one at a time in memory."""
        from deepspeed.utils import safe_get_full_grad

        squares = []
        for parameter in self._parameters().values():
            gradient = safe_get_full_grad(parameter)
            norm = (
                torch.zeros((), device=self._ranks.device) if gradient is None else torch.linalg.vector_norm(gradient)
            )
            squares.append(norm.double() ** 2)
        return dict(zip(self._names, torch.stack(squares).tolist(), strict=True))

    def _parameters(self) -> dict[str, nn.Parameter]:
        """The trained ones, in one order on all ranks."""
        found = dict(self.model.hf.named_parameters())
        return {name: found[name] for name in self._names}

    def _zero_state(self) -> ZeroState:
        return ZeroState(self._zero, self._ranks, self._deepspeed, self._parameters())

    # ---------------------------------------------------------------- weights out

    def export(self, sink: TensorSink, *, scope: Scope) -> None:
        """In the model's type; all ranks gather each tensor, rank 0 gives it to its sink."""
        found = self.model.exports(scope)
        sink.begin({exported.name: exported.layout for exported in found})
        for exported in found:
            with self._whole(exported.parts):
                if self._ranks.rank == 0:
                    put(sink, exported)

    def _whole(self, parts: Sequence[Tensor]) -> Any:
        """A context in which parameters that stage 3 has shared out are whole."""
        shared = [part for part in parts if hasattr(part, "ds_id")]
        return self._deepspeed.zero.GatheredParameters(shared) if shared else nullcontext()

    def save(self, folder: Path) -> None:
        """Rank 0 writes `model/`; every rank writes its share of the state, each tensor whole."""
        weights = self._weights()
        state = self._zero_state().share()
        if self._ranks.rank == 0:
            state[SKIPPED] = torch.tensor(self._patience.skipped)
        error: Unavailable | None = None
        try:
            if self._ranks.rank == 0:
                self.model.save(folder / "model", weights)
            write_state(folder, self._ranks.rank, state)
        except (OSError, SafetensorError) as found:
            error = Unavailable(f"rank {self._ranks.rank}: {found}")
        self._ranks.agree(error)

    def _weights(self) -> dict[str, Tensor]:
        """The whole model on rank 0, in the host's memory; nothing on the others."""
        weights = {}
        for exported in self.model.whole():
            with self._whole(exported.parts):
                if self._ranks.rank == 0:
                    weights[exported.name] = exported.value().to("cpu", copy=True)
        return weights

    def close(self) -> None:
        """Let go of model and optimizer."""
        if "_zero" in self.__dict__:
            self._zero.destroy()
        for name in ("_zero", "model", "_first", "_steps"):
            self.__dict__.pop(name, None)


class _Root(nn.Module):
    """What DeepSpeed sees: one forward does a whole micro-batch.

    A frozen tower stays outside of it: whole on every rank, so that ranks need not have images in the same places.
    """

    def __init__(self, model: VisionLanguageModel) -> None:
        super().__init__()
        self._model = model
        if model.vision_frozen:
            self.decoder, self.lm_head = model.hf.get_decoder(), model.hf.lm_head
        else:
            self.hf = model.hf

    def forward(self, packed: Packed, images: Images, temperature: float) -> tuple[Tensor, Tensor]:
        values = self._model.token_values(packed, images, temperature)
        return values.log_probs, values.entropy


def _check(state: Mapping[str, Tensor], trained: Mapping[str, nn.Parameter]) -> None:
    masters = {key.removeprefix(MASTER) for key in state if key.startswith(MASTER)}
    if masters != trained.keys() or STEP not in state:
        raise Corrupt(
            f"the checkpoint has {len(masters)} trained tensors of the deepspeed engine, "
            f"the job trains {len(trained)}; expected the same ones"
        )
    for name, parameter in trained.items():
        if state[MASTER + name].shape != parameter.shape:
            raise Corrupt(f"the checkpoint's {name!r} has another shape than {tuple(parameter.shape)}")


def _library() -> Any:
    """DeepSpeed, quiet, and without its shared-memory collectives on CPUs: they are compiled at the first start."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("DS_LOG_LEVEL", "warning")
    try:
        library: Any = importlib.import_module("deepspeed")
        backend: Any = importlib.import_module("deepspeed.comm.torch")
    except ImportError as error:
        raise BadJob([f"learner.engine is 'deepspeed', which is not installed: {error}"]) from error
    backend.build_shm_op = lambda: None
    return library
