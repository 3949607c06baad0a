"""Addresses and secrets from the environment, and nothing else; no other module reads a variable."""

import os
import re
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shared.errors import UserError

_ROOTS = re.compile(f"{re.escape(os.pathsep)}(?!//)")
"""Between two roots; the colon of a URI is none."""


def _replica() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:4]}"


@dataclass(frozen=True)
class Rank:
    """This process's place among those that torchrun has started: `number` of `world`, `local` on its host."""

    number: int
    world: int
    local: int


@dataclass(frozen=True)
class Settings:
    """Where the other processes are. A value that is None was not given."""

    nats_url: str = "nats://127.0.0.1:4222"
    """Several servers of one cluster are separated by commas."""
    nats_copies: int = 1
    """Servers of a cluster that keep each stream: 1, 3 or 5."""
    redis_url: str = "redis://127.0.0.1:6379/0"
    blobs: str = "file:///tmp/triune-blobs"
    """URI of the blob store, opened with pyarrow.fs; shared by all services."""
    durable: bool = False
    """Whether blobs (and the servers that `triune up` starts) write through to the disk, against a loss of power."""
    runs: Path = Path("runs")
    """Run folders; shared by monitor and learner."""
    cache: Path | None = None
    """Folder of this host for what its replicas share; None: below `runs`."""
    api_url: str = "http://127.0.0.1:8000"
    api_host: str = "127.0.0.1"
    api_port: int = 8000
    api_token: str | None = None
    """Bearer token of the REST API, from the environment, else from `api_token_file`; required off loopback."""
    health_host: str = "127.0.0.1"
    health_port: int = 0
    """Port of /healthz, /readyz and /metrics of this process; 0: not served."""
    otlp_endpoint: str | None = None
    trace_rate: float = 1.0
    """Share of groups that are traced when there is an endpoint."""
    data_roots: tuple[str, ...] = ()
    """Folders and URIs that data and model paths of a job must lie under; none: any."""
    reward_plugins: tuple[Path, ...] = ()
    """Folders whose Python files a job may name as `reward.plugins`; none: no plugins."""
    judge_url: str | None = None
    """OpenAI-compatible endpoint that the verifier `judge` asks; none: no judge."""
    judge_key: str | None = None
    teacher_url: str | None = None
    """The OpenAI-compatible server of jobs with distillation, with its version: http://host:8000/v1."""
    teacher_key: str | None = None
    reward_token: str | None = None
    """Bearer token of `triune reward serve`."""
    det_iou_threshold: str | None = None
    """V-Triune's DET_IOU_THRESHOLD, for the reward service's HTTP server."""
    job_id: str | None = None
    """V-Triune's JOB_ID, for the reward service's discovery files."""
    moments: Path | None = None
    """A folder through which tests end the process at a named moment (`shared.runtime.moments`); none: never."""
    replica: str = field(default_factory=_replica)
    seat: str = field(default_factory=socket.gethostname)
    """Names this process and those that are started in its place."""
    rank: Rank | None = None
    """None: not started by torchrun."""

    @property
    def weights(self) -> Path:
        """Folder of this host's files of weights."""
        return self._host_files / "weights"

    @property
    def images(self) -> Path:
        """Folder of this host's prepared images."""
        return self._host_files / "images"

    @property
    def spool(self) -> Path:
        """Folder of this host for large blobs on their way to an object store."""
        return self._host_files / "spool"

    @property
    def crashes(self) -> Path:
        """Folder of what crashed processes of this host have left."""
        return self._host_files / "crashes"

    @property
    def _host_files(self) -> Path:
        return self.cache or local_folder(self.runs) / "cache"


def local_folder(runs: Path) -> Path:
    """Where the servers' data, the blobs and the logs of a deployment on this machine lie."""
    return runs / ".local"


def api_token_file(runs: Path) -> Path:
    """Where the token lies that `triune up` draws, for the commands beside it."""
    return local_folder(runs) / "api-token"


def read_settings() -> Settings:
    """The settings of this process; raises UserError when a variable does not parse."""
    env = os.environ
    runs = Path(env.get("TRIUNE_RUNS", "runs")).resolve()
    api_port = _port("TRIUNE_API_PORT", Settings.api_port)
    return Settings(
        nats_url=env.get("NATS_URL", Settings.nats_url),
        nats_copies=_copies(env.get("TRIUNE_NATS_COPIES", "1")),
        redis_url=env.get("REDIS_URL", Settings.redis_url),
        blobs=env.get("TRIUNE_BLOBS") or (local_folder(runs) / "blobs").as_uri(),
        durable=is_durable(env),
        runs=runs,
        cache=Path(env["TRIUNE_CACHE"]).resolve() if env.get("TRIUNE_CACHE") else None,
        api_url=env.get("TRIUNE_API_URL", f"http://127.0.0.1:{api_port}"),
        api_host=env.get("TRIUNE_API_HOST", Settings.api_host),
        api_port=api_port,
        api_token=env.get("TRIUNE_API_TOKEN") or _token(api_token_file(runs)),
        health_host=env.get("TRIUNE_HEALTH_HOST", Settings.health_host),
        health_port=_port("TRIUNE_HEALTH_PORT", Settings.health_port),
        otlp_endpoint=env.get("OTEL_EXPORTER_OTLP_ENDPOINT") or None,
        trace_rate=_share("OTEL_TRACES_SAMPLER_ARG", Settings.trace_rate),
        data_roots=tuple(root for root in _ROOTS.split(env.get("TRIUNE_DATA_ROOTS", "")) if root),
        reward_plugins=tuple(
            Path(path).resolve() for path in env.get("TRIUNE_REWARD_PLUGINS", "").split(os.pathsep) if path
        ),
        judge_url=env.get("TRIUNE_JUDGE_URL") or None,
        judge_key=env.get("TRIUNE_JUDGE_KEY") or None,
        teacher_url=env.get("TRIUNE_TEACHER_URL") or None,
        teacher_key=env.get("TRIUNE_TEACHER_KEY") or None,
        reward_token=env.get("TRIUNE_REWARD_TOKEN") or None,
        det_iou_threshold=env.get("DET_IOU_THRESHOLD"),
        job_id=env.get("JOB_ID"),
        moments=Path(env["TRIUNE_MOMENTS"]) if env.get("TRIUNE_MOMENTS") else None,
        replica=env.get("TRIUNE_REPLICA") or _replica(),
        seat=env.get("TRIUNE_REPLICA") or socket.gethostname(),
        rank=_rank() if "TORCHELASTIC_RUN_ID" in env else None,
    )


def is_durable(env: Mapping[str, str]) -> bool:
    """TRIUNE_DURABLE: 0 or 1."""
    text = env.get("TRIUNE_DURABLE") or "0"
    if text not in ("0", "1"):
        raise UserError(f"TRIUNE_DURABLE is {text!r}; expected 0 or 1")
    return text == "1"


def _token(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(
            f"the API's token in {path} cannot be read: {error}; expected TRIUNE_API_TOKEN or that file"
        ) from error


def _rank() -> Rank:
    return Rank(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))


def _copies(text: str) -> int:
    if text not in ("1", "3", "5"):
        raise UserError(f"TRIUNE_NATS_COPIES is {text!r}; expected 1, 3 or 5")
    return int(text)


def _port(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal() or int(text) > 65535:
        raise UserError(f"{name} is {text!r}; expected a port from 0 to 65535")
    return int(text)


def _share(name: str, default: float) -> float:
    text = os.environ.get(name, str(default))
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise UserError(f"{name} is {text!r}; expected a share from 0 to 1")
    return share
