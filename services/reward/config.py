"""What the operator of the reward service decides; jobs and samples decide the rest."""

import os
from dataclasses import dataclass, field
from pathlib import Path

MIB = 1024 * 1024


def _default_workers() -> int:
    return max(1, min(8, (os.cpu_count() or 2) // 2))


@dataclass(frozen=True)
class RewardConfig:
    """Settings of one replica."""

    workers: int = field(default_factory=_default_workers)
    """Worker processes; half the cores by default, since trainer and sampler want the others."""
    worker_memory_bytes: int = 4096 * MIB
    """Address space of one worker; past half of it in use, the worker is replaced."""
    groups_in_flight: int = 32
    """Groups of a job that are scored together."""
    waiting_samples: int = 4096
    """Samples that may wait for a worker before HTTP answers 429."""
    request_samples: int = 16_384
    """Most samples in one HTTP request; one with more is answered 413."""
    body_bytes: int = 64 * MIB
    """Largest HTTP body; a larger one is answered 413."""
    bodies_bytes: int = 256 * MIB
    """All HTTP bodies in work together; beyond it HTTP answers 429."""
    cached_rewards: int = 16_384
    """Rewards kept by the content of their sample, so that an equal one is not judged again; 0: none."""
    plugin_roots: tuple[Path, ...] = ()
    """Folders whose Python files a job may name in `reward.plugins`; none: no plugins."""
    judge_url: str | None = None
    """OpenAI-compatible endpoint of the verifier `judge`; None: there is none."""
    judge_key: str | None = None
    judge_calls: int = 16
    """Calls of the judge at a time."""
    deadline_s: float = 10.0
    """Time of one sample where neither the job nor the request names one."""
    iou_threshold: str | float = "dynamic"
    """HTTP only: the threshold mode of requests that name none. On the bus the job's holds."""
