"""A deployment in containers under test: compose commands, the API, and what Docker knows of the containers."""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.deploy.compose_files import BASE, ROOT
from triune.local.process import free_port

COMMAND_S = 120.0
BUILD_S = 1800.0
WAIT_S = 180.0


def docker(*arguments: str, limit_s: float = COMMAND_S) -> str:
    """What a docker command prints; a failure shows the end of what it said."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("TRIUNE_", "NATS_", "REDIS_"))}
    done = subprocess.run(["docker", *arguments], env=env, cwd=ROOT, capture_output=True, text=True, timeout=limit_s)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr[-2000:]}"
    return done.stdout.strip()


def why_not() -> str:
    """Why nothing can run in containers here; empty when it can."""
    try:
        for arguments in (["info"], ["compose", "version"]):
            done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=20)
            if done.returncode:
                return f"docker {arguments[0]} fails: {(done.stderr or done.stdout).strip()[-200:]}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no Docker engine with Compose is reachable: {error}"
    return ""


def until(condition: Callable[[], Any], what: str, limit_s: float = WAIT_S) -> Any:
    """The first true value of `condition`; an API that is away meanwhile is waited for."""
    deadline = time.monotonic() + limit_s
    while True:
        with contextlib.suppress(httpx.TransportError):
            value = condition()
            if value:
                return value
        assert time.monotonic() < deadline, f"{what}: not within {limit_s:g} s"
        time.sleep(0.1)


class Stack:
    """One compose project with secrets and a port of its own."""

    def __init__(self, name: str, env: dict[str, str], env_file: Path) -> None:
        port = free_port()
        env_file.write_text("".join(f"{key}={value}\n" for key, value in {**env, "TRIUNE_API_PORT": str(port)}.items()))
        self.name = name
        self._base = ["compose", "--project-name", name, "--env-file", str(env_file), "--file", str(BASE)]
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"authorization": f"Bearer {env['TRIUNE_API_TOKEN']}"},
            timeout=30.0,
        )

    def compose(self, *arguments: str, limit_s: float = COMMAND_S) -> str:
        return docker(*self._base, *arguments, limit_s=limit_s)

    def up(self, *arguments: str, limit_s: float = COMMAND_S) -> None:
        """Bring every service to what was asked for and wait until all are healthy, as `make up` does."""
        self.compose("up", "--detach", "--wait", *arguments, limit_s=limit_s)

    def ids(self, service: str = "") -> list[str]:
        return self.compose("ps", "--all", "--quiet", *([service] if service else [])).split()

    def inspect(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        return list(json.loads(docker("inspect", *ids)))

    def crash(self, service: str) -> None:
        """Kill the processes in one of its containers, as the kernel would for want of memory; Docker restarts it."""
        container = self.ids(service)[0]
        restarts = self.inspect([container])[0]["RestartCount"]
        # The shell dies with its container: its exit code says nothing.
        subprocess.run(["docker", "exec", container, "sh", "-c", "kill -9 -1"], capture_output=True, timeout=COMMAND_S)
        until(lambda: self.inspect([container])[0]["RestartCount"] > restarts, f"a restart of {service}")

    def restarts(self) -> dict[str, int]:
        """How often Docker has started each container again."""
        return {one["Name"]: one["RestartCount"] for one in self.inspect(self.ids())}

    def submit(self, job: dict[str, Any]) -> str:
        response = self.client.post("/v1/jobs", json=job)
        assert response.status_code == 201, response.text
        return str(response.json()["job_id"])

    def show(self, job: str) -> dict[str, Any]:
        details = dict(self.client.get(f"/v1/jobs/{job}").json())
        assert details["state"] != "failed", details["error"]
        return details

    def advance(self, job: str, steps: int) -> int:
        """Wait until the job is `steps` steps further; returns its step."""
        start = until(lambda: [self.show(job)["step"]], "the job's step")[0]
        return int(until(lambda: (step := self.show(job)["step"]) >= start + steps and step, f"{steps} more steps"))

    def replicas(self, service: str) -> int:
        """Replicas that the monitor hears."""
        shown = self.client.get("/v1/services").json()["replicas"]
        return sum(one["service"] == service and one["alive"] for one in shown)

    def leftovers(self) -> list[str]:
        """Containers, volumes and networks of the project."""
        mine = ("--quiet", "--filter", f"label=com.docker.compose.project={self.name}")
        return [
            line
            for kind in (["ps", "--all"], ["volume", "ls"], ["network", "ls"])
            for line in docker(*kind, *mine).split()
        ]
