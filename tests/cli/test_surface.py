"""The commands and routes that others rely on: each is there, and each is described."""

from pathlib import Path

import typer
from fastapi import FastAPI
from typer.testing import CliRunner

from shared.bus.memory.server import MemoryServer
from tests.monitor.stage import Stage
from tools import command_page
from triune.cli import app

DOCS = Path(__file__).parents[2] / "docs"
COMMANDS = """
demo; up; serve; health; doctor; replay; export; trace
job submit; job list; job show; job watch; job pause; job resume; job stop; job checkpoint; job set
job delete; job import; job logs; job diff; job clone
data make; data check; data convert; data curate
reward serve; reward score; env import; runs list; runs gc
"""
ROUTES = """
POST /v1/jobs; POST /v1/jobs:validate; GET /v1/jobs; GET /v1/jobs/{job_id}; PATCH /v1/jobs/{job_id}
DELETE /v1/jobs/{job_id}; POST /v1/jobs/{job_id}/pause; POST /v1/jobs/{job_id}/resume; POST /v1/jobs/{job_id}/stop
POST /v1/jobs/{job_id}/checkpoint; POST /v1/jobs/{job_id}/import; GET /v1/jobs/{job_id}/metrics
GET /v1/jobs/{job_id}/samples; GET /v1/jobs/{job_id}/events; GET /v1/services; GET /metrics; GET /healthz; GET /readyz
"""
OPTIONS = {
    "up": {"--reward", "--rollout"},
    "job submit": {"--watch", "--json"},
    "job delete": {"--files"},
    "export": {"--step"},
    "reward serve": {"--host", "--port", "--workers", "--iou-threshold", "--token"},
}
RUN_UNTIL_STOPPED = {"up", "serve", "reward serve"}
"""They answer nothing."""


def names(text: str) -> set[str]:
    return {name.strip() for name in text.replace("\n", ";").split(";")} - {""}


def found() -> dict[str, set[str]]:
    """Every command with its options."""
    return {
        path.removeprefix("triune "): {option for one in command.params for option in one.opts}
        for path, command in command_page.commands()
    }


def test_every_command_is_there_and_no_other_one() -> None:
    assert found().keys() == names(COMMANDS)
    assert all(options <= found()[command] for command, options in OPTIONS.items())


def test_every_command_that_answers_has_an_answer_for_programs() -> None:
    assert {command for command, options in found().items() if "--json" not in options} == RUN_UNTIL_STOPPED


def test_the_page_on_commands_is_the_one_that_the_parser_gives() -> None:
    assert (DOCS / "commands.md").read_text() == command_page.page(), "run: python -m tools.command_page"


def test_a_shell_can_complete() -> None:
    names = {option for one in typer.main.get_command(app).params for option in one.opts}
    assert {"--install-completion", "--show-completion"} <= names
    shown = CliRunner().invoke(
        app,
        [],
        env={"_TRIUNE_COMPLETE": "complete_bash", "COMP_WORDS": "triune jo", "COMP_CWORD": "1"},
        prog_name="triune",
    )
    assert shown.stdout.split() == ["job"]


async def test_every_route_is_there_and_described(tmp_path: Path) -> None:
    api: FastAPI = Stage(tmp_path, MemoryServer()).monitor.api
    routes = {f"{method.upper()} {path}" for path, methods in api.openapi()["paths"].items() for method in methods}
    assert names(ROUTES) <= routes
    told = (DOCS / "rest.md").read_text()
    assert [route for route in sorted(routes) if f"`{route}`" not in told] == []
