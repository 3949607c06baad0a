"""Every command and route that is promised exists."""

from pathlib import Path
from typing import Any

import pytest
import typer.main

from shared.bus.memory import MemoryServer
from tests.monitor.stage import Stage
from triune.cli import app

COMMANDS = """
demo · up · serve · health · doctor · trace · export · env import
job submit · job list · job show · job watch · job pause · job resume · job stop · job set · job checkpoint
job delete · job logs · job diff · job clone · data make · data check · data convert
reward serve · reward score · runs list · runs gc
"""
ROUTES = """
POST /v1/jobs · POST /v1/jobs:validate · GET /v1/jobs · GET /v1/jobs/{job_id} · PATCH /v1/jobs/{job_id}
DELETE /v1/jobs/{job_id} · POST /v1/jobs/{job_id}/pause · POST /v1/jobs/{job_id}/resume · POST /v1/jobs/{job_id}/stop
POST /v1/jobs/{job_id}/checkpoint · GET /v1/jobs/{job_id}/metrics · GET /v1/jobs/{job_id}/samples
GET /v1/jobs/{job_id}/events · GET /v1/services · GET /metrics · GET /healthz · GET /readyz
"""


def names(text: str) -> list[str]:
    return [name.strip() for line in text.strip().splitlines() for name in line.split("·") if name.strip()]


@pytest.mark.parametrize("name", names(COMMANDS))
def test_a_command_exists_and_says_what_it_does(name: str) -> None:
    command: Any = typer.main.get_command(app)
    for word in name.split():
        command = command.commands[word]
    assert command.help


@pytest.mark.parametrize("name", names(ROUTES))
def test_a_route_exists(name: str, tmp_path: Path) -> None:
    method, path = name.split()
    paths = Stage(tmp_path, MemoryServer()).monitor.api.openapi()["paths"]
    assert method.lower() in paths.get(path, {})
